"""Derivatives along a direction: the closed forms against the oracle, and the error analysis against longer numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify import SoftmaxProblem, losses
from deqverify.bounds import FLOAT64, Arithmetic, Errors
from deqverify.claims import DIRECT, Accuracy
from deqverify.inexact import Inexact
from deqverify.oracle import Oracle, closed
from deqverify.tangent_errors import TangentErrors
from deqverify.theory.closed_form import ClosedForm


def instance(seed: int, gamma: float = 0.75) -> tuple[SoftmaxProblem, np.ndarray, list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    m, n = 3, 2
    arrays = [rng.standard_normal(shape) for shape in ((m, m), (1, m), (m, n), (1, n))]
    directions = [
        {"A": rng.standard_normal((m, m)), "Phi": rng.standard_normal((m, n)), "gamma": np.asarray(0.125 * sign)}
        for sign in (1, -1)
    ]
    return SoftmaxProblem(*arrays, gamma, losses.Squared()), rng.standard_normal((m, n)), directions


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
        ahead = SoftmaxProblem(moved["A"], problem.B, moved["Phi"], problem.Y, float(moved["gamma"]), problem.loss)
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


def inexact(seed: int, shape: tuple[int, ...], unit: float) -> Inexact:
    rng = np.random.default_rng(seed)
    return Inexact(rng.uniform(1, 2, shape), rng.uniform(0, 1, shape), unit)


def test_without_rounding_an_error_is_what_the_farthest_factors_make() -> None:
    x, y, w = inexact(0, (2, 3), 0.0), inexact(1, (3, 4), 0.0), inexact(2, (2, 3), 0.0)
    far = [a.value + a.error for a in (x, y, w)]  # all values are positive, so this corner is the farthest
    cases = [
        (x @ y, far[0] @ far[1] - x.value @ y.value),
        (x * w, far[0] * far[2] - x.value * w.value),
        (x + w, x.error + w.error),
        (x - w, x.error + w.error),
        (x.sum(axis=0), x.error.sum(axis=0)),
        (x.sum(axis=1), x.error.sum(axis=1)),
        (x.sum(), x.error.sum()),
        (x.T, x.error.T),
    ]
    for found, expected in cases:
        assert found.error.shape == found.value.shape == expected.shape
        assert np.all(np.abs(found.error - expected) <= 64 * 2.0**-53 * (1 + expected))  # sums of up to 18 below 10


def test_of_exact_factors_an_error_is_the_rounding() -> None:
    unit = 2.0**-3  # any number will do
    x, y, w = (Inexact(a.value, 0 * a.value, unit) for a in (inexact(k, (2, 3), unit) for k in range(3)))
    w = Inexact(-w.value, w.error, unit)
    cases = [
        (x @ y.T, (3 + 1) * unit * (x.value @ y.value.T)),
        (x.T @ y, (2 + 1) * unit * (x.value.T @ y.value)),
        (x * w, unit * x.value * -w.value),
        (x + y, unit * (x.value + y.value)),
        (x - w, unit * (x.value - w.value)),
        (x + w, unit * np.abs(x.value + w.value)),
        (w.sum(axis=0), 2 * unit * -w.value.sum(axis=0)),
        (w.sum(axis=1), 3 * unit * -w.value.sum(axis=1)),
        (w.sum(), 6 * unit * -w.value.sum()),
    ]
    for found, expected in cases:
        assert found.unit == unit
        assert np.all(np.abs(found.error - expected) <= 16 * 2.0**-53 * (1 + expected))


CLAIMS = {
    "direct": (DIRECT, DIRECT),
    "relative": (Accuracy(1e-3), Accuracy(1e-2)),
    "absolute": (Accuracy(atol=1e-3), Accuracy(atol=1e-2)),
}


@pytest.mark.parametrize("case", list(CLAIMS))
def test_the_solves_along_a_direction_are_forgiven_by_formula(case: str) -> None:
    problem, cotangent, (d, _) = instance(3)
    errors = Errors(ClosedForm(problem, cotangent), Arithmetic.of("float16", "float32"), *CLAIMS[case])
    tangents = TangentErrors(errors, d)
    unit, storage = 2.0**-24, 2.0**-11
    assert tangents.S.unit == 2 * (unit + storage)

    excess = np.linalg.inv(errors.exact.U) - np.eye(problem.m)
    gain = float(np.sqrt(np.abs(excess).sum(axis=0).max() * np.abs(excess).sum(axis=1).max()))  # bounds the 2-norm

    def solved(value: np.ndarray, right: Inexact, norm: Any, width: float, claim: Accuracy) -> np.ndarray:
        points, off_norm = [], problem.m**0.5 / width
        for i in range(problem.n):
            size, given, off = (float(norm(np.abs(a[:, i]))) for a in (value, right.value, right.error))
            residual = errors.solve_rounding * (size + given) + off + errors.underflow
            if not claim.exact:  # on the answer's own size, which a residual r moves by at most ‖U⁻¹ − I‖₂ r
                wide = off_norm * residual
                own = claim.atol + claim.rtol * (float(np.linalg.norm(value[:, i])) + gain * wide)
                residual += width * (own / (1 - claim.rtol * gain) + errors.arithmetic.norm_floor)
            points.append(residual / (1 - problem.gamma) + storage * size)
        return np.array([points] * problem.m)

    forth, back = tangents._dK @ tangents.Z + tangents._dPhi, tangents._dK.T @ tangents.adjoint
    pairs = [
        (tangents.dZ, forth, np.sum, problem.m**0.5, errors.forward),
        (tangents.dadjoint, back, np.max, 1.0, errors.backward),
    ]
    for found, right, norm, width, claim in pairs:
        expected = solved(found.value, right, norm, width, claim)
        assert found.error.shape == expected.shape
        # Sums of what is ≥ 0 in float64, and the claim's norm summed in the dtype.
        close = 64 * 2.0**-53 if claim.exact else (problem.m * problem.n + 5) * errors.arithmetic.unit
        assert np.all(np.abs(found.error - expected) <= close * expected)


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


def test_a_precision_too_low_to_invert_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, cotangent, (d, e) = instance(2, gamma=1 - 2.0**-40)
    fine = Oracle(problem).second_derivative(cotangent, d, e, accuracy=0.0)
    monkeypatch.setattr(closed, "_FIRST_BITS", 8)  # U is singular, as far as 16 bits can tell
    assert Oracle(problem).second_derivative(cotangent, d, e, accuracy=0.0) == pytest.approx(fine, rel=2.0**-50)
