"""What an implementation says of its own answers: a wrong one that is not reported is the defect this project exists
for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from deqverify.properties.common import any_problem, budget, cases, cotangents, finite
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from deqverify.bounds import Bound, Budget
from deqverify.claims import Accuracy
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Answer, Subject
from deqverify.law import law
from deqverify.oracle import Oracle
from deqverify.problem import Problem
from deqverify.strategies import problems, signals
from deqverify.trial import EASY

SILENT = "silently wrong"
STAKE = "Nothing in a training log tells the runs with right answers from those with wrong ones."


def _judge_residual(
    what: str, status: Status, residual: Array, image: Array, claim: Accuracy, bounds: Budget, rounding: Array
) -> Iterator[Measurement | Fact]:
    """That a residual (m, n) is within the claim, in its norm, unless its failure was reported; ``image`` is f(ẑ)."""
    if status.admits_failure:
        yield Fact(what, True, status.value)
        return
    sizes = claim.norms(image)
    claimed = np.zeros_like(sizes) if claim.exact else claim.allows(sizes)
    if claim.of == "value":  # an error e has a residual of up to ‖U‖e ≤ (1 + γm)e, in any of the norms
        claimed = claimed * (1.0 + bounds.exact.problem.gamma * bounds.exact.problem.m)
    claimed = claimed + (0.0 if claim.exact else bounds.arithmetic.norm_floor)
    if claim.per == "batch":
        rounding = np.broadcast_to(np.sum(rounding), rounding.shape)
    allowed = Bound({f"rounding in {bounds.dtype_name}": rounding, f"claimed: {claim}": claimed})
    yield compare(f"{what}, though {status.value}", claim.norms(residual), allowed, sizes)


def _judge_equilibrium(deq: Subject, problem: Problem, answer: Answer) -> Iterator[Measurement | Fact]:
    if not answer.status.admits_failure:
        yield finite(f"ẑ, though {answer.status.value},", answer.z)
        residual = Oracle(problem).residual(answer.z)
    else:
        residual = np.zeros(problem.Phi.shape)
    bounds = budget(deq, problem)
    errors, z = bounds.rounding, np.abs(bounds.exact.Z).sum(axis=0)
    rounding = errors.solve_rounding * (z + np.abs(problem.Phi).sum(axis=0)) + errors.underflow
    rounding = rounding + 2 * bounds.arithmetic.storage * z
    image = answer.z + residual if np.isfinite(answer.z).all() else bounds.exact.Z
    yield from _judge_residual("‖f(ẑ) − ẑ‖", answer.status, residual, image, deq.claims.forward, bounds, rounding)


@law(
    "status-forward",
    statement="an equilibrium whose residual exceeds the claimed tolerance is reported as not converged",
    source="the implementation's own claim",
    needs=("equilibrium", "status"),
    anomaly=SILENT,
    at_stake=STAKE,
    draws=any_problem(),
)
def status_forward(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The residual ``f(ẑ) − ẑ``, in the norm of the claim, as claimed, unless the status admits failure.

    The residual is evaluated in ball arithmetic. Bound: the claim itself, not amplified, and the rounding of
    evaluating f once in the dtype. Catches "converged" said of anything, and solvers that stop at their cap without
    a word.
    """
    yield from _judge_equilibrium(deq, problem, deq.solve(problem))


@law(
    "status-backward",
    statement="an adjoint whose residual exceeds the claimed tolerance is reported as not converged",
    source="the implementation's own claim",
    needs=("pull", "status"),
    anomaly=SILENT,
    at_stake=STAKE,
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def status_backward(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The residual ``c + γSᵀΛ̂ − Λ̂`` of every data point for a drawn cotangent c (m, n), likewise.

    Asked whatever the forward pass reported, since the adjoint of a linear cell does not depend on ẑ. Bound: the
    claim and one evaluation's rounding. Catches backward solves capped without a word: the gradient arrives, wrong,
    and nothing says so.
    """
    answer = deq.solve(problem)
    found, status = deq.pull_status(answer, cotangent)
    if answer.status.admits_failure:  # the caller was told to distrust this solve as a whole
        status = answer.status
    adjoint = found["Phi"]
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    if not status.admits_failure:
        yield finite(f"Λ̂, though {status.value},", adjoint)
    residual = Oracle(problem).adjoint_residual(np.nan_to_num(adjoint), cotangent)
    errors, peak = bounds.rounding, np.abs(bounds.exact.adjoint).max(axis=0)
    rounding = errors.solve_rounding * (peak + np.abs(cotangent).max(axis=0)) + errors.underflow
    claim = deq.claims.backward or Accuracy()
    wider = {"1": float(problem.m), "max": 1.0}.get(claim.norm, np.sqrt(problem.m))  # than the maximum norm
    rounding = wider * (rounding + 2 * bounds.arithmetic.storage * peak)
    yield from _judge_residual("‖c + γSᵀΛ̂ − Λ̂‖", status, residual, adjoint + residual, claim, bounds, rounding)


@law(
    "status-cap",
    statement="a solve stopped at a low cap is either accurate or reported",
    source="the implementation's own claim",
    needs=("equilibrium", "status", "limited"),
    anomaly=SILENT,
    at_stake=STAKE,
    draws=any_problem(cap=lambda problem: st.integers(0, 6)),
)
def status_cap(deq: Subject, problem: Problem, cap: int) -> Iterator[Measurement | Fact]:
    """As ``status-forward``, with the iteration cap lowered to 0 … 6; a cap of 0 may be refused with an error.

    The iterations said are at most ``2 cap + 2``: some count evaluations, two an iteration, and those of the first and
    the last residual. What converged under this cap converges under the next, since the same iteration comes by the
    same state. Catches loops that never run below some cap and say nothing, and a cap of 0 that is taken for none.
    """
    lower = deq.solve(problem, layer=deq.limited(cap))
    said = lower.solution.iterations
    if said is not None:
        yield Fact(f"the iterations under a cap of {cap}", said <= 2 * cap + 2, f"{said} were made")
    if lower.status is Status.CONVERGED and deq.claims.deterministic:
        higher = deq.solve(problem, layer=deq.limited(cap + 1)).status
        yield Fact(
            f"the status under a cap of {cap + 1}, where one of {cap} sufficed",
            higher is not Status.CAPPED,
            higher.value,
            informative=False,
        )
    yield from _judge_equilibrium(deq, problem, lower)


@law(
    "status-nan",
    statement="a batch with NaN features is never reported as converged",
    source="IEEE 754: a NaN satisfies no tolerance; of NaN features there is no equilibrium",
    needs=("equilibrium", "status"),
    anomaly=SILENT,
    at_stake=STAKE,
    draws=any_problem(column=lambda problem: st.integers(0, problem.n - 1)),
)
def status_nan(deq: Subject, problem: Problem, column: int) -> Iterator[Measurement | Fact]:
    """One data point's features are NaN: whatever its state is, finite numbers included, nothing converged there.

    Exact: no tolerance applies. Catches comparisons that a NaN passes, such as ``not (residual > tolerance)``, and NaN
    that is replaced on the way by numbers.
    """
    poisoned = problem.Phi.copy()
    poisoned[:, column] = np.nan
    answer = deq.solve(problem, Phi=poisoned)
    own = answer.solution.statuses[column] if answer.solution.statuses else answer.status
    good = Status.CONVERGED not in (answer.status, own)
    state = "a finite state" if np.isfinite(answer.z).all() else "a state that is not finite"
    yield Fact("the status where features are NaN", good, f"{answer.status.value}, with {state}")


@st.composite
def _easy(draw: DrawFn, deq: Subject) -> dict[str, Any]:
    """A problem with γ ≤ 0.9 and a cotangent, every data point's largest entry in [1, 2)."""
    problem = draw(problems(deq.dtype, largest_gamma=EASY))
    cotangent = round_to(draw(signals(problem.Phi.shape, background=1.0)), deq.dtype)
    return {
        "problem": problem.with_features(_of_size_one(problem.Phi), problem.Y),
        "cotangent": _of_size_one(cotangent),
    }


def _of_size_one(array: Array) -> Array:
    """Every column divided by a power of two, ones in place of zeros."""
    largest = np.abs(array).max(axis=0, initial=0.0)
    scaled = array / 2.0 ** np.floor(np.log2(np.where(largest > 0, largest, 1.0)))
    return np.where(largest > 0, scaled, 1.0)


@law(
    "solves",
    statement="where γ ≤ 0.9 and features are of size one, both passes end in an answer and not in a report of failure",
    source="the implementation's own claim; theory: picard",
    needs=("equilibrium", "status", "solves"),
    anomaly="gives up on easy problems",
    at_stake="Reports are honest, but there are no answers: training stands still, or goes on with what was reported.",
    draws=lambda deq: _easy(deq),
)
def solves(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Fact]:
    """A solve, and where a pull is claimed the pull of c (m, n), each with its status.

    Plain iteration gains a digit in 22 sweeps at γ = 0.9. Exact: no tolerance applies; undecided where the claim lies
    below the rounding of the dtype, which no solver reaches. Catches caps that are too low for anything, and statuses
    that are never good.
    """
    bounds = budget(deq, problem, cotangent)
    answer = deq.solve(problem)
    if _reachable(deq.claims.forward, bounds.exact.Z, bounds.rounding.residual):
        yield Fact("the solve", not answer.status.admits_failure, answer.status.value)
    if answer.status.admits_failure or deq.claims.backward is None:
        return
    _, status = deq.pull_status(answer, cotangent)
    if _reachable(deq.claims.backward, bounds.exact.adjoint, bounds.rounding.adjoint_residual()):
        yield Fact("the pull", not status.admits_failure, status.value)


def _reachable(claim: Accuracy, solution: Array, rounding: Array) -> bool:
    """Whether arithmetic that leaves residuals of ``rounding``, (n,) in the norm that contracts, can keep ``claim``."""
    room = claim.allows(claim.norms(solution))
    return claim.exact or bool(np.all(room >= np.sqrt(len(solution)) * rounding))
