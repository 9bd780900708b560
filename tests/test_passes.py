"""What one pass of any cell may leave: the floors of residuals, a start's gradient, sweeps and tangents, by formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.cells import Contraction
from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.errors import BallErrors, passes
from deqverify.errors.claimed import claimed
from deqverify.oracle.balls import balls, beside, precision, radius
from tests.any_cell import Given, direct
from tests.test_balls import linear_problem, tanh_problem

NEAR = 1e-3
"""Jacobians are taken at the equilibrium here and over its box there: near enough to miss no term and no factor."""

STORED = {"float64": {}, "float32": {}, "bfloat16": {"bfloat16": "float32"}}
"""What is computed in, by dtype, where that is another one."""


def errors_of(given: Given, dtype: str, accuracy: Accuracy = DIRECT) -> BallErrors:
    claims = Claims(accuracy, accuracy, dtypes=("float64", "float32", "bfloat16"), computes_in=STORED[dtype])
    return BallErrors(given.cell, given.theta, given.x, claims, dtype, cotangent=given.cotangent)


def of_linear(dtype: str) -> Given:
    return linear_problem(4, 0.75, dtype)


def of_tanh(dtype: str) -> Given:
    return tanh_problem(7, 0.9, dtype)


def parts(of: BallErrors, given: Given) -> dict[str, Any]:
    """What the formulas are made of: magnitudes and matrices, (n, s) and (n, s, s)."""
    J = given.jacobian(of.z)
    z, adjoint = (np.abs(v).reshape(of.n, of.s) for v in (of.z, of.adjoint))
    with precision(of.computed):
        image = given.cell.step(of.exact.theta_balls, of.exact.x_balls)(beside(of.z, of.arithmetic.unit))
    return {"J": np.abs(J), "M": np.abs(np.linalg.inv(np.eye(of.s) - J)), "z": z, "adjoint": adjoint, "noise": image}


def times(matrices: Any, vectors: Any, turned: bool = False) -> np.ndarray:
    return np.einsum("nji,nj->ni" if turned else "nij,nj->ni", matrices, vectors)


def solve_rounding(of: BallErrors, answer: np.ndarray, turned: bool = False) -> np.ndarray:
    return 3 * of.s * of.arithmetic.unit * times(of.exact.growth, answer, turned)


def stored(of: BallErrors, answer: np.ndarray) -> np.ndarray:
    return (of.arithmetic.storage + 2.0**-53) * answer


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.all(found >= expected * (1 - NEAR)) and np.all(found <= expected * (1 + NEAR) + 1e-37))


@pytest.mark.parametrize("make", [of_linear, of_tanh])
@pytest.mark.parametrize("dtype", list(STORED))
def test_the_floor_of_a_residual_is_its_formula_and_no_direct_answer_exceeds_it(make: Any, dtype: str) -> None:
    given = make(dtype)
    of = errors_of(given, dtype)
    known = parts(of, given)
    z = known["z"]
    expected = 2.0 * radius(known["noise"]).reshape(z.shape) + solve_rounding(of, z)
    expected = expected + stored(of, z) + times(known["J"], stored(of, z))
    floor = passes.residual_floor(of)
    assert near(floor, expected.sum(axis=1))
    if not of.arithmetic.storage:
        answer = np.asarray(direct(given, dtype).z, dtype=np.float64)
        assert np.all(np.abs(of.exact.residual(answer)).sum(axis=1) <= floor)


@pytest.mark.parametrize("make", [of_linear, of_tanh])
@pytest.mark.parametrize("dtype", list(STORED))
def test_the_floor_of_an_adjoints_residual_is_its_formula(make: Any, dtype: str) -> None:
    given = make(dtype)
    of = errors_of(given, dtype, Accuracy(1e-3))  # so that what an error of ẑ moves is a part of it
    known = parts(of, given)
    answer = known["adjoint"]
    expected = of.adjoint_noise + solve_rounding(of, answer, True) + stored(of, answer)
    expected = expected + times(known["J"], stored(of, answer), True) + 2.0 * of.adjoint_moved
    assert near(passes.adjoint_floor(of), expected.sum(axis=1))
    if make is of_tanh:
        assert np.all(of.adjoint_moved.sum(axis=1) > 1e-5)


@pytest.mark.parametrize(
    "accuracy", [DIRECT, Accuracy(1e-3, norm="1"), Accuracy(1e-3, norm="max", of="value")], ids=str
)
@pytest.mark.parametrize("make", [of_linear, of_tanh])
def test_a_starts_gradient_is_allowed_its_formula(make: Any, accuracy: Accuracy) -> None:
    given, dtype = make("float32"), "float32"
    of, norm = errors_of(given, "float32", accuracy), Contraction(0.75, "1")
    known = parts(of, given)
    answer, J = known["adjoint"], known["J"]
    solve = np.linalg.norm(solve_rounding(of, answer, True), axis=1)[:, None]  # however it is spread over the entries
    left = of.adjoint_noise + solve + stored(of, answer)
    left = left + times(J, stored(of, answer), True)
    image = times(J, of.adjoint_error().total.reshape(answer.shape), True) + of.adjoint_moved + left
    claim = claimed(accuracy, of.arithmetic, np.broadcast_to(np.eye(of.s), J.shape), answer, image)
    if accuracy.of == "value":
        claim = claim + times(J, claim, True)
    # Iterates that began within e of z* stay there in the 1-norm, and cotangents shrink in the maximum norm.
    reach = of.box.error.sum(axis=1)[:, None] * np.ones(of.s)
    varies = of.exact.jacobian(balls(of.exact.candidate, reach.reshape(of.shape))).radius.sum(axis=1)
    largest = np.abs(given.cotangent).reshape(of.n, of.s).max(axis=1)[:, None]
    curvature = of.adjoint_moved + 2.0 * varies * largest / (1.0 - 0.75)
    found = passes.start_gradient(of, norm)
    for name, expected in zip(found.terms, (left, claim, curvature), strict=True):
        assert near(found.terms[name].reshape(answer.shape), expected), (dtype, name)


def test_without_a_contraction_or_an_enclosure_a_starts_gradient_may_be_anything() -> None:
    of = errors_of(of_tanh("float64"), "float64")
    loose = errors_of(of_tanh("float64"), "float64", Accuracy(0.0, 10.0))
    for bound in (passes.start_gradient(of, None), passes.start_gradient(loose, Contraction(0.5, "2"))):
        assert np.isposinf(bound.total).all()
        assert bound.total.shape == of.shape
    assert np.isfinite(passes.start_gradient(of, Contraction(0.5, "2")).total).all()


def test_lengths_are_norms_of_data_points() -> None:
    states = np.array([[[3.0], [-4.0]], [[0.0], [0.0]]])
    found = {norm: passes.length(states, norm).tolist() for norm in ("1", "2", "max")}
    assert found == {"1": [7.0, 0.0], "2": [5.0, 0.0], "max": [4.0, 0.0]}
    assert passes.length(np.full((1, 2), 1e300), "2") == np.inf
    assert passes.length(np.zeros((1, 0)), "max") == 0.0
    assert {passes.DUAL[passes.DUAL[norm]] == norm for norm in passes.DUAL} == {True}


@pytest.mark.parametrize("seed", [1, 4, 7])
def test_a_sweep_in_float32_stays_below_its_model_anywhere_near(seed: int) -> None:
    """And that is no more than each of its operations rounding a few times: 4 · (m + d + 8)u of what is added."""
    given, reach, unit = tanh_problem(seed, 0.9, "float32"), 2.0**-6, 2.0**-24
    z = np.zeros_like(given.cotangent)
    allowed = passes.sweep_rounding(given.cell, given.theta, given.x, z, reach, unit)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        at = (z + reach * rng.uniform(-1, 1, z.shape)).astype(np.float32)
        off = given.cast("float32").f(at).astype(np.float64) - given.f(at.astype(np.float64))
        assert np.all(np.abs(off) <= allowed)
    W, U, b = (np.abs(given.theta[name]) for name in ("W", "U", "b"))
    sizes = (np.abs(z) + reach) @ W.T + np.abs(given.x) @ U.T + b
    assert np.all(allowed >= unit * np.abs(given.f(z)))
    assert np.all(allowed <= 4 * (sum(U.shape) + 8) * unit * (sizes + 1.0))
    twice = passes.sweep_rounding(given.cell, given.theta, given.x, z, reach, 2 * unit)
    assert np.all(np.abs(twice - 2 * allowed) <= 2.0**-50 * twice)


def test_a_sweep_that_leaves_the_range_may_round_to_anything() -> None:
    given = tanh_problem(1)
    theta = given.theta | {"W": np.full_like(given.theta["W"], 1e308)}
    assert np.isposinf(passes.sweep_rounding(given.cell, theta, given.x, 0 * given.cotangent + 1e308, 1.0, 1e-16)).all()


def along(given: Given) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=np.shape(v)) for k, v in given.theta.items()}, rng.normal(size=given.x.shape)


@pytest.mark.parametrize("make", [of_linear, of_tanh])
def test_a_tangent_is_the_difference_of_equilibria(make: Any) -> None:
    given = make("float64")
    theta, x = along(given)
    value, bound = passes.tangent(errors_of(given, "float64"), theta, x)
    h = 2.0**-17  # truncates at h² and rounds at 2⁻⁵²/h times 1/(1 − .9)³, a thousand: near 1e-7
    ends = []
    for sign in (1, -1):
        moved = {k: v + sign * h * theta[k] for k, v in given.theta.items()}
        ends.append(given._replace(theta=moved, x=given.x + sign * h * x).newton(np.zeros_like(given.cotangent)))
    assert np.abs((ends[0] - ends[1]) / (2 * h) - value).max() <= 1e-6 * max(1.0, np.abs(value).max())
    assert np.all(bound.total <= 1e-10 * np.abs(value).max())


@pytest.mark.parametrize("accuracy", [DIRECT, Accuracy(1e-4, norm="1")], ids=str)
@pytest.mark.parametrize("dtype", list(STORED))
@pytest.mark.parametrize("make", [of_linear, of_tanh])
def test_a_tangents_bound_is_its_formula(make: Any, dtype: str, accuracy: Accuracy) -> None:
    given = make(dtype)
    of = errors_of(given, dtype, accuracy)
    theta, x = along(given)
    value, bound = passes.tangent(of, theta, x)
    known, answer = parts(of, given), np.abs(value).reshape(of.n, of.s)
    lies = passes.Parts({k: balls(v) for k, v in theta.items()}, balls(x), balls(value))
    with precision(of.computed):
        noise = given.cell.push(of.exact.theta_balls, of.exact.x_balls, beside(of.z, of.arithmetic.unit), lies)
    noise, solve = 2.0 * radius(noise).reshape(answer.shape), solve_rounding(of, answer)
    rounding, claim, curvature = bound.terms.values()
    spread = np.linalg.norm(known["M"], axis=2) * np.linalg.norm(solve, axis=1)[:, None]
    assert near(rounding.reshape(answer.shape), times(known["M"], noise) + spread + stored(of, answer))
    left = noise + solve
    # Where the claim is met by f(ẑ) of a size beyond the true one, by what is allowed.
    image = times(known["J"], bound.total.reshape(answer.shape)) + left
    least = claimed(accuracy, of.arithmetic, known["M"], answer, 0.0 * image)
    most = claimed(accuracy, of.arithmetic, known["M"], answer, image)
    assert np.all(claim.reshape(answer.shape) >= least * (1 - NEAR))
    assert np.all(claim.reshape(answer.shape) <= most * (1 + NEAR))
    moved = given.cell.push(given.theta, given.x, of.z, passes.Parts(theta, x, value)) - value
    assert np.all(curvature.reshape(answer.shape) >= times(known["M"], np.abs(moved).reshape(answer.shape)) - 1e-12)


def test_where_nothing_is_enclosed_a_tangent_is_known_to_float64_and_allowed_anything() -> None:
    given = of_tanh("float64")
    theta, x = along(given)
    value, bound = passes.tangent(errors_of(given, "float64", Accuracy(0.0, 10.0)), theta, x)
    known, _ = passes.tangent(errors_of(given, "float64"), theta, x)
    assert np.abs(value - known).max() <= 1e-12 * np.abs(known).max()  # the condition, a hundred, of float64
    assert np.isposinf(bound.total).all()
    assert bound.total.shape == value.shape
