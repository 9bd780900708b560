"""The gradient of the objective, block by block, against finite differences in ball arithmetic (THEORY.md §2, §3
item 3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import Extra, any_problem, budget, finite, own_rounding

from deqverify.bounds import Budget
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.oracle import Oracle
from deqverify.problem import BLOCKS, Problem
from deqverify.strategies import signals

WRONG = "wrong gradient"
STAKE = "Training follows another direction than the loss's: a model can still improve, slower, or to another place."


def _direction_in(block: str) -> Extra:
    return lambda problem: signals(np.shape(getattr(problem, block)), background=1.0)


def _derivative(deq: Subject, problem: Problem, block: str, direction: Array) -> Iterator[Measurement | Fact]:
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield finite(f"∂L/∂{block}", gradient[block])
    along = {block: np.asarray(direction)}
    yield _against_oracle(f"|⟨∂L/∂{block}, d⟩ − dL(d)|", problem, bounds, gradient, along)


def _against_oracle(
    what: str, problem: Problem, bounds: Budget, gradient: dict[str, Array], along: dict[str, Array]
) -> Measurement:
    allowed = bounds.along(along)
    true = Oracle(problem).derivative(along, accuracy=1e-3 * float(allowed.total))
    allowed = allowed + own_rounding("the oracle's number", 1e-3 * float(allowed.total) + 2.0**-52 * abs(true))
    claimed = sum(float(np.sum(gradient[block] * d)) for block, d in along.items())
    size = sum(float(np.sum(np.abs(bounds.exact.gradient[block] * d))) for block, d in along.items())
    return compare(what, abs(claimed - true), allowed, size)


@law(
    "gradient-A",
    statement="⟨∂L/∂A, d⟩ is the derivative of L along d",
    source="THEORY.md §2; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(least_m=2, direction=_direction_in("A")),
)
def gradient_A(deq: Subject, problem: Problem, direction: Array) -> Iterator[Measurement | Fact]:
    """Along a drawn direction d (m, m) in the weights before the softmax.

    Bound: ``Errors.gradient["A"]`` weighted by |d|. Catches a missing softmax Jacobian, a missing transpose in the
    adjoint, one-step gradients. Blind to the slow adjoint mode (the softmax annihilates it): see gradient-Phi.
    """
    yield from _derivative(deq, problem, "A", direction)


@law(
    "gradient-B",
    statement="⟨∂L/∂B, d⟩ is the derivative of L along d",
    source="THEORY.md §2; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(direction=_direction_in("B")),
)
def gradient_B(deq: Subject, problem: Problem, direction: Array) -> Iterator[Measurement | Fact]:
    """Along a drawn direction d (p, m) in the readout: depends on ẑ, not on the adjoint.

    Bound: ``Errors.gradient["B"]`` weighted by |d|. Catches a mean taken for a sum, and a wrong equilibrium.
    """
    yield from _derivative(deq, problem, "B", direction)


@law(
    "gradient-Phi",
    statement="⟨∂L/∂Φ, d⟩ is the derivative of L along d",
    source="THEORY.md §2; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake="What stands before the layer is trained on this gradient: it learns something else.",
    draws=any_problem(direction=_direction_in("Phi")),
)
def gradient_Phi(deq: Subject, problem: Problem, direction: Array) -> Iterator[Measurement | Fact]:
    """Along a drawn direction d (m, n) in the features: the adjoint itself, its slow mode included.

    Bound: ``Errors.gradient["Phi"]`` weighted by |d|. Catches an adjoint solve that stopped early, phantom
    and one-step gradients.
    """
    yield from _derivative(deq, problem, "Phi", direction)


@law(
    "gradient-gamma",
    statement="⟨∂L/∂γ, d⟩ is the derivative of L along d",
    source="THEORY.md §2; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
)
def gradient_gamma(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """In the contraction factor, a scalar that multiplies the whole recurrent part.

    Bound: ``Errors.gradient["gamma"]``. Catches a gradient that is lost on the way to a scalar parameter or
    broadcast wrongly, and an adjoint that stopped early.
    """
    yield from _derivative(deq, problem, "gamma", np.asarray(1.0))


@law(
    "energy",
    statement="⟨∇L, ĝ⟩ = ‖ĝ‖² over all blocks, ĝ the implementation's gradient",
    source="THEORY.md §3 item 3",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
)
def energy(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The derivative of L along the implementation's own gradient is that gradient's squared length.

    The left side is the oracle's. Bound: ``Errors.gradient`` weighted by |ĝ|. Catches a missing block, a sign, a
    factor.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    for block in BLOCKS:
        yield finite(f"∂L/∂{block}", gradient[block])
    along = {block: gradient[block] for block in BLOCKS}
    # The direction carries the errors too: exact·d differs from |d|² by the same products, already weighted by |d|.
    yield _against_oracle("|⟨∇L, ĝ⟩ − ‖ĝ‖²|", problem, bounds, gradient, along)


@law(
    "euler",
    statement="⟨Φ, ∂L/∂Φ⟩ = ⟨F, dF⟩",
    source="THEORY.md §2 (Euler's identity; z* is homogeneous of degree one in Φ)",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake="The adjoint equation is not solved: gradients of everything below the equilibrium are wrong.",
    draws=any_problem(),
)
def euler(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Both sides are the derivative of L when all features grow together; only the left one needs the adjoint.

    The right side is a closed form in float64. Bound: ``Errors.gradient["Phi"]`` weighted by |Φ|, and the closed
    form's own errors. Catches one-step gradients and adjoints that stopped early.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield finite("∂L/∂Phi", gradient["Phi"])
    exact, theory = bounds.exact, bounds.theory
    right = float(np.sum(exact.F * exact.dF))
    own = np.sum(theory.F * np.abs(exact.dF)) + np.sum(theory.dF * (np.abs(exact.F) + theory.F))
    own = own + problem.p * problem.n * 2.0**-53 * np.sum(np.abs(exact.F * exact.dF))
    allowed = bounds.along({"Phi": problem.Phi}) + own_rounding("⟨F, dF⟩", own)
    left = float(np.sum(problem.Phi * gradient["Phi"]))
    size = max(abs(right), float(np.sum(np.abs(exact.F * exact.dF))))
    yield compare("|⟨Φ, ∂L/∂Φ⟩ − ⟨F, dF⟩|", abs(left - right), allowed, size)
