"""What an implementation says of its own answers: a wrong one that is not reported is the defect this project exists
for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from deqverify.properties.common import any_problem, finite, judged, problems_for, rounded_signals
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from deqverify.bounds import Arithmetic, Bound
from deqverify.claims import Accuracy
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Answer, Subject
from deqverify.problem import Problem
from deqverify.registry import law
from deqverify.trial import EASY

SILENT = "silently wrong"
STAKE = "Nothing in a training log tells the runs with right answers from those with wrong ones."


def _judge_residual(
    what: str, status: Status, residual: Array, image: Array, claim: Accuracy, truth: Judge, rounding: Array
) -> Iterator[Measurement | Fact]:
    """That a residual (n, *state) is within the claim, in its norm, unless its failure was reported; ``image`` is
    f(ẑ)."""
    if status.admits_failure:
        yield Fact(what, True, status.value)
        return
    sizes = claim.norms_of(image)
    claimed = np.zeros_like(sizes) if claim.exact else claim.allows(sizes)
    if claim.of == "value":  # an error e has a residual of up to ‖I − ∂f/∂z‖e
        claimed = claimed * truth.stretch(claim)
    arithmetic = Arithmetic.of(truth.dtype)
    claimed = claimed + (arithmetic.unseen if claim.exact else arithmetic.norm_floor)
    if claim.per == "batch":
        rounding = np.broadcast_to(np.sum(rounding), rounding.shape)
    allowed = Bound({f"rounding in {truth.dtype}": rounding, f"claimed: {claim}": claimed})
    yield compare(f"{what}, though {status.value}", claim.norms_of(residual), allowed, sizes)


def _judge_equilibrium(deq: Subject, problem: Problem, answer: Answer) -> Iterator[Measurement | Fact]:
    if not answer.status.admits_failure:
        yield finite(f"ẑ, though {answer.status.value},", answer.z)
    else:
        yield Fact("‖f(ẑ) − ẑ‖", True, answer.status.value)
        return
    truth = judged(deq, problem, near=answer.z)
    residual, claim = truth.residual(answer.z), deq.claims.forward
    image, floor = answer.z + residual, truth.residual_floor(claim)
    yield from _judge_residual("‖f(ẑ) − ẑ‖", answer.status, residual, image, claim, truth, floor)


@law(
    statement="an equilibrium whose residual exceeds the claimed tolerance is reported as not converged",
    source="the implementation's own claim",
    needs=("equilibrium", "status", "cell"),
    rests_on=("existence",),
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
    statement="an adjoint whose residual exceeds the claimed tolerance is reported as not converged",
    source="the implementation's own claim",
    needs=("pull", "status", "probe", "cell"),
    rests_on=("adjoint-certificate",),
    anomaly=SILENT,
    at_stake=STAKE,
    draws=any_problem(cotangent=True),
)
def status_backward(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The residual ``c + (∂f/∂z)ᵀΛ̂ − Λ̂`` of every data point for a drawn cotangent c (n, *state), likewise, the
    Jacobian at z*: what ẑ's own error makes of it is forgiven.

    Asked whatever the forward pass reported, since the adjoint of a linear cell does not depend on ẑ. Bound: the
    claim and one evaluation's rounding. Catches backward solves capped without a word: the gradient arrives, wrong,
    and nothing says so.
    """
    adjoint, status = deq.adjoint(problem, cotangent)
    truth = judged(deq, problem, cotangent)
    if not truth.in_range:
        return
    if not status.admits_failure:
        yield finite(f"Λ̂, though {status.value},", adjoint)
    residual = truth.adjoint_residual(np.nan_to_num(adjoint))
    claim = deq.claims.backward or Accuracy()
    floor = truth.adjoint_floor(claim)
    yield from _judge_residual("‖c + (∂f/∂z)ᵀΛ̂ − Λ̂‖", status, residual, adjoint + residual, claim, truth, floor)


@law(
    statement="a solve stopped at a low cap is either accurate or reported",
    source="the implementation's own claim",
    needs=("equilibrium", "status", "limited", "cell"),
    rests_on=("status-forward", "trace"),
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
    statement="a batch with NaN features is never reported as converged",
    source="IEEE 754: a NaN satisfies no tolerance; of NaN features there is no equilibrium",
    needs=("equilibrium", "status"),
    rests_on=("status-forward",),
    anomaly=SILENT,
    at_stake=STAKE,
    draws=any_problem(point=lambda problem: st.integers(0, problem.n - 1)),
)
def status_nan(deq: Subject, problem: Problem, point: int) -> Iterator[Measurement | Fact]:
    """One data point's features are NaN: whatever its state is, finite numbers included, nothing converged there. To
    refuse them with an error reports no success.

    Exact: no tolerance applies. Catches comparisons that a NaN passes, such as ``not (residual > tolerance)``, and NaN
    that is replaced on the way by numbers.
    """
    poisoned = problem.x.copy()
    poisoned[point] = np.nan
    try:
        answer = deq.solve(problem, x=poisoned)
    except TargetFailure as refusal:
        yield Fact("the status where features are NaN", True, str(refusal))
        return
    own = answer.solution.statuses[point] if answer.solution.statuses else answer.status
    good = Status.CONVERGED not in (answer.status, own)
    state = "a finite state" if np.isfinite(answer.z).all() else "a state that is not finite"
    yield Fact("the status where features are NaN", good, f"{answer.status.value}, with {state}")


@st.composite
def _easy(draw: DrawFn, deq: Subject) -> dict[str, Any]:
    """A problem and a cotangent, every data point's largest entry in [1, 2); γ ≤ 0.9 in the linear-softmax cell."""
    problem = draw(problems_for(deq, largest_gamma=EASY))
    cotangent = draw(rounded_signals(deq, problem.states))
    return {
        "problem": problem.with_inputs(_of_size_one(problem.x), problem.Y),
        "cotangent": _of_size_one(cotangent),
    }


def _of_size_one(array: Array) -> Array:
    """Every data point divided by a power of two, ones in place of zeros."""
    axes = tuple(range(1, array.ndim))
    largest = np.abs(array).max(axis=axes, initial=0.0, keepdims=True)
    scaled = array / 2.0 ** np.floor(np.log2(np.where(largest > 0, largest, 1.0)))
    return np.where(largest > 0, scaled, 1.0)


@law(
    statement="where the rate is ≤ 0.9 and inputs are of size one, both passes end in an answer, not in a report",
    source="the implementation's own claim; theory: picard",
    needs=("equilibrium", "status", "solves", "cell"),
    anomaly="gives up on easy problems",
    at_stake="Reports are honest, but there are no answers: training stands still, or goes on with what was reported.",
    draws=lambda deq: _easy(deq),
)
def solves(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Fact]:
    """A solve, and where a pull is claimed the pull of c (n, *state), each with its status.

    Plain iteration gains a digit in 22 sweeps at a rate of 0.9; beyond it, and without a certificate, undecided. Exact:
    no tolerance applies; undecided where the claim lies below the rounding of the dtype, which no solver reaches.
    Catches caps that are too low for anything, and statuses that are never good.
    """
    if problem.rate > EASY:
        return
    answer = deq.solve(problem)
    truth = judged(deq, problem, cotangent)
    forward, backward = deq.claims.forward, deq.claims.backward
    if _reachable(forward, truth.z, truth.residual_floor(forward)):
        yield Fact("the solve", not answer.status.admits_failure, answer.status.value)
    if answer.status.admits_failure or backward is None:
        return
    _, status = deq.pull_status(answer, cotangent)
    if _reachable(backward, truth.adjoint, truth.adjoint_floor(backward)):
        yield Fact("the pull", not status.admits_failure, status.value)


def _reachable(claim: Accuracy, solution: Array, floor: Array) -> bool:
    """Whether arithmetic that leaves residuals of ``floor``, (n,) in the norm of ``claim``, can keep it."""
    room = claim.allows(claim.norms_of(solution))
    return claim.exact or bool(np.all(room >= np.sqrt(np.prod(solution.shape[1:])) * floor))
