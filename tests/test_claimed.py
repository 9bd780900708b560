"""What a claim, or a residual accepted by its norm, allows of each entry: the formulas, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.bounds import Arithmetic
from deqverify.claims import DIRECT, NORMS, Accuracy
from deqverify.errors.claimed import accepted, claimed
from deqverify.errors.magnitudes import product, well_inside

SINGLE = Arithmetic.of("float32")
INVERSE = np.array([[[1.0, -2.0, 0.5], [0.0, 3.0, 4.0], [-1.0, 0.0, 0.0]], [[2.0, 0.0, 0.0]] * 3])
"""Of two data points with three entries."""

ROWS = {
    "1": [[2.0, 4.0, 1.0], [2.0] * 3],
    "2": [[5.25**0.5, 5.0, 1.0], [2.0] * 3],
    "max": [[3.5, 7.0, 1.0], [2.0] * 3],
}
"""The largest entry of a row's image of a unit ball: its norm in the dual norm, by hand."""

ANSWER, IMAGE = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), np.array([[0.0, 0.0, 2.0], [0.5, 0.0, 0.0]])
SIZES = {"1": [7.0 + 2.0, 1.5], "2": [5.0 + 2.0, 1.5], "max": [4.0 + 2.0, 1.5]}


@pytest.mark.parametrize("norm", NORMS)
def test_each_entry_is_allowed_its_row_times_what_the_claim_allows(norm: Any) -> None:
    claim = Accuracy(0.25, 0.5, 2.0, norm=norm)
    if norm == "rms":  # ‖r‖₂ = √3 rms(r)
        allowed = 3**0.5 * (0.5 + 0.25 * (np.array(SIZES["2"]) / 3**0.5 + 2.0))
    else:
        allowed = 0.5 + 0.25 * (np.array(SIZES[norm]) + 2.0)
    floor = 2.0**-63 if norm in ("2", "rms") else 0.0  # squares below 2⁻¹²⁶ are not seen
    # The norm's own sum, of up to six terms, rounds as well: (2·3 + 4)u more.
    expected = np.array(ROWS["2" if norm == "rms" else norm]) * (allowed * (1 + 10 * SINGLE.unit) + floor)[:, None]
    found = claimed(claim, SINGLE, INVERSE, ANSWER, IMAGE)
    assert np.all(np.abs(found - expected) <= 2.0**-49 * expected)  # a dozen operations in float64


def test_a_claim_over_the_batch_allows_each_data_point_all_of_it() -> None:
    found = claimed(Accuracy(0.25, norm="max", per="batch"), SINGLE, INVERSE, ANSWER, IMAGE)
    expected = np.array(ROWS["max"]) * 0.25 * (4.0 + 2.0) * (1 + 10 * SINGLE.unit)
    assert np.all(np.abs(found - expected) <= 2.0**-49 * expected)
    rms = claimed(Accuracy(0.0, 1.0, norm="rms", per="batch"), SINGLE, INVERSE, ANSWER, IMAGE)
    assert rms[1, 0] == pytest.approx(2.0 * 6**0.5, rel=1e-5)  # six entries; 1e-5: more than 10u of float32


def test_a_claim_on_the_value_is_one_on_each_entry() -> None:
    found = claimed(Accuracy(0.25, norm="1", of="value"), SINGLE, INVERSE, ANSWER, IMAGE)
    expected = 0.25 * np.array(SIZES["1"])[:, None] * np.ones((2, 3)) * (1 + 10 * SINGLE.unit)
    assert np.all(np.abs(found - expected) <= 2.0**-49 * expected)


def test_rounding_alone_claims_nothing_and_what_is_unknown_allows_everything() -> None:
    assert not claimed(DIRECT, SINGLE, INVERSE, ANSWER, IMAGE).any()
    assert claimed(Accuracy(0.25), SINGLE, INVERSE[:0], ANSWER[:0], IMAGE[:0]).shape == (0, 3)
    unknown = claimed(Accuracy(0.25, norm="max"), SINGLE, 0.0 * INVERSE, ANSWER, np.full((2, 3), np.inf))
    assert np.isposinf(unknown).all()


def test_a_residual_that_is_accepted_by_its_norm_may_lie_along_any_row() -> None:
    rounding = np.array([[3e-8, 0.0, 4e-8], [0.0, 0.0, 0.0]])
    found = accepted(SINGLE, INVERSE, rounding)
    expected = np.array(ROWS["2"]) * (np.array([[5e-8], [0.0]]) + 2.0**-63)
    assert np.all(np.abs(found - expected) <= 2.0**-49 * expected)
    # float16 sums no squares, and float64 sees smaller ones.
    assert np.array_equal(accepted(Arithmetic.of("float16"), INVERSE, rounding), found)
    assert accepted(Arithmetic.of("float64"), INVERSE, rounding)[1, 0] == 2.0 * 2.0**-511
    huge = accepted(SINGLE, INVERSE, np.array([[3e200, 0.0, 4e200], [np.inf, 0.0, 0.0]]))
    assert huge[0, 1] == pytest.approx(25e200, rel=2.0**-49)
    assert np.isposinf(huge[1]).all()


def test_magnitudes_know_infinity() -> None:
    left = np.array([[1.0, 0.0]])
    assert product(left, np.array([[2.0], [3.0]])) == 2.0
    assert product(left, np.array([[2.0], [np.inf]])) == np.inf


@pytest.mark.parametrize(
    ("cotangent", "state", "others", "inside"),
    [
        (8.0, 0.5, [], True),
        (16.0, 0.25, [], False),  # states below one do not make a product smaller
        (2.0, 8.0, [0.0], False),
        (1.99, 8.0, [15.9], True),
        (0.0, 16.0, [], False),
        (0.0, 0.0, [8.0, 16.0], False),
        (0.0, 0.0, [8.0, np.nan], False),
    ],
)
def test_what_stays_inside_the_range(cotangent: float, state: float, others: list[float], inside: bool) -> None:
    """Below largest/64, here 16."""
    assert well_inside(1024.0, cotangent, state, others) is inside
