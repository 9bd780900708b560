"""Behaviour over time, in other modes, in copies, in threads and in memory: an answer depends on the question alone.

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
    Evidence,
    Reply,
    Scene,
    agree,
    at_once,
    operations_on,
    other_weights,
    perform,
    plain_call,
    pulled,
    reply,
)
from deqverify.properties.common import any_problem, budget, cases, cotangents, finite, global_random_state
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deqverify.comparison import Fact, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Reported, Subject, TargetFailure, heed
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import problems

MOST_OPERATIONS = 4
STATE = "Results depend on what was asked before: evaluation order, batch order and debugging calls change them."
SAME_BITS = "the reference repeats itself bit by bit; sums in another order, as on several threads, are forgiven."
UPDATES = (("A",), ("gamma",), ("x",), ("A", "gamma"), ("A", "gamma", "x"))


def _histories(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return cases(
        problems(deq.dtype),
        cotangent=cotangents(deq),
        operations=lambda problem: _lists(operations_on(deq)),
        other=lambda problem: problems(deq.dtype, largest=4),
    )


def _two_problems(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return cases(problems(deq.dtype), other=lambda problem: problems(deq.dtype, largest=4))


@functools.lru_cache(maxsize=64)
def _lists(names: tuple[str, ...]) -> SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=MOST_OPERATIONS)


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
    heed(answer.status)
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
    yield from agree(f"in {mode}", found, expected, budget(deq, problem))


@law(
    "modes",
    statement="training and evaluation mode give the same equilibrium, and training mode can be entered again",
    source="the implementation's own claim; THEORY.md §1 item 1: there is only one equilibrium",
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
    yield from agree("in evaluation mode", found, expected, bounds)
    yield from agree("back in training mode", reply(used, problem, cotangent), expected, bounds)


def _twins(deq: Subject, problem: Problem, other: Problem, duplicate: Callable[[Subject], Subject]) -> Evidence:
    cotangent = problem.Phi
    expected = plain_call(deq, problem, cotangent)
    if expected is None:
        return
    twin, idle, bounds = duplicate(deq), duplicate(deq), budget(deq, problem, cotangent)
    yield from agree("by the copy", reply(twin, problem, cotangent), expected, bounds)
    scene = Scene(problem, cotangent, other)
    perform(twin, ["other input", "other problem"], scene)
    yield from agree("after its copy was used", reply(deq, problem, cotangent), expected, bounds)
    perform(deq, ["other input", "other problem"], scene)
    yield from agree("by a copy after its original was used", reply(idle, problem, cotangent), expected, bounds)


@law(
    "copies",
    statement="a deep copy answers as the original, and neither is changed by what the other is asked",
    source="the implementation's own claim; Python, copy.deepcopy",
    needs=("equilibrium", "copies"),
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
    "pickles",
    statement="an implementation that went through pickle answers as the original",
    source="the implementation's own claim; Python, pickle",
    needs=("equilibrium", "pickles"),
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
    "threads",
    statement="two threads that call at once get the answers that each gets alone",
    source="the implementation's own claim",
    needs=("equilibrium", "threads"),
    anomaly="answers of two threads are mixed",
    at_stake="A server that answers two requests at once gives one user the other's prediction.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def threads(deq: Subject, problem: Problem, cotangent: Array) -> Evidence:
    """A solve and a pull on the same weights from each of two threads, which start together on different inputs.

    Each is compared with its own call alone, before. Bound: twice ``Errors.z`` and twice ``Errors.pulled``. The
    interpreter switches threads a thousand times as often as by default. Catches buffers and results kept in the layer.
    """
    asked = [problem, replace(problem, Phi=-problem.Phi[::-1])]
    expected = [plain_call(deq, each, cotangent) for each in asked]
    found = at_once([functools.partial(reply, deq, each, cotangent) for each in asked])
    for which, each, one, alone in zip(("first", "second"), asked, found, expected, strict=True):
        if alone is not None:
            yield from agree(f"in the {which} thread", one(), alone, budget(deq, each, cotangent))


def _arguments(deq: Subject) -> tuple[str, ...]:
    pulled = ("cotangent",) if deq.claims.backward is not None else ()
    return ("A", "x", *pulled, *(("start",) if deq.claims.starts else ()))


@law(
    "memory-layout",
    statement="the answer depends on the entries of an array, not on how they lie in memory",
    source="the protocol; Python array API: arrays have values, strides are not part of it",
    needs=("equilibrium",),
    anomaly="answers depend on memory layout",
    at_stake="A transposed weight, a sliced batch, the gradient of a sum (broadcast): a crash or a wrong number.",
    judges_crashes=True,
    draws=lambda deq: cases(
        problems(deq.dtype, least_m=2, least_n=2),
        cotangent=cotangents(deq),
        argument=lambda problem: st.sampled_from(_arguments(deq)),
    ),
)
def memory_layout(deq: Subject, problem: Problem, cotangent: Array, argument: str) -> Evidence:
    """One of A (m, m), x, start and cotangent (n, m) strided, transposed, reversed, shifted, broadcast or read-only.

    Each of the layouts that the framework has, in turn; with one row or column most of them are the same. Not bit by
    bit, since another layout may take another path through BLAS. Bound: twice ``Errors.z`` and twice ``Errors.pulled``.
    Catches ``view`` on what is not contiguous, raw pointers, and writing into inputs.
    """
    for layout in deq.framework.layouts:
        here, c = _constant(problem, cotangent, argument) if layout == "broadcast" else (problem, cotangent)
        values = {"A": here.A, "x": here.Phi.T, "start": here.Phi.T, "cotangent": c.T}
        contiguous = deq.native(values[argument])
        expected = plain_call(deq.fresh(), here, c, {argument: contiguous})
        if expected is None:
            continue
        found = reply(deq.fresh(), here, c, {argument: deq.framework.laid_out(contiguous, layout)})
        yield from agree(f"with {argument} {layout}", found, expected, budget(deq, here, c))


def _constant(problem: Problem, cotangent: Array, argument: str) -> tuple[Problem, Array]:
    """The same with all entries of ``argument`` equal, as broadcasting makes them."""
    if argument == "A":
        return replace(problem, A=np.full_like(problem.A, problem.A[0, 0])), cotangent
    if argument == "cotangent":
        return problem, np.full_like(cotangent, cotangent[0, 0])
    return replace(problem, Phi=np.full_like(problem.Phi, problem.Phi[0, 0])), cotangent


@law(
    "batch-of-one",
    statement="a data point alone gets an answer of shape (1, m), the same as beside itself",
    source="the protocol: states are (n, m), n = 1 included; THEORY.md §1",
    needs=("equilibrium",),
    anomaly="a batch of one is another case",
    at_stake="The model works in training and fails on a single request, or on the last batch of an epoch.",
    judges_crashes=True,
    draws=any_problem(column=lambda problem: st.integers(0, problem.n - 1)),
)
def batch_of_one(deq: Subject, problem: Problem, column: int) -> Evidence:
    """One column of Φ (m, n) alone, and in a batch of two of it whose second cotangent is zero.

    Bound: the sum of both calls' ``Errors.z`` and ``Errors.pulled``. Catches ``squeeze``, and shapes that broadcast at
    n = 1.
    """
    one = problem.with_features(problem.Phi[:, [column]], problem.Y[:, [column]])
    two = problem.with_features(problem.Phi[:, [column, column]], problem.Y[:, [column, column]])
    beside = np.concatenate([one.Phi, np.zeros_like(one.Phi)], axis=1)
    expected = plain_call(deq.fresh(), two, beside)
    if expected is None:
        return
    found = reply(deq.fresh(), one, one.Phi)
    first = {k: g[:, :1] if k == "Phi" else g for k, g in expected.gradient.items()}
    bounds = [budget(deq, one, one.Phi), budget(deq, two, beside)]
    if not all(each.in_range for each in bounds):
        return
    yield finite("ẑ alone", found.z)
    allowed = bounds[0].bound(lambda e: e.z) + bounds[1].bound(lambda e: e.z[:1])
    distance = np.abs(found.z - expected.z[:, :1]).sum(axis=0)
    yield compare("‖ẑ alone − ẑ beside itself‖₁", distance, allowed, np.abs(bounds[0].exact.Z).sum(axis=0))
    alone, doubled = pulled(bounds[0]), pulled(bounds[1])
    for block in found.gradient:
        cut = bounds[1].bound(lambda e: e.pulled()["Phi"][:, :1])
        allowed = alone(block) + (cut if block == "Phi" else doubled(block))
        distance = np.abs(found.gradient[block] - first[block])
        yield compare(f"pull alone − pull, in {block}", distance, allowed, np.abs(bounds[0].exact.gradient[block]))


@law(
    "empty-batch",
    statement="a batch of no data points gets an answer of shape (0, m), and zero gradients",
    source="the protocol: states are (n, m), n = 0 included; a sum of no terms is zero",
    needs=("equilibrium", "empty"),
    anomaly="an empty batch is another case",
    at_stake="A filter that lets nothing through, or an uneven split over devices, ends the run.",
    judges_crashes=True,
    draws=any_problem(),
)
def empty_batch(deq: Subject, problem: Problem) -> Evidence:
    """x of shape (0, m): z and the gradient in x have that shape, those in A and γ are zero.

    Exact: a sum of no terms is zero, so that no tolerance applies. Catches maxima over no entries, NaN from means of
    nothing, and division by the batch size.
    """
    if plain_call(deq.fresh(), problem, problem.Phi) is None:
        return
    none = problem.with_features(problem.Phi[:, :0], problem.Y[:, :0])
    found = reply(deq.fresh(), none, none.Phi)  # shapes are looked at on the way
    yield Fact("z of no data points", True, f"has shape {found.z.T.shape}")
    for block in ("A", "gamma") if found.gradient else ():
        zero = not np.any(found.gradient[block])  # NaN is not zero
        yield Fact(f"the gradient in {block} of no data points", zero, f"is {found.gradient[block].tolist()}")


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
    """Numbers of threads, gradient mode, default dtype, precision, floating-point errors and random states.

    Which settings there are is the framework's to say; they are put back before the next example. Exact: no tolerance
    applies. Catches thread counts set and not put back, and gradient modes or error states left behind.
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
