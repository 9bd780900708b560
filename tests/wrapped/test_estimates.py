"""Estimated bounds beside proven ones: a cell of this suite is wrapped as if nothing were known but its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify import Accuracy, CellProblem, Claims, losses
from deqverify.cells import Parts, cells
from deqverify.cells.wrapped import WrappedCell
from deqverify.dtypes import Array
from deqverify.errors.any_cell import BallJudge
from deqverify.errors.estimated_judge import EstimatedJudge
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.wrapped_problem import WrappedProblem


class Asked:
    """A cell of this suite as somebody else's function, in NumPy."""

    stacks = True

    def __init__(self, cell: Any):
        self.cell = cell

    def image(self, theta: Any, x: Array, z: Array, dtype: str) -> Array:
        given = {name: np.asarray(value).astype(dtype) for name, value in theta.items()}
        return np.asarray(self.cell.step(given, x.astype(dtype))(z.astype(dtype)), dtype=np.float64)

    def pull(self, theta: Any, x: Array, z: Array, cotangent: Array, dtype: str) -> Parts:
        given = {name: np.asarray(value).astype(dtype) for name, value in theta.items()}
        found = self.cell.pull(given, x.astype(dtype), z.astype(dtype), cotangent.astype(dtype))
        wide = {name: np.asarray(value, dtype=np.float64) for name, value in found.theta.items()}
        return Parts(wide, np.asarray(found.x, dtype=np.float64), np.asarray(found.z, dtype=np.float64))

    def push(self, theta: Any, x: Array, z: Array, tangent: Parts) -> Array:
        return np.asarray(self.cell.push(theta, x, z, tangent))

    def jacobian(self, theta: Any, x: Array, z: Array) -> Array:
        return np.asarray(dense(unit_pulls(self.cell, theta, x, z), len(z)))

    def answer(self, theta: Any, x: Array, dtype: str) -> Array:
        raise AssertionError("the cell was given")

    def answer_pull(self, theta: Any, x: Array, cotangent: Array, dtype: str) -> dict[str, Array]:
        raise AssertionError("the cell was given")


def theta_of(name: str, rng: np.random.Generator) -> tuple[dict[str, Array], Array]:
    """Parameters of a moderate rate, and inputs of two data points."""
    if name == "tanh":
        W = rng.standard_normal((5, 5))
        return {"W": 0.8 * W / np.linalg.norm(W, 2), "U": rng.standard_normal((5, 3)), "b": rng.standard_normal(5)}, (
            rng.standard_normal((2, 3))
        )
    if name == "conv":
        return {"K": 0.1 * rng.standard_normal((2, 2, 3, 3)), "gain": np.ones(2)}, rng.standard_normal((2, 2, 3, 3))
    shape = (4, 4)
    return {key: 0.4 * rng.standard_normal(shape) for key in ("Q", "K", "V")}, rng.standard_normal((2, 3, 4))


def both(name: str, dtype: str, tolerance: float, seed: int) -> tuple[BallJudge, EstimatedJudge]:
    rng, cell = np.random.default_rng(seed), cells()[name]
    theta, x = theta_of(name, rng)
    state = (2, *cell.state(theta, x.shape[1:]))
    B, Y = rng.standard_normal((2, int(np.prod(state[1:])))), rng.standard_normal((2, 2))
    problem = CellProblem(cell, theta, x, B, Y, losses.Squared()).rounded_to(dtype)
    accuracy = Accuracy(tolerance) if tolerance else Accuracy()
    claims = Claims(accuracy, accuracy, dtypes=(dtype,))
    wrapped = WrappedCell("somebody's", problem.theta, problem.x, np.zeros(state), Asked(cell))
    own = WrappedProblem(wrapped, problem.theta, problem.x, problem.B, problem.Y, problem.loss)
    return BallJudge(problem, claims, dtype), EstimatedJudge(own, claims, dtype)


CASES = [("float64", 0.0), ("float64", 1e-6), ("float32", 0.0), ("float32", 1e-4)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), CASES)
@pytest.mark.parametrize("name", ["tanh", "conv", "attention"])
def test_estimates_are_near_what_balls_prove(name: str, dtype: str, tolerance: float, seed: int) -> None:
    """Of the largest entries, and the same truth. Balls are wider than what can happen, corners and a safety of four
    wider than what does: a factor of 16 either way tells them from a bound that forgets a term or counts one twice in a
    dimension. Of attention balls forget that a softmax sums to one, twice, and are a hundred times too wide."""
    proven, estimated = both(name, dtype, tolerance, seed)
    assert proven.in_range
    assert estimated.in_range
    np.testing.assert_array_less(np.abs(proven.z - estimated.z), estimated.z_error.total)
    np.testing.assert_array_less(np.abs(proven.adjoint - estimated.adjoint), estimated.adjoint_error.total + 1e-300)
    pairs = {"z": (proven.z_error, estimated.z_error), "value": (proven.value_error, estimated.value_error)}
    pairs |= {k: (proven.gradient_error(k), estimated.gradient_error(k)) for k in proven.problem.blocks}
    for what, (first, second) in pairs.items():
        ratio = float(second.total.max() / first.total.max())
        assert ratio < 16, (what, ratio)
        assert ratio > 1 / 16 or name == "attention", (what, ratio)
    for block in proven.problem.blocks:
        near = np.abs(proven.gradient[block] - estimated.gradient[block])
        assert np.all(near <= estimated.gradient_error(block).total), block


@pytest.mark.parametrize("name", ["tanh", "conv", "attention"])
def test_estimates_hold_the_worst_corner(name: str) -> None:
    """To first order that is the sum of what each entry of ẑ and Λ̂ does by itself, which random corners seldom meet."""
    _, judge = both(name, "float64", 1e-6, 0)
    e, a = judge.z_error.total, judge._adjoint_error(judge.cotangent_error).total
    worst = {block: np.zeros(np.shape(value)) for block, value in judge.pulled.items()}
    for at in np.ndindex(e.shape):
        for moves_z in (True, False):
            unit = np.zeros(e.shape)
            unit[at] = 1.0
            found = judge._pull(judge.z + moves_z * unit * e, judge.adjoint + (not moves_z) * unit * a)
            for block, value in {**found.theta, "x": found.x}.items():
                worst[block] += np.abs(value - judge.pulled[block])
    for block, value in worst.items():
        assert np.all(value <= judge.gradient_error(block).total), block


@pytest.mark.parametrize("name", ["tanh", "attention"])
def test_differences_in_float64_are_those_of_ball_arithmetic(name: str) -> None:
    proven, estimated = both(name, "float64", 1e-6, 3)
    direction = {
        block: np.cos(np.arange(float(value.size))).reshape(value.shape)
        for block, value in proven.problem.theta.items()
    }
    gradient = {block: np.zeros(np.shape(value)) for block, value in proven.problem.theta.items()}
    (exact, _), (found, error) = (
        proven.off_slope(gradient, direction, 1e-12),
        estimated.off_slope(gradient, direction, 0.0),
    )
    assert abs(exact - found) <= error
    assert error < 1e-6 * exact


def test_a_kink_at_the_equilibrium_leaves_the_gradient_open() -> None:
    """With x = b = 0 every argument of a ReLU is zero: the slope there is nobody's to say."""
    cell = cells()["relu"]
    theta = {"W": 0.5 * np.eye(2), "U": np.eye(2), "b": np.zeros(2)}
    x = np.zeros((1, 2))
    wrapped = WrappedCell("somebody's", theta, x, np.zeros((1, 2)), Asked(cell))
    problem = WrappedProblem(wrapped, theta, x, np.ones((1, 2)), np.ones((1, 1)), losses.Squared())
    judge = EstimatedJudge(problem, Claims(Accuracy(1e-6), Accuracy(1e-6)), "float64")
    gradient = {"b": np.array([-2.0, 0.0])}
    off, error = judge.off_slope(gradient, {"b": np.ones(2)}, 0.0)
    assert off <= error


def test_parameters_that_leave_the_cell_without_an_equilibrium_are_nobodys_fault() -> None:
    cell = cells()["tanh"]
    theta = {"W": 0.5 * np.eye(2), "U": np.eye(2), "b": np.zeros(2)}
    x = np.ones((1, 2))
    wrapped = WrappedCell("somebody's", theta, x, np.zeros((1, 2)), Asked(cell))
    hard = theta | {"W": -3.0 * np.eye(2)}
    problem = WrappedProblem(wrapped, hard, 0.01 * x, np.ones((1, 2)), np.ones((1, 1)), losses.Squared())
    judge = EstimatedJudge(problem, Claims(Accuracy(1e-6), Accuracy(1e-6)), "float64")
    assert not judge.in_range
    assert np.isinf(judge.z_error.total).all()
