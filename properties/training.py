"""Training: along gradient flow and gradient descent the loss falls as the theorem promises, and the optimum is global
(theory: linear-rate; Kawaguchi 2021, Theorem 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from deqverify.properties.common import (
    EVALUATIONS,
    NOT_TIGHT,
    SOFTMAX,
    NoDirection,
    Point,
    budget,
    cases,
    direction,
    loss_rounding,
    own_rounding,
    packed,
    short_of,
    squared_length,
    theory_squared,
    unpacked,
    usable,
    visit,
)
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.importing import imported
from deqverify.problem import SoftmaxProblem
from deqverify.registry import law
from deqverify.strategies import well_conditioned_problems
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import dissipation, infimum, polyak_lojasiewicz, rate_floor
from deqverify.theory.taylor import remainder

WRONG = "wrong gradient"
SLOW = "training does not reach the rate of the theorem"


def _training(deq: Subject) -> SearchStrategy[dict[str, SoftmaxProblem]]:
    return cases(well_conditioned_problems(deq.dtype))


@law(
    about=SOFTMAX,
    statement="L(T) − L* ≤ (L(0) − L*) exp(−2κλ̲T) along gradient flow, with m < min(p, n)",
    source="theory: rate; Kawaguchi 2021, Theorem 1",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake="The guarantee of linear convergence does not hold for this implementation.",
    cost=8,
    loose=NOT_TIGHT,
    draws=_training,
)
def flow(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Integrates ``Ȧ = −∂L/∂A, Ḃ = −∂L/∂B`` with the implementation's gradients (Dormand–Prince, at most 60 of them).

    Asserted at every accepted step, the loss being a closed form. Bound on the excess: the rounding of the loss, the
    gradient's error carried for the time T at the steepest slope seen, and the integrator's tolerance for each step,
    eightfold for its growth along a flow that does not contract. Catches a sign, and a flow that stalls.
    """
    seen: list[tuple[float, float]] = []

    def velocity(t: float, state: Array) -> Array:
        if not np.isfinite(state).all():  # a trial step out of range, which the integrator then rejects
            seen.append((np.inf, np.inf))
            return np.full_like(state, np.nan)
        point = visit(deq, unpacked(problem, state))
        along = -direction(point)
        seen.append((point.slope, point.error))
        return along

    try:
        yield from _along(problem, velocity, seen, deq)
    except NoDirection as lost:
        yield from usable(lost.gradient)


def _along(
    problem: SoftmaxProblem, velocity: Callable[[float, Array], Array], seen: list[tuple[float, float]], deq: Subject
) -> Iterator[Measurement | Fact]:
    """The steps of the flow, judged; ``seen`` holds slope and error of each evaluation of ``velocity``."""
    first = ClosedForm(problem)
    floor = infimum(problem).attained
    rate = 2.0 * polyak_lojasiewicz(problem, first.loss) * rate_floor(problem)
    tolerance = 1e-5  # of the integrator; it enters the bound below
    solver = imported("scipy.integrate").RK45(
        velocity, 0.0, packed(problem.A, problem.B), t_bound=1e6, rtol=tolerance, atol=tolerance
    )
    steps, slope, error = 0, *seen[0]
    while len(seen) + 6 <= EVALUATIONS and solver.status == "running":
        solver.step()
        if solver.status == "failed":
            return
        steps += 1
        # The six evaluations of the step taken; those before them belong to trial steps that were rejected.
        slope, error = (max(was, *now) for was, now in zip((slope, error), zip(*seen[-6:], strict=True), strict=True))
        here = unpacked(problem, solver.y)
        loss, promised = ClosedForm(here).loss, floor + max(first.loss - floor, 0.0) * np.exp(-rate * solver.t)
        local = 8 * steps * tolerance * (1.0 + float(np.linalg.norm(solver.y))) * np.sqrt(solver.y.size)
        allowed = own_rounding("the loss", 2 * loss_rounding(budget(deq, here))) + Bound(
            {
                "gradient error carried along": np.asarray(solver.t * slope * error),
                "integrator's local error": np.asarray(slope * local),
            }
        )
        yield compare(
            f"L(T) − its promise at T = {solver.t:.3g}", np.maximum(0.0, loss - promised), allowed, first.loss
        )


@law(
    about=SOFTMAX,
    statement="a step with L(θ⁺) ≤ L(θ) − cη‖∇L‖² contracts L − L* by 1 − 2cηκλ̲, and there is such a step",
    source="theory: descent",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake="Gradient descent with this implementation's gradients does not descend as the theorem promises.",
    cost=8,
    loose=NOT_TIGHT,
    draws=_training,
)
def descent(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Twelve steps of backtracking gradient descent, each judged: a sufficient decrease exists, and it contracts.

    The loss is a closed form, the direction the implementation's. Bound on each excess: rounding of both losses, and
    the gradient's error through the Polyak–Łojasiewicz inequality. Catches a gradient that is not one.
    """
    floor = infimum(problem).attained
    for step in _descend(deq, problem):
        yield from usable(step.point.gradient)
        if step.ahead is None:
            yield Fact(
                "some step decreases the loss", False, f"none down to {step.eta:.1e}, ‖∇L‖² = {step.squared:.3g}"
            )
            return
        here, loss = step.here, ClosedForm(step.here).loss
        rate = 2.0 * polyak_lojasiewicz(here, loss) * rate_floor(here)
        promised = floor + (1.0 - _FRACTION * step.eta * rate) * max(loss - floor, 0.0)
        inexact = _FRACTION * step.eta * (2 * step.point.slope * step.point.error + step.point.error**2)
        allowed = own_rounding("both losses", 2 * step.noise) + Bound({"gradient error": np.asarray(inexact)})
        yield compare("L(θ⁺) − its promise", max(0.0, ClosedForm(step.ahead).loss - promised), allowed, loss)


@law(
    about=SOFTMAX,
    statement="along descent every step of size η loses η gᵀDg + O(η²), gᵀDg from the shallow model",
    source="theory: dissipation, theory: discrete",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=WRONG,
    at_stake="The loss does not fall by the gradient's length: rates and step sizes derived from it are off.",
    cost=8,
    draws=_training,
)
def descent_dissipation(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Six steps of gradient descent, away from where a problem is drawn; the fall is judged over a small part of each.

    At every point ``‖ĝ‖² = gᵀDg``, ĝ the implementation's in A and B and the right side by way of ``W = BU⁻¹``; and the
    loss, a closed form, falls by ``η gᵀDg`` along ``−ĝ``. Bound: ``2|g|e + e²``; for the fall η times that, half the
    second derivative along the step (``theory.taylor.remainder``), and rounding of both losses. Catches gradients that
    are right at initialisation only.
    """
    for step in _descend(deq, problem, steps=6):
        gradient, bounds = step.point.gradient, step.point.bounds
        yield from usable(gradient)
        shallow = sum(dissipation(bounds.exact))
        error = 2 * step.point.slope * step.point.error + step.point.error**2
        theory = own_rounding("gᵀDg", theory_squared(bounds))
        allowed = bounds.squared("A", "B") + theory
        yield compare("|‖∂L/∂A‖² + ‖∂L/∂B‖² − gᵀDg|", abs(squared_length(gradient) - shallow), allowed, shallow)
        if step.ahead is None:
            return
        noise = own_rounding("both losses", 2 * step.noise)
        yield _falls(ClosedForm(step.here), gradient, step.eta, eta_error=error, theory=theory, noise=noise)


def _falls(
    here: ClosedForm, gradient: dict[str, Array], eta: float, eta_error: float, theory: Bound, noise: Bound
) -> Measurement:
    """That the loss falls by ``η gᵀDg`` along ``−ĝ``; η is ``eta`` lowered until its second order is small."""
    squared = sum(dissipation(here))
    for _ in range(12):
        eta /= 128.0
        ahead = ClosedForm(descended(here.problem, gradient, eta))
        moved = {"A": ahead.problem.A - here.problem.A, "B": ahead.problem.B - here.problem.B}
        curved = remainder(here, moved)
        if curved <= eta * squared / 64:
            break
    carried = Bound({"second order of the step": np.asarray(curved), "gradient error": np.asarray(eta * eta_error)})
    lost = here.loss - ahead.loss
    return compare("|L(θ) − L(θ⁺) − η gᵀDg|", abs(lost - eta * squared), carried + noise + eta * theory, eta * squared)


@law(
    about=SOFTMAX,
    statement="along descent ‖∂L/∂A‖² + ‖∂L/∂B‖² ≥ 2κλ̲(L − L*), κ of the sublevel set of the start",
    source="theory: rate, theory: constants",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake="The rate that holds where training starts need not hold where it goes.",
    cost=8,
    loose=NOT_TIGHT,
    draws=_training,
)
def descent_floor(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Twelve steps: a descending path stays in ``{L₀ ≤ L(0)}``, which is convex, so one κ serves it whole.

    An inequality, as ``dissipation-floor``. Bound on the shortfall: the errors of both sides. Catches gradients that
    die on the way.
    """
    floor, start = infimum(problem).attained, ClosedForm(problem).loss
    rate = 2.0 * polyak_lojasiewicz(problem, start) * rate_floor(problem)
    for step in _descend(deq, problem):
        yield from usable(step.point.gradient)
        bounds = step.point.bounds
        promised = rate * max(bounds.exact.loss - floor, 0.0)
        yield short_of("2κλ̲(L − L*)", promised, step.point.gradient, bounds, rate * 2 * step.noise)


@law(
    about=SOFTMAX,
    statement="where training stops the loss is the global optimum: L − L* ≤ ‖ĝ‖²/(2κλ̲), with m < min(p, n)",
    source="theory: rate; Kawaguchi 2021, Theorem 1",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly="training stops short of the optimum",
    at_stake="A vanishing gradient does not mean that training is done.",
    cost=8,
    draws=_training,
)
def global_optimum(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """L-BFGS on A and B with the implementation's gradients, at most 60 of them, on well-conditioned data.

    Non-convex in (A, B), yet every stationary point is global. An attained value of the convex shallow problem stands
    for L*, which is safe. Bound: the theorem's own, the gradient's error in it, and rounding of the loss; informative
    where it leaves a tenth of the fall at most. Catches gradients that vanish elsewhere: decay, clipping, bias.
    """

    def objective(state: Array) -> tuple[float, Array]:
        if not np.isfinite(state).all():  # a line search that a wrong gradient led astray
            return np.inf, np.zeros_like(state)
        here = unpacked(problem, state)
        point = visit(deq, here)
        return ClosedForm(here).loss, packed(point.gradient["A"], point.gradient["B"])

    # The last line search may add ten; the memory holds every step, which makes it BFGS.
    stop = {"maxfun": EVALUATIONS - 12, "ftol": 0.0, "gtol": 0.0, "maxls": 10, "maxcor": EVALUATIONS}
    end = imported("scipy.optimize").minimize(
        objective, packed(problem.A, problem.B), jac=True, method="L-BFGS-B", options=stop
    )
    if not np.isfinite(end.x).all():
        return  # training did not stop anywhere
    best = unpacked(problem, end.x)
    point = visit(deq, best)
    yield from usable(point.gradient)
    floor, start, here = infimum(problem).attained, ClosedForm(problem).loss, ClosedForm(best).loss
    noise = 2 * loss_rounding(budget(deq, best))
    rate = 2.0 * polyak_lojasiewicz(problem, here + noise) * rate_floor(problem)
    if rate == 0.0:
        return
    squared = squared_length(point.gradient)
    error = (2 * np.sqrt(squared) + point.error) * point.error
    terms = {"the theorem's": np.asarray(squared / rate), "gradient error": np.asarray(error / rate)}
    allowed = Bound(terms) + own_rounding("the losses", noise)
    yield compare("L − L* where training stops", max(0.0, here - floor), allowed, start - floor)


@dataclass(frozen=True)
class _Step:
    """A step of backtracking descent: ``ahead`` is None where no step down to ``eta`` decreases the loss enough;
    ``noise`` is the rounding of the loss."""

    here: SoftmaxProblem
    point: Point
    squared: float
    noise: float
    ahead: SoftmaxProblem | None
    eta: float


_FRACTION = 0.25
"""Of the decrease that the gradient promises, what backtracking is content with."""


def _descend(deq: Subject, problem: SoftmaxProblem, steps: int = 12) -> Iterator[_Step]:
    """Backtracking gradient descent, until float64 and the claims can tell no more."""
    here, eta = problem, 1.0
    for _ in range(steps):
        point = visit(deq, here)
        squared, noise = squared_length(point.gradient), loss_rounding(budget(deq, here))
        if not np.isfinite(squared):
            yield _Step(here, point, squared, noise, None, eta)
            return
        if 2 * point.error >= point.slope or _FRACTION * point.slope**2 * _SHORTEST <= 4 * noise:
            return  # at the optimum, as far as these claims and float64 can tell
        ahead, eta = _backtrack(here, point.gradient, squared, 4 * eta)
        yield _Step(here, point, squared, noise, ahead, eta)
        if ahead is None:
            return
        here = ahead


_SHORTEST = 1e-9
"""Far below 1/smoothness of every problem that ``well_conditioned_problems`` draws."""


def _backtrack(
    here: SoftmaxProblem, gradient: dict[str, Array], squared: float, step: float
) -> tuple[SoftmaxProblem | None, float]:
    """The first step of ``step``, ``step``/2, … with ``L(θ⁺) ≤ L(θ) − ¼η‖∇L‖²``, and its η."""
    loss = ClosedForm(here).loss
    while step > _SHORTEST:
        ahead = descended(here, gradient, step)
        if ClosedForm(ahead).loss <= loss - _FRACTION * step * squared:
            return ahead, step
        step /= 2
    return None, step


@law(
    about=SOFTMAX,
    statement="gradient descent conserves every column sum of A",
    source="theory: gauge",
    needs=("gradient",),
    rests_on=("gauge",),
    anomaly=WRONG,
    at_stake="Weights drift where the model cannot see it, until they overflow or round.",
    cost=8,
    draws=lambda deq: cases(well_conditioned_problems(deq.dtype, least_m=2)),
)
def column_sums(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Ten steps of gradient descent; A is carried in float64 and rounded for the implementation only.

    Bound: the step length times ``Errors.gauge``, summed over the steps, and the rounding of the additions. Catches
    what ``gauge`` catches, where it accumulates.
    """
    here = problem
    drift = own_rounding("the additions", np.zeros(problem.m))
    travelled = np.zeros(problem.m)
    for _ in range(10):
        point = visit(deq, here)
        if not point.bounds.in_range:
            return
        yield from usable(point.gradient)
        step = 0.25 / max(1.0, *(float(np.abs(g).max()) for g in point.gradient.values()))
        drift = drift + step * point.bounds.bound(lambda e: e.gauge(e.adjoint))
        drift = drift + own_rounding("the additions", 2 * problem.m * 2.0**-53 * np.abs(here.A).sum(axis=0))
        travelled = travelled + step * np.abs(point.gradient["A"]).sum(axis=0)
        here = descended(here, point.gradient, step)
    yield compare("drift of 1ᵀA", np.abs(here.A.sum(axis=0) - problem.A.sum(axis=0)), drift, travelled)


def descended(here: SoftmaxProblem, gradient: dict[str, Array], step: float) -> SoftmaxProblem:
    return replace(here, A=here.A - step * gradient["A"], B=here.B - step * gradient["B"])
