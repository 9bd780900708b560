"""Problems: what is legal, what is refused and how, rounding, and code that makes the same problem again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deqverify import losses
from deqverify.dtypes import DTYPES, dtype, round_to
from deqverify.problem import Problem
from tests.examples import random_problems

GOOD: dict[str, Any] = {
    "A": np.zeros((2, 2)),
    "B": np.ones((1, 2)),
    "Phi": np.ones((2, 3)),
    "Y": np.zeros((1, 3)),
    "gamma": 0.5,
    "loss": losses.Squared(),
}


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("A", np.zeros((2, 3)), ValueError),
        ("A", np.zeros(4), ValueError),
        ("A", np.array([[0.0, np.inf], [0.0, 0.0]]), ValueError),
        ("A", np.array([[0.0, np.nan], [0.0, 0.0]]), ValueError),
        ("A", np.zeros((2, 2), dtype=complex), TypeError),
        ("A", [["a", "b"], ["c", "d"]], TypeError),
        ("B", np.ones((1, 3)), ValueError),
        ("B", np.ones((0, 2)), ValueError),
        ("Phi", np.ones((3, 3)), ValueError),
        ("Y", np.zeros((1, 2)), ValueError),
        ("gamma", 0.0, ValueError),
        ("gamma", 1.0, ValueError),
        ("gamma", float("nan"), ValueError),
        ("gamma", "half", TypeError),
        ("gamma", None, TypeError),
        ("loss", "squared", TypeError),
    ],
)
def test_bad_input_is_refused_by_name(argument: str, value: object, error: type) -> None:
    named = "A" if argument == "Phi" else argument  # with features of another height it is A that does not fit
    with pytest.raises(error, match=rf"^({named}|{argument}):"):
        Problem(**(GOOD | {argument: value}))


def test_targets_outside_the_losss_domain_are_refused() -> None:
    for loss, bad in ((losses.Logistic(), 1.5), (losses.CrossEntropy(), -0.5)):
        with pytest.raises(ValueError, match=r"^Y:"):
            Problem(**(GOOD | {"loss": loss, "Y": np.full((1, 3), bad)}))


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
def test_a_bad_ridge_is_refused(ridge: float) -> None:
    with pytest.raises(ValueError, match=r"^ridge:"):
        losses.Logistic(ridge)


@pytest.mark.parametrize("sizes", [(1, 1, 0), (1, 1, 1), (3, 1, 2), (1, 3, 2), (2, 2, 0)])
def test_no_data_and_single_rows_are_legal(sizes: tuple[int, int, int]) -> None:
    m, p, n = sizes
    problem = Problem(np.zeros((m, m)), np.ones((p, m)), np.ones((m, n)), np.zeros((p, n)), 0.5, losses.Squared())
    assert (problem.m, problem.p, problem.n) == sizes
    again = eval(repr(problem), {"np": np, "losses": losses, "Problem": Problem})
    assert all(np.array_equal(getattr(problem, name), getattr(again, name)) for name in ("A", "B", "Phi", "Y"))
    assert again.Phi.shape == problem.Phi.shape


def test_the_repr_makes_the_same_problem() -> None:
    for problem in random_problems(30):
        again = eval(repr(problem), {"np": np, "losses": losses, "Problem": Problem})
        assert all(np.array_equal(getattr(problem, name), getattr(again, name)) for name in ("A", "B", "Phi", "Y"))
        assert (again.gamma, again.loss) == (problem.gamma, problem.loss)


def test_a_problem_keeps_its_own_copy() -> None:
    A = np.zeros((2, 2))
    problem = Problem(**(GOOD | {"A": A}))
    A[0, 0] = 1.0
    assert problem.A[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        problem.A[0, 0] = 1.0


def _hard_numbers() -> np.ndarray:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=2000) * 2.0 ** rng.integers(-160, 130, size=2000)
    ties = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-24, 1 + 2.0**-8 + 2.0**-20]
    edges = [0.0, 65504.0, 65519.9, 65520.0, 3.3895e38, 3.4e38, 2.0**-14, 2.0**-24, 2.0**-25, 2.0**-133, 1e300]
    return np.concatenate([spread, ties, edges, [-x for x in ties + edges], [np.inf, -np.inf]])


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_rounding_is_that_of_the_format(name: str) -> None:
    values = _hard_numbers()
    # bfloat16 goes through float32 on both sides: torch converts so, and double rounding is part of the comparison.
    source = torch.tensor(values).float() if name == "bfloat16" else torch.tensor(values)
    expected = source.to(getattr(torch, name)).double().numpy()
    assert np.array_equal(round_to(values, name), expected)


def test_rounding_is_idempotent_and_float64_is_left_alone() -> None:
    values = _hard_numbers()
    assert np.array_equal(round_to(values, "float64"), values)
    for name in DTYPES:
        assert np.array_equal(round_to(round_to(values, name), name), round_to(values, name))


@pytest.mark.parametrize("name", list(DTYPES))
def test_a_rounded_problem_has_representable_values_and_gamma_below_one(name: str) -> None:
    for gamma in (1e-8, 0.5, 1 - 1e-6, 1 - 2.0**-53):
        for problem in random_problems(5, gamma):
            rounded = problem.rounded_to(name)
            assert 0.0 < rounded.gamma < 1.0
            assert np.array_equal(rounded.A, round_to(rounded.A, name))
            assert float(round_to(rounded.gamma, name)) == rounded.gamma


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="float32"):
        dtype("float8")
