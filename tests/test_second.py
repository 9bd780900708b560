"""Second derivatives of any cell: pairs of value and derivative against differences, the oracle against formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.bounds import Arithmetic, Errors
from deqverify.cells import cells
from deqverify.claims import Claims
from deqverify.dtypes import Array
from deqverify.dual import Dual
from deqverify.errors.balls import BallErrors
from deqverify.errors.second import second
from deqverify.inexact import Inexact
from deqverify.losses import Squared
from deqverify.oracle.closed import OracleError
from deqverify.oracle.polished import Polished
from deqverify.oracle.second import second_derivative
from deqverify.problem import SoftmaxProblem
from deqverify.tangent_errors import TangentErrors
from deqverify.theory.closed_form import ClosedForm
from tests.cell_examples import sample

CELLS = cells()
UNIT = 2.0**-52


def drawn(name: str) -> tuple[Any, dict[str, Array], Array]:
    """A cell, θ and x of two data points, Gaussian."""
    theta, x = next(found for found in sample(name, 12, largest_n=2) if len(found[1]) == 2 and found[1].size > 2)
    rng = np.random.default_rng(3)
    moved = {k: v + 2.0**-3 * rng.standard_normal(np.shape(v)) for k, v in theta.items()}
    return CELLS[name], moved, x + rng.standard_normal(x.shape)


def dual(value: Array, tangent: Array) -> Dual:
    none = np.zeros(np.shape(value))
    return Dual(Inexact(np.asarray(value), none, UNIT), Inexact(np.asarray(tangent), none, UNIT))


@pytest.mark.parametrize("name", CELLS)
def test_a_pull_back_of_pairs_is_the_derivative_of_the_pull_back(name: str) -> None:
    """Along random directions in everything, against central differences: h = 2⁻¹⁶ truncates near 2⁻³² times third
    derivatives, which are of size 1 here up to a hundred, and rounds near 2⁻⁵²/2⁻¹⁶."""
    cell, theta, x = drawn(name)
    rng = np.random.default_rng(4)
    z, c, dz, dc = rng.standard_normal((4, len(x), *cell.state(theta, x.shape[1:])))
    along = {k: rng.standard_normal(np.shape(v)) for k, v in theta.items()} | {"x": rng.standard_normal(x.shape)}

    def pulled(h: float) -> dict[str, Array]:
        at = {k: v + h * along[k] for k, v in theta.items()}
        parts = cell.pull(at, x + h * along["x"], z + h * dz, c + h * dc)
        return {**parts.theta, "x": parts.x, "z": parts.z}

    duals = {k: dual(v, along[k]) for k, v in theta.items()}
    parts = cell.pull(duals, dual(x, along["x"]), dual(z, dz), dual(c, dc))
    h = 2.0**-16
    ahead, behind, here = pulled(h), pulled(-h), pulled(0.0)
    for block, found in ({**parts.theta, "x": parts.x, "z": parts.z}).items():
        quotient = (ahead[block] - behind[block]) / (2 * h)
        close = 2.0**-24 * (1.0 + np.abs(quotient).max())
        assert np.all(np.abs(found.tangent.value - quotient) <= close), block
        assert np.all(np.abs(found.value.value - here[block]) <= found.value.error), block


def test_the_oracle_agrees_with_the_closed_form_of_the_linear_softmax_cell() -> None:
    rng = np.random.default_rng(0)
    A, x, c = rng.standard_normal((3, 3)), rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    direction = {"A": rng.standard_normal((3, 3)), "x": rng.standard_normal((2, 3)), "gamma": np.asarray(0.25)}
    problem = SoftmaxProblem(A, np.ones((1, 3)), x.T, np.zeros((1, 2)), 0.75, Squared())
    turned = {"A": direction["A"], "Phi": direction["x"].T, "gamma": direction["gamma"]}
    exact = TangentErrors(Errors(ClosedForm(problem, c.T), Arithmetic.of("float64")), turned).second
    found = second_derivative(Polished(problem.cell, problem.theta, problem.x), c, direction)
    for block, (value, off) in found.items():
        true = exact["Phi" if block == "x" else block].value
        true = true.T if block == "x" else true
        assert np.all(off <= 2.0**-100 * (1.0 + np.abs(true)))
        assert np.all(np.abs(value - true) <= 2.0**-40 * np.abs(true).max())  # κ(U)² = 49 of float64's rounding


@pytest.mark.parametrize("name", ["tanh", "attention", "monotone"])
def test_in_float64_bounds_are_a_small_part_of_derivatives_of_size_one(name: str) -> None:
    """That they hold what an honest implementation gives is seen by the law, ``tests/faults/test_nonlinear.py``."""
    cell, theta, x = drawn(name)
    rng = np.random.default_rng(5)
    x = 0.5 * x
    c = rng.standard_normal((len(x), *cell.state(theta, x.shape[1:])))
    errors = BallErrors(cell, theta, x, Claims(), "float64", cotangent=c)
    along = {k: rng.standard_normal(np.shape(v)) for k, v in theta.items()}
    dx = rng.standard_normal(x.shape)
    true = second_derivative(errors.exact, c, along | {"x": dx})
    for block, bound in second(errors, along, dx).items():
        assert np.all(bound.total > 0), block
        assert np.all(bound.total <= 2.0**-20 * (1.0 + np.abs(true[block][0]).max())), block


def test_at_a_kink_there_is_no_second_derivative() -> None:
    theta = {"W": np.array([[0.5]]), "U": np.zeros((1, 1)), "b": np.zeros(1)}
    polished = Polished(CELLS["relu"], theta, np.ones((1, 1)))
    with pytest.raises(OracleError):
        second_derivative(polished, np.ones((1, 1)), {"b": np.ones(1)})
