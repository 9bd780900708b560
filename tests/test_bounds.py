"""Bounds: sums of terms, sound for the reference in every dtype it claims, and not far above what it does."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from deqverify.bounds import Bound, Budget
from deqverify.claims import Accuracy, Claims
from deqverify.comparison import compare
from deqverify.implementations.subject import Subject
from deqverify.losses import Poisson
from deqverify.oracle.closed import BLOCKS, Oracle
from deqverify.problem import SoftmaxProblem
from deqverify.reference import reference
from deqverify.theory.closed_form import ClosedForm
from tests.examples import random_problem, random_problems


def test_bounds_add_term_by_term_and_scale() -> None:
    together = Bound({"a": np.array([1.0, 2.0])}) + 2 * Bound({"a": np.array([1.0, 1.0]), "b": np.array([0.5, 0.0])})
    assert together.total.tolist() == [4.0, 4.0]
    assert together.at((0,)) == {"a": 3.0, "b": 1.0}


@pytest.mark.parametrize(
    ("measured", "allowed", "holds"),
    [
        ([0.5, 2.0], [1.0, 1.0], False),
        ([0.5, 0.9], [1.0, 1.0], True),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 1e-300], [0.0, 0.0], False),
        ([np.nan, 0.0], [np.inf, 1.0], False),
        ([0.0, np.nan], [1.0, 1.0], False),
        ([0.5, np.nan], [1.0, np.inf], False),
        ([0.5, np.inf], [1.0, 1.0], False),
        ([0.5, 1.0], [1.0, np.nan], False),
        ([np.inf, 0.0], [np.inf, 1.0], True),
        ([], [], True),
    ],
)
def test_a_comparison_holds_when_every_entry_does(measured: list[float], allowed: list[float], holds: bool) -> None:
    assert compare("x", measured, Bound({"a": np.array(allowed)}), 1.0).holds is holds


def test_a_comparison_shows_its_worst_entry() -> None:
    seen = compare("x", [1.0, 3.0, 2.0], Bound({"a": np.array([10.0, 2.0, 4.0]), "b": np.array(1.0)}), [7.0, 8.0, 9.0])
    assert (seen.measured, seen.allowed, seen.scale, seen.terms) == (3.0, 3.0, 8.0, {"a": 2.0, "b": 1.0})


def test_a_nan_is_the_worst_entry_wherever_it_stands() -> None:
    values = np.array([[0.0, 0.5], [0.9, np.nan]])
    seen = compare("x", values, Bound({"a": np.array([[1.0, 2.0], [3.0, 4.0]])}), 1.0)
    assert np.isnan(seen.measured)
    assert (seen.allowed, seen.terms, seen.holds) == (4.0, {"a": 4.0}, False)


@pytest.mark.parametrize(
    ("measured", "allowed", "ratio"), [(0, 0, 0), (0, 1, 0), (1, 4, 0.25), (0.25, 0.5, 0.5), (1, 0, np.inf)]
)
def test_the_ratio_is_measured_over_allowed(measured: float, allowed: float, ratio: float) -> None:
    seen = compare("x", measured, Bound({"a": np.asarray(float(allowed))}), 1.0)
    assert (seen.what, seen.ratio) == ("x", ratio)


def test_an_infinite_bound_is_never_the_worst() -> None:
    for large in (1e300, np.inf):
        seen = compare("x", [large, 0.5], Bound({"a": np.array([np.inf, 1.0])}), 1.0)
        assert (seen.measured, seen.allowed) == (0.5, 1.0)


def test_nothing_measured_where_nothing_is_allowed_is_not_the_worst() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = compare("x", [0.0, 0.5, 0.0], Bound({"a": np.array([0.0, 1.0, np.inf])}), 1.0)
        assert not compare("x", [0.5, np.inf], Bound({"a": np.array([0.0, np.inf])}), 1.0).holds
    assert (seen.measured, seen.allowed, seen.holds) == (0.5, 1.0, True)


def test_a_comparison_of_nothing_shows_nothing() -> None:
    seen = compare("x", np.zeros((0, 3)), Bound({"a": np.zeros((0, 3))}), 1.0)
    assert (seen.what, seen.measured, seen.allowed, seen.terms, seen.scale) == ("x", 0.0, 0.0, {}, 0.0)
    assert seen.discriminates is False


def test_a_failure_is_informative_however_loose_its_bound() -> None:
    loose = Bound({"a": np.asarray(2.0)})
    assert compare("x", 3.0, loose, 1.0).informative
    assert not compare("x", 2.0, loose, 1.0).informative


def test_a_bound_informs_only_where_it_is_small_against_what_it_judges() -> None:
    tight, loose = Bound({"a": np.asarray(0.1)}), Bound({"a": np.asarray(0.2)})
    assert compare("x", 0.0, tight, 1.0).informative
    assert compare("x", 0.0, loose, 2.0).informative
    assert not compare("x", 0.0, tight, 0.99).informative
    assert compare("x", [0.0, 0.0], tight, [0.5, 1.0]).informative  # one entry suffices
    assert not compare("x", 0.0, loose, 1.0).informative
    assert not compare("x", 0.0, Bound({"a": np.asarray(0.0)}), 0.0).informative
    assert not compare("x", [], tight, 1.0).informative


def within_range(seed: int, dtype: str) -> SoftmaxProblem:
    """A random problem whose gradients stay inside the dtype: features and readout are an eighth for float16."""
    problem = random_problem(seed, gamma=0.75)
    shrunk = 0.125 if dtype == "float16" else 1.0
    return replace(problem, Phi=shrunk * problem.Phi, B=shrunk * problem.B).rounded_to(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bounds_hold_and_stay_within_a_thousand_times_the_worst(dtype: str) -> None:
    subject = Subject(reference(), dtype)
    ratios: dict[str, list[float]] = {name: [] for name in (*BLOCKS, "z")}
    for seed in range(150):
        problem = within_range(seed, dtype)
        budget = Budget(ClosedForm(problem), subject.claims, dtype)
        assert budget.in_range
        _, gradient = subject.value_and_grad(problem)
        for block in BLOCKS:
            ours = gradient["x"].T if block == "Phi" else gradient[block]
            found = np.abs(ours - budget.exact.gradient[block])
            ratios[block].append(np.max(found / budget.rounding.gradient[block], initial=0.0))
        z = Oracle(problem).error(subject.equilibrium(problem).T).sum(axis=0)
        ratios["z"].append(np.max(z / budget.rounding.z, initial=0.0))
    worst = {name: np.max(values) for name, values in ratios.items()}  # unlike max(), np.max lets no NaN pass
    # 1e-3: none looser than 1000 × its worst case
    assert all(1e-3 <= ratio <= 1.0 for ratio in worst.values()), worst


def test_looser_claims_allow_more_and_name_the_term() -> None:
    for problem in random_problems(10):
        exact = ClosedForm(problem)
        totals = []
        for tolerance in (0.0, 1e-8, 1e-4):
            claims = Claims(Accuracy(tolerance), Accuracy(tolerance))
            bound = Budget(exact, claims, "float64").bound(lambda e: e.gradient["Phi"])
            totals.append(bound.total)
            assert ("claimed solver accuracy, amplified" in bound.terms) is (tolerance > 0)
        assert np.all(totals[0] < totals[1])
        assert np.all(totals[1] < totals[2])


def test_an_absolute_claim_does_not_shrink_with_the_features() -> None:
    problem = random_problem(3)
    small = problem.with_features(1e-8 * problem.Phi, problem.Y)
    for relative in (True, False):
        claims = Claims(Accuracy(1e-6) if relative else Accuracy(atol=1e-6))
        ratio = [Budget(ClosedForm(q), claims, "float64").claimed.z.max() for q in (problem, small)]
        assert bool(ratio[1] < 1e-6 * ratio[0]) is relative


def test_beyond_the_range_of_the_dtype_nothing_is_judged() -> None:
    problem = random_problem(3)
    huge = replace(problem, Phi=problem.Phi * 1e30)
    assert Budget(ClosedForm(problem), Claims(), "float32").in_range
    assert not Budget(ClosedForm(huge), Claims(), "float32").in_range
    assert Budget(ClosedForm(huge), Claims(), "float64").in_range


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("exponent", "inside"), [(40.0, (True, True)), (90.0, (True, False)), (800.0, (False, False))])
def test_beyond_the_range_of_an_exponential_nothing_is_judged(exponent: float, inside: tuple[bool, bool]) -> None:
    problem = random_problem(3, loss=Poisson(0.5))
    largest = float(np.abs(ClosedForm(problem).F).max())
    sign = np.sign(ClosedForm(problem).F.ravel()[np.abs(ClosedForm(problem).F).argmax()])
    steep = replace(problem, B=problem.B * (sign * exponent / largest))
    found = tuple(Budget(ClosedForm(steep), Claims(), dtype).in_range for dtype in ("float64", "float32"))
    assert found == inside
    loose = Claims(Accuracy(1e3), Accuracy(1e-6))  # outputs may be off by thousands: their exponentials overflow
    assert not Budget(ClosedForm(steep), loose, "float64").in_range


def test_what_an_error_of_the_output_does_to_the_gradient_is_judged_entry_by_entry() -> None:
    for problem in random_problems(10):
        errors = Budget(ClosedForm(problem), Claims(), "float64").rounding
        unit = (problem.p + 6) * 2.0**-53 * problem.loss.terms(errors.exact.F, problem.Y) + errors.underflow
        moved = problem.loss.spread(errors.exact.F, problem.Y, errors.F)
        assert np.array_equal(errors.dF, moved + unit)


def test_a_claim_in_the_2_norm_is_forgiven_what_its_squares_cannot_see() -> None:
    problem = random_problem(3)
    nothing = problem.with_features(0 * problem.Phi, problem.Y)
    direct, iterative = Claims(), Claims(Accuracy(1e-6), Accuracy(1e-6))
    for claims in (direct, iterative):  # who claims rounding alone may have iterated to it
        assert 2.0**-63 <= Budget(ClosedForm(nothing), claims, "float32").claimed.z.max() < 1e-17  # amplified by 4


def test_a_claim_on_the_value_is_not_amplified() -> None:
    for problem in random_problems(10, gamma=0.99):
        exact = ClosedForm(problem)
        of_value = Claims(Accuracy(1e-6, of="value"), Accuracy(1e-6, of="value"))
        budget = Budget(exact, of_value, "float64")
        size, norm = np.abs(exact.Z).sum(axis=0), np.linalg.norm(exact.Z, axis=0)
        claimed = budget.claimed.z - budget.rounding.z
        # The claim is on the implementation's own answer, of a size that its error moves: ‖K‖₂ ≤ √m.
        most = 1e-6 * np.sqrt(problem.m) * (norm + budget.claimed.z) / (1.0 - 1e-6 * np.sqrt(problem.m))
        unit = 2.0**-53 * (budget.claimed.z + size)  # the difference's own rounding
        assert np.all(claimed >= 1e-6 * np.sqrt(problem.m) * norm - 8 * unit)
        assert np.all(claimed <= most * (1.0 + 2.0**-40))
        amplified = Budget(exact, Claims(Accuracy(1e-6), Accuracy(1e-6)), "float64").claimed.z
        assert np.all(amplified >= 90 * claimed)  # 1/(1−γ) = 100


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_error_larger_than_what_a_comparison_finds_is_found_whatever_its_sign(sign: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        truth, allowed = generator.normal(size=6), Bound({"rounding": generator.uniform(1e-9, 1e-3, size=6)})
        found = truth + generator.uniform(-1.0, 1.0, size=6) * allowed.total
        least = compare("", np.abs(found - truth), allowed, np.abs(truth)).finds
        off = found + sign * 1.0001 * least * truth
        assert not compare("", np.abs(off - truth), allowed, np.abs(truth)).holds
    assert compare("", np.zeros(2), allowed_of(np.inf), np.ones(2)).finds == np.inf
    assert compare("", np.zeros(2), allowed_of(1.0), np.zeros(2)).finds == np.inf, "nothing relative to zero"


def allowed_of(size: float) -> Bound:
    return Bound({"rounding": np.full(2, size)})
