"""The equilibrium exists, is unique, and is where ball arithmetic says (theory: equilibrium, theory: krawczyk)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import any_problem, budget, finite, judged, large_problem
from hypothesis import strategies as st

from deqverify.bounds import Arithmetic, Bound
from deqverify.cells import Contraction
from deqverify.comparison import Fact, Measurement, compare
from deqverify.drawing import signals
from deqverify.dtypes import Array, round_to
from deqverify.errors.passes import length, sweep_rounding
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Answer, Subject
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.registry import law

WRONG = "wrong equilibrium"
STAKE = "Outputs, losses and every gradient are built on this state: none of them can be trusted."


@law(
    statement="what the residual of ẑ proves of ‖ẑ − z*‖ is within the claimed accuracy",
    source="theory: contraction, theory: certificate, theory: krawczyk; Banach; Kawaguchi 2021, arXiv 2102.07346, §2",
    needs=("equilibrium", "cell"),
    rests_on=("dtype-and-device",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
    large=large_problem(),
)
def existence(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """For every θ and x the layer returns a finite ẑ (n, *state) whose own residual certifies it.

    No other solution is consulted: where f contracts at rate γ, ``‖f(ẑ) − ẑ‖/(1−γ)`` bounds the error, elsewhere the
    rows of ``(I − ∂f/∂z)⁻¹`` times the residual. The residual is evaluated in ball arithmetic. Bound:
    ``Errors.certificate``, ``BallErrors.z_error``. Catches a solver that stops early without saying so.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    truth = judged(deq, problem, near=z)
    certificate, allowed = truth.certificate(z)
    yield compare("certificate of ‖ẑ − z*‖ by the residual", certificate, allowed, truth.states(truth.z))


def _starts(problem: Problem) -> st.SearchStrategy[Array]:
    return signals(problem.states, background=1.0).map(lambda z: z * np.abs(problem.x).max(initial=1.0))


@law(
    statement="the equilibrium does not depend on the start z₀",
    source="theory: contraction; Banach",
    needs=("equilibrium", "starts", "cell"),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake="Two calls that differ in their start give two models; warm starts change results.",
    draws=any_problem(start=_starts),
)
def uniqueness(deq: Subject, problem: Problem, start: Array) -> Iterator[Measurement | Fact]:
    """Solving from a drawn z₀ (n, *state) and from the layer's own start gives the same ẑ.

    Undecided where no certificate says that there is one equilibrium. Bound: each is within its accuracy of z*, so
    twice ``Errors.z``. Catches a solver that returns its start, or stops at whatever it has.
    """
    z = deq.equilibrium(problem)
    other = deq.equilibrium(problem, round_to(start, deq.dtype))
    yield finite("ẑ", other)
    if problem.certificate is None:
        return
    truth = judged(deq, problem)
    yield compare("‖ẑ(z₀) − ẑ‖", truth.states(z - other), 2 * truth.z_error, truth.states(truth.z))


@law(
    statement="started at its own answer a solver gives that answer again",
    source="theory: contraction; a fixed point of f is one of every solver",
    needs=("equilibrium", "starts", "cell"),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake="Warm starts, checkpoints and streams of nearly equal inputs lose the equilibrium that was there already.",
    draws=any_problem(),
)
def restart(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Solving from ẑ (n, *state), which satisfies the tolerance already, gives an equilibrium, not NaN and not less.

    Bound: each is within its accuracy of z*, so twice ``Errors.z``. Catches 0/0 in an acceleration whose first step is
    zero, and best iterates that are only kept when a step improves on them.
    """
    z = deq.equilibrium(problem)
    again = deq.equilibrium(problem, z)
    yield finite("ẑ from ẑ", again)
    truth = judged(deq, problem, near=z)
    yield compare("‖ẑ(ẑ) − ẑ‖", truth.states(again - z), 2 * truth.z_error, truth.states(truth.z))


@law(
    statement="ẑ lies in the enclosure of z*, widened by the claimed accuracy",
    source="theory: contraction, theory: krawczyk; oracle: ball arithmetic",
    needs=("equilibrium", "cell"),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(),
)
def enclosure(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """``‖ẑ − z*‖`` against a rigorous enclosure of z* (n, *state) in ball arithmetic.

    Bound: ``Errors.z`` for each data point, ``BallErrors.z_error`` for each entry. Catches anything that is wrong with
    the forward pass, a row softmax or γ applied twice included.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    truth = judged(deq, problem, near=z)
    own = Bound({"rounding of the enclosure in float64": truth.enclosure_rounding})
    yield compare("‖ẑ − z*‖", truth.error(z), truth.z_error + own, truth.states(truth.z))


@law(
    statement="a trace ends in the residual of the answer that is returned, and has an entry for each iteration",
    source="the protocol",
    needs=("equilibrium", "traced", "cell"),
    rests_on=("existence",),
    anomaly="the trace is not that of the solve",
    at_stake="Convergence plots, stopping rules of one's own and comparisons of solvers are drawn from it.",
    draws=any_problem(),
)
def trace(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The last entry against the residuals of ẑ (n, *state), the largest of the data points, in a p-norm, 1 ≤ p ≤ 2.

    It is at most the largest 1-norm, and at least the largest 2-norm unless that is within the claim: a data point that
    has met it may be left alone, so that a solve capped at :data:`FEW_SWEEPS` is asked for too, where caps can be
    lowered. Where iterations are said there are as many entries, or one more for the start. Bound:
    the rounding of evaluating f. Catches traces that leave out the best point or are written now and then.
    """
    yield from _of_its_answer(deq, problem, deq.solve(problem, layer=deq.traced()))
    if hasattr(deq.implementation, "limited"):
        yield from _of_its_answer(deq, problem, deq.solve(problem, layer=deq.traced(deq.limited(FEW_SWEEPS))))


FEW_SWEEPS = 3
"""After so many iterations hardly a data point has met what is claimed."""


def _of_its_answer(deq: Subject, problem: Problem, answer: Answer) -> Iterator[Measurement | Fact]:
    """What the trace of ``answer`` has to be."""
    entries, iterations = answer.solution.trace, answer.solution.iterations
    yield Fact("the trace that was asked for", entries is not None, f"got {entries}", informative=False)
    if entries is not None and iterations is not None:
        good = iterations <= len(entries) <= iterations + 1
        yield Fact("the length of the trace", good, f"{len(entries)} entries, {iterations} iterations")
    if not entries or answer.status is Status.DIVERGED or not np.isfinite(answer.z).all():
        return
    truth = judged(deq, problem, near=answer.z)
    rounding = truth.evaluation_floor(answer.z)
    residual, floor = truth.residual(answer.z), float(rounding.max(initial=0.0))
    magnitudes = np.abs(residual).reshape(problem.n, -1)
    upper = float(magnitudes.sum(axis=1).max(initial=0.0))
    claim = deq.claims.forward
    met = claim.norms_of(residual) <= claim.allows(claim.norms_of(answer.z + residual)) + rounding
    lower = float(np.where(met, 0.0, np.sqrt(np.sum(magnitudes**2, axis=1))).max(initial=0.0))
    last, size = entries[-1], float(entries[0])
    allowed = Bound({"rounding of f": np.asarray(floor)})
    yield compare("the trace's last entry − ‖f(ẑ) − ẑ‖₁", max(0.0, last - upper), allowed, size)
    yield compare("‖f(ẑ) − ẑ‖₂ − the trace's last entry", max(0.0, lower - last), allowed, size)


@law(
    statement="the residual of plain iteration falls by the rate of the contraction: ‖r_k‖ ≤ rateᵏ‖r₀‖",
    source="theory: picard, theory: zero-mass (Dobrushin's τ), theory: sweeps",
    needs=("equilibrium", "trace", "cell"),
    rests_on=("existence",),
    anomaly="the solver is slower than its iteration",
    at_stake="Caps are hit where the method would have converged; the cost of a solve is not what the theory says.",
    draws=any_problem(),
)
def solver_rate(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The trace of the claimed iteration, each entry the largest residual over the data points in a p-norm, 1 ≤ p ≤ 2;
    in the linear-softmax cell the rate is γ, or γτ where the mass is right, elsewhere that of the certificate.

    Judged whatever the status, since a capped iteration contracts too; undecided without a contraction. Bound: the
    rate's power times the first entry, times what lies between the norms, and the rounding of the sweeps, summed as
    ``1/(1−rate)``. Catches damping that was not asked for, stale iterates, and a mass that is corrected wrongly.
    """
    trace = deq.solve(problem, layer=deq.traced()).solution.trace
    yield Fact("the trace that was asked for", trace is not None, f"got {trace}", informative=False)
    entries = np.asarray(trace, dtype=np.float64)
    yield finite("the trace", entries)
    if not entries.size:
        return
    if isinstance(problem, SoftmaxProblem):
        allowed = _rate_of_softmax(deq, problem, entries)
    elif isinstance(problem.certificate, Contraction) and deq.claims.iteration == "picard":
        allowed = _rate_of_contraction(deq, problem, problem.certificate, entries)
    else:
        return
    yield compare("‖r_k‖ at the worst k", entries[1:], allowed, float(entries[0]))


def _rate_of_softmax(deq: Subject, problem: SoftmaxProblem, entries: Array) -> Bound:
    """``√m rateᵏ`` times the first entry, √m between the norms, and the rounding of f at iterates of size ``‖z‖₁ ≤
    3‖φ‖₁/(1−γ)``."""
    bounds = budget(deq, problem)
    arithmetic, m = bounds.arithmetic, problem.m
    rate = bounds.exact.zero_mass_rate if deq.claims.iteration == "mass-corrected" else problem.gamma
    powers = (rate * (1.0 + 2 * (m + 4) * arithmetic.unit)) ** np.arange(len(entries))
    size = 3 * float(np.abs(problem.Phi).sum(axis=0).max(initial=0.0)) / (1.0 - problem.gamma)
    # A sweep rounds f, and the correction of its mass; either moves the next residual by at most twice itself.
    floor = 4 * (m + 8) * arithmetic.unit * size / (1.0 - rate) + bounds.rounding.underflow
    return _rate_bound(np.sqrt(m) * powers[1:] * entries[0], floor)


def _rate_of_contraction(deq: Subject, problem: Problem, of: Contraction, entries: Array) -> Bound:
    """``c rateᵏ`` times the first entry: c lies between the certificate's norm and any p-norm, 1 ≤ p ≤ 2, of s entries,
    √s for the 1- and the 2-norm and s for the maximum norm. A sweep rounded by δ leaves ``2‖δ‖/(1−rate)`` of a
    residual, and evaluating one δ more; δ is that of f wherever iterates may be, ``‖z_k − z*‖ ≤ ‖r₀‖/(1−rate)``."""
    s, arithmetic = int(np.prod(problem.state)), Arithmetic.of(deq.dtype, deq.claims.computes_in.get(deq.dtype))
    to, back = {"1": (1.0, s**0.5), "2": (s**0.5, 1.0), "max": (float(s), 1.0)}[of.norm]
    between = float(s) if of.norm == "max" else s**0.5
    reach = 1.01 * back * float(entries[0]) / (1.0 - of.rate)  # the first entry was rounded
    z = judged(deq, problem).z
    noise = sweep_rounding(problem.cell, problem.theta, problem.x, z, reach, arithmetic.unit)
    noise = noise + 2 * arithmetic.storage * (np.abs(z) + reach) + arithmetic.tiny
    once = float(length(noise, "1").max(initial=0.0))
    swept = to * 2.0 * float(length(noise, of.norm).max(initial=0.0)) / (1.0 - of.rate)
    powers = of.rate ** np.arange(1, len(entries))
    with np.errstate(invalid="ignore"):  # a rate of 0 leaves nothing of a rounding without a bound
        falling = np.where(powers == 0.0, 0.0, between * powers * (entries[0] + once))
    return _rate_bound(falling, swept + once)


def _rate_bound(powers: Array, floor: float) -> Bound:
    return Bound({"the theorem's rate": powers, "rounding of the sweeps": np.asarray(floor)})
