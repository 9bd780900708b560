"""Where the allowed errors of any cell meet a kink, a fold or a second equilibrium: what is decided is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flint import arb

from deqverify import losses
from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.comparison import compare
from deqverify.errors.judge import judge
from deqverify.oracle.objective import Objective
from deqverify.problem import CellProblem
from tests.any_cell import Given, direct, worst
from tests.test_ball_errors import ACCURACIES, DTYPES, RELU, TANH, compared, errors_of
from tests.test_balls import rounded


def relu_given(x: float, n: int = 1) -> Given:
    """Two states, ``½ + ½z₁`` and ``relu(x + ¼z₁ − ½z₂ − ¼)``, whose argument is x at the equilibrium where x < 0."""
    theta = {"W": np.array([[0.5, 0.0], [0.25, -0.5]])}
    return Given(RELU, theta, np.array([[0.5, x - 0.25]]), np.ones((1, 2)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accuracy", [DIRECT, Accuracy(1e-4)], ids=str)
@pytest.mark.parametrize("x", [0.0, 2.0**-50, -(2.0**-50), 2.0**-20, -(2.0**-20), 1e-5, -1e-5, 0.1, -0.1])
def test_near_a_kink_no_decided_bound_is_wrong(x: float, accuracy: Accuracy, dtype: str) -> None:
    """The box holds both sides of the kink, so either slope is allowed; away from it neither is forgiven the other's.

    Where the slope is open, G is half of |M||W| here, less than 1: decided, with wide bounds.
    """
    given = rounded(relu_given(x), dtype)
    errors = errors_of(given, accuracy, dtype)
    assert errors.decided
    answers = [direct(given, dtype)]
    if not accuracy.exact:
        answers += [worst(given, dtype, accuracy, entry, errors.z) for entry in (0, 1)]
    for answer in answers:
        for name, off, bound, _ in compared(errors, answer):
            assert np.all(off <= bound.total), name
    off = [
        np.abs(side - errors.adjoint) / errors.adjoint_error().total for side in (adjoint_with(0.0), adjoint_with(1.0))
    ]
    if abs(x) <= 0.5 * errors.z_error.total[0, 1]:  # an allowed answer may lie on either side
        assert max(off[0].max(), off[1].max()) <= 1.0
    if abs(x) >= 0.1:
        assert off[int(x < 0)].max() > 10.0


def adjoint_with(gate: float) -> np.ndarray:
    """``(I − WᵀD)⁻¹c``, D the slopes 1 and ``gate``."""
    W, D = relu_given(0.0).theta["W"], np.diag([1.0, gate])
    return np.linalg.solve(np.eye(2) - W.T @ D, np.ones(2))[None, :]


def test_where_nothing_is_proved_bounds_are_infinite_and_values_finite() -> None:
    """At a fold; and where a claim excludes nothing."""
    theta = {"W": np.array([[1.0]]), "U": np.ones((1, 1)), "b": np.zeros(1)}
    fold = Given(TANH, theta, np.zeros((1, 1)), np.ones((1, 1)))
    loose = Given(TANH, theta | {"W": np.array([[0.99]])}, np.zeros((1, 1)), np.ones((1, 1)))
    for given, accuracy in ((fold, DIRECT), (loose, Accuracy(0.5)), (loose, Accuracy(0.0, 10.0))):
        errors = errors_of(given, accuracy, "float64")
        assert not errors.decided
        assert not errors.in_range
        for name, off, bound, size in compared(errors, given.answer(np.full((1, 1), 0.7), np.ones((1, 1)))):
            assert np.isfinite(size).all()
            assert np.isinf(bound.total).all() or name == "z"
            assert compare(name, off, bound, size).holds
    assert errors_of(loose, DIRECT, "float64").decided


def test_an_undecided_point_of_a_batch_leaves_the_others_their_equilibrium() -> None:
    """Unless they share a claim."""
    theta = {"W": np.array([[0.999]]), "U": np.ones((1, 1)), "b": np.zeros(1)}
    given = Given(TANH, theta, np.array([[0.0], [2.0]]), np.ones((2, 1)))
    bound = errors_of(given, Accuracy(0.0, 1e-2), "float64").z_error.total
    assert np.isinf(bound[0]).all()
    assert bound[1] < 0.1
    shared = errors_of(given, Accuracy(0.0, 1e-2, per="batch"), "float64").z_error.total
    assert np.isinf(shared[0]).all()


def test_the_start_decides_which_equilibrium_is_judged() -> None:
    theta = {"W": np.array([[3.0]]), "U": np.ones((1, 1)), "b": np.zeros(1)}
    given = Given(TANH, theta, np.zeros((1, 1)), np.ones((1, 1)))
    for side in (1.0, -1.0):
        errors = errors_of(given, ACCURACIES["loose"], "float32", start=np.full((1, 1), side))
        assert errors.decided
        assert errors.z[0, 0] * side > 0.99
        assert errors.z_error.total < 1e-3


def huge() -> CellProblem:
    """z = 10x, 1e42: the ball of the output is wider than an exponential can tell. Seen in a long campaign."""
    theta, B = {"A": np.array([[0.9]]), "U": np.ones((1, 1))}, np.array([[1.140995634010601]])
    x = np.array([[8.711228593176025e40]])
    return CellProblem(cell="linear", theta=theta, x=x, B=B, Y=np.ones((1, 1)), loss=losses.CrossEntropy(0.5))


CLAIMS = replace(Claims(), forward=Accuracy(1e-6, norm="1"), backward=Accuracy(1e-6, norm="1"))


def test_the_loss_of_huge_outputs_is_known() -> None:
    decided = judge(huge(), CLAIMS, "float64")
    outputs = 10.0 * float(huge().x[0, 0] * huge().B[0, 0])
    # ½F² in all but rounding: the cross-entropy of one output is zero; .9 in float64 makes 1/(1 − .9) no 10.
    assert decided.objective()[0] == pytest.approx(0.5 * outputs**2, rel=1e-14)
    assert np.isfinite(decided.value_error.total)


def test_where_the_loss_has_no_ball_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objective, "value", lambda *_: arb("nan"))
    decided = judge(huge(), CLAIMS, "float64")
    assert decided.objective()[0] == 0.0
    assert decided.value_error.total == np.inf
