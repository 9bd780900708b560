"""Claims: what is no claim is refused by name, and what is claimed by default is a direct solve."""

from __future__ import annotations

from typing import Any

import pytest

from deqverify.claims import DIRECT, Accuracy, Claims


@pytest.mark.parametrize("tolerance", [-1e-300, float("inf"), float("nan")])
def test_a_tolerance_is_finite_and_not_negative(tolerance: float) -> None:
    with pytest.raises(ValueError, match=rf"^tolerance: must be finite and not negative, got {tolerance!r}$"):
        Accuracy(tolerance)


def test_a_claim_is_of_the_residual_or_of_the_value() -> None:
    with pytest.raises(ValueError, match=r"""^of: a claim is of the "residual" or of the "value", got 'loss'$"""):
        Accuracy(1e-6, of="loss")  # type: ignore[arg-type]
    assert Accuracy(1e-6).of == "residual"
    assert Accuracy(1e-6, of="value").of == "value"


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (DIRECT, "rounding only"),
        (Accuracy(1e-6, of="value"), "value ≤ 1e-06 × ‖f(z)‖"),
        (Accuracy(1e-3, relative=False), "residual ≤ 0.001 (absolute)"),
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
