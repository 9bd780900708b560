"""Problems: what is legal, what is refused and how, rounding, and code that makes the same problem again."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from deqverify import losses
from deqverify.dtypes import DTYPES, dtype, round_to
from deqverify.problem import SoftmaxProblem, array_code
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
        ("gamma", 10**400, ValueError),
        ("gamma", -(10**400), ValueError),
        ("gamma", "0.5", TypeError),
        ("gamma", b"0.5", TypeError),
        ("gamma", 0.5j, TypeError),
        ("gamma", np.complex128(0.5), TypeError),
        ("gamma", [0.5], TypeError),
        ("gamma", torch.tensor(0.5, requires_grad=True), TypeError),
        ("A", [[0.0], [0.0, 0.0]], ValueError),
        ("B", [[0.0, [1.0]]], ValueError),
        ("A", torch.zeros((2, 2), requires_grad=True), TypeError),
        ("Phi", torch.ones((2, 3), dtype=torch.bfloat16), TypeError),
        ("Y", [[10**400, 0, 0]], TypeError),
        ("A", np.zeros((2, 2), dtype=bool), TypeError),
        ("A", None, TypeError),
        ("Phi", np.ones((0, 3)), ValueError),
        ("loss", "squared", TypeError),
        ("loss", losses.Squared, TypeError),
    ],
)
def test_bad_input_is_refused_by_name(argument: str, value: object, error: type) -> None:
    named = "A" if argument == "Phi" else argument  # with features of another height it is A that does not fit
    with pytest.raises(error, match=rf"^({named}|{argument}): \w"):
        SoftmaxProblem(**(GOOD | {argument: value}))


@pytest.mark.parametrize(
    ("argument", "value", "fix"),
    [
        ("A", [[0.0], [0.0, 0.0]], r"pass rows of one length, a NumPy array, or tensor\..*\.numpy\(\)$"),
        ("A", torch.zeros((2, 2), requires_grad=True), r"tensor\.detach\(\)"),
        ("A", np.zeros(4), "reshape"),
        ("A", [["a", "b"], ["c", "d"]], "pass floats"),
        ("B", np.ones((0, 2)), "at least one row"),
        ("Y", np.zeros((1, 2)), r"shape \(1, 3\), got \(1, 2\); Y has a row for each row of B"),
        ("B", np.zeros((1, 3)), "; B has one column for each row of Phi$"),
        ("A", np.zeros((2, 3)), "; A is square, its size the number of rows of Phi$"),
        ("loss", losses.Squared, r"pass an instance, Squared\(\)"),
        ("loss", "squared", r"such as Squared\(\), got 'squared'"),
        ("gamma", [0.5], r"one number in \(0, 1\), got shape \(1,\)"),
        ("gamma", 1.5, r"got 1\.5; an equilibrium needs γ < 1"),
    ],
)
def test_an_error_says_what_to_do(argument: str, value: object, fix: str) -> None:
    with pytest.raises((TypeError, ValueError), match=fix):
        SoftmaxProblem(**(GOOD | {argument: value}))


@pytest.mark.parametrize("gamma", [Fraction(1, 2), np.float16(0.5), np.asarray(0.5), torch.tensor(0.5)])
def test_numbers_of_other_kinds_are_taken(gamma: object) -> None:
    taken = SoftmaxProblem(**(GOOD | {"gamma": gamma})).gamma
    assert taken == 0.5
    assert type(taken) is float


def test_arrays_of_other_kinds_are_taken() -> None:
    for A in ([[0, 1], [2, 3]], np.array([[0, 1], [2, 3]], dtype=np.uint8), torch.tensor([[0.0, 1.0], [2.0, 3.0]])):
        problem = SoftmaxProblem(**(GOOD | {"A": A}))
        assert problem.A.dtype == np.float64
        assert problem.A.tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(("m", "p", "named"), [(0, 1, "Phi"), (0, 0, "Phi"), (1, 0, "B"), (2, 0, "B")])
def test_a_problem_without_rows_is_refused_by_name(m: int, p: int, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}: must have at least one row$"):
        SoftmaxProblem(np.zeros((m, m)), np.ones((p, m)), np.ones((m, 2)), np.zeros((p, 2)), 0.5, losses.Squared())


def test_targets_outside_the_losss_domain_are_refused() -> None:
    for loss, bad in ((losses.Logistic(), 1.5), (losses.CrossEntropy(), -0.5)):
        with pytest.raises(ValueError, match=r"^Y:"):
            SoftmaxProblem(**(GOOD | {"loss": loss, "Y": np.full((1, 3), bad)}))


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
def test_a_bad_ridge_is_refused(ridge: float) -> None:
    with pytest.raises(ValueError, match=r"^ridge:"):
        losses.Logistic(ridge)


@pytest.mark.parametrize("sizes", [(1, 1, 0), (1, 1, 1), (3, 1, 2), (1, 3, 2), (2, 2, 0)])
def test_no_data_and_single_rows_are_legal(sizes: tuple[int, int, int]) -> None:
    m, p, n = sizes
    problem = SoftmaxProblem(
        np.zeros((m, m)), np.ones((p, m)), np.ones((m, n)), np.zeros((p, n)), 0.5, losses.Squared()
    )
    assert (problem.m, problem.p, problem.n) == sizes
    again = eval(repr(problem), {"np": np, "losses": losses, "SoftmaxProblem": SoftmaxProblem})
    assert all(np.array_equal(getattr(problem, name), getattr(again, name)) for name in ("A", "B", "Phi", "Y"))
    assert again.Phi.shape == problem.Phi.shape


def test_the_repr_makes_the_same_problem() -> None:
    for problem in random_problems(30):
        again = eval(repr(problem), {"np": np, "losses": losses, "SoftmaxProblem": SoftmaxProblem})
        assert all(np.array_equal(getattr(problem, name), getattr(again, name)) for name in ("A", "B", "Phi", "Y"))
        assert (again.gamma, again.loss) == (problem.gamma, problem.loss)


def test_a_problem_keeps_its_own_copy() -> None:
    A = np.zeros((2, 2))
    problem = SoftmaxProblem(**(GOOD | {"A": A}))
    A[0, 0] = 1.0
    assert problem.A[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        problem.A[0, 0] = 1.0


def _hard_numbers() -> np.ndarray:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=2000) * 2.0 ** rng.integers(-160, 130, size=2000)
    ties = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-24, 1 + 2.0**-8 + 2.0**-20]
    ties += [1 + 2.0**-8 + 2.0**-30, 1 + 3 * 2.0**-8 - 2.0**-30, 2.0**-134, 3 * 2.0**-134, 2.0**-134 * (1 + 2.0**-40)]
    edges = [3.3961775292304600e38, 3.3961775292304595e38, 2.0**-126, 2.0**-126 * (1 - 2.0**-9), 1 - 2.0**-9, 5e-324]
    edges += [0.0, 65504.0, 65519.9, 65520.0, 3.3895e38, 3.4e38, 2.0**-14, 2.0**-24, 2.0**-25, 2.0**-133, 1e300]
    return np.concatenate([spread, ties, edges, [-x for x in ties + edges], [np.inf, -np.inf]])


def rounded_once(value: float, name: str) -> float:
    """The number of the format nearest to ``value``, ties to even, in rational arithmetic (IEEE 754 §4.3.1)."""
    fmt = dtype(name)
    if value == 0.0 or not np.isfinite(value):
        return value
    exponent = max(math.frexp(abs(value))[1], math.frexp(fmt.tiny)[1])
    spacing = Fraction(2) ** (exponent - fmt.significand)
    nearest = round(Fraction(value) / spacing) * spacing  # Python rounds a fraction's ties to even
    return math.copysign(float(nearest) if abs(nearest) <= fmt.largest else math.inf, value)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_rounding_is_once_to_nearest_even(name: str) -> None:
    values = _hard_numbers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # overflow is an answer
        round_to(values, name)
    assert np.array_equal(round_to(values, name), [rounded_once(float(x), name) for x in values])
    assert np.isnan(round_to(np.nan, name))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_rounding_is_that_of_torch(name: str) -> None:
    # From float32: torch itself goes through float32 on its way from float64 to bfloat16, and rounds twice.
    values = torch.tensor(_hard_numbers()).float()
    expected = values.to(getattr(torch, name)).double().numpy()
    assert np.array_equal(round_to(values.double().numpy(), name), expected)


def test_bfloat16_is_not_rounded_by_way_of_float32() -> None:
    above_a_tie = 1 + 2.0**-8 + 2.0**-30  # float32 loses the last term and leaves a tie
    assert round_to([above_a_tie, -above_a_tie], "bfloat16").tolist() == [1 + 2.0**-7, -1 - 2.0**-7]
    below_a_tie = 2.0**-133 * (2.5 - 2.0**-30)
    assert float(round_to(below_a_tie, "bfloat16")) == 2.0**-133 * 2


@pytest.mark.parametrize("name", list(DTYPES))
def test_the_edges_of_a_format_are_its_own(name: str) -> None:
    fmt = dtype(name)
    info = torch.finfo(getattr(torch, name))
    assert (fmt.name, fmt.unit_roundoff, fmt.tiny, fmt.largest) == (name, info.eps / 2, info.tiny, info.max)
    assert fmt.smallest == info.tiny * info.eps
    for edge in (fmt.smallest, fmt.tiny, fmt.below_one, fmt.largest):
        assert float(round_to(edge, name)) == edge
    if name != "float64":
        assert float(round_to(fmt.smallest / 2, name)) == 0.0
        assert float(round_to(fmt.smallest * (0.5 + 2.0**-20), name)) == fmt.smallest
        assert float(round_to((1.0 + fmt.below_one) / 2, name)) == 1.0


def test_rounding_is_idempotent_and_float64_is_left_alone() -> None:
    values = _hard_numbers()
    assert round_to(values, "float64") is values
    assert round_to([[1, 2]], "float64").dtype == np.float64
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


@pytest.mark.parametrize("name", list(DTYPES))
def test_a_rounded_gamma_is_the_nearest_number_of_the_format_inside_the_interval(name: str) -> None:
    fmt = dtype(name)
    expected = {
        3 * fmt.smallest: 3 * fmt.smallest,  # subnormal numbers are numbers of the format
        fmt.tiny: fmt.tiny,
        0.5: 0.5,
        1 - 2.0**-53: fmt.below_one,
    } | ({fmt.smallest / 4: fmt.smallest} if name != "float64" else {})
    for gamma, rounded in expected.items():
        assert SoftmaxProblem(**(GOOD | {"gamma": gamma})).rounded_to(name).gamma == rounded


def test_rounding_beyond_the_range_of_the_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^Phi:"):
        SoftmaxProblem(**(GOOD | {"Phi": np.full((2, 3), 1e5)})).rounded_to("float16")


def test_a_problem_on_other_data_has_the_same_weights() -> None:
    problem = SoftmaxProblem(**GOOD)
    other = problem.with_features(np.full((2, 1), 3.0))
    assert other.Y.tolist() == [[0.0]]
    assert other.Phi.tolist() == [[3.0], [3.0]]
    assert (other.gamma, other.loss) == (problem.gamma, problem.loss)
    assert problem.with_features(np.ones((2, 1)), np.full((1, 1), 7.0)).Y.tolist() == [[7.0]]


def test_code_of_an_array_knows_nan_and_infinity() -> None:
    array = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-300]])
    again = eval(array_code(array), {"np": np})
    assert np.array_equal(again, array, equal_nan=True)
    assert array_code(np.zeros((0, 2))) == "np.zeros((0, 2))"


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"^dtype: 'float8' is not known; use one of float64, float32, float16, bfloat16"
    ):
        dtype("float8")
