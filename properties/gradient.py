"""The gradient of the objective, block by block, against finite differences in ball arithmetic (theory: gradient,
theory: energy)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import (
    SOFTMAX,
    any_problem,
    budget,
    directions,
    finite,
    in_columns,
    judged,
    large_problem,
    own_rounding,
)

from deqverify.bounds import DISCRIMINATING, Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.drawing import signals
from deqverify.dtypes import Array
from deqverify.errors.judge import Direction, Judge, along
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.registry import law
from deqverify.theory.taylor import remainder

WRONG = "wrong gradient"
STAKE = "Training follows another direction than the loss's: a model can still improve, slower, or to another place."


def _derivative(deq: Subject, problem: Problem, direction: Direction) -> Iterator[Measurement | Fact]:
    """That ⟨∂L/∂block, d⟩ is the derivative of L, for each block of ``direction`` by itself."""
    _, gradient = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if not truth.in_range:
        return
    for block, d in direction.items():
        yield finite(f"∂L/∂{block}", gradient[block])
        whole = _against_oracle(f"|⟨∂L/∂{block}, d⟩ − dL(d)|", truth, gradient, {block: d})
        yield whole
        if not whole.informative:
            clear = np.where(_clear(truth, block), d, 0.0)
            yield _against_oracle(f"|⟨∂L/∂{block}, d⟩ − dL(d)|, clear d", truth, gradient, {block: clear})


def _clear(truth: Judge, block: str) -> Array:
    """Where the gradient is well above its bound: saturated weights drown one entry of a column, not the rest."""
    allowed = truth.gradient_error(block).total
    return np.asarray(allowed <= DISCRIMINATING / 2 * np.abs(truth.gradient[block]))


def _against_oracle(what: str, truth: Judge, gradient: Direction, direction: Direction) -> Measurement:
    allowed = along(truth, direction)
    distance, own = truth.off_slope(gradient, direction, accuracy=1e-3 * float(allowed.total))
    size = sum(float(np.sum(np.abs(truth.gradient[block] * d))) for block, d in direction.items())
    return compare(what, distance, allowed + own_rounding("the oracle's number", own), size)


@law(
    statement="L is the loss of the outputs, summed over the data points",
    source="theory: notation; oracle: ball arithmetic",
    needs=("gradient", "cell"),
    rests_on=("existence",),
    anomaly="wrong loss",
    at_stake="What is minimised, logged and compared between runs is another number.",
    draws=any_problem(),
)
def objective(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The value that stands beside the gradient, against a rigorous enclosure of ``L = Σ_i ℓ(B vec z_i, Y_:i)``.

    Bound: ``Errors.value``. Catches a mean taken for a sum, a loss with its arguments exchanged, and a value that lost
    its digits to overflow or cancellation.
    """
    value, _ = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if not truth.in_range:
        return
    yield finite("L", np.asarray(value))
    true, radius = truth.objective()
    own = own_rounding("the oracle's number", radius)
    yield compare("|L̂ − L|", abs(value - true), truth.value_error + own, truth.value_size)


@law(
    statement="|L(θ + d) − L(θ) − ⟨∇L, d⟩| ≤ C‖d‖², value and gradient both the implementation's, in float64",
    source="theory: taylor, theory: remainder",
    needs=("gradient", "float64", "cell"),
    rests_on=("objective", "gradient-theta", "gradient-B", "gradient-x"),
    anomaly="value and gradient disagree",
    at_stake="Line searches and second-order optimisers, which use both, stall or step the wrong way.",
    draws=any_problem(direction=lambda problem: directions({name: problem.block(name) for name in _moved(problem)})),
)
def taylor(deq: Subject, problem: Problem, direction: Direction) -> Iterator[Measurement | Fact]:
    """Along drawn directions in the parameters, B (p, entries of a state) and x (n, *inputs) at once, at three steps
    that clear the rounding noise; in the linear-softmax cell not in γ.

    The coefficient is bounded and not fitted: an order says nothing where the remainder vanishes. Bound: the
    remainder's (``theory.taylor.remainder``; elsewhere the true remainder of this very step), ``Errors.value`` at both
    ends, ``Errors.gradient`` weighted by |d|. Catches a value that belongs to another objective than its gradient.
    """
    value, gradient = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if not truth.in_range:
        return
    for block in direction:
        yield finite(f"∂L/∂{block}", gradient[block])
    for step in _steps(deq, problem, truth, direction):
        ends = {block: problem.block(block) + step * _scale(problem, block) * d for block, d in direction.items()}
        ahead = deq.rounded(problem.with_blocks(**ends))
        moved = {block: ahead.block(block) - problem.block(block) for block in direction}
        there, other = deq.value_and_grad(ahead)[0], judged(deq, ahead)
        first = sum(float(np.sum(gradient[block] * d)) for block, d in moved.items())
        allowed = along(truth, moved) + truth.value_error + other.value_error
        allowed = allowed + Bound({"second order of the step": np.asarray(_curved(deq, problem, truth, other, moved))})
        size = sum(float(np.sum(np.abs(truth.gradient[block] * d))) for block, d in moved.items())
        yield compare(f"|L(θ + d) − L(θ) − ⟨∇L, d⟩|, step {step:.1e}", abs(there - value - first), allowed, size)


def _moved(problem: Problem) -> tuple[str, ...]:
    return ("A", "B", "x") if isinstance(problem, SoftmaxProblem) else problem.blocks


def _scale(problem: Problem, block: str) -> float:
    logits = block == "A" and isinstance(problem, SoftmaxProblem)
    return 1.0 if logits else float(np.abs(problem.block(block)).max(initial=0.0))


def _curved(deq: Subject, problem: Problem, truth: Judge, other: Judge, moved: Direction) -> float:
    """A bound on the remainder: the formula of the linear-softmax cell, or its own value and the rounding of that."""
    if isinstance(problem, SoftmaxProblem):
        return remainder(budget(deq, problem).exact, in_columns(moved))
    (here, off), (there, also) = truth.objective(), other.objective()
    slope = sum(float(np.sum(truth.gradient[block] * d)) for block, d in moved.items())
    found = abs(there - here - slope) + off + also
    return found if np.isfinite(found) else np.inf


def _steps(deq: Subject, problem: Problem, truth: Judge, direction: Direction) -> list[float]:
    """The step at which the second order equals the noise of the values, and 8 and 64 times that; at most 2⁻⁴. Where
    nothing is known of the second order beforehand, sixteen times that at which the first does."""
    noise = float(truth.value_error.total)
    if isinstance(problem, SoftmaxProblem):
        unit = 2.0**-20  # small enough for the remainder to be quadratic
        moved = {block: unit * _scale(problem, block) * d for block, d in direction.items()}
        coefficient = remainder(budget(deq, problem).exact, in_columns(moved)) / unit**2
        best = np.sqrt(noise / coefficient) if noise > 0 and 0 < coefficient < np.inf else unit
    else:
        size = sum(
            float(np.sum(np.abs(truth.gradient[block] * d))) * _scale(problem, block) for block, d in direction.items()
        )
        best = 16.0 * noise / size if 0 < size < np.inf and 0 < noise < np.inf else 2.0**-20
    first = 2.0 ** np.clip(np.ceil(np.log2(best)), -40, -10)
    return [first, 8 * first, 64 * first]


@law(
    statement="⟨∂L/∂θ, d⟩ is the derivative of L along d, for every parameter",
    source="theory: gradient, theory: allowed-gradient; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    rests_on=("objective", "adjoint-certificate"),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(least_m=2, direction=lambda problem: directions(problem.theta)),
)
def gradient_theta(deq: Subject, problem: Problem, direction: Direction) -> Iterator[Measurement | Fact]:
    """Along a drawn direction in each parameter by itself, of its shape.

    Bound: ``Errors.gradient`` or ``BallErrors.gradient`` weighted by |d|; where that drowns the whole, along the
    entries of d that it leaves clear. Catches a missing Jacobian of a parametrisation, a missing transpose in the
    adjoint, one-step gradients, and a parameter that no gradient reaches. In A of the linear-softmax cell blind to the
    slow adjoint mode (the softmax annihilates it): see gradient-x.
    """
    yield from _derivative(deq, problem, direction)


@law(
    statement="⟨∂L/∂B, d⟩ is the derivative of L along d",
    source="theory: gradient, theory: allowed-gradient; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    rests_on=("objective",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(direction=lambda problem: signals(problem.B.shape, background=1.0)),
)
def gradient_B(deq: Subject, problem: Problem, direction: Array) -> Iterator[Measurement | Fact]:
    """Along a drawn direction d (p, entries of a state) in the readout: depends on ẑ, not on the adjoint.

    Bound: ``Errors.gradient["B"]`` weighted by |d|. Catches a mean taken for a sum, and a wrong equilibrium.
    """
    yield from _derivative(deq, problem, {"B": direction})


@law(
    statement="⟨∂L/∂x, d⟩ is the derivative of L along d",
    source="theory: gradient, theory: allowed-gradient; oracle: central differences in ball arithmetic",
    needs=("gradient",),
    rests_on=("objective", "adjoint-certificate"),
    anomaly=WRONG,
    at_stake="What stands before the layer is trained on this gradient: it learns something else.",
    draws=any_problem(direction=lambda problem: signals(problem.x.shape, background=1.0)),
)
def gradient_x(deq: Subject, problem: Problem, direction: Array) -> Iterator[Measurement | Fact]:
    """Along a drawn direction d (n, *inputs) in the inputs; in the linear-softmax cell that is the adjoint itself, its
    slow mode included.

    Bound: ``Errors.gradient["Phi"]`` or ``BallErrors.gradient["x"]`` weighted by |d|. Catches an adjoint solve that
    stopped early, phantom and one-step gradients.
    """
    yield from _derivative(deq, problem, {"x": direction})


@law(
    statement="⟨∇L, ĝ⟩ = ‖ĝ‖² over all blocks, ĝ the implementation's gradient",
    source="theory: energy",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B", "gradient-x"),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
    large=large_problem(SOFTMAX, ["float64"]),
)
def energy(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The derivative of L along the implementation's own gradient is that gradient's squared length.

    The left side is the oracle's, beyond sizes of 32 the closed form's in float64 with its own errors. Bound:
    ``Errors.gradient`` weighted by |ĝ|. Catches a sign and a factor, of one block or of all; a block that is zero
    adds nothing to either side, and is for gradient-theta and its like.
    """
    _, gradient = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if not truth.in_range:
        return
    for block in problem.blocks:
        yield finite(f"∂L/∂{block}", gradient[block])
    # The direction carries the errors too: exact·d differs from |d|² by the same products, already weighted by |d|.
    yield _against_oracle("|⟨∇L, ĝ⟩ − ‖ĝ‖²|", truth, gradient, {block: gradient[block] for block in problem.blocks})
