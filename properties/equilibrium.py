"""The equilibrium exists, is unique, and is where ball arithmetic says (theory: equilibrium)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import any_problem, budget, cases, finite, large_problem, own_rounding
from hypothesis import strategies as st

from deqverify.bounds import Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.oracle import Oracle
from deqverify.problem import Problem
from deqverify.strategies import problems, signals

WRONG = "wrong equilibrium"
STAKE = "Outputs, losses and every gradient are built on this state: none of them can be trusted."


@law(
    "existence",
    statement="‖φ + γSẑ − ẑ‖₁/(1−γ), which bounds ‖ẑ − z*‖₁, is within the claimed accuracy",
    source="theory: contraction, theory: certificate; Banach; Kawaguchi 2021, arXiv 2102.07346, §2",
    needs=("equilibrium",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
    large=large_problem(),
)
def existence(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """For every A (m, m), Φ (m, n) and γ in (0, 1) the layer returns a finite ẑ whose own residual certifies it.

    No other solution is consulted: the cell contracts in the 1-norm at rate γ, so a small residual proves that ẑ is
    near the one equilibrium. The residual is evaluated in ball arithmetic. Bound: ``Errors.certificate``. Catches a
    solver that stops early without saying so.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    bounds = budget(deq, problem)
    residual = np.abs(Oracle(problem).residual(z)).sum(axis=0)
    certificate = residual * bounds.rounding.amplification
    size = np.abs(bounds.exact.Z).sum(axis=0)
    yield compare("certificate ‖φ + γSẑ − ẑ‖₁/(1−γ)", certificate, bounds.bound(lambda e: e.certificate), size)


def _starts(problem: Problem) -> st.SearchStrategy[Array]:
    return signals((problem.m, problem.n), background=1.0).map(lambda z: z * np.abs(problem.Phi).max(initial=1.0))


@law(
    "uniqueness",
    statement="the equilibrium does not depend on the start z₀",
    source="theory: contraction; Banach",
    needs=("equilibrium", "starts"),
    anomaly=WRONG,
    at_stake="Two calls that differ in their start give two models; warm starts change results.",
    draws=any_problem(start=_starts),
)
def uniqueness(deq: Subject, problem: Problem, start: Array) -> Iterator[Measurement | Fact]:
    """Solving from a drawn z₀ (m, n) and from the layer's own start gives the same ẑ.

    Bound: each is within its accuracy of z*, so twice ``Errors.z``. Catches a solver that returns
    its start, or stops at whatever it has.
    """
    z = deq.equilibrium(problem)
    other = deq.equilibrium(problem, round_to(start, deq.dtype))
    yield finite("ẑ", other)
    bounds = budget(deq, problem)
    distance = np.abs(z - other).sum(axis=0)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    yield compare("‖ẑ(z₀) − ẑ‖₁", distance, 2 * bounds.bound(lambda e: e.z), size)


@law(
    "restart",
    statement="started at its own answer a solver gives that answer again",
    source="theory: contraction; a fixed point of f is one of every solver",
    needs=("equilibrium", "starts"),
    anomaly=WRONG,
    at_stake="Warm starts, checkpoints and streams of nearly equal inputs lose the equilibrium that was there already.",
    draws=any_problem(),
)
def restart(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Solving from ẑ (m, n), which satisfies the tolerance already, gives an equilibrium, not NaN and not less.

    Bound: each is within its accuracy of z*, so twice ``Errors.z``. Catches 0/0 in an acceleration whose first step is
    zero, and best iterates that are only kept when a step improves on them.
    """
    z = deq.equilibrium(problem)
    again = deq.equilibrium(problem, z)
    yield finite("ẑ from ẑ", again)
    bounds = budget(deq, problem)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    yield compare("‖ẑ(ẑ) − ẑ‖₁", np.abs(again - z).sum(axis=0), 2 * bounds.bound(lambda e: e.z), size)


@law(
    "enclosure",
    statement="ẑ lies in the enclosure of z*, widened by the claimed accuracy",
    source="theory: contraction; oracle: ball arithmetic",
    needs=("equilibrium",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
)
def enclosure(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """``‖ẑ − z*‖₁`` of every data point, against a rigorous enclosure of z* (m, n) from a solve in ball arithmetic.

    Bound: ``Errors.z``. Catches anything that is wrong with the forward pass, a row softmax or γ applied twice
    included.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    bounds = budget(deq, problem)
    error = Oracle(problem).error(z).sum(axis=0)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    own = own_rounding("the enclosure", 4 * problem.m * 2.0**-53 * size)
    yield compare("‖ẑ − z*‖₁", error, bounds.bound(lambda e: e.z) + own, size)


@law(
    "mass",
    statement="1ᵀẑ = 1ᵀφ/(1−γ) for every data point",
    source="theory: mass",
    needs=("equilibrium",),
    anomaly="wrong equilibrium: mass is not conserved",
    at_stake="The weights do not sum to one along the axis they should: another model is being solved.",
    draws=any_problem(),
    large=large_problem(),
)
def mass(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The columns of S sum to one, so summing ``z = γSz + φ`` fixes the mass of z exactly.

    Bound: ``Errors.z``, since ``|1ᵀ(ẑ − z*)| ≤ ‖ẑ − z*‖₁``. Catches a row softmax, which the eigenvalue bound
    (theory: floor) survives.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    bounds = budget(deq, problem)
    expected = problem.Phi.sum(axis=0) / (1.0 - problem.gamma)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    phi = np.abs(problem.Phi).sum(axis=0)
    own = own_rounding("the sums", (problem.m + 2) * 2.0**-53 * (size + phi / (1 - problem.gamma)))
    yield compare("|1ᵀẑ − 1ᵀφ/(1−γ)|", np.abs(z.sum(axis=0) - expected), bounds.bound(lambda e: e.z) + own, size)


@law(
    "positivity",
    statement="φ ≥ 0 implies z* ≥ φ ≥ 0, entry by entry",
    source="theory: positivity",
    needs=("equilibrium",),
    anomaly=WRONG,
    at_stake="The sign of a state is not what the model says; anything read as a probability or an amount is not one.",
    loose=(
        "eliminating in U, an M-matrix with dominant columns, the reference only adds products of nonnegative numbers "
        "to φ and divides by at most one: rounding does not take ẑ below φ."
    ),
    draws=lambda deq: cases(problems(deq.dtype, feature_regimes=("nonnegative",))),
)
def positivity(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """``U⁻¹ = Σ γᵏSᵏ ≥ I`` entrywise, so nonnegative features (m, n) give states at least as large.

    Bound: ``Errors.z`` below φ. Catches a wrong sign of γS, and solvers that overshoot.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    bounds = budget(deq, problem)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    shortfall = np.maximum(problem.Phi - z, 0.0).max(axis=0, initial=0.0)
    yield compare("max(φ − ẑ, 0)", shortfall, bounds.bound(lambda e: e.z), size)


@law(
    "solver-rate",
    statement="the residual falls by γ an iteration, by γτ where the mass is right: ‖r_k‖₁ ≤ (γτ)ᵏ‖r₀‖₁",
    source="theory: picard, theory: zero-mass (Dobrushin's τ)",
    needs=("equilibrium", "trace"),
    anomaly="the solver is slower than its iteration",
    at_stake="Caps are hit where the method would have converged; the cost of a solve is not what the theory says.",
    draws=any_problem(),
)
def solver_rate(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The trace of the claimed iteration, each entry the largest residual over the data points in a p-norm, 1 ≤ p ≤ 2.

    Judged whatever the status, since a capped iteration contracts too. Bound: ``√m rateᵏ`` times the first entry, √m
    between the norms, and the rounding of f at iterates of size ``‖z‖₁ ≤ 3‖φ‖₁/(1−γ)``, summed over the sweeps as
    ``1/(1−rate)``. Catches damping that was not asked for, stale iterates, and a mass that is corrected wrongly.
    """
    trace = deq.solve(problem, layer=deq.traced()).solution.trace
    yield Fact("the trace that was asked for", trace is not None, f"got {trace}", informative=False)
    entries = np.asarray(trace, dtype=np.float64)
    yield finite("the trace", entries)
    bounds = budget(deq, problem)
    arithmetic, m = bounds.arithmetic, problem.m
    rate = bounds.exact.zero_mass_rate if deq.claims.iteration == "mass-corrected" else problem.gamma
    powers = (rate * (1.0 + 2 * (m + 4) * arithmetic.unit)) ** np.arange(len(entries))
    size = 3 * float(np.abs(problem.Phi).sum(axis=0).max(initial=0.0)) / (1.0 - problem.gamma)
    # A sweep rounds f, and the correction of its mass; either moves the next residual by at most twice itself.
    floor = 4 * (m + 8) * arithmetic.unit * size / (1.0 - rate) + bounds.rounding.underflow
    first = float(entries[0]) if entries.size else 0.0
    allowed = Bound(
        {"the theorem's rate": np.sqrt(m) * powers[1:] * first, "rounding of the sweeps": np.asarray(floor)}
    )
    yield compare("‖r_k‖ at the worst k", entries[1:], allowed, first)


@law(
    "trace",
    statement="a trace ends in the residual of the answer that is returned, and has an entry for each iteration",
    source="the protocol",
    needs=("equilibrium", "traced"),
    anomaly="the trace is not that of the solve",
    at_stake="Convergence plots, stopping rules of one's own and comparisons of solvers are drawn from it.",
    draws=any_problem(),
)
def trace(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The last entry against the residuals of ẑ (m, n), the largest of the data points, in a p-norm, 1 ≤ p ≤ 2.

    It is at most the largest 1-norm, and at least the largest 2-norm unless that is within the claim: a data point that
    has met it may be left alone. Where iterations are said there are as many entries, or one more for the start. Bound:
    the rounding of evaluating f. Catches traces that leave out the best point or are written now and then.
    """
    answer = deq.solve(problem, layer=deq.traced())
    entries, iterations = answer.solution.trace, answer.solution.iterations
    yield Fact("the trace that was asked for", entries is not None, f"got {entries}", informative=False)
    if entries is not None and iterations is not None:
        good = iterations <= len(entries) <= iterations + 1
        yield Fact("the length of the trace", good, f"{len(entries)} entries, {iterations} iterations")
    if not entries or answer.status is Status.DIVERGED or not np.isfinite(answer.z).all():
        return
    bounds = budget(deq, problem)
    errors, z = bounds.rounding, np.abs(answer.z).sum(axis=0)
    rounding = errors.solve_rounding * (z + np.abs(problem.Phi).sum(axis=0)) + errors.underflow
    floor = float((rounding + 2 * bounds.arithmetic.storage * z).max(initial=0.0))
    residual = Oracle(problem).residual(answer.z)
    upper = float(np.abs(residual).sum(axis=0).max(initial=0.0))
    claim = deq.claims.forward
    met = claim.norms(residual) <= claim.allows(claim.norms(answer.z + residual))
    lower = float(np.where(met, 0.0, np.sqrt(np.sum(residual**2, axis=0))).max(initial=0.0))
    last = entries[-1]
    size = float(entries[0])
    allowed = Bound({"rounding of f": np.asarray(floor)})
    yield compare("the trace's last entry − ‖f(ẑ) − ẑ‖₁", max(0.0, last - upper), allowed, size)
    yield compare("‖f(ẑ) − ẑ‖₂ − the trace's last entry", max(0.0, lower - last), allowed, size)
