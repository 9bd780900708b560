"""The gradient of the objective, block by block, against finite differences in ball arithmetic (theory: gradient,
theory: energy)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from deqverify.properties.common import Extra, any_problem, budget, finite, large_problem, own_rounding

from deqverify.bounds import DISCRIMINATING, Bound, Budget
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.oracle import Oracle
from deqverify.problem import BLOCKS, Problem
from deqverify.strategies import signals
from deqverify.theory.taylor import remainder

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
    whole = _against_oracle(f"|⟨∂L/∂{block}, d⟩ − dL(d)|", problem, bounds, gradient, {block: np.asarray(direction)})
    yield whole
    if not whole.informative:
        clear = np.where(_clear(bounds, block), direction, 0.0)
        yield _against_oracle(f"|⟨∂L/∂{block}, d⟩ − dL(d)|, clear d", problem, bounds, gradient, {block: clear})


def _clear(bounds: Budget, block: str) -> Array:
    """Where the gradient is well above its bound: saturated weights drown one entry of a column, not the rest."""
    allowed = bounds.bound(lambda errors: errors.gradient[block]).total
    return np.asarray(allowed <= DISCRIMINATING / 2 * np.abs(bounds.exact.gradient[block]))


def _against_oracle(
    what: str, problem: Problem, bounds: Budget, gradient: dict[str, Array], along: dict[str, Array]
) -> Measurement:
    allowed = bounds.along(along)
    true = Oracle(problem).derivative(along, accuracy=1e-3 * float(allowed.total))
    allowed = allowed + own_rounding("the oracle's number", 1e-3 * float(allowed.total) + 2.0**-52 * abs(true))
    claimed = sum(float(np.sum(gradient[block] * d)) for block, d in along.items())
    size = sum(float(np.sum(np.abs(bounds.exact.gradient[block] * d))) for block, d in along.items())
    return compare(what, abs(claimed - true), allowed, size)


MOST_FOR_ORACLE = 32
"""Up to this size a derivative in ball arithmetic takes less than a second."""


def _against_closed_form(
    what: str, problem: Problem, bounds: Budget, gradient: dict[str, Array], along: dict[str, Array]
) -> Measurement:
    exact, own = bounds.exact.gradient, bounds.theory.gradient
    distance = abs(sum(float(np.sum((gradient[block] - exact[block]) * d)) for block, d in along.items()))
    size = sum(float(np.sum(np.abs(exact[block] * d))) for block, d in along.items())
    error = sum(float(np.sum(own[block] * np.abs(d))) for block, d in along.items())
    count = sum(np.size(d) for d in along.values())
    allowed = bounds.along(along) + own_rounding("the closed form", error + count * 2.0**-53 * distance)
    return compare(what, distance, allowed, size)


@law(
    "objective",
    statement="L is the loss of the outputs BU⁻¹Φ, summed over the data points",
    source="theory: notation; oracle: ball arithmetic",
    needs=("gradient",),
    anomaly="wrong loss",
    at_stake="What is minimised, logged and compared between runs is another number.",
    draws=any_problem(),
)
def objective(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The value that stands beside the gradient, against a rigorous enclosure of L.

    Bound: ``Errors.value``. Catches a mean taken for a sum, a loss with its arguments exchanged, and a value that lost
    its digits to overflow or cancellation.
    """
    value, _ = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield finite("L", np.asarray(value))
    true = Oracle(problem).objective()
    own = own_rounding("the oracle's number", true.radius + 2.0**-52 * np.abs(true.value))
    size = np.sum(problem.loss.value_terms(bounds.exact.F, problem.Y))
    yield compare("|L̂ − L|", np.abs(value - true.value), bounds.bound(lambda e: e.value) + own, size)


@law(
    "taylor",
    statement="|L(θ + d) − L(θ) − ⟨∇L, d⟩| ≤ C‖d‖², value and gradient both the implementation's, in float64",
    source="theory: taylor",
    needs=("gradient", "float64"),
    anomaly="value and gradient disagree",
    at_stake="Line searches and second-order optimisers, which use both, stall or step the wrong way.",
    draws=any_problem(dA=_direction_in("A"), dB=_direction_in("B"), dPhi=_direction_in("Phi")),
)
def taylor(deq: Subject, problem: Problem, dA: Array, dB: Array, dPhi: Array) -> Iterator[Measurement | Fact]:
    """Along drawn directions in A (m, m), B (p, m) and Φ (m, n) at once, at three steps that clear the rounding noise.

    The coefficient is bounded and not fitted: an order says nothing where the remainder vanishes. No oracle. Bound: the
    remainder's (``theory.taylor.remainder``), ``Errors.value`` at both ends, ``Errors.gradient`` weighted by |d|.
    Catches a value that belongs to another objective than its gradient.
    """
    value, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    directions = {"A": dA, "B": dB, "Phi": dPhi}
    for block in directions:
        yield finite(f"∂L/∂{block}", gradient[block])
    for step in _steps(bounds, directions):
        ends = {block: getattr(problem, block) + step * _scale(problem, block) * d for block, d in directions.items()}
        ahead = replace(problem, **ends)
        moved = {block: ends[block] - getattr(problem, block) for block in directions}
        there, other = deq.value_and_grad(ahead)[0], budget(deq, ahead)
        first = sum(float(np.sum(gradient[block] * d)) for block, d in moved.items())
        curved = np.asarray(remainder(bounds.exact, moved))
        allowed = bounds.along(moved) + bounds.bound(lambda e: e.value) + other.bound(lambda e: e.value)
        allowed = allowed + Bound({"second order of the step": curved})
        size = sum(float(np.sum(np.abs(bounds.exact.gradient[block] * d))) for block, d in moved.items())
        yield compare(f"|L(θ + d) − L(θ) − ⟨∇L, d⟩|, step {step:.1e}", abs(there - value - first), allowed, size)


def _scale(problem: Problem, block: str) -> float:
    return 1.0 if block == "A" else float(np.abs(getattr(problem, block)).max(initial=0.0))


def _steps(bounds: Budget, directions: dict[str, Array]) -> list[float]:
    """The step at which the second order equals the noise of the values, and 8 and 64 times that; at most 2⁻⁴."""
    unit = 2.0**-20  # small enough for the remainder to be quadratic
    moved = {block: unit * _scale(bounds.exact.problem, block) * d for block, d in directions.items()}
    coefficient = remainder(bounds.exact, moved) / unit**2
    noise = float(bounds.bound(lambda e: e.value).total)
    best = np.sqrt(noise / coefficient) if noise > 0 and 0 < coefficient < np.inf else unit
    first = 2.0 ** np.clip(np.ceil(np.log2(best)), -40, -10)
    return [first, 8 * first, 64 * first]


@law(
    "gradient-A",
    statement="⟨∂L/∂A, d⟩ is the derivative of L along d",
    source="theory: gradient; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(least_m=2, direction=_direction_in("A")),
)
def gradient_A(deq: Subject, problem: Problem, direction: Array) -> Iterator[Measurement | Fact]:
    """Along a drawn direction d (m, m) in the weights before the softmax.

    Bound: ``Errors.gradient["A"]`` weighted by |d|; where that drowns the whole, along the entries of d that it leaves
    clear. Catches a missing softmax Jacobian, a missing transpose in the adjoint, one-step gradients. Blind to the slow
    adjoint mode (the softmax annihilates it): see gradient-Phi.
    """
    yield from _derivative(deq, problem, "A", direction)


@law(
    "gradient-B",
    statement="⟨∂L/∂B, d⟩ is the derivative of L along d",
    source="theory: gradient; oracle: central differences in ball arithmetic",
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
    source="theory: gradient; oracle: central differences in ball arithmetic",
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
    source="theory: gradient; oracle: central differences in ball arithmetic",
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
    source="theory: energy",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
    large=large_problem(["float64"]),
)
def energy(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The derivative of L along the implementation's own gradient is that gradient's squared length.

    The left side is the oracle's, beyond sizes of 32 the closed form's in float64 with its own errors. Bound:
    ``Errors.gradient`` weighted by |ĝ|. Catches a missing block, a sign, a factor.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    for block in BLOCKS:
        yield finite(f"∂L/∂{block}", gradient[block])
    along = {block: gradient[block] for block in BLOCKS}
    # The direction carries the errors too: exact·d differs from |d|² by the same products, already weighted by |d|.
    judge = _against_oracle if max(problem.m, problem.n) <= MOST_FOR_ORACLE else _against_closed_form
    yield judge("|⟨∇L, ĝ⟩ − ‖ĝ‖²|", problem, bounds, gradient, along)


@law(
    "euler",
    statement="⟨Φ, ∂L/∂Φ⟩ = ⟨F, dF⟩",
    source="theory: euler (z* is homogeneous of degree one in Φ)",
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
