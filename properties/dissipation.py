"""The linear rate without any assumption on the width (theory: linear-rate; Kawaguchi 2021, Theorem 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from deqverify.properties.common import (
    NOT_TIGHT,
    SOFTMAX,
    budget,
    cases,
    large_problem,
    loss_rounding,
    own_rounding,
    short_of,
    softmax_problem,
    squared_length,
    theory_squared,
    usable,
)
from hypothesis import strategies as st

from deqverify import losses
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import law
from deqverify.strategies import problems, signals
from deqverify.theory.dissipation import (
    dissipation as parts_of_dissipation,
)
from deqverify.theory.dissipation import (
    infimum,
    polyak_lojasiewicz,
    projected_floors,
    quotient_polyak_lojasiewicz,
    rate_floor,
)

WRONG = "wrong gradient"
SLOW = "training does not reach the rate of the theorem"


@law(
    about=SOFTMAX,
    statement="‖∂L/∂A‖² + ‖∂L/∂B‖² = gᵀDg, g the gradient of the shallow model",
    source="theory: flow, theory: dissipation",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=WRONG,
    at_stake="The loss does not fall as fast as the gradient's length says.",
    draws=softmax_problem(),
    large=large_problem(SOFTMAX, ["float64"]),
)
def dissipation(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """The speed at which gradient flow loses the objective, by way of the shallow model ``W = BU⁻¹`` alone.

    D is built from W, S and U; the left side is the implementation's. Bound: ``2|g|e + e²`` over both blocks, and
    the same for the closed form in float64, which solves twice as often. Catches a missing block, a missing
    transpose, one-step gradients; a sign it misses.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield from usable(gradient)
    shallow = sum(parts_of_dissipation(bounds.exact))
    allowed = bounds.squared("A", "B") + own_rounding("gᵀDg", theory_squared(bounds))
    yield compare("|‖∂L/∂A‖² + ‖∂L/∂B‖² − gᵀDg|", abs(squared_length(gradient) - shallow), allowed, shallow)


@law(
    about=SOFTMAX,
    statement="‖∂L/∂A‖² + ‖∂L/∂B‖² ≥ 2κλ̲(L − L*), λ̲ = 1/(m(1+γ)²), whatever the width",
    source="theory: floor, theory: rate, theory: constants; Kawaguchi 2021, Theorem 1",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake="The guarantee of linear convergence does not hold for this implementation.",
    loose=NOT_TIGHT,
    draws=softmax_problem(),
)
def dissipation_floor(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """The theorem at a point: far from the optimum the gradient is long. An attained value stands for L*, which is
    safe.

    An inequality, far from tight and blind to ∂L/∂A; never the law that finds a wrong gradient. Bound on the
    shortfall: the errors of both sides. Catches gradients that vanish: saturated, detached, or scaled by a mean.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield from usable(gradient)
    loss = bounds.exact.loss
    rate = 2.0 * polyak_lojasiewicz(problem, loss) * rate_floor(problem)
    promised = rate * max(loss - infimum(problem).attained, 0.0)
    yield short_of("2κλ̲(L − L*)", promised, gradient, bounds, rate * 2 * loss_rounding(bounds))


@law(
    about=SOFTMAX,
    statement="‖∂L/∂A‖² + ‖∂L/∂B‖² ≥ 4λ̲σ_k²‖RP_k‖² for every k, R = F − Y, squared loss, whatever the rank",
    source="theory: projected",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake="The guarantee of linear convergence does not hold for this implementation.",
    loose=NOT_TIGHT,
    draws=lambda deq: cases(problems(deq.dtype, losses=st.just(losses.Squared()))),
)
def projected_floor(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """σ_k and P_k belong to the top k right singular vectors of Φ; collinear and rank-deficient features are as good as
    any.

    An inequality, blind to ∂L/∂A as ``dissipation-floor`` is. Bound on the shortfall: the errors of both sides, that of
    R carried through ``σ₁``. Catches gradients that vanish along some directions of the data only.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield from usable(gradient)
    exact, theory = bounds.exact, bounds.theory
    residual, error = np.linalg.norm(exact.F - problem.Y), np.linalg.norm(theory.F)
    largest = float(np.linalg.norm(problem.Phi, 2)) if problem.n else 0.0
    own = 4 * rate_floor(problem) * largest**2 * float((2 * residual + error) * error)
    yield short_of("4λ̲σ_k²‖RP_k‖² at the worst k", projected_floors(exact), gradient, bounds, own)


@law(
    about=SOFTMAX,
    statement="‖∂L/∂A‖² + ‖∂L/∂B‖² ≥ 2κλ̲(L − L*) for softmax cross-entropy without ridge, κ in the quotient by 1",
    source="theory: rate, theory: quotient",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake="Classifiers without weight decay, the usual ones, have no guarantee of linear convergence.",
    loose=NOT_TIGHT,
    draws=lambda deq: cases(
        problems(deq.dtype, losses=st.just(losses.CrossEntropy(0.0))),
        tilt=lambda problem: signals((problem.p, problem.n)),
    ),
)
def quotient_floor(deq: Subject, problem: SoftmaxProblem, tilt: Array) -> Iterator[Measurement | Fact]:
    """The targets are the softmax of a drawn tilt (p, n): without a ridge a one-hot target is never reached.

    κ is that of the sublevel set of the problem itself. An inequality, as ``dissipation-floor``. Bound on the
    shortfall: the errors of both sides. Catches gradients that vanish, and probabilities that saturate.
    """
    weights = np.exp(tilt)
    soft = replace(problem, Y=round_to(weights / weights.sum(axis=0), deq.dtype))
    _, gradient = deq.value_and_grad(soft)
    bounds = budget(deq, soft)
    if not bounds.in_range:
        return
    yield from usable(gradient)
    loss, noise = bounds.exact.loss, loss_rounding(bounds)
    rate = 2.0 * quotient_polyak_lojasiewicz(soft, loss + noise) * rate_floor(soft)
    promised = rate * max(loss - infimum(soft).attained, 0.0)
    yield short_of("2κλ̲(L − L*)", promised, gradient, bounds, rate * 2 * noise)
