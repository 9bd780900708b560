"""Two replies to one question, and what may be asked in between: what the laws about behaviour compare and perform."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from deqverify.properties.common import finite

from deqverify.bounds import Bound, Budget, Errors
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.implementations.subject import Reported, Subject, TargetFailure, heed
from deqverify.problem import Problem

BLOCKS = ("A", "Phi", "gamma")

Evidence = Iterator[Measurement | Fact]

SAME_BITS = "the reference repeats itself bit by bit; sums in another order, as on several threads, are forgiven."
"""Why laws that compare a call with itself are loose."""


@dataclass(frozen=True)
class Reply:
    """z (m, n) and, where an exact pull is claimed, the gradients for the cotangent that was pulled back."""

    z: Array
    gradient: dict[str, Array]


def reply(deq: Subject, problem: Problem, cotangent: Array | None, native: Mapping[str, Any] | None = None) -> Reply:
    """What ``deq`` replies to ``problem``; ``native`` arrays stand in for A, gamma, x, start or cotangent.

    Raises Reported where either pass reports that it is not converged. Nothing is pulled back without a cotangent.
    """
    given = deq.parameters(problem) | {"x": deq.native(problem.Phi.T), "start": None} | dict(native or {})
    answer = deq.solve_native({k: given[k] for k in ("A", "gamma")}, given["x"], given["start"])
    answer.heed()
    if cotangent is None or deq.claims.backward is None:
        return Reply(answer.z, {})
    found = deq.pull_native(answer, given["cotangent"] if "cotangent" in given else deq.native(cotangent.T))
    gradient, status = deq.unpack(found, problem.Phi.T.shape)
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


def agree(which: str, found: Reply, expected: Reply, bounds: Budget, whatever: bool = False) -> Evidence:
    """That two replies to one question agree: z in the 1-norm of each data point, every block of the gradient by
    entries.

    Undecided where the plain answer, ``expected``, is wrong itself, which other laws judge: what differs from a wrong
    answer tells nothing of what was done to the question. ``whatever``: judged all the same, if it is finite.
    """
    if not (bounds.in_range and np.isfinite(expected.z).all()) or (astray(expected.z, bounds) and not whatever):
        return
    yield finite(f"ẑ {which}", found.z)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    distance = np.abs(found.z - expected.z).sum(axis=0)
    yield compare(f"‖ẑ {which} − ẑ‖₁", distance, 2 * bounds.bound(lambda e: e.z), size)
    errors = pulled(bounds)
    for block in BLOCKS if found.gradient and expected.gradient else ():
        wrong = np.abs(expected.gradient[block] - bounds.exact.gradient[block])
        far = np.inf if whatever else errors(block).total + bounds.theory.pulled()[block]
        if not np.all(wrong <= far):  # NaN is wrong
            continue
        yield finite(f"pull {which}: {block}", found.gradient[block])
        distance = np.abs(found.gradient[block] - expected.gradient[block])
        yield compare(
            f"pull {which} − pull, in {block}", distance, 2 * errors(block), np.abs(bounds.exact.gradient[block])
        )


def astray(z: Array, bounds: Budget) -> bool:
    """Whether z (m, n) is beyond its bound, or not finite; the closed form's own rounding is forgiven."""
    allowed = bounds.bound(lambda e: e.z).total + bounds.theory.z
    return not np.all(np.abs(z - bounds.exact.Z).sum(axis=0) <= allowed)


def pulled(bounds: Budget) -> Callable[[str], Bound]:
    @functools.cache
    def all_blocks(errors: Errors) -> dict[str, Array]:
        return errors.pulled()

    return lambda block: bounds.bound(lambda e: all_blocks(e)[block])


# What may happen between two calls. Each operation has a name, which is what a counterexample shows.


@dataclass(frozen=True)
class Scene:
    """What operations work on: the problem asked about at the end, a cotangent for it, and another problem."""

    problem: Problem
    cotangent: Array
    other: Problem

    @property
    def other_input(self) -> Problem:
        """Other features of the same shape."""
        return replace(self.problem, Phi=-self.problem.Phi[::-1])

    def batch(self, size: int) -> Problem:
        """The first ``size`` data points."""
        return self.problem.with_features(self.problem.Phi[:, :size], self.problem.Y[:, :size])


def other_weights(problem: Problem, dtype: str) -> Problem:
    """Other weights of the same shape: the first logit of every column raised, γ halved."""
    raised = problem.A + (np.arange(problem.m) == 0)[:, None]
    return replace(problem, A=round_to(raised, dtype), gamma=problem.gamma / 2)


def _use(deq: Subject, problem: Problem) -> None:
    answer = deq.solve(problem)
    if deq.claims.backward is not None:
        deq.pull_status(answer, problem.Phi)


def _other_cotangents(deq: Subject, scene: Scene) -> None:
    answer = deq.solve(scene.problem)
    if deq.claims.backward is not None:
        for other in (-scene.cotangent, scene.cotangent[::-1].copy()):
            deq.pull_status(answer, other, again=deq.claims.repeated_pulls)
            answer = answer if deq.claims.repeated_pulls else deq.solve(scene.problem)


def _given_start(deq: Subject, scene: Scene) -> None:
    deq.solve(scene.other_input, z0=scene.problem.Phi)


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
    "other weights": lambda deq, scene: _use(deq, other_weights(scene.problem, deq.dtype)),
    "other problem": lambda deq, scene: _use(deq, scene.other),
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
