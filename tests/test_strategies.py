"""Strategies: every regime is reached, narrow widths dominate, values fit the dtype, failures shrink fast and far."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, seed, settings
from hypothesis import strategies as st

from deqverify import strategies
from deqverify.drawing import _filled
from deqverify.dtypes import DTYPES, round_to
from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Poisson, PseudoHuber, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.strategies.problems import FEATURE_REGIMES, LOGIT_REGIMES, MOST_EXPONENT, scales, sizes
from deqverify.theory.closed_form import ClosedForm
from tests.cell_examples import QUIET

DRAWS = 1000


def drawn(strategy: st.SearchStrategy[Any], count: int = DRAWS) -> list[Any]:
    found: list[Any] = []

    @seed(0)
    @settings(QUIET, max_examples=count, phases=(Phase.generate,))
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


@pytest.fixture(scope="module")
def sample() -> list[SoftmaxProblem]:
    return drawn(strategies.problems())


def singular_values(Phi: np.ndarray) -> np.ndarray:
    values = np.linalg.svd(Phi, compute_uv=False)
    return values / values[0] if values[0] > 0 else values


REGIMES: dict[str, Callable[[SoftmaxProblem], bool]] = {
    "width below p and n": lambda q: q.m < min(q.p, q.n),
    "width above p and n": lambda q: q.m > max(q.p, q.n),
    "one state": lambda q: q.m == 1,
    "one output": lambda q: q.p == 1,
    "one data point": lambda q: q.n == 1,
    "large": lambda q: max(q.m, q.p, q.n) > 4,
    "zero logits": lambda q: not q.A.any(),
    "near one-hot columns": lambda q: (
        q.m > 1 and bool(np.any(np.sort(q.A, axis=0)[-1] - np.sort(q.A, axis=0)[-2] > 20))
    ),
    "S near a permutation": lambda q: q.m > 2 and bool(np.all(q.A.argmax(axis=0) == (np.arange(q.m) + 1) % q.m)),
    "S near the identity": lambda q: q.m > 2 and bool(np.all(q.A.argmax(axis=0) == np.arange(q.m))),
    "wide logits": lambda q: q.m > 2 and bool(6 < np.abs(q.A).max() < 15),
    "constant columns": lambda q: q.m > 1 and q.A.any() and bool(np.all(q.A[0] == q.A)),
    "zero column": lambda q: bool((q.Phi == 0).all(axis=0).any()),
    "duplicated columns": lambda q: q.n > 1 and bool(np.array_equal(q.Phi[:, 0], q.Phi[:, 1])),
    "collinear": lambda q: min(q.m, q.n) > 1 and bool(singular_values(q.Phi)[1] < 1e-14),
    "nearly collinear": lambda q: min(q.m, q.n) > 1 and bool(1e-14 < singular_values(q.Phi)[1] < 1e-9),
    "rank-deficient": lambda q: (
        min(q.m, q.n) > 2 and bool(singular_values(q.Phi)[-1] < 1e-14 < singular_values(q.Phi)[1])
    ),
    "nonnegative": lambda q: q.m * q.n > 4 and bool((q.Phi > 0).all()) and len(np.unique(q.Phi)) > 4,
    "tiny features": lambda q: 0 < np.abs(q.Phi).max() < 1e-30,
    "huge features": lambda q: np.abs(q.Phi).max() > 1e30,
    "features near 1e-8": lambda q: 1e-9 < np.abs(q.Phi).max() < 1e-7,
    "gamma one half": lambda q: q.gamma == 0.5,
    "gamma near one": lambda q: q.gamma > 0.9999,
    "gamma small": lambda q: q.gamma < 0.1,
    "squared": lambda q: isinstance(q.loss, Squared),
    "logistic": lambda q: isinstance(q.loss, Logistic),
    "cross-entropy": lambda q: isinstance(q.loss, CrossEntropy),
    "pseudo-huber": lambda q: isinstance(q.loss, PseudoHuber),
    "a narrow pseudo-huber": lambda q: isinstance(q.loss, PseudoHuber) and q.loss.delta < 1,
    "log-cosh": lambda q: isinstance(q.loss, LogCosh),
    "poisson": lambda q: isinstance(q.loss, Poisson),
    "poisson with a count of zero": lambda q: isinstance(q.loss, Poisson) and bool((q.Y == 0).any()),
    "poisson of counts above two": lambda q: isinstance(q.loss, Poisson) and bool((q.Y > 2).any()),
    "poisson of huge features": lambda q: isinstance(q.loss, Poisson) and np.abs(q.Phi).max() > 1e10,
    "squared hinge": lambda q: isinstance(q.loss, HingeSquared),
    "squared hinge of both labels": lambda q: isinstance(q.loss, HingeSquared) and len(np.unique(q.Y)) == 2,
}


@pytest.mark.parametrize("regime", list(REGIMES))
def test_every_regime_is_reached_within_a_thousand_draws(sample: list[SoftmaxProblem], regime: str) -> None:
    assert any(REGIMES[regime](problem) for problem in sample)


def test_most_widths_are_below_p_and_n(sample: list[SoftmaxProblem]) -> None:
    assert sum(problem.m < min(problem.p, problem.n) for problem in sample) >= DRAWS / 2


def test_the_simplest_problem_is_as_stated() -> None:
    simplest = find(strategies.problems(), lambda _: True, settings=QUIET)
    expected = SoftmaxProblem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 0.5, Squared())
    assert repr(simplest) == repr(expected)


PLANTED: dict[str, tuple[Callable[[SoftmaxProblem], bool], int]] = {
    "gamma above .95": (lambda q: q.gamma > 0.95, 1),
    "an entry of A of size 2": (lambda q: bool((np.abs(q.A) >= 2).any()), 1),
    "width above 2": (lambda q: q.m > 2, 3),
    "tiny features": (lambda q: 0 < np.abs(q.Phi).max() < 1e-8, 1),
    "two distinct entries of B": (lambda q: len(np.unique(q.B)) > 1, 2),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_failure_shrinks_soon_to_something_small(name: str) -> None:
    condition, most = PLANTED[name]
    tried: list[Any] = []

    def noted(problem: Any) -> bool:
        tried.append(problem)
        return condition(problem)

    smallest = find(strategies.problems(), noted, settings=settings(QUIET, max_examples=2000), random=Random(0))
    assert len(tried) <= 200  # a few milliseconds each; 27 to 47 were needed when this was written
    assert max(smallest.m, smallest.p, smallest.n) <= most
    untouched = [getattr(smallest, k) for k in ("A", "Y") if k not in name.split()]
    assert not any(array.any() for array in untouched)


def test_sizes_shrink_with_their_arrays() -> None:
    """Found on a width of 3 as often as not, an entry of size 2 is shown on a width of 1 or 2."""
    widths = [
        find(strategies.problems(), lambda q: bool((np.abs(q.A) >= 2).any()), settings=QUIET, random=Random(k)).m
        for k in range(40)
    ]
    assert sum(m <= 2 for m in widths) >= 38


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_an_array_begins_like_a_larger_one_from_the_same_seed(size: int) -> None:
    for seed_ in (0, 1, 7, 300, 2**16 - 1):
        assert np.array_equal(_filled(seed_, 1.0, 100)[:size], _filled(seed_, 1.0, size))
    assert _filled(0, 1.0, size).tolist() == [1.0] * size
    assert np.array_equal(2 * _filled(255, 0.0, size), np.rint(2 * _filled(255, 0.0, size)))  # multiples of ½
    assert not np.array_equal(2 * _filled(256, 0.0, size), np.rint(2 * _filled(256, 0.0, size)))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_values_are_numbers_of_the_dtype(dtype: str) -> None:
    for problem in drawn(strategies.problems(dtype), 200):
        for name in ("A", "B", "Phi", "Y"):
            assert np.array_equal(getattr(problem, name), round_to(getattr(problem, name), dtype))
        assert float(round_to(problem.gamma, dtype)) == problem.gamma
        # Fourth powers of entries, and in float16, whose range is too short, their squares, are in range.
        power = 2 if dtype == "float16" else 4
        assert power * np.log2(np.abs(problem.Phi).max(initial=2.0**-999)) < np.log2(DTYPES[dtype].largest)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_fourth_powers_of_scales_are_normal_numbers(dtype: str) -> None:
    exponents = set(drawn(scales(dtype), 500))
    fmt = DTYPES[dtype]
    assert all(np.log2(fmt.tiny) <= 4 * k < np.log2(fmt.largest) for k in exponents)
    assert {k > 0 for k in exponents - {0}} == {True, False}
    assert 0 in exponents
    widest = {"float64": 200, "float32": 26, "float16": 1, "bfloat16": 1}[dtype]  # half of each range and more is used
    assert max(exponents) == -min(exponents) == widest


def test_training_problems_are_well_conditioned_and_narrow() -> None:
    for problem in drawn(strategies.well_conditioned_problems(), 100):
        assert problem.m < min(problem.p, problem.n)
        assert problem.gamma <= 0.9
        values = np.linalg.svd(problem.Phi, compute_uv=False)
        rounding = 16 * problem.n * 2.0**-53  # of the factors and of their product
        assert 0.5 - rounding <= values[-1] <= values[0] <= 2.0 + rounding


ALL = {Squared, Logistic, CrossEntropy, PseudoHuber, LogCosh, Poisson, HingeSquared}


def test_training_problems_have_every_loss() -> None:
    assert {type(problem.loss) for problem in drawn(strategies.well_conditioned_problems(), 300)} == ALL


def test_smooth_losses_are_all_but_the_squared_hinge() -> None:
    assert {type(loss) for loss in drawn(strategies.smooth_losses(), 300)} == ALL - {HingeSquared}
    assert {type(loss) for loss in drawn(strategies.loss_functions(), 300)} == ALL


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_outputs_of_poisson_problems_are_in_range(dtype: str) -> None:
    losses = st.sampled_from([Poisson(0.5), Poisson(0.125)])
    kinds = (strategies.problems(dtype, losses=losses), strategies.well_conditioned_problems(dtype))
    sizes = []
    for problem in (problem for kind in kinds for problem in drawn(kind, 200)):
        if isinstance(problem.loss, Poisson):
            bound = np.abs(problem.B).max() * np.abs(problem.Phi).sum(axis=0).max() / (1.0 - problem.gamma)
            rounded = 4 * DTYPES[dtype].unit_roundoff / (1.0 - problem.gamma)  # of B, Φ, γ to the dtype
            assert bound <= MOST_EXPONENT * (1 + rounded)
            sizes.append(float(np.abs(ClosedForm(problem).F).max()))
    assert max(sizes) > 1.0  # and not all so small that the exponential is a straight line
    assert np.median(sizes) > 0.1


@pytest.mark.parametrize("regime", sorted(set(FEATURE_REGIMES)))
def test_a_single_feature_regime_can_be_asked_for(regime: str) -> None:
    assert drawn(strategies.features(2, 3, regimes=(regime,)), 5)


@pytest.mark.parametrize("regime", sorted(set(LOGIT_REGIMES)))
def test_a_single_logit_regime_can_be_asked_for(regime: str) -> None:
    assert drawn(strategies.logits(3, regimes=(regime,)), 5)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: find(strategies.signals((-1, 2)), lambda _: True), "shape"),
        (lambda: find(strategies.logits(2, regimes=("odd",)), lambda _: True), "regimes"),
        (lambda: find(strategies.features(2, 2, regimes=("odd",)), lambda _: True), "regimes"),
        (lambda: find(strategies.problems(feature_regimes=("odd",)), lambda _: True), "feature_regimes"),
        (lambda: find(strategies.problems("float8"), lambda _: True), "dtype"),
        (lambda: strategies.contraction_factors(largest=1.0), "largest"),
        (lambda: find(sizes(1), lambda _: True), "largest"),
        (lambda: find(sizes(4, regimes=("odd",)), lambda _: True), "regimes"),
    ],
)
def test_bad_arguments_are_refused_by_name(build: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^{said}:"):
        build()
