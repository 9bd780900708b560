"""What the equilibrium does when the problem is permuted, shifted, combined, scaled or cut (theory: equivariance)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from deqverify.properties.calls import astray
from deqverify.properties.common import PAIRS, any_problem, budget, cases, finite, large_problem, own_rounding
from hypothesis import strategies as st

from deqverify.bounds import Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, dtype, round_to
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import problems, signals
from deqverify.strategies.problems import scales

WRONG = "wrong equilibrium"


def _same(what: str, deq: Subject, problem: Problem, first: Array, second: Array) -> Iterator[Measurement | Fact]:
    """That two answers to one problem agree: each is within ``Errors.z`` of the equilibrium."""
    yield finite("ẑ", first)
    yield finite("ẑ", second)
    bounds = budget(deq, problem)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    own = own_rounding("the comparison", problem.m * 2.0**-53 * size)
    yield compare(what, np.abs(first - second).sum(axis=0), 2 * bounds.bound(lambda e: e.z) + own, size)


@law(
    "permutation",
    statement="(PAPᵀ, Pφ) ↦ Pz* for every permutation matrix P",
    source="theory: equivariance",
    needs=("equilibrium",),
    anomaly=WRONG,
    at_stake="The order of the features changes the model.",
    draws=any_problem(least_m=2, order=lambda problem: st.permutations(range(problem.m))),
)
def permutation(deq: Subject, problem: Problem, order: list[int]) -> Iterator[Measurement | Fact]:
    """Renaming the states renames the equilibrium and nothing else.

    Bound: twice ``Errors.z``. Catches wrong axes: softmax, transposition, broadcasting along the wrong one.
    """
    z = deq.equilibrium(problem)
    renamed = replace(problem, A=problem.A[np.ix_(order, order)], Phi=problem.Phi[order], B=problem.B[:, order])
    yield from _same("‖ẑ(PAPᵀ, Pφ) − Pẑ‖₁", deq, renamed, deq.equilibrium(renamed), z[order])


def _on_grid(deq: Subject, problem: Problem) -> Problem:
    """A on a grid coarse enough that an integer of magnitude 32 can be added without rounding."""
    spacing = 2.0**-2 if dtype(deq.dtype).significand < 16 else 2.0**-8
    return replace(problem, A=np.clip(np.round(problem.A / spacing) * spacing, -16, 16))


@law(
    "column-shift",
    statement="adding a constant to a column of A changes nothing",
    source="theory: equivariance",
    needs=("equilibrium",),
    anomaly=WRONG,
    at_stake="The weights are not a softmax of the columns of A.",
    loose=(
        "the reference subtracts each column's maximum, which takes the shift out exactly; a softmax that rounds it is "
        "forgiven."
    ),
    draws=any_problem(
        shift=lambda problem: st.lists(st.integers(-32, 32), min_size=problem.m, max_size=problem.m),
    ),
)
def column_shift(deq: Subject, problem: Problem, shift: list[int]) -> Iterator[Measurement | Fact]:
    """``A + 1cᵀ`` for integers c (m,), added without rounding, has the same softmax and the same equilibrium.

    Undecided where ẑ(A) is wrong itself. Bound: twice ``Errors.z``. Catches an exponential that overflows, and logits
    that are clipped.
    """
    plain = _on_grid(deq, problem)
    shifted = replace(plain, A=plain.A + np.array(shift, dtype=float))
    z = deq.equilibrium(plain)
    if astray(z, budget(deq, plain)):
        return
    yield from _same("‖ẑ(A + 1cᵀ) − ẑ(A)‖₁", deq, plain, deq.equilibrium(shifted), z)


@law(
    "linearity",
    statement="φ ↦ z* is linear",
    source="theory: equivariance",
    needs=("equilibrium",),
    anomaly=WRONG,
    at_stake="The answer depends on how large the data are, not only on what they say.",
    draws=any_problem(
        other=lambda problem: signals((problem.m, problem.n), background=1.0),
        weights=lambda problem: PAIRS,
    ),
)
def linearity(deq: Subject, problem: Problem, other: Array, weights: tuple[int, int]) -> Iterator[Measurement | Fact]:
    """``z*(aφ + bψ) = a z*(φ) + b z*(ψ)`` for ψ (m, n) of φ's scale and small integers a, b.

    Bound: ``Errors.z`` of all three, weighted, and the rounding of aφ + bψ itself. Catches stopping rules that look
    at absolute sizes.
    """
    a, b = weights
    second = problem.with_features(round_to(other * np.abs(problem.Phi).max(initial=0.0), deq.dtype), problem.Y)
    exact = a * problem.Phi + b * second.Phi
    combined = problem.with_features(round_to(exact, deq.dtype), problem.Y)
    answers = [deq.equilibrium(q) for q in (combined, problem, second)]
    for z in answers:
        yield finite("ẑ", z)
    bounds = [budget(deq, q) for q in (combined, problem, second)]
    allowed = bounds[0].bound(lambda e: e.z)
    for weight, part in zip((abs(a), abs(b)), bounds[1:], strict=True):
        allowed = allowed + weight * part.bound(lambda e: e.z)
    rounded = np.abs(combined.Phi - exact).sum(axis=0) / (1.0 - problem.gamma)
    allowed = allowed + Bound({"rounding of aφ + bψ, amplified": rounded})
    size = sum(w * np.abs(q.exact.Z).sum(axis=0) for w, q in zip((abs(a), abs(b)), bounds[1:], strict=True))
    own = own_rounding("the combination", (problem.m + 2) * 2.0**-53 * size)
    distance = np.abs(answers[0] - a * answers[1] - b * answers[2]).sum(axis=0)
    yield compare("‖ẑ(aφ + bψ) − aẑ(φ) − bẑ(ψ)‖₁", distance, allowed + own, size)


@law(
    "scale",
    statement="ẑ(2ᵏφ) = 2ᵏ ẑ(φ) over the dtype's usable range, where accuracy is claimed as relative",
    source="theory: equivariance",
    needs=("equilibrium", "relative"),
    anomaly="wrong equilibrium on small or large data",
    at_stake="Data in other units give another model: a feature in metres and one in nanometres do not agree.",
    loose=(
        "a power of two changes no significand, so that the reference gives the same bits; who scales the data first "
        "is forgiven the rounding."
    ),
    draws=lambda deq: cases(problems(deq.dtype), exponent=lambda problem: scales(deq.dtype)),
)
def scale(deq: Subject, problem: Problem, exponent: int) -> Iterator[Measurement | Fact]:
    """Multiplying the features by a power of two, which rounds nothing, multiplies the equilibrium by it.

    Bound: twice ``Errors.z``, scaled. Catches absolute tolerances, absolute regularisation, and initial
    values such as 1e8 that stand for infinity.
    """
    factor = 2.0**exponent
    scaled = problem.with_features(problem.Phi * factor, problem.Y)
    yield from _same("‖ẑ(2ᵏφ) − 2ᵏẑ(φ)‖₁", deq, scaled, deq.equilibrium(scaled), factor * deq.equilibrium(problem))


def _columns(problem: Problem) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, problem.n - 1), min_size=1, max_size=min(2 * problem.n, 16))


@law(
    "batch",
    statement="a data point has the same equilibrium alone and in any batch",
    source="theory: separability",
    needs=("equilibrium", "separable"),
    anomaly=WRONG,
    at_stake="Predictions depend on which other inputs happen to be in the batch.",
    draws=any_problem(least_n=2, columns=_columns),
    large=large_problem(least_n=2, columns=_columns),
)
def batch(deq: Subject, problem: Problem, columns: list[int]) -> Iterator[Measurement | Fact]:
    """Solving a drawn selection of the columns of Φ, repetitions and single ones included, gives those columns of ẑ.

    Bound: ``Errors.z`` of either batch, since a claim may be one on the whole batch. Catches statistics and stopping
    rules taken over the whole batch where each data point is claimed by itself.
    """
    chosen = problem.with_features(problem.Phi[:, columns], problem.Y[:, columns])
    alone, among = deq.equilibrium(chosen), deq.equilibrium(problem)[:, columns]
    yield finite("ẑ", alone)
    yield finite("ẑ", among)
    bounds, whole = budget(deq, chosen), budget(deq, problem)
    size = np.abs(bounds.exact.Z).sum(axis=0)
    own = own_rounding("the comparison", problem.m * 2.0**-53 * size)
    allowed = bounds.bound(lambda e: e.z) + whole.bound(lambda e: e.z[columns]) + own
    yield compare("‖ẑ(some columns) − ẑ(all)‖₁", np.abs(alone - among).sum(axis=0), allowed, size)
