"""The same question put another way has the same answer: by a copy, through pickle, in two threads, laid out otherwise
in memory, in a batch of one or of none. Judged as in ``behaviour``: against a plain call, both allowed their error.
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
    Scene,
    agree,
    astray,
    at_once,
    perform,
    plain_call,
    pulled,
    reply,
)
from deqverify.properties.common import any_problem, budget, cases, cotangents, finite
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deqverify.comparison import Fact, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import problems


def _two_problems(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return cases(problems(deq.dtype), other=lambda problem: problems(deq.dtype, largest=4))


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
    source="the protocol: states are (n, m), n = 1 included; theory: separability",
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
    if not all(each.in_range for each in bounds) or astray(expected.z, bounds[1]):
        return
    yield finite("ẑ alone", found.z)
    allowed = bounds[0].bound(lambda e: e.z) + bounds[1].bound(lambda e: e.z[:1])
    distance = np.abs(found.z - expected.z[:, :1]).sum(axis=0)
    yield compare("‖ẑ alone − ẑ beside itself‖₁", distance, allowed, np.abs(bounds[0].exact.Z).sum(axis=0))
    alone, doubled = pulled(bounds[0]), pulled(bounds[1])
    for block in found.gradient:
        cut = bounds[1].bound(lambda e: e.pulled()["Phi"][:, :1])
        allowed = alone(block) + (cut if block == "Phi" else doubled(block))
        wrong = np.abs(expected.gradient[block] - bounds[1].exact.gradient[block])
        if not np.all(wrong <= doubled(block).total + bounds[1].theory.pulled()[block]):
            continue  # wrong in a batch already
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
