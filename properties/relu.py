"""What is true of the cells ``f(z) = relu(Wz + Ux + b)``, whatever W is made of (theory: homogeneity,
theory: readout-floor)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.common import any_problem, finite, judged, own_rounding
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import FLOAT64, Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem, Problem
from deqverify.registry import ANY_RELU, law

WRONG = "wrong gradient"


def _inner(bound: Bound, weights: Array) -> Bound:
    """Of ``⟨g, weights⟩``, one number, g being off by ``bound``."""
    return Bound({name: np.asarray(np.sum(np.abs(weights) * term)) for name, term in bound.terms.items()})


def _squared_error(truth: Judge, block: str) -> Bound:
    """Of ``‖∂L/∂block‖²``: ``Σ 2|g|e + e²``."""
    error, size = truth.gradient_error(block), np.abs(truth.gradient[block])
    return _inner(error, 2 * size + error.total)


@law(
    about=ANY_RELU,
    statement="⟨U, ∂U⟩ + ⟨b, ∂b⟩ = ⟨x, ∂x⟩ + ⟨b, ∂b⟩ = ⟨c, z*⟩ for every cotangent c",
    source="theory: homogeneity",
    needs=("pull",),
    rests_on=("gradient-theta", "gradient-x"),
    anomaly=WRONG,
    at_stake="The adjoint equation is not solved: every gradient through the equilibrium is wrong.",
    draws=any_problem(ANY_RELU, cotangent=True),
)
def relu_euler(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """Euler's identity: z* (n, m) grows in proportion with U (m, d) and b (m,) together, and with x (n, d) and b. All
    sides are the implementation's.

    Bound: ``BallErrors.pulled`` weighted by U, x and b, ``BallErrors.z_error`` weighted by |c|, and the sums' own
    rounding. Catches one-step gradients, adjoints that stopped early, and slopes that do not belong to ẑ.
    """
    answer = deq.solve(problem)
    found = deq.pull(answer, cotangent)
    truth = judged(deq, problem, cotangent, near=answer.z)
    if not truth.in_range:
        return
    right, size = float(np.sum(cotangent * answer.z)), float(np.sum(np.abs(cotangent * truth.z)))
    for block in ("U", "x"):
        sides = {name: problem.block(name) for name in (block, "b")}
        for name in sides:
            yield finite(f"pull: {name}", found[name])
        products = [(found[name] * value).ravel() for name, value in sides.items()] + [(cotangent * answer.z).ravel()]
        allowed = _inner(truth.z_error, cotangent)
        for name, value in sides.items():
            allowed = allowed + _inner(truth.pulled_error(name), value)
        summed = np.concatenate(products)
        own = own_rounding("the sums", (summed.size + 4) * FLOAT64.unit * np.sum(np.abs(summed)))
        left = sum(float(np.sum(part)) for part in products[:2])
        yield compare(f"|⟨{block}, ∂{block}⟩ + ⟨b, ∂b⟩ − ⟨c, ẑ⟩|", abs(left - right), allowed + own, size)


def _with_squared_loss(arguments: dict[str, Any]) -> dict[str, Any]:
    problem = arguments["problem"]
    assert isinstance(problem, CellProblem)
    return arguments | {"problem": replace(problem, loss=Squared())}


def _regressions(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    """Problems with the squared loss, whatever targets another loss drew."""
    return any_problem(ANY_RELU)(deq).map(_with_squared_loss)


def least_singular_value(Z: Array) -> tuple[float, float]:
    """``√λ_min(ZᵀZ)`` of states Z (n, m), data points as rows here, and what its rounding in float64 may be, that of Z
    included: 0 where there are more data points than states.

    A computed singular value is off by a slowly growing function of the size times ``u‖Z‖₂`` (LAPACK Users' Guide,
    §4.9): ten times the larger size is allowed, as for norms.
    """
    n, m = Z.shape
    if n > m or not n:
        return 0.0, 0.0
    values = np.linalg.svd(Z, compute_uv=False)
    return float(values[-1]), (10 * m + 2) * FLOAT64.unit * float(np.linalg.norm(Z))


@law(
    about=ANY_RELU,
    statement="‖∂L/∂B‖² ≥ 4 λ_min(ZᵀZ) L for L = ‖F−Y‖²",
    source="theory: readout-floor; Ling et al. 2023, arXiv 2205.13814",
    needs=("gradient",),
    rests_on=("gradient-B",),
    anomaly=WRONG,
    at_stake="The loss does not fall at the rate that over-parameterised training is promised to have.",
    draws=_regressions,
)
def readout_floor(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Whenever the states of n data points are independent the readout alone has a gradient, so that L > 0 at no
    stationary point. Ling et al. take ``½‖F−Y‖²``, whose floor is ``2 λ_min L``. An equality for n = 1.

    Bound: ``2|g|e + e²`` for ∂L/∂B (p, m); on the other side the errors of Z and L in float64. Catches a loss that is
    halved or averaged in the gradient, and a readout that is trained on other states than the equilibria. Blind to the
    adjoint.
    """
    _, found = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if not truth.in_range:
        return
    yield finite("∂L/∂B", found["B"])
    sigma, off = least_singular_value(truth.z.reshape(problem.n, -1))
    value, radius = truth.objective()
    promised, squared = 4.0 * sigma**2 * value, float(np.sum(found["B"] ** 2))
    above = 4.0 * (sigma + off) ** 2 * (value + radius) - promised
    own = own_rounding("both sides", above + (found["B"].size + 8) * FLOAT64.unit * (squared + promised))
    yield compare("4 λ_min(ZᵀZ) L − ‖∂L/∂B‖²", max(0.0, promised - squared), _squared_error(truth, "B") + own, promised)
