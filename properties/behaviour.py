"""Behaviour over time and in other modes: an answer depends on the question alone, not on what was asked before.

Every law first asks a *plain call*: once, of an implementation that is as fresh as its claims allow, on contiguous
arrays. Where that crashes or reports, nothing is judged; so what a law of this family finds is a difference between two
calls, and never that an answer is wrong. Both calls are allowed their error: twice the bound.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.calls import (
    SAME_BITS,
    Evidence,
    Reply,
    Scene,
    agree,
    operations_on,
    other_weights,
    perform,
    plain_call,
    reply,
)
from deqverify.properties.common import any_problem, budget, cases, cotangents, global_random_state
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import Budget
from deqverify.claims import DIRECT
from deqverify.comparison import Fact
from deqverify.dtypes import Array
from deqverify.implementations.subject import Reported, Subject, TargetFailure
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import problems
from deqverify.theory.closed_form import ClosedForm

MOST_OPERATIONS = 4
STATE = "Results depend on what was asked before: evaluation order, batch order and debugging calls change them."
UPDATES = (("A",), ("gamma",), ("x",), ("A", "gamma"), ("A", "gamma", "x"))


def _histories(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return cases(
        problems(deq.dtype),
        cotangent=cotangents(deq),
        operations=lambda problem: _lists(operations_on(deq)),
        other=lambda problem: problems(deq.dtype, largest=4),
    )


@functools.lru_cache(maxsize=64)
def _lists(names: tuple[str, ...]) -> SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=MOST_OPERATIONS)


@law(
    "deterministic",
    statement="the same call gives the same answer, but for rounding",
    source="the implementation's own claim",
    needs=("equilibrium", "deterministic"),
    anomaly="answers differ from call to call",
    at_stake="No run can be repeated and no failure replayed; what was tested is not what will run.",
    loose=SAME_BITS,
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def deterministic(deq: Subject, problem: Problem, cotangent: Array) -> Evidence:
    """A solve and a pull, three times: statuses are the same, z (m, n) and the gradients in A, γ and Φ agree.

    Bound: twice the rounding in ``Errors.z`` and ``Errors.pulled``, whatever accuracy is claimed. Catches random
    starts and probes, memory that was never written, and answers that wander with the number of the call.
    """
    first = _outcome(deq, problem, cotangent)
    exact = replace(deq.claims, forward=DIRECT, backward=DIRECT)
    bounds = Budget(ClosedForm(problem, cotangent), exact, deq.dtype)
    for _ in range(2):
        again = _outcome(deq, problem, cotangent)
        if isinstance(first, Reply) and isinstance(again, Reply):
            yield from agree("again", again, first, bounds, whatever=True)
        else:
            good = isinstance(first, str) and first == again
            yield Fact("how the same call ends", good, f"{_named(first)}, then {_named(again)}", informative=False)


def _outcome(deq: Subject, problem: Problem, cotangent: Array) -> Reply | str:
    try:
        return reply(deq, problem, cotangent)
    except Reported:
        return "reported as not converged"
    except TargetFailure:
        return "crashed"


def _named(outcome: Reply | str) -> str:
    return outcome if isinstance(outcome, str) else "answered"


@law(
    "history",
    statement="any list of operations leaves the next answer as on a fresh start",
    source="the protocol: an answer is a function of θ, x and the cotangent",
    needs=("equilibrium",),
    anomaly="answers depend on what was asked before",
    at_stake=STATE,
    judges_crashes=True,
    loose=SAME_BITS,
    draws=_histories,
)
def history(deq: Subject, problem: Problem, cotangent: Array, operations: list[str], other: Problem) -> Evidence:
    """Up to four operations (other inputs, weights, shapes, cotangents, modes), then a solve and a pull.

    Compared with the same call by a fresh deep copy where copies are claimed, otherwise with the same call before the
    operations. Bound: twice ``Errors.z`` and twice ``Errors.pulled``. Catches caches keyed by shape, warm starts that
    leak from one call to the next, and modes that are not left again.
    """
    expected = plain_call(deq.fresh(), problem, cotangent)
    if expected is None:
        return
    used = deq.fresh()
    perform(used, operations, Scene(problem, cotangent, other))
    yield from agree("after the operations", reply(used, problem, cotangent), expected, budget(deq, problem, cotangent))


@law(
    "answers-kept",
    statement="an answer keeps its equilibrium and its pull, whatever is asked after it",
    source="the protocol: a pull may be called again",
    needs=("equilibrium",),
    anomaly="answers change after they were given",
    at_stake="Two calls before one backward (weight sharing, contrastive losses, accumulation) get wrong gradients.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=_histories,
)
def answers_kept(deq: Subject, problem: Problem, cotangent: Array, operations: list[str], other: Problem) -> Evidence:
    """A solve, up to four operations, and then a look at the z (m, n) that was given and a pull through it.

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
    now = used.framework.to_numpy(answer.solution.z).T
    same = np.array_equal(now, answer.z, equal_nan=True)
    yield Fact("z as it was given", same, "unchanged" if same else f"was {answer.z.tolist()}, is {now.tolist()}")
    gradient = used.pull(answer, cotangent) if deq.claims.backward is not None else {}
    yield from agree("through the earlier answer", Reply(now, gradient), expected, budget(deq, problem, cotangent))


@law(
    "in-place-update",
    statement="after an update in place of parameters or inputs the next answer is that of the new values",
    source="the protocol: an answer is a function of the values of θ and x",
    needs=("equilibrium",),
    anomaly="stale answers after an update in place",
    at_stake="Optimisers and data loaders write in place: training goes on with the weights or the batch of yesterday.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=any_problem(updated=lambda problem: st.sampled_from(UPDATES)),
)
def in_place_update(deq: Subject, problem: Problem, updated: tuple[str, ...]) -> Evidence:
    """A call, other values written into the same arrays A (m, m), γ or x (n, m), and the call again.

    Compared with a call on new arrays of the new values. Bound: twice ``Errors.z`` and twice ``Errors.pulled``.
    Catches caches keyed by the identity or the address of an array.
    """
    weights, cotangent = other_weights(problem, deq.dtype), problem.Phi
    new = {"A": weights.A, "gamma": weights.gamma, "Phi": -problem.Phi[::-1]}
    after = replace(problem, **{k: v for k, v in new.items() if ("x" if k == "Phi" else k) in updated})
    expected = plain_call(deq.fresh(), after, cotangent)
    used = deq.fresh()
    native = deq.parameters(problem) | {"x": deq.native(problem.Phi.T)}
    try:
        reply(used, problem, cotangent, native)
    except (Reported, TargetFailure):
        return
    for name, values in {"A": after.A, "gamma": after.gamma, "x": after.Phi.T}.items():
        if name in updated:
            deq.framework.assign(native[name], values)
    if expected is not None:
        found = reply(used, after, cotangent, native)
        yield from agree("after the update", found, expected, budget(deq, after, cotangent))


@law(
    "no-gradient",
    statement="the equilibrium is the same where no gradient is recorded",
    source="the protocol; PyTorch, torch.no_grad and torch.inference_mode",
    needs=("equilibrium", "recording"),
    anomaly="another equilibrium, or none, without gradients",
    at_stake="Validation and deployment run another model than training, or do not run.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=lambda deq: cases(
        problems(deq.dtype), mode=lambda problem: st.sampled_from(sorted(deq.framework.without_gradient)[::-1])
    ),
)
def no_gradient(deq: Subject, problem: Problem, mode: str) -> Evidence:
    """z (m, n) inside each of the framework's modes that record no gradient, against z outside.

    Bound: twice ``Errors.z``. Catches solvers that take other branches where nothing requires a gradient, and hooks
    registered on what has no graph.
    """
    expected = plain_call(deq.fresh(), problem, None)
    if expected is None:
        return
    used, native = deq.fresh(), deq.parameters(problem) | {"x": deq.native(problem.Phi.T)}
    with deq.framework.without_gradient[mode]():
        found = reply(used, problem, None, native)
    yield from agree(f"in {mode}", found, expected, budget(deq, problem), whatever=True)


@law(
    "modes",
    statement="training and evaluation mode give the same equilibrium, and training mode can be entered again",
    source="the implementation's own claim; theory: contraction, there is only one equilibrium",
    needs=("equilibrium", "modes"),
    anomaly="another equilibrium in evaluation mode",
    at_stake="What is deployed is not what was trained.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def modes(deq: Subject, problem: Problem, cotangent: Array) -> Evidence:
    """z (m, n) in evaluation mode against z in training mode, then z and its pull back in training mode.

    The pull in evaluation mode is judged where ``evaluation_gradient`` is claimed. Bound: twice ``Errors.z`` and
    twice ``Errors.pulled``. Catches dropout left on in the iteration, other caps or tolerances at test time, and modes
    that are not left again.
    """
    expected = plain_call(deq.fresh(), problem, cotangent)
    if expected is None:
        return
    bounds, used = budget(deq, problem, cotangent), deq.fresh()
    with used.evaluating() as evaluating:
        found = reply(evaluating, problem, cotangent if deq.claims.evaluation_gradient else None)
    yield from agree("in evaluation mode", found, expected, bounds, whatever=True)
    yield from agree("back in training mode", reply(used, problem, cotangent), expected, bounds)


@law(
    "settings-kept",
    statement="global settings and random states are as before after any list of operations",
    source="the protocol",
    needs=("equilibrium",),
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
    states = global_random_state(deq)
    try:
        perform(used, ["same call", *operations], Scene(problem, cotangent, other))
        after = deq.framework.settings()
    finally:
        deq.framework.restore(before)
    for name, value in before.items():
        yield Fact(name, after[name] == value, f"{value} before, {after[name]} after")
    for name, state in global_random_state(deq).items():
        same = state == states[name]
        yield Fact(f"the global state of {name}", same, "untouched" if same else "advanced by the calls")
