"""The oracle against itself: two precisions, two steps, planted errors, exact zeros, extreme conditioning."""

from __future__ import annotations

import numpy as np
import pytest

from deqverify import losses, oracle
from deqverify.oracle import Oracle
from deqverify.problem import BLOCKS, Problem
from deqverify.theory.closed_form import ClosedForm
from tests.examples import random_problem, random_problems


def direction_for(problem: Problem, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {block: np.asarray(rng.normal(size=np.shape(getattr(problem, block)))) for block in BLOCKS}


def test_a_derivative_is_the_same_at_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in random_problems(12):
        direction = direction_for(problem)
        fine = Oracle(problem).derivative(direction, 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(oracle, "_STEP_BITS", 70)
            coarse = Oracle(problem).derivative(direction, 0.0)
        # Each is claimed to 2⁻⁵² relative; truncation at 2⁻⁷⁰ is far below that.
        assert abs(fine - coarse) <= 2 * 2.0**-52 * abs(fine)


@pytest.mark.parametrize("gamma", [1e-300, 5e-324])
def test_the_step_may_lie_below_the_range_of_float64(gamma: float) -> None:
    problem = Problem([[0.0]], [[1.0]], [[1.0]], [[0.0]], gamma, losses.Squared())
    # L = φ²/(1−γ)², so dL/dγ = 2/(1−γ)³ = 2 to the last bit.
    assert Oracle(problem).derivative({"gamma": np.asarray(1.0)}, 0.0) == 2.0
    small = problem.with_features(np.array([[1e-20]]))
    assert (
        abs(Oracle(small).derivative({"Phi": np.array([[1e300]])}, 0.0) - 2e280) <= 2.0**-50 * 2e280
    )  # 1e-20 is rounded


def test_an_enclosure_at_a_higher_precision_lies_inside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in random_problems(12, gamma=0.999):
        first = Oracle(problem).equilibrium()
        with monkeypatch.context() as patch:
            patch.setattr(oracle, "_FIRST_BITS", 1024)
            second = Oracle(problem).equilibrium()
        rounding = 2.0**-53 * np.abs(first.value)  # midpoints are rounded to float64
        assert np.all(np.abs(first.value - second.value) <= first.radius + second.radius + 2 * rounding)


def test_the_derivative_is_the_closed_form_gradient() -> None:
    for problem in random_problems(30):
        direction, gradient = direction_for(problem), ClosedForm(problem).gradient
        found = sum(float(np.sum(gradient[block] * direction[block])) for block in BLOCKS)
        size = sum(float(np.sum(np.abs(gradient[block] * direction[block]))) for block in BLOCKS)
        # A float64 gradient of a 5 × 5 problem at γ = ¾: κ(U) ≤ 7, three solves, a few hundred operations.
        assert abs(Oracle(problem).derivative(direction, 0.0) - found) <= 1000 * 7 * 2.0**-53 * size


def test_error_bounds_a_planted_error_from_above_and_closely() -> None:
    problem = random_problem(4, gamma=0.9)
    star = Oracle(problem).equilibrium().value
    for planted in (1e-3, 1e-9):
        shift = planted * np.abs(star).max()
        found = Oracle(problem).error(star + shift)
        rounding = 4 * 2.0**-53 * np.abs(star).max()
        assert np.all(found >= shift - rounding)
        assert np.all(found <= shift + rounding)


def test_residuals_that_vanish_exactly_do_not_loop() -> None:
    problem = Problem(np.zeros((3, 3)), np.ones((1, 3)), np.ones((3, 2)), np.zeros((1, 2)), 0.5, losses.Squared())
    tiny = 2.0**-90  # the promise: 2⁻¹⁰⁰ of the largest summand, here below 4
    assert np.abs(Oracle(problem).residual(np.full((3, 2), 2.0))).max() <= tiny
    assert np.abs(Oracle(problem).adjoint_residual(np.full((3, 2), 2.0), np.ones((3, 2)))).max() <= tiny
    fitted = problem.with_features(problem.Phi, np.full((1, 2), 6.0))
    assert float(Oracle(fitted).objective().value[0, 0]) <= tiny


def test_a_zero_derivative_does_not_loop() -> None:
    problem = random_problem(7)
    ones = np.zeros(problem.A.shape)
    ones[:, 0] = 1.0  # the gauge: L does not change
    assert abs(Oracle(problem).derivative({"A": ones}, 1e-20)) <= 1e-20  # as asked
    assert Oracle(problem).derivative({"A": np.zeros(problem.A.shape)}, 0.0) == 0.0


@pytest.mark.parametrize("gamma", [1 - 1e-6, 1 - 1e-12, 1 - 2.0**-53])
def test_precision_doubles_until_the_enclosure_suffices(gamma: float) -> None:
    problem = random_problem(5, gamma)
    enclosure = Oracle(problem).equilibrium()
    assert np.all(enclosure.radius.max(axis=0) <= 2.0**-60 * np.abs(enclosure.value).max(axis=0))
    mass = enclosure.value.sum(axis=0) * (1 - gamma)
    size = np.abs(enclosure.value).sum(axis=0) * (1 - gamma)
    assert np.all(np.abs(mass - problem.Phi.sum(axis=0)) <= 8 * 2.0**-53 * (size + np.abs(problem.Phi).sum(axis=0)))


def test_what_cannot_be_narrowed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "_MOST_BITS", 128)
    problem = random_problem(5, 1 - 2.0**-53)
    with pytest.raises(oracle.OracleError):
        Oracle(problem).equilibrium(2.0**-200)
    with pytest.raises(oracle.OracleError):
        Oracle(problem).derivative(direction_for(problem), 0.0)


def test_no_data_is_legal() -> None:
    problem = Problem(np.zeros((2, 2)), np.ones((1, 2)), np.ones((2, 0)), np.ones((1, 0)), 0.5, losses.Squared())
    asked = Oracle(problem)
    empty = np.zeros((2, 0))
    assert asked.equilibrium().value.shape == (2, 0)
    assert asked.residual(empty).shape == asked.adjoint_residual(empty, empty).shape == (2, 0)
    assert float(asked.objective().value[0, 0]) == 0.0
    assert asked.derivative({"A": np.ones((2, 2))}, 0.0) == 0.0


@pytest.mark.parametrize(
    ("direction", "said"), [({"C": np.ones((1, 1))}, "'C' is not one of"), ({"A": np.ones((9, 9))}, "A has shape")]
)
def test_a_bad_direction_is_refused(direction: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Oracle(random_problem(1)).derivative(direction, 0.0)


def test_the_softmax_is_enclosed_and_its_columns_sum_to_one() -> None:
    for problem in random_problems(5):
        S = Oracle(problem).softmax()
        sums = np.abs(S.value.sum(axis=0) - 1.0)
        assert np.all(sums <= S.radius.sum(axis=0) + problem.m * 2.0**-53)


def test_an_unknown_loss_is_refused() -> None:
    class Strange(losses.Squared):
        pass

    problem = random_problem(3, loss=Strange())
    assert Oracle(problem).objective().value.size  # a subclass is a squared loss

    class Stranger:
        name = "stranger"

        def check_targets(self, Y: np.ndarray) -> None: ...

    with pytest.raises(TypeError, match="does not know"):
        Oracle(random_problem(3, loss=Stranger())).objective()  # type: ignore[arg-type]
