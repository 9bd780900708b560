"""Two replies to one question, and what may be asked in between: what the laws about behaviour compare and perform."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from deqverify.properties.common import finite

from deqverify.claims import Claims
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge, astray, gradient_astray, judge
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.subject import Subject, heed
from deqverify.problem import Problem, SoftmaxProblem

Evidence = Iterator[Measurement | Fact]

SAME_BITS = "the reference repeats itself bit by bit; sums in another order, as on several threads, are forgiven."
"""Why laws that compare a call with itself are loose."""


@dataclass(frozen=True)
class Reply:
    """z (n, *state) and, where an exact pull is claimed, the gradients for the cotangent that was pulled back."""

    z: Array
    gradient: dict[str, Array]


def reply(deq: Subject, problem: Problem, cotangent: Array | None, native: Mapping[str, Any] | None = None) -> Reply:
    """What ``deq`` replies to ``problem``; ``native`` arrays stand in for parameters, x, start or cotangent.

    Raises Reported where either pass reports that it is not converged. Nothing is pulled back without a cotangent.
    """
    given = deq.parameters(problem) | {"x": deq.native(problem.x), "start": None} | dict(native or {})
    answer = deq.solve_native(problem, {k: given[k] for k in problem.theta}, given["x"], given["start"])
    answer.heed()
    if cotangent is None or deq.claims.backward is None:
        return Reply(answer.z, {})
    found = deq.pull_native(answer, given["cotangent"] if "cotangent" in given else deq.native(cotangent))
    gradient, status = deq.unpack(problem, found, problem.n)
    heed(status)
    return Reply(answer.z, gradient)


def plain_call(
    deq: Subject, problem: Problem, cotangent: Array | None, native: Mapping[str, Any] | None = None
) -> Reply | None:
    """The reply that others are compared with; None where it crashes, which the law ``answers`` judges."""
    try:
        return reply(deq, problem, cotangent, native)
    except TargetFailure:
        return None


def agree(which: str, found: Reply, expected: Reply, truth: Judge, whatever: bool = False) -> Evidence:
    """That two replies to one question agree: z in the magnitudes of its bound, every block of the gradient by entries.

    Undecided where the plain answer, ``expected``, is wrong itself, which other laws judge: what differs from a wrong
    answer tells nothing of what was done to the question. ``whatever``: judged all the same, if it is finite.
    """
    if not (truth.in_range and np.isfinite(expected.z).all()) or (astray(truth, expected.z) and not whatever):
        return
    yield finite(f"ẑ {which}", found.z)
    distance = truth.states(found.z - expected.z)
    yield compare(f"‖ẑ {which} − ẑ‖", distance, 2 * truth.z_error, truth.states(truth.z))
    for block in truth.pulled if found.gradient and expected.gradient else ():
        if block not in found.gradient:
            continue
        wrong = not np.isfinite(expected.gradient[block]).all()
        if wrong or (not whatever and gradient_astray(truth, block, expected.gradient[block])):
            continue
        yield finite(f"pull {which}: {block}", found.gradient[block])
        distance = np.abs(found.gradient[block] - expected.gradient[block])
        allowed = 2 * truth.pulled_error(block)
        yield compare(f"pull {which} − pull, in {block}", distance, allowed, np.abs(truth.pulled[block]))


def repeated_calls(deq: Subject, problem: Problem, cotangent: Array, claims: Claims) -> Evidence:
    """The same call three times, compared by what ``claims`` allow two answers to differ."""
    first = _outcome(deq, problem, cotangent)
    near = first.z if isinstance(first, Reply) else None
    truth = judge(problem, claims, deq.dtype, cotangent, near)
    for _ in range(2):
        other = _outcome(deq, problem, cotangent)
        if isinstance(first, Reply) and isinstance(other, Reply):
            yield from agree("again", other, first, truth, whatever=True)
        else:
            good = isinstance(first, str) and first == other
            yield Fact("how the same call ends", good, f"{_named(first)}, then {_named(other)}", informative=False)


def _outcome(deq: Subject, problem: Problem, cotangent: Array) -> Reply | str:
    try:
        return reply(deq, problem, cotangent)
    except Reported:
        return "reported as not converged"
    except TargetFailure:
        return "crashed"


def _named(outcome: Reply | str) -> str:
    return outcome if isinstance(outcome, str) else "answered"


# What may happen between two calls. Each operation has a name, which is what a counterexample shows.


@dataclass(frozen=True)
class Scene:
    """What operations work on: the problem asked about at the end, a cotangent for it, and another problem."""

    problem: Problem
    cotangent: Array
    other: Problem

    @property
    def other_input(self) -> Problem:
        """Other inputs of the same shape."""
        return other_input(self.problem)

    def batch(self, size: int) -> Problem:
        """The first ``size`` data points."""
        return self.problem.chosen(slice(size))


def other_input(problem: Problem) -> Problem:
    """Other inputs of the same shape: their entries in reverse, negated."""
    return problem.with_blocks(x=-problem.x.ravel()[::-1].reshape(problem.x.shape))


def other_weights(deq: Subject, problem: Problem) -> Problem:
    """Other weights of the same shape: the first row of A raised and γ halved in the linear-softmax cell, everything
    halved elsewhere, which loosens no certificate."""
    if isinstance(problem, SoftmaxProblem):
        raised = problem.A + (np.arange(problem.m) == 0)[:, None]
        return deq.rounded(problem.with_blocks(A=raised, gamma=np.asarray(problem.gamma / 2)))
    return problem.with_blocks(**{name: value / 2 for name, value in problem.theta.items()})


def usual_cotangent(problem: Problem) -> Array:
    """A cotangent (n, *state) for laws that need any: x where it has that shape, ones elsewhere."""
    return problem.x if problem.x.shape == problem.states else np.ones(problem.states)


def _use(deq: Subject, problem: Problem) -> None:
    answer = deq.solve(problem)
    if deq.claims.backward is not None:
        deq.pull_status(answer, usual_cotangent(problem))


def _other_shape(deq: Subject, scene: Scene) -> None:
    """The other problem with its data points repeated or left out until its states have as many entries as those of the
    problem, where that can be."""
    wanted, entries = int(np.prod(scene.problem.states)), int(np.prod(scene.other.state))
    if scene.other.n and wanted % entries == 0:
        _use(deq, scene.other.chosen([k % scene.other.n for k in range(wanted // entries)]))


def _other_cotangents(deq: Subject, scene: Scene) -> None:
    answer = deq.solve(scene.problem)
    if deq.claims.backward is not None:
        for other in (-scene.cotangent, scene.cotangent[::-1].copy()):
            deq.pull_status(answer, other, again=deq.claims.repeated_pulls)
            answer = answer if deq.claims.repeated_pulls else deq.solve(scene.problem)


def _given_start(deq: Subject, scene: Scene) -> None:
    deq.solve(scene.other_input, z0=usual_cotangent(scene.problem))


def _without_gradient(deq: Subject, scene: Scene) -> None:
    for mode in deq.framework.without_gradient.values():
        with mode():
            deq.solve(scene.other_input)


def _evaluation(deq: Subject, scene: Scene) -> None:
    with deq.evaluating() as evaluating:
        evaluating.solve(scene.other_input)


OPERATIONS: dict[str, Callable[[Subject, Scene], None]] = {
    "same call": lambda deq, scene: _use(deq, scene.problem),
    "other input": lambda deq, scene: _use(deq, scene.other_input),
    "other weights": lambda deq, scene: _use(deq, other_weights(deq, scene.problem)),
    "other problem": lambda deq, scene: _use(deq, scene.other),
    "other shape": _other_shape,
    "one data point": lambda deq, scene: _use(deq, scene.batch(1)),
    "other cotangents": _other_cotangents,
    "empty batch": lambda deq, scene: _use(deq, scene.batch(0)),
    "given start": _given_start,
    "without gradient": _without_gradient,
    "evaluation mode": _evaluation,
}
"""By name, the simplest first: lists of them shrink along this order."""


def operations_on(deq: Subject) -> tuple[str, ...]:
    """The operations that ``deq`` claims to allow."""
    allowed = {
        "empty batch": deq.claims.empty,
        "given start": deq.claims.starts,
        "without gradient": bool(deq.framework.without_gradient),
        "evaluation mode": deq.claims.modes and hasattr(deq.implementation, "mode"),
    }
    return tuple(name for name in OPERATIONS if allowed.get(name, True))


def perform(deq: Subject, operations: list[str], scene: Scene) -> None:
    """Performs ``operations`` in order. One that crashes or reports is over; ValueError for an unknown name."""
    for name in operations:
        if name not in OPERATIONS:
            raise ValueError(f"operations: {name!r} is not one of {', '.join(OPERATIONS)}")
        with suppress(Reported, TargetFailure):
            OPERATIONS[name](deq, scene)


def at_once(calls: list[Callable[[], Reply]]) -> list[Callable[[], Reply]]:
    """Runs ``calls`` in a thread each; what comes back returns the reply or raises what was raised."""
    together, outcomes = threading.Barrier(len(calls)), dict[int, Callable[[], Reply]]()

    def run(index: int) -> None:
        together.wait()
        try:
            outcomes[index] = functools.partial(_given, calls[index]())
        except Exception as error:
            outcomes[index] = functools.partial(_raise, error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    try:
        workers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    return [outcomes[i] for i in range(len(calls))]


def _given(value: Reply) -> Reply:
    return value


def _raise(error: Exception) -> Reply:
    raise error
