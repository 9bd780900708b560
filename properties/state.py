"""Behaviour over time: an answer depends on the question alone, not on what was asked before, nor by which copy or
thread.

Every law first asks a *plain call*: once, of an implementation that is as fresh as its claims allow, on contiguous
arrays. Where that crashes or reports, nothing is judged; so what a law of this family finds is a difference between two
calls, and never that an answer is wrong. Both calls are allowed their error: twice the bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.calls import (
    SAME_BITS,
    Evidence,
    Reply,
    Scene,
    agree,
    at_once,
    operations_on,
    other_input,
    other_weights,
    perform,
    plain_call,
    repeated_calls,
    reply,
    usual_cotangent,
)
from deqverify.properties.common import any_problem, global_random_state, judged, other_random_states, problems_for
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deqverify.claims import DIRECT
from deqverify.comparison import Fact
from deqverify.dtypes import Array
from deqverify.errors.judge import astray, gradient_astray
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law

MOST_OPERATIONS = 4
STATE = "Results depend on what was asked before: evaluation order, batch order and debugging calls change them."


def _another(deq: Subject) -> SearchStrategy[Problem]:
    return problems_for(deq)


def _histories(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return any_problem(
        cotangent=True,
        operations=lambda problem: _lists(operations_on(deq)),
        other=lambda problem: _another(deq),
    )(deq)


@functools.lru_cache(maxsize=64)
def _lists(names: tuple[str, ...]) -> SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=MOST_OPERATIONS)


@law(
    statement="the same call gives the same answer, but for rounding",
    source="the implementation's own claim",
    needs=("equilibrium", "deterministic"),
    anomaly="answers differ from call to call",
    at_stake="No run can be repeated and no failure replayed; what was tested is not what will run.",
    loose=SAME_BITS,
    draws=any_problem(cotangent=True),
)
def deterministic(deq: Subject, problem: Problem, cotangent: Array) -> Evidence:
    """A solve and a pull, three times: statuses are the same, z (n, *state) and the gradients in θ and x agree.

    Bound: twice the rounding in ``Errors.z`` and ``Errors.pulled``, whatever accuracy is claimed. Catches random
    starts and probes, memory that was never written, and answers that wander with the number of the call.
    """
    return repeated_calls(deq, problem, cotangent, replace(deq.claims, forward=DIRECT, backward=DIRECT))


@law(
    statement="any list of operations leaves the next answer as on a fresh start",
    source="the protocol: an answer is a function of θ, x and the cotangent",
    needs=("equilibrium",),
    rests_on=("modes", "settings-kept"),
    anomaly="answers depend on what was asked before",
    at_stake=STATE,
    judges_crashes=True,
    loose=SAME_BITS,
    draws=_histories,
)
def history(deq: Subject, problem: Problem, cotangent: Array, operations: list[str], other: Problem) -> Evidence:
    """Up to four operations (other inputs, weights, shapes, cotangents, modes), then a solve and a pull.

    Compared with the same call by a fresh deep copy where copies are claimed, otherwise with the same call before the
    operations. Where that is reported as not converged, the used one may answer, but not wrongly without a word. Bound:
    twice ``Errors.z`` and twice ``Errors.pulled``. Catches caches keyed by shape, warm starts that leak from one call
    to the next, modes that are not left again, and a status that is that of an earlier call.
    """
    scene = Scene(problem, cotangent, other)
    try:
        expected = plain_call(deq.fresh(), problem, cotangent)
    except Reported:
        yield from _reported_still(deq, scene, operations)
        return
    if expected is None:
        return
    used = deq.fresh()
    perform(used, operations, scene)
    yield from agree(
        "after the operations", reply(used, problem, cotangent), expected, judged(deq, problem, cotangent, expected.z)
    )


def _reported_still(deq: Subject, scene: Scene, operations: list[str]) -> Evidence:
    """Of what a fresh implementation reports: a used one reports it too, or is right."""
    used = deq.fresh()
    perform(used, operations, scene)
    found = reply(used, scene.problem, scene.cotangent)
    near = found.z if np.isfinite(found.z).all() else None
    truth = judged(deq, scene.problem, scene.cotangent, near)
    if truth.in_range:
        wrong = [name for name, gradient in found.gradient.items() if gradient_astray(truth, name, gradient)]
        wrong = ["ẑ"] if astray(truth, found.z) else wrong
        said = f"{', '.join(wrong)} beyond the bound, and nothing is reported" if wrong else "answered, and right"
        yield Fact("what a fresh one reports, after the operations", not wrong, said, informative=bool(wrong))


@law(
    statement="an answer keeps its equilibrium and its pull, whatever is asked after it",
    source="the protocol: a pull may be called again",
    needs=("equilibrium",),
    rests_on=("history", "repeated-pull"),
    anomaly="answers change after they were given",
    at_stake="Two calls before one backward (weight sharing, contrastive losses, accumulation) get wrong gradients.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=_histories,
)
def answers_kept(deq: Subject, problem: Problem, cotangent: Array, operations: list[str], other: Problem) -> Evidence:
    """A solve, up to four operations, and then a look at the z (n, *state) that was given and a pull through it.

    z must hold the same bits: it belongs to the caller. The pull is compared as in ``history``. Bound: twice
    ``Errors.pulled``. Catches output buffers used again by the next call, and backward state kept in the layer
    instead of the graph.
    """
    expected = plain_call(deq.fresh(), problem, cotangent)
    if expected is None:
        return
    used = deq.fresh()
    answer = used.solve(problem)
    answer.heed()
    perform(used, operations, Scene(problem, cotangent, other))
    now = used.framework.to_numpy(answer.solution.z)
    same = np.array_equal(now, answer.z, equal_nan=True)
    yield Fact("z as it was given", same, "unchanged" if same else f"was {answer.z.tolist()}, is {now.tolist()}")
    gradient = used.pull(answer, cotangent) if deq.claims.backward is not None else {}
    yield from agree(
        "through the earlier answer", Reply(now, gradient), expected, judged(deq, problem, cotangent, expected.z)
    )


def _updates(problem: Problem) -> SearchStrategy[tuple[str, ...]]:
    """Which blocks are written: one of them, or all."""
    names = problem.pulled_blocks
    return st.sampled_from([*((name,) for name in names), names])


@law(
    statement="after an update in place of parameters or inputs the next answer is that of the new values",
    source="the protocol: an answer is a function of the values of θ and x",
    needs=("equilibrium", "mutable arrays"),
    rests_on=("history", "inputs-kept"),
    anomaly="stale answers after an update in place",
    at_stake="Optimisers and data loaders write in place: training goes on with the weights or the batch of yesterday.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=any_problem(updated=_updates),
)
def in_place_update(deq: Subject, problem: Problem, updated: tuple[str, ...]) -> Evidence:
    """A call, other values written into the same arrays of θ or x, and the call again.

    Compared with a call on new arrays of the new values. Bound: twice ``Errors.z`` and twice ``Errors.pulled``.
    Catches caches keyed by the identity or the address of an array.
    """
    weights, cotangent = other_weights(deq, problem), usual_cotangent(problem)
    new = weights.theta | {"x": other_input(problem).x}
    after = problem.with_blocks(**{name: new[name] for name in updated})
    expected = plain_call(deq.fresh(), after, cotangent)
    used = deq.fresh()
    native = deq.parameters(problem) | {"x": deq.native(problem.x)}
    try:
        reply(used, problem, cotangent, native)
    except (Reported, TargetFailure):
        return
    for name in updated:
        deq.framework.assign(native[name], after.block(name))
    if expected is not None:
        found = reply(used, after, cotangent, native)
        yield from agree("after the update", found, expected, judged(deq, after, cotangent, expected.z))


@law(
    statement="global settings and random states are as before after any list of operations",
    source="the protocol",
    needs=("equilibrium",),
    rests_on=("deterministic",),
    anomaly="global settings are changed",
    at_stake="Code that has nothing to do with the layer runs slower, in another precision, or without gradients.",
    draws=_histories,
)
def settings_kept(deq: Subject, problem: Problem, cotangent: Array, operations: list[str], other: Problem) -> Evidence:
    """Numbers of threads, gradient mode, default dtype, precision, floating-point errors, random states and whether
    subnormal numbers are kept, which only a computation tells.

    Which settings there are is the framework's to say; they are put back before the next example. Exact: no tolerance
    applies. Catches thread counts set and not put back, gradient modes or error states left behind, and flushing to
    zero switched on for speed.
    """
    used = deq.fresh()
    before = deq.framework.settings()
    with other_random_states(deq):
        states = global_random_state(deq)
        try:
            perform(used, ["same call", *operations], Scene(problem, cotangent, other))
            after = deq.framework.settings()
        finally:
            deq.framework.restore(before)
        moved = global_random_state(deq)
    for name, value in before.items():
        yield Fact(name, after[name] == value, f"{value} before, {after[name]} after")
    for name, state in moved.items():
        same = state == states[name]
        yield Fact(f"the global state of {name}", same, "untouched" if same else "advanced or seeded by the calls")


def _two_problems(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return any_problem(other=lambda problem: _another(deq))(deq)


def _twins(deq: Subject, problem: Problem, other: Problem, duplicate: Callable[[Subject], Subject]) -> Evidence:
    cotangent = usual_cotangent(problem)
    expected = plain_call(deq, problem, cotangent)
    if expected is None:
        return
    twin, idle, truth = duplicate(deq), duplicate(deq), judged(deq, problem, cotangent, expected.z)
    yield from agree("by the copy", reply(twin, problem, cotangent), expected, truth)
    scene = Scene(problem, cotangent, other)
    perform(twin, ["other input", "other problem"], scene)
    yield from agree("after its copy was used", reply(deq, problem, cotangent), expected, truth)
    perform(deq, ["other input", "other problem"], scene)
    yield from agree("by a copy after its original was used", reply(idle, problem, cotangent), expected, truth)


@law(
    statement="a deep copy answers as the original, and neither is changed by what the other is asked",
    source="the implementation's own claim; Python, copy.deepcopy",
    needs=("equilibrium", "copies"),
    rests_on=("history", "deterministic"),
    anomaly="a deep copy is another layer, or the same one",
    at_stake="Averaged weights, target networks and ensembles work on copies: theirs or the original's answers change.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=_two_problems,
)
def copies(deq: Subject, problem: Problem, other: Problem) -> Evidence:
    """Deep copies of an implementation that was used: one answers, and is asked about other inputs and another problem;
    then the original answers, and is asked likewise; then another copy answers.

    Bound: twice ``Errors.z`` and twice ``Errors.pulled``. Catches copies that lose their configuration, and state
    that both share.
    """
    yield from _twins(deq, problem, other, Subject.copied)


@law(
    statement="an implementation that went through pickle answers as the original",
    source="the implementation's own claim; Python, pickle",
    needs=("equilibrium", "pickles"),
    rests_on=("history", "deterministic"),
    anomaly="a pickled layer is another layer, or none",
    at_stake="Checkpoints of whole models, and workers that are sent one, fail or compute something else.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=_two_problems,
)
def pickles(deq: Subject, problem: Problem, other: Problem) -> Evidence:
    """As ``copies``, the copy made by ``pickle.loads(pickle.dumps(…))``.

    Bound: twice ``Errors.z`` and twice ``Errors.pulled``. Catches what cannot be pickled, and configuration that
    does not come along.
    """
    yield from _twins(deq, problem, other, Subject.pickled)


@law(
    statement="two threads that call at once get the answers that each gets alone",
    source="the implementation's own claim",
    needs=("equilibrium", "threads"),
    rests_on=("history", "deterministic", "answers-kept"),
    anomaly="answers of two threads are mixed",
    at_stake="A server that answers two requests at once gives one user the other's prediction.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=any_problem(cotangent=True),
)
def threads(deq: Subject, problem: Problem, cotangent: Array) -> Evidence:
    """A solve and a pull on the same weights from each of two threads, which start together on different inputs.

    Each is compared with its own call alone, before. Bound: twice ``Errors.z`` and twice ``Errors.pulled``. The
    interpreter switches threads a thousand times as often as by default. Catches buffers and results kept in the layer.
    """
    asked = [problem, other_input(problem)]
    expected = [plain_call(deq, each, cotangent) for each in asked]
    found = at_once([functools.partial(reply, deq, each, cotangent) for each in asked])
    for which, each, one, alone in zip(("first", "second"), asked, found, expected, strict=True):
        if alone is not None:
            yield from agree(f"in the {which} thread", one(), alone, judged(deq, each, cotangent, alone.z))
