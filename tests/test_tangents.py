"""Derivatives along a direction: the closed forms against the oracle, and the error analysis against longer numbers."""

from __future__ import annotations

import numpy as np
import pytest

from deqverify import Problem, losses
from deqverify.bounds import FLOAT64, Arithmetic, Errors
from deqverify.oracle import Oracle
from deqverify.tangent_errors import Inexact, TangentErrors
from deqverify.theory.closed_form import ClosedForm


def instance(seed: int, gamma: float = 0.75) -> tuple[Problem, np.ndarray, list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    m, n = 3, 2
    arrays = [rng.standard_normal(shape) for shape in ((m, m), (1, m), (m, n), (1, n))]
    directions = [
        {"A": rng.standard_normal((m, m)), "Phi": rng.standard_normal((m, n)), "gamma": np.asarray(0.125 * sign)}
        for sign in (1, -1)
    ]
    return Problem(*arrays, gamma, losses.Squared()), rng.standard_normal((m, n)), directions


@pytest.mark.parametrize("seed", range(8))
def test_the_second_derivative_is_the_oracles_and_within_its_own_bound(seed: int) -> None:
    problem, cotangent, (d, e) = instance(seed)
    tangents = TangentErrors(Errors(ClosedForm(problem, cotangent), FLOAT64), d)
    for block, found in tangents.second.items():
        true = Oracle(problem).second_derivative(cotangent, d, {block: e[block]}, accuracy=1e-18)
        allowed = float(np.sum(found.error * np.abs(e[block])))
        assert abs(np.sum(found.value * e[block]) - true) <= allowed
        assert 0 < allowed <= 1e-9 * float(np.sum(np.abs(found.value)))  # the bound says something: 1e7 u


@pytest.mark.parametrize("seed", range(8))
def test_the_second_derivative_is_symmetric_in_its_directions(seed: int) -> None:
    problem, cotangent, (d, e) = instance(seed)
    oracle = Oracle(problem)
    forth, back = (oracle.second_derivative(cotangent, *pair, accuracy=1e-25) for pair in ((d, e), (e, d)))
    assert forth == pytest.approx(back, rel=2.0**-50)  # both are good to the last bits of float64


def test_the_second_derivative_agrees_with_differences_of_the_first() -> None:
    problem, cotangent, (d, _) = instance(0)
    h = 2.0**-18  # truncation h² = 1e-11 and rounding u/h = 3e-11, on quantities of size ten
    found = TangentErrors(Errors(ClosedForm(problem, cotangent), FLOAT64), d).second
    ends = []
    for sign in (1, -1):
        moved = {block: getattr(problem, block) + sign * h * d[block] for block in d}
        ahead = Problem(moved["A"], problem.B, moved["Phi"], problem.Y, float(moved["gamma"]), problem.loss)
        ends.append(ClosedForm(ahead, cotangent).gradient)
    for block, value in found.items():
        assert np.abs((ends[0][block] - ends[1][block]) / (2 * h) - value.value).max() <= 1e-8


def test_a_direction_along_nothing_gives_nothing() -> None:
    problem, cotangent, (d, e) = instance(1)
    zero = {block: 0 * value for block, value in d.items()}
    assert Oracle(problem).second_derivative(cotangent, zero, e, accuracy=1e-20) == 0.0
    found = TangentErrors(Errors(ClosedForm(problem, cotangent), FLOAT64), zero).second
    assert all(not value.value.any() for value in found.values())


def test_running_errors_hold_in_float32() -> None:
    unit = Arithmetic.of("float32").unit
    for seed in range(50):
        rng = np.random.default_rng(seed)
        X, Y = (rng.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
        x, y = (Inexact(a.astype(float), np.zeros((4, 4)), unit) for a in (X, Y))
        cases = {
            "product": (X @ Y - X * Y, x @ y - x * y),
            "sum": ((X * Y).sum(axis=0) + X[0], (x * y).sum(axis=0) + Inexact(x.value[0], 0 * x.value[0], unit)),
            "chain": ((X @ Y) @ (X * Y), (x @ y) @ (x * y)),
        }
        exact = {
            "product": x.value @ y.value - x.value * y.value,
            "sum": (x.value * y.value).sum(axis=0) + x.value[0],
            "chain": (x.value @ y.value) @ (x.value * y.value),
        }
        for name, (computed, bound) in cases.items():
            assert np.all(np.abs(computed - exact[name]) <= bound.error), name
            assert np.all(bound.error <= 1e-3), name  # and is not vacuous


def test_the_adjoint_swings_less_than_it_errs() -> None:
    """Half the oscillation of ``U⁻ᵀr`` is at most ``‖r‖_∞/(1−γτ)``, for any residual r; the error may be more."""
    worst = 0.0
    for seed in range(50):
        problem, cotangent, _ = instance(seed, gamma=0.99)
        exact = ClosedForm(problem, cotangent)
        errors = Errors(exact, FLOAT64)
        r = np.random.default_rng(seed).uniform(-1, 1, cotangent.shape)
        error = exact.solve_transposed(r)
        swing = (error.max(axis=0) - error.min(axis=0)) / 2
        scaled = errors.swing_from(np.abs(r).max(axis=0)) - errors.swing_from(0.0)
        assert np.all(swing <= scaled * (1 + 1e-9))
        assert np.all(errors.swing_from(0.0) <= errors.adjoint_from(0.0) * (1 + 1e-9))
        worst = max(worst, float((swing / scaled).max()))
    assert worst > 0.1  # and it is near enough to be of use
