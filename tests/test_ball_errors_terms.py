"""The terms of what an implementation of any cell may differ by, each against its formula."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import scipy.linalg

from deqverify import losses
from deqverify.claims import DIRECT, Accuracy
from deqverify.errors.claimed import claimed
from deqverify.oracle.balls import balls, beside, middle, precision, radius
from deqverify.oracle.krawczyk import UNIT, growths, transposed
from deqverify.problem import CellProblem
from deqverify.reference.newton import NewtonLayer
from deqverify.registry import laws
from tests.any_cell import Given, worst
from tests.test_ball_errors import ACCURACIES, DTYPES, LINEAR, errors_of, ratios
from tests.test_balls import grid_problem, linear_problem, tanh_problem


def test_terms_are_named_and_the_error_of_a_cotangent_is_one() -> None:
    given = tanh_problem(5)
    errors = errors_of(given, ACCURACIES["relative"], "float32")
    names = ["rounding in float32, amplified", "claimed solver accuracy, amplified", "curvature (Krawczyk)"]
    assert list(errors.z_error.terms) == list(errors.adjoint_error().terms) == names
    off = 1e-3 * np.abs(given.cotangent)
    widened = errors.adjoint_error(off)
    assert list(widened.terms) == [*names, "error of the cotangent, amplified"]
    moved = given.adjoint(errors.z, given.cotangent + off * np.sign(given.cotangent))
    assert np.all(np.abs(moved - errors.adjoint) <= widened.total)
    assert np.any(np.abs(moved - errors.adjoint) > errors.adjoint_error().total)
    gradient = given.cell.pull(given.theta, given.x, errors.z, moved)
    assert np.all(np.abs(gradient.x - errors.pulled(off)["x"][0]) <= errors.pulled(off)["x"][1].total)


def test_a_claim_is_one_on_the_implementations_own_answer() -> None:
    """Near γ = 1 that is larger than the true one by rtol/(1−γ): here by up to a half, in both passes."""
    accuracy, grew = Accuracy(5e-3, norm="max"), defaultdict(int)
    for seed in range(6):
        given = linear_problem(seed, 0.99)
        errors = errors_of(given, accuracy, "float64")
        assert errors.decided
        plain = claimed(accuracy, errors.arithmetic, errors.exact.M, *still(errors.z))
        dual = np.swapaxes(errors.exact.M, 1, 2)
        plain_adjoint = claimed(accuracy, errors.arithmetic, dual, *still(errors.adjoint))
        for share in (0.999, -0.999):
            answer = worst(given, "float64", accuracy, 0, errors.z, share, rounds=60)
            assert max(ratios(errors, answer).values()) <= 1.0
            grew["z"] += bool(np.any(np.abs(answer.z - errors.z) > 1.1 * plain))
            grew["adjoint"] += bool(np.any(np.abs(answer.adjoint - errors.adjoint) > 1.1 * plain_adjoint))
    assert grew["z"] >= 2
    assert grew["adjoint"] >= 2


def still(answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(answer), np.zeros_like(answer)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_rounding_is_its_formula(dtype: str) -> None:
    """|M| 2 rad f(z*) and the norm of each row of M times that of 3su|PᵀL||U||z*|, and the same of the adjoint, to the
    rounding of float64 itself; of an equilibrium of a cell that is not linear in z the norms of both together."""
    for given in (tanh_problem(7, 0.9, dtype), linear_problem(4, 0.5, dtype), grid_problem(2, dtype)):
        errors = errors_of(given, DIRECT, dtype)
        n, s, unit = errors.n, errors.s, errors.arithmetic.unit
        theta, x = {k: balls(v) for k, v in given.theta.items()}, balls(given.x)
        z, adjoint = beside(errors.z, unit), beside(errors.adjoint, unit)
        with precision(dtype):
            image, pulled = given.cell.step(theta, x)(z), given.cell.pull(theta, x, z, adjoint)
        for i in range(n):
            system = np.eye(s) - given.jacobian(errors.z)[i]
            M = np.abs(np.linalg.inv(system))
            factors = [scipy.linalg.lu(each, permute_l=True) for each in (system, system.T)]
            own, other = (np.abs(lower) @ np.abs(upper) for lower, upper in factors)
            growth, forward = np.maximum(own, other.T), errors.z_error
            for bound, ball, answer, size, lu in (
                (forward, image, errors.z, M, growth),
                (errors.adjoint_error(), pulled.z, errors.adjoint, M.T, growth.T),
            ):
                noise, solve = 2.0 * radius(ball)[i].ravel(), 3 * s * unit * lu @ np.abs(answer[i].ravel())
                expected = size @ noise + np.linalg.norm(size, axis=1) * np.linalg.norm(solve)
                if bound is forward and given.cell != LINEAR:
                    expected = np.linalg.norm(size, axis=1) * np.linalg.norm(noise + solve)
                expected += 2.0**-53 * np.abs(answer[i].ravel())
                found = bound.terms[f"rounding in {dtype}, amplified"][i].ravel()
                # Another inverse, of a J of another rounding: the condition times 2⁻⁵³.
                assert np.all(np.abs(found - expected) <= 1e-9 * expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_equilibrium_at_which_nothing_rounds_is_forgiven_its_neighbours(dtype: str) -> None:
    """``31/32 z + 1`` has z* = 32, where no operation rounds. Some twenty units in the last place beside it there are
    other numbers that the rounded map keeps: half a unit lost, amplified by 32. All of IEEE arithmetic, on any
    processor."""
    given = Given(LINEAR, {"A": np.zeros((1, 1)), "gamma": np.asarray(31 / 32)}, np.ones((1, 1)), np.ones((1, 1)))
    errors = errors_of(given, DIRECT, dtype)
    f, spacing = given.cast(dtype).f, float(np.spacing(np.asarray(32.0, dtype=dtype)))
    kept = [k for k in range(-40, 41) if np.all(f(z := np.full((1, 1), 32.0 + k * spacing, dtype=dtype)) == z)]
    assert max(kept) >= 15
    assert max(np.abs(kept)) * spacing <= errors.z_error.total[0, 0]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_gradients_bound_is_its_formula(dtype: str) -> None:
    """Both ends of the pull-back over the boxes, and once more its radius at the point."""
    for given in (tanh_problem(7, 0.5, dtype), linear_problem(4, 0.5, dtype)):
        errors = errors_of(given, DIRECT, dtype)
        assert errors.decided
        theta, x = {k: balls(v) for k, v in given.theta.items()}, balls(given.x)
        with precision(dtype):
            boxes = balls(errors.z, errors.z_error.total), balls(errors.adjoint, errors.adjoint_error().total)
            wide = given.cell.pull(theta, x, *boxes)
            unit = errors.arithmetic.unit
            point = given.cell.pull(theta, x, beside(errors.z, unit), beside(errors.adjoint, unit))
        for name, (value, bound) in errors.pulled().items():
            ends, still = (parts.x if name == "x" else parts.theta[name] for parts in (wide, point))
            off = radius(ends) + np.abs(middle(ends) - value) + radius(still)
            assert np.all(bound.total >= off)
            assert np.all(bound.total <= off * (1 + 1e-9) + 2.0**-52 * np.abs(value) + 1e-30)  # tiny is below 1e-37


def test_a_direct_solve_may_factorise_the_transpose() -> None:
    """``[[.1, −.125], [0, 1]]`` has its own entries as ``|PᵀL||U|``; the transpose takes −.125 as its pivot, and may
    then be off by 16 units of the first entry."""
    J = np.array([[[0.9, 0.125], [0.0, 0.0]]])
    assert growths(J)[0] == pytest.approx(np.array([[0.1, 0.125], [1.6, 1.0]]), rel=4 * UNIT)
    assert np.array_equal(transposed(growths(J)), growths(transposed(J)))


def test_a_solve_that_keeps_the_norm_of_its_residual_alone_is_forgiven_it() -> None:
    """QR and SVD may spread what LU leaves over all entries: all of its norm in any one of them is allowed, no more."""
    given = tanh_problem(7)
    errors = errors_of(given, DIRECT, "float64")
    inverse, growth = errors.exact.M, errors.exact.growth
    answer = np.abs(errors.z).reshape(errors.n, errors.s)
    left = errors.solve_rounding(growth, answer)
    found = errors.direct(inverse, np.zeros_like(left), growth, answer) - errors.stored(answer)
    for k in range(errors.s):
        lengths = np.linalg.norm(inverse[:, k], axis=1) * np.linalg.norm(left, axis=1)
        direction = (
            inverse[:, k] / np.linalg.norm(inverse[:, k], axis=1)[:, None] * np.linalg.norm(left, axis=1)[:, None]
        )
        assert np.einsum("ij,ij->i", inverse[:, k], direction) == pytest.approx(lengths, rel=64 * UNIT)
        # 8 roundings of what is added and taken away again.
        assert np.all(np.abs(found[:, k] - lengths) <= 8 * UNIT * (found[:, k] + errors.stored(answer)[:, k]))


def test_an_entry_of_the_adjoint_beside_a_large_one_is_forgiven_the_solve_of_the_transpose() -> None:
    """A campaign's false alarm: an entry of 6·10⁻³ beside one of 1, in whose row the transpose has its pivot."""
    laws()["adjoint-certificate"].replay(
        NewtonLayer("numpy"),
        problem=CellProblem(
            cell="monotone",
            theta={"P": np.zeros((2, 2)), "Q": np.array([[0.0625, 0.0625], [-0.0625, -0.0625]]),
                   "mu": np.array(0.09999999999999998), "U": np.ones((2, 1)), "b": np.zeros(2)},
            x=np.ones((2, 1)), B=np.ones((1, 2)), Y=np.zeros((1, 2)), loss=losses.Squared(),
        ),
        cotangent=np.array([[1.5425621218572994, -0.7541655741667076], [-0.0006349197430704938, -1.1430742323565553]]),
    )  # fmt: skip
