"""The linear rate without any assumption on the width (THEORY.md §3; Kawaguchi 2021, Theorem 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from deqverify.properties.common import any_problem, budget, cases, finite, own_rounding
from hypothesis.strategies import SearchStrategy
from scipy.integrate import RK45

from deqverify.bounds import Bound, Budget
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import well_conditioned_problems
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import dissipation, infimum, polyak_lojasiewicz, rate_floor

WRONG = "wrong gradient"
SLOW = "training does not reach the rate of the theorem"
EVALUATIONS = 60
"""A training law calls the implementation at most this often an example."""


def _squared_length(gradient: dict[str, Array]) -> float:
    return float(np.sum(gradient["A"] ** 2) + np.sum(gradient["B"] ** 2))


def _usable(gradient: dict[str, Array]) -> Iterator[Fact]:
    for block in ("A", "B"):
        yield finite(f"∂L/∂{block}", gradient[block])


@law(
    "dissipation",
    statement="‖∂L/∂A‖² + ‖∂L/∂B‖² = gᵀDg, g the gradient of the shallow model",
    source="THEORY.md §3 items 1, 3",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake="The loss does not fall as fast as the gradient's length says.",
    draws=any_problem(),
)
def dissipation_identity(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The speed at which gradient flow loses the objective, by way of the shallow model ``W = BU⁻¹`` alone.

    D is built from W, S and U; the left side is the implementation's. Bound: ``2|g|e + e²`` over both blocks, and
    the same for the closed form in float64, which solves twice as often. Catches a missing block, a missing
    transpose, one-step gradients; a sign it misses.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield from _usable(gradient)
    shallow = sum(dissipation(bounds.exact))
    allowed = bounds.squared("A", "B") + own_rounding("gᵀDg", _theory_squared(bounds))
    yield compare("|‖∂L/∂A‖² + ‖∂L/∂B‖² − gᵀDg|", abs(_squared_length(gradient) - shallow), allowed, shallow)


def _theory_squared(bounds: Budget) -> float:
    """Rounding of gᵀDg in float64: the route through W solves with U four times where the gradient solves twice."""
    theory, exact = bounds.theory, bounds.exact.gradient
    return 4 * sum(float(np.sum(2 * np.abs(exact[k]) * e + e**2)) for k, e in theory.gradient.items() if k in "AB")


def _loss_rounding(bounds: Budget) -> float:
    """Rounding of L in float64."""
    exact, theory = bounds.exact, bounds.theory
    spread = float(np.sum((np.abs(exact.dF) + theory.dF) * theory.F))
    problem = bounds.exact.problem
    return spread + (problem.p * problem.n + 12) * 2.0**-53 * (abs(exact.loss) + float(np.sum(problem.Y**2)))


@law(
    "dissipation-floor",
    statement="‖∂L/∂A‖² + ‖∂L/∂B‖² ≥ 2κλ̲(L − L*), λ̲ = 1/(m(1+γ)²), whatever the width",
    source="THEORY.md §3 items 2, 4, 6; Kawaguchi 2021, Theorem 1",
    needs=("gradient",),
    anomaly=SLOW,
    at_stake="The guarantee of linear convergence does not hold for this implementation.",
    loose="the theorem's inequality is far from tight (THEORY.md §3 item 4): nothing falls short of it.",
    draws=any_problem(),
)
def dissipation_floor(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The theorem at a point: far from the optimum the gradient is long. An attained value stands for L*, which is
    safe.

    An inequality, far from tight and blind to ∂L/∂A; never the law that finds a wrong gradient. Bound on the
    shortfall: the errors of both sides. Catches gradients that vanish: saturated, detached, or scaled by a mean.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    yield from _usable(gradient)
    loss = bounds.exact.loss
    rate = 2.0 * polyak_lojasiewicz(problem, loss) * rate_floor(problem)
    shortfall = max(0.0, rate * (loss - infimum(problem).attained) - _squared_length(gradient))
    own = own_rounding("2κλ̲(L − L*)", rate * 2 * _loss_rounding(bounds))
    allowed = bounds.squared("A", "B") + own
    yield compare("2κλ̲(L − L*) − ‖∂L/∂A‖² − ‖∂L/∂B‖²", shortfall, allowed, _squared_length(bounds.exact.gradient))


def _training(deq: Subject) -> SearchStrategy[dict[str, Problem]]:
    return cases(well_conditioned_problems(deq.dtype))


@law(
    "flow",
    statement="L(T) − L* ≤ (L(0) − L*) exp(−2κλ̲T) along gradient flow, with m < min(p, n)",
    source="THEORY.md §3 item 4; Kawaguchi 2021, Theorem 1",
    needs=("gradient",),
    anomaly=SLOW,
    at_stake="The guarantee of linear convergence does not hold for this implementation.",
    cost=8,
    loose="the theorem's inequality is far from tight (THEORY.md §3 item 4): nothing exceeds it.",
    draws=_training,
)
def flow(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Integrates ``Ȧ = −∂L/∂A, Ḃ = −∂L/∂B`` with the implementation's gradients (Dormand–Prince, at most 60 of them).

    Asserted at every accepted step, the loss being a closed form. Bound on the excess: the rounding of the loss, the
    gradient's error carried for the time T at the steepest slope seen, and the integrator's tolerance for each step,
    eightfold for its growth along a flow that does not contract. Catches a sign, and a flow that stalls.
    """
    calls, slope, error = 0, 0.0, 0.0

    def velocity(t: float, state: Array) -> Array:
        nonlocal calls, slope, error
        point = _visit(deq, _unpacked(problem, state))
        calls, slope, error = calls + 1, max(slope, point.slope), max(error, point.error)
        return -np.concatenate([point.gradient["A"].ravel(), point.gradient["B"].ravel()])

    first = ClosedForm(problem)
    floor = infimum(problem).attained
    rate = 2.0 * polyak_lojasiewicz(problem, first.loss) * rate_floor(problem)
    tolerance = 1e-5  # of the integrator; it enters the bound below
    solver = RK45(velocity, 0.0, _packed(problem), t_bound=1e6, rtol=tolerance, atol=tolerance)
    steps = 0
    while calls + 6 <= EVALUATIONS and solver.status == "running":
        solver.step()
        steps += 1
        here = _unpacked(problem, solver.y)
        loss, promised = ClosedForm(here).loss, floor + max(first.loss - floor, 0.0) * np.exp(-rate * solver.t)
        local = 8 * steps * tolerance * (1.0 + float(np.linalg.norm(solver.y))) * np.sqrt(solver.y.size)
        allowed = own_rounding("the loss", 2 * _loss_rounding(budget(deq, here))) + Bound(
            {
                "gradient error carried along": np.asarray(solver.t * slope * error),
                "integrator's local error": np.asarray(slope * local),
            }
        )
        yield compare(
            f"L(T) − its promise at T = {solver.t:.3g}", np.maximum(0.0, loss - promised), allowed, first.loss
        )


@law(
    "descent",
    statement="a step with L(θ⁺) ≤ L(θ) − cη‖∇L‖² contracts L − L* by 1 − 2cηκλ̲, and there is such a step",
    source="THEORY.md §3 item 5",
    needs=("gradient",),
    anomaly=SLOW,
    at_stake="Gradient descent with this implementation's gradients does not descend as the theorem promises.",
    cost=8,
    loose="the theorem's inequality is far from tight (THEORY.md §3 item 4): nothing exceeds it.",
    draws=_training,
)
def descent(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Twelve steps of backtracking gradient descent, each judged: a sufficient decrease exists, and it contracts.

    The loss is a closed form, the direction the implementation's. Bound on each excess: rounding of both losses, and
    the gradient's error through the Polyak–Łojasiewicz inequality. Catches a gradient that is not one.
    """
    here, fraction, step = problem, 0.25, 1.0
    floor = infimum(problem).attained
    for _ in range(12):
        point = _visit(deq, here)
        yield from _usable(point.gradient)
        squared, noise, loss = _squared_length(point.gradient), _loss_rounding(budget(deq, here)), ClosedForm(here).loss
        if 2 * point.error >= np.sqrt(squared) or fraction * squared * _SHORTEST <= 4 * noise:
            return  # at the optimum, as far as these claims and float64 can tell
        ahead, step = _backtrack(here, point.gradient, squared, fraction, 4 * step)
        if ahead is None:
            yield Fact("some step decreases the loss", False, f"none down to {step:.1e} with ‖∇L‖² = {squared:.3g}")
            return
        rate = 2.0 * polyak_lojasiewicz(here, loss) * rate_floor(here)
        promised = floor + (1.0 - fraction * step * rate) * max(loss - floor, 0.0)
        inexact = fraction * step * (2 * point.slope * point.error + point.error**2)
        allowed = own_rounding("both losses", 2 * noise) + Bound({"gradient error": np.asarray(inexact)})
        yield compare("L(θ⁺) − its promise", max(0.0, ClosedForm(ahead).loss - promised), allowed, loss)
        here = ahead


_SHORTEST = 1e-9
"""Far below 1/smoothness of every problem that ``well_conditioned_problems`` draws."""


def _backtrack(
    here: Problem, gradient: dict[str, Array], squared: float, fraction: float, step: float
) -> tuple[Problem | None, float]:
    """The first step of ``step``, ``step``/2, … with ``L(θ⁺) ≤ L(θ) − fraction·η‖∇L‖²``, and its η."""
    loss = ClosedForm(here).loss
    while step > _SHORTEST:
        ahead = _descended(here, gradient, step)
        if ClosedForm(ahead).loss <= loss - fraction * step * squared:
            return ahead, step
        step /= 2
    return None, step


@law(
    "column-sums",
    statement="gradient descent conserves every column sum of A",
    source="THEORY.md §2 (gauge)",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake="Weights drift where the model cannot see it, until they overflow or round.",
    cost=8,
    draws=lambda deq: cases(well_conditioned_problems(deq.dtype, least_m=2)),
)
def column_sums(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Ten steps of gradient descent; A is carried in float64 and rounded for the implementation only.

    Bound: the step length times ``Errors.gauge``, summed over the steps, and the rounding of the additions. Catches
    what ``gauge`` catches, where it accumulates.
    """
    here = problem
    drift = own_rounding("the additions", np.zeros(problem.m))
    travelled = np.zeros(problem.m)
    for _ in range(10):
        point = _visit(deq, here)
        yield from _usable(point.gradient)
        step = 0.25 / max(1.0, *(float(np.abs(g).max()) for g in point.gradient.values()))
        drift = drift + step * point.bounds.bound(lambda e: e.gauge(e.adjoint))
        drift = drift + own_rounding("the additions", 2 * problem.m * 2.0**-53 * np.abs(here.A).sum(axis=0))
        travelled = travelled + step * np.abs(point.gradient["A"]).sum(axis=0)
        here = _descended(here, point.gradient, step)
    yield compare("drift of 1ᵀA", np.abs(here.A.sum(axis=0) - problem.A.sum(axis=0)), drift, travelled)


@dataclass(frozen=True)
class _Point:
    """The implementation's gradient at a float64 point: ``slope`` is ``‖∇L‖`` there, ``error`` bounds ``‖ĝ − ∇L‖``."""

    gradient: dict[str, Array]
    bounds: Budget
    slope: float
    error: float


def _visit(deq: Subject, here: Problem) -> _Point:
    """Asks for the gradient at ``here`` rounded to the subject's dtype; the error includes what that rounding moves."""
    rounded = here.rounded_to(deq.dtype)
    _, found = deq.value_and_grad(rounded)
    gradient = {block: found[block] for block in ("A", "B")}
    bounds = budget(deq, rounded)
    exact, seen = ClosedForm(here).gradient, bounds.exact.gradient
    errors = bounds.claimed.gradient
    moved = sum(float(np.sum((np.abs(exact[k] - seen[k]) + errors[k]) ** 2)) for k in gradient)
    return _Point(gradient, bounds, float(np.sqrt(_squared_length(exact))), float(np.sqrt(moved)))


def _descended(here: Problem, gradient: dict[str, Array], step: float) -> Problem:
    return replace(here, A=here.A - step * gradient["A"], B=here.B - step * gradient["B"])


def _packed(problem: Problem) -> Array:
    return np.concatenate([problem.A.ravel(), problem.B.ravel()])


def _unpacked(problem: Problem, state: Array) -> Problem:
    split = problem.m**2
    return replace(problem, A=state[:split].reshape(problem.A.shape), B=state[split:].reshape(problem.B.shape))
