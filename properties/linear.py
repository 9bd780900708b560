"""What is true of a cell that is linear in z and x: its equilibrium is a linear function of x (theory:
equivariance)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import PAIRS, any_problem, finite, judged, own_rounding

from deqverify.bounds import Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.drawing import scales, signals
from deqverify.dtypes import Array, round_to
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import ANY_LINEAR, law

WRONG = "wrong equilibrium"


@law(
    about=ANY_LINEAR,
    statement="x ↦ z* is linear",
    source="theory: equivariance",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake="The answer depends on how large the data are, not only on what they say.",
    draws=any_problem(
        about=ANY_LINEAR,
        other=lambda problem: signals(problem.x.shape, background=1.0),
        weights=lambda problem: PAIRS,
    ),
)
def linearity(deq: Subject, problem: Problem, other: Array, weights: tuple[int, int]) -> Iterator[Measurement | Fact]:
    """``z*(ax + by) = a z*(x) + b z*(y)`` for y (n, *inputs) of x's scale and small integers a, b.

    Bound: ``Errors.z`` of all three, weighted, and what the rounding of ax + by itself makes of z*. Catches stopping
    rules that look at absolute sizes.
    """
    a, b = weights
    second = problem.with_inputs(round_to(other * np.abs(problem.x).max(initial=0.0), deq.dtype), problem.Y)
    exact = a * problem.x + b * second.x
    combined = problem.with_inputs(round_to(exact, deq.dtype), problem.Y)
    answers = [deq.equilibrium(q) for q in (combined, problem, second)]
    for z in answers:
        yield finite("ẑ", z)
    truths = [judged(deq, q) for q in (combined, problem, second)]
    allowed = truths[0].z_error
    for weight, part in zip((abs(a), abs(b)), truths[1:], strict=True):
        allowed = allowed + weight * part.z_error
    moved = judged(deq, problem.with_inputs(combined.x - exact, problem.Y))
    own = moved.states(moved.z) + moved.z_own
    allowed = allowed + Bound({"rounding of ax + by, amplified": own})
    parts = [w * t.states(t.z) for w, t in zip((abs(a), abs(b)), truths[1:], strict=True)]
    size = parts[0] + parts[1]
    entries = int(np.prod(problem.state))
    rounding = own_rounding("the combination", (entries + 2) * 2.0**-53 * size)
    distance = truths[0].states(answers[0] - a * answers[1] - b * answers[2])
    yield compare("‖ẑ(ax + by) − aẑ(x) − bẑ(y)‖", distance, allowed + rounding, size)


@law(
    about=ANY_LINEAR,
    statement="ẑ(2ᵏx) = 2ᵏ ẑ(x) over the dtype's usable range, where accuracy is claimed as relative",
    source="theory: equivariance",
    needs=("equilibrium", "relative"),
    rests_on=("existence",),
    anomaly="wrong equilibrium on small or large data",
    at_stake="Data in other units give another model: a feature in metres and one in nanometres do not agree.",
    loose=(
        "a power of two changes no significand, so that the reference gives the same bits; who scales the data first "
        "is forgiven the rounding."
    ),
    draws=lambda deq: any_problem(about=ANY_LINEAR, exponent=lambda problem: scales(deq.dtype))(deq),
)
def scale(deq: Subject, problem: Problem, exponent: int) -> Iterator[Measurement | Fact]:
    """Multiplying the inputs by a power of two, which rounds nothing, multiplies the equilibrium by it.

    Bound: twice ``Errors.z``, scaled. Catches absolute tolerances, absolute regularisation, and initial
    values such as 1e8 that stand for infinity.
    """
    factor = 2.0**exponent
    scaled = problem.with_inputs(problem.x * factor, problem.Y)
    first, second = deq.equilibrium(scaled), factor * deq.equilibrium(problem)
    yield finite("ẑ", first)
    yield finite("ẑ", second)
    truth = judged(deq, scaled)
    size = truth.states(truth.z)
    own = own_rounding("the comparison", int(np.prod(problem.state)) * 2.0**-53 * size)
    yield compare("‖ẑ(2ᵏx) − 2ᵏẑ(x)‖", truth.states(first - second), 2 * truth.z_error + own, size)
