"""The pull-back for a given cotangent: the adjoint equation, its linearity, the gauge (THEORY.md §1 item 3, §2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import PAIRS, budget, cases, cotangents, finite

from deqverify.bounds import Errors
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.oracle import Oracle
from deqverify.problem import Problem
from deqverify.strategies import problems

WRONG = "wrong gradient"
STAKE = "Every gradient through the equilibrium is built on this solve."


@law(
    "adjoint-certificate",
    statement="‖c + γSᵀΛ̂ − Λ̂‖_∞/(1−γ), which bounds ‖Λ̂ − Λ‖_∞, is within the claimed accuracy",
    source="THEORY.md §1 item 3",
    needs=("pull",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def adjoint_certificate(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The gradient in the inputs is the adjoint Λ; for a drawn cotangent c (m, n) its own residual certifies it.

    Sᵀ contracts in the maximum norm at rate γ. The residual is evaluated in ball arithmetic. Bound:
    ``Errors.adjoint_certificate``. Catches a missing transpose, one-step gradients, and a backward solve that stops
    early.
    """
    found = deq.pull(deq.solve(problem), cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    yield finite("Λ̂", found["Phi"])
    residual = np.abs(Oracle(problem).adjoint_residual(found["Phi"], cotangent)).max(axis=0, initial=0.0)
    certificate = residual * bounds.rounding.amplification
    size = np.abs(bounds.exact.adjoint).max(axis=0, initial=0.0)
    allowed = bounds.bound(Errors.adjoint_certificate)
    yield compare("certificate ‖c + γSᵀΛ̂ − Λ̂‖_∞/(1−γ)", certificate, allowed, size)


@law(
    "gauge",
    statement="1ᵀ ∂L/∂A = 0: adding a constant to a column of A changes nothing",
    source="THEORY.md §2 (gauge)",
    needs=("pull",),
    anomaly=WRONG,
    at_stake="Training drifts along directions that the model cannot see.",
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def gauge(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The columns of the gradient in A sum to zero for every cotangent c (m, n), however exact the adjoint is.

    Bound: ``Errors.gauge``, which scales with M = γΛZᵀ and not with the gradient. Catches a softmax Jacobian that is
    missing or taken along rows.
    """
    found = deq.pull(deq.solve(problem), cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    yield finite("∂L/∂A", found["A"])
    sums = np.abs(found["A"].sum(axis=0))
    size = np.abs(bounds.exact.softmax_product).sum(axis=0)
    allowed = bounds.bound(lambda e: e.gauge(e.adjoint_from(0.0)))
    yield compare("|1ᵀ ∂L/∂A|", sums, allowed, size)


_BLOCKS = ("A", "Phi", "gamma")


def _pulled(errors: Errors, block: str) -> Array:
    return errors.pulled(errors.adjoint_from(0.0))[block]


@law(
    "cotangent-linearity",
    statement="the pull-back is linear in the cotangent",
    source="THEORY.md §2: Λ = U⁻ᵀc",
    needs=("pull",),
    anomaly=WRONG,
    at_stake="Gradients do not add up: accumulation over micro-batches or losses changes them.",
    draws=lambda deq: cases(
        problems(deq.dtype),
        cotangent=cotangents(deq),
        weights=lambda problem: PAIRS,
    ),
)
def cotangent_linearity(
    deq: Subject, problem: Problem, cotangent: Array, weights: tuple[int, int]
) -> Iterator[Measurement | Fact]:
    """``pull(ac + bd) = a·pull(c) + b·pull(d)`` in A, Φ and γ, d the cotangent c with its columns reversed.

    Bound: the errors of all three pulls (``Errors.pulled``), weighted, the combination's own rounding included.
    Catches backward solvers with absolute tolerances, and warm starts that leak from one pull to the next.
    """
    a, b = weights
    other = cotangent[:, ::-1].copy()
    exact = a * cotangent + b * other
    combined = round_to(exact, deq.dtype)
    answer = deq.solve(problem)
    whole, first, second = (deq.pull(answer, c) for c in (combined, cotangent, other))
    bounds = [budget(deq, problem, c) for c in (combined, cotangent, other)]
    if not all(each.in_range for each in bounds):
        return
    rounded = np.abs(combined - exact)
    for block in _BLOCKS:
        yield finite(f"pull: {block}", whole[block])
        allowed = bounds[0].bound(lambda e, k=block: e.pulled(e.adjoint_from(rounded))[k])
        for weight, part in zip((abs(a), abs(b)), bounds[1:], strict=True):
            allowed = allowed + weight * part.bound(lambda e, k=block: _pulled(e, k))
        parts = (abs(a) * bounds[1].exact.gradient[block], abs(b) * bounds[2].exact.gradient[block])
        distance = np.abs(whole[block] - a * first[block] - b * second[block])
        yield compare(f"pull(ac + bd) − a·pull(c) − b·pull(d), in {block}", distance, allowed, sum(map(np.abs, parts)))


@law(
    "repeated-pull",
    statement="pulling back again, with another cotangent in between, gives the same gradient",
    source="the protocol: a pull may be called again",
    needs=("pull",),
    anomaly="wrong gradient on the second call",
    at_stake="Code that calls backward twice (second losses, Jacobians row by row, hooks) gets other numbers.",
    loose="the reference does the same twice, bit by bit; sums in another order, as on several threads, are forgiven.",
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def repeated_pull(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The gradients in A, Φ and γ for c (m, n), before and after a pull of −c.

    Bound: twice ``Errors.pulled``. Catches buffers freed or overwritten by the first pull, and hooks that fire twice.
    """
    answer = deq.solve(problem)
    first = deq.pull(answer, cotangent)
    deq.pull(answer, -cotangent)
    again = deq.pull(answer, cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    for block in _BLOCKS:
        yield finite(f"pull: {block}", again[block])
        allowed = 2 * bounds.bound(lambda e, k=block: _pulled(e, k))
        size = np.abs(bounds.exact.gradient[block])
        yield compare(f"second pull − first pull, in {block}", np.abs(again[block] - first[block]), allowed, size)
