"""A data point is answered by itself: alone, beside others, beside NaN, and among none (theory: separability)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from deqverify.properties.calls import Evidence, plain_call, reply, usual_cotangent
from deqverify.properties.common import any_problem, finite, judged, large_problem, own_rounding, several
from hypothesis import strategies as st

from deqverify.bounds import Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.drawing import size_up_to
from deqverify.errors.judge import astray, gradient_astray
from deqverify.implementations.failures import Reported
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law


def _points(problem: Problem) -> st.SearchStrategy[list[int]]:
    few = size_up_to(1, min(2 * problem.n, 16))
    return few.flatmap(lambda size: st.lists(st.integers(0, problem.n - 1), min_size=size, max_size=size))


@law(
    statement="a data point has the same equilibrium alone and in any batch",
    source="theory: separability",
    needs=("equilibrium", "separable"),
    rests_on=("existence",),
    anomaly="answers depend on the other data points of a batch",
    at_stake="Predictions depend on which other inputs happen to be in the batch.",
    draws=any_problem(least_n=2, points=_points),
    large=large_problem(least_n=2, points=_points),
)
def batch(deq: Subject, problem: Problem, points: list[int]) -> Iterator[Measurement | Fact]:
    """Solving a drawn selection of the data points, repetitions and single ones included, gives those rows of ẑ.

    Bound: ``Errors.z`` of either batch, since a claim may be one on the whole batch. Catches statistics and stopping
    rules taken over the whole batch where each data point is claimed by itself.
    """
    chosen = problem.chosen(points)
    alone, all = deq.equilibrium(chosen), deq.equilibrium(problem)
    among = all[points]
    yield finite("ẑ", alone)
    yield finite("ẑ", among)
    truth, whole = judged(deq, chosen, near=alone), judged(deq, problem, near=all)
    size = truth.states(truth.z)
    apart = truth.states(truth.z - whole.z[points])
    if several(deq, problem) and not np.all(apart <= truth.z_error.total + _rows(whole.z_error, points).total):
        return  # each may be right, at another equilibrium
    own = own_rounding("the comparison", int(np.prod(problem.state)) * 2.0**-53 * size)
    allowed = truth.z_error + _rows(whole.z_error, points) + own
    yield compare("‖ẑ(some data points) − ẑ(all)‖", truth.states(alone - among), allowed, size)


def _rows(bound: Bound, points: Any) -> Bound:
    """The bound of some of the data points."""
    return Bound({name: np.asarray(term)[points] for name, term in bound.terms.items()})


@law(
    statement="a data point with NaN features leaves the others alone",
    source="theory: separability",
    needs=("equilibrium", "separable"),
    rests_on=("existence", "batch"),
    anomaly="one bad input corrupts the batch",
    at_stake="A single corrupt record changes the predictions for every other one in its batch, as where the loop "
    "ends on a norm over the batch, which is NaN.",
    loose="the reference solves point by point, and the others' bits stay; who mixes them in other sums is forgiven.",
    draws=any_problem(least_n=2, point=lambda problem: st.integers(0, problem.n - 1)),
)
def poisoned_point(deq: Subject, problem: Problem, point: int) -> Iterator[Measurement | Fact]:
    """Solving with one row of x (n, *inputs) replaced by NaN gives the other rows of ẑ as they were.

    A report of failure counts for the whole batch, unless there is one for each data point: then the others are judged
    where their own do not admit failure. Bound: twice ``Errors.z``. Catches NaN that travels through batch-wide norms,
    stopping rules and mixing weights. A claim over the whole batch says nothing of one that holds NaN.
    """
    if deq.claims.forward.per == "batch":
        return
    clean = deq.equilibrium(problem)
    poisoned = problem.x.copy()
    poisoned[point] = np.nan
    answer = deq.solve(problem, x=poisoned)
    statuses = answer.solution.statuses or [answer.status] * problem.n
    others = np.array([k for k, s in enumerate(statuses) if k != point and not s.admits_failure], dtype=int)
    if not others.size:
        raise Reported(answer.status.value)
    found = answer.z[others]
    yield finite("ẑ of the other data points", found)
    truth = judged(deq, problem, near=clean)
    size = truth.states(truth.z)[others]
    distance = truth.states(answer.z - clean)[others]
    yield compare("‖ẑ(beside NaN) − ẑ‖", distance, 2 * _rows(truth.z_error, others), size)


@law(
    statement="a data point alone gets an answer of shape (1, *state), the same as beside itself",
    source="the protocol: states are (n, *state), n = 1 included; theory: separability",
    needs=("equilibrium",),
    rests_on=("answers", "existence", "gradient-theta", "gradient-x"),
    anomaly="a batch of one is another case",
    at_stake="The model works in training and fails on a single request, or on the last batch of an epoch.",
    judges_crashes=True,
    draws=any_problem(point=lambda problem: st.integers(0, problem.n - 1)),
)
def batch_of_one(deq: Subject, problem: Problem, point: int) -> Evidence:
    """One data point alone, and in a batch of two of it whose second cotangent is zero.

    Bound: the sum of both calls' ``Errors.z`` and ``Errors.pulled``. Catches ``squeeze``, and shapes that broadcast at
    n = 1.
    """
    one, two = problem.chosen([point]), problem.chosen([point, point])
    cotangent = usual_cotangent(one)
    beside = np.concatenate([cotangent, np.zeros_like(cotangent)])
    expected = plain_call(deq.fresh(), two, beside)
    if expected is None:
        return
    found = reply(deq.fresh(), one, cotangent)
    if deq.own_cell is not None and deq.own_cell.coupled:
        return  # beside itself it is another question; shapes were looked at
    alone = judged(deq, one, cotangent, expected.z[:1])
    both = judged(deq, two, beside, expected.z)
    if not (alone.in_range and both.in_range) or astray(both, expected.z):
        return
    yield finite("ẑ alone", found.z)
    allowed = alone.z_error + _rows(both.z_error, slice(1))
    yield compare("‖ẑ alone − ẑ beside itself‖", alone.states(found.z - expected.z[:1]), allowed, alone.states(alone.z))
    for block in found.gradient:
        if gradient_astray(both, block, expected.gradient[block]):
            continue  # wrong in a batch already
        doubled, first = both.pulled_error(block), expected.gradient[block]
        if block == "x":
            doubled, first = _rows(doubled, slice(1)), first[:1]
        distance = np.abs(found.gradient[block] - first)
        size = np.abs(alone.pulled[block])
        yield compare(f"pull alone − pull, in {block}", distance, alone.pulled_error(block) + doubled, size)


@law(
    statement="a batch of no data points gets an answer of shape (0, *state), and zero gradients",
    source="the protocol: states are (n, *state), n = 0 included; a sum of no terms is zero",
    needs=("equilibrium", "empty"),
    anomaly="an empty batch is another case",
    at_stake="A filter that lets nothing through, or an uneven split over devices, ends the run.",
    judges_crashes=True,
    draws=any_problem(),
)
def empty_batch(deq: Subject, problem: Problem) -> Evidence:
    """x of shape (0, *inputs): z and the gradient in x are empty, those in θ are zero.

    Exact: a sum of no terms is zero, so that no tolerance applies. Catches maxima over no entries, NaN from means of
    nothing, and division by the batch size.
    """
    if plain_call(deq.fresh(), problem, usual_cotangent(problem)) is None:
        return
    none = problem.chosen(slice(0))
    found = reply(deq.fresh(), none, usual_cotangent(none))  # shapes are looked at on the way
    yield Fact("z of no data points", True, f"has shape {found.z.shape}")
    for block in problem.theta if found.gradient else ():
        zero = not np.any(found.gradient[block])  # NaN is not zero
        yield Fact(f"the gradient in {block} of no data points", zero, f"is {found.gradient[block].tolist()}")
