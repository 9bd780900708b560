"""Claims: what is no claim is refused by name, and what is claimed by default is a direct solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.claims import DIRECT, NORMS, Accuracy, Claims


@pytest.mark.parametrize("name", ["rtol", "atol", "eps"])
@pytest.mark.parametrize("tolerance", [-1e-300, float("inf"), float("nan")])
def test_a_tolerance_is_finite_and_not_negative(name: str, tolerance: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: must be finite and not negative, got {tolerance!r}$"):
        Accuracy(**{name: tolerance})


def test_a_rule_that_no_arithmetic_keeps_or_that_says_nothing_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"rtol: 1e-17 is below the rounding .* write Accuracy\(\) for rounding alone"):
        Accuracy(1e-17)
    assert Accuracy(1e-17, atol=1e-8).atol == 1e-8
    with pytest.raises(ValueError, match=r"eps: says nothing without rtol; write atol"):
        Accuracy(atol=1e-6, eps=1e-9)
    with pytest.raises(ValueError, match=r"norm: is .* got 'inf'"):
        Accuracy(1e-6, norm="inf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"per: is .* got 'column'"):
        Accuracy(1e-6, per="column")  # type: ignore[arg-type]


def test_each_norm_is_taken_over_a_data_point_or_over_the_batch() -> None:
    states = np.array([[3.0, 0.0], [-4.0, 12.0]])
    points = {"1": [7, 12], "2": [5, 12], "rms": [5 / 2**0.5, 12 / 2**0.5], "max": [4, 12]}
    batches = {"1": 19, "2": 13, "rms": 6.5, "max": 12}
    for norm in NORMS:
        close = 4 * 2.0**-53 * 19  # a sum of four and a root
        assert np.abs(Accuracy(1.0, norm=norm).norms(states) - points[norm]).max() <= close
        assert np.abs(Accuracy(1.0, norm=norm, per="batch").norms(states) - batches[norm]).max() <= close
        assert Accuracy(1.0, norm=norm, per="batch").norms(np.zeros((2, 0))).shape == (0,)
    assert Accuracy(0.5, atol=1.0, eps=2.0).allows(np.array([4.0])) == 4.0
    assert Accuracy(1e-3, eps=1.0, norm="max").as_relative() == Accuracy(1e-3, norm="max")
    assert Accuracy(atol=1e-3).as_relative() == Accuracy(1e-3)
    assert [claim.relative for claim in (Accuracy(), Accuracy(0.1, eps=0.1), Accuracy(0.1, 0.1))] == [
        True,
        False,
        False,
    ]


def test_a_claim_is_of_the_residual_or_of_the_value() -> None:
    with pytest.raises(ValueError, match=r"""^of: is "residual" or "value", got 'loss'$"""):
        Accuracy(1e-6, of="loss")  # type: ignore[arg-type]
    assert Accuracy(1e-6).of == "residual"
    assert Accuracy(1e-6, of="value").of == "value"


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (DIRECT, "rounding only"),
        (Accuracy(1e-6, of="value"), "value ≤ 1e-06 × ‖f(z)‖"),
        (Accuracy(atol=1e-3), "residual ≤ 0.001"),
        (
            Accuracy(1e-3, 1e-6, 1e-9, "batch", "rms"),
            "residual ≤ 1e-06 + 0.001 × (‖f(z)‖ + 1e-09) in the rms norm of each batch",
        ),
    ],
)
def test_an_accuracy_says_of_what_it_is(accuracy: Accuracy, said: str) -> None:
    assert str(accuracy) == said


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    said = r"^dtypes: 'float8' is not known; use some of float64, float32, float16, bfloat16$"
    with pytest.raises(ValueError, match=said):
        Claims(dtypes=("float64", "float8"))


def test_claims_are_a_direct_solve_unless_said_otherwise() -> None:
    claims: Any = Claims()
    assert (claims.forward, claims.backward, claims.dtypes) == (Accuracy(0.0), Accuracy(0.0), ("float64", "float32"))
    assert (claims.second_order, claims.separable, claims.status, claims.starts) == (False, True, True, True)
    assert (claims.compiles, claims.computes_in, claims.devices, claims.where) == (False, {}, ("cpu",), "")


@pytest.mark.parametrize("size", [1.0, -2.0, float("nan"), float("inf")])
def test_functions_that_are_better_than_rounding_are_not_believed(size: float) -> None:
    with pytest.raises(ValueError, match="function_error: is 2 or more"):
        Claims(function_error=size)
