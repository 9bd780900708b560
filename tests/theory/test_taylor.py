"""Bounds of §2 and §3 against samples: the Taylor remainder, every projector, the quotient by **1**."""

from __future__ import annotations

import numpy as np
import pytest

from deqverify import Problem, losses
from deqverify.losses import CrossEntropy, Loss
from deqverify.theory.closed_form import ClosedForm, dobrushin
from deqverify.theory.dissipation import (
    infimum,
    projected_floors,
    quotient_curvature,
    quotient_polyak_lojasiewicz,
    rate_floor,
    shallow_gradient,
)
from deqverify.theory.taylor import remainder

SMOOTH: list[tuple[Loss, str]] = [
    (losses.Squared(), "any"),
    (losses.PseudoHuber(0.5), "any"),
    (losses.LogCosh(), "any"),
    (losses.Logistic(0.125), "label"),
    (losses.CrossEntropy(0.125), "label"),
    (losses.Poisson(0.125), "label"),
    (losses.HingeSquared(0.125), "sign"),
]


def drawn(seed: int, loss: Loss, kind: str = "any", gamma: float = 0.75) -> Problem:
    rng = np.random.default_rng(seed)
    m, p, n = 3, 2, 4
    Y = rng.standard_normal((p, n))
    if kind == "label":
        Y = (np.arange(p)[:, None] == rng.integers(0, p, n)).astype(float)
    if kind == "sign":
        Y = np.sign(Y)
    return Problem(
        rng.standard_normal((m, m)), rng.standard_normal((p, m)), rng.standard_normal((m, n)), Y, gamma, loss
    )


@pytest.mark.parametrize(("loss", "kind"), SMOOTH, ids=lambda v: getattr(v, "name", v))
def test_the_remainder_is_below_its_bound_and_falls_with_the_square(loss: Loss, kind: str) -> None:
    for seed in range(20):
        problem = drawn(seed, loss, kind)
        rng = np.random.default_rng(1000 + seed)
        exact = ClosedForm(problem)
        direction = {block: rng.standard_normal(getattr(problem, block).shape) for block in ("A", "B", "Phi")}
        bounds = []
        for h in (2.0**-3, 2.0**-8, 2.0**-9):
            step = {block: h * d for block, d in direction.items()}
            ahead = Problem(
                problem.A + step["A"],
                problem.B + step["B"],
                problem.Phi + step["Phi"],
                problem.Y,
                problem.gamma,
                loss,
            )
            first = sum(float(np.sum(exact.gradient[block] * d)) for block, d in step.items())
            found = abs(ClosedForm(ahead).loss - exact.loss - first)
            bounds.append(remainder(exact, step))
            noise = 1e-13 * (abs(exact.loss) + abs(ClosedForm(ahead).loss) + 1)  # 500 u: sums of a dozen terms
            assert found <= bounds[-1] + noise
        assert bounds[2] <= bounds[1] / 3  # a quarter, but for the terms of higher order


def test_the_remainder_is_attained_up_to_its_constants_where_everything_is_known() -> None:
    # m = n = p = 1, γ = ½: L = (2bφ)², along φ the remainder is 4h² exactly; the factor two is the mean value's.
    problem = Problem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    found = remainder(ClosedForm(problem), {"Phi": np.array([[0.25]])})
    assert 4 * 0.25**2 <= found <= 8 * 0.25**2 * (1 + 2.0**-40)


def test_no_step_leaves_no_remainder() -> None:
    exact = ClosedForm(drawn(0, losses.Squared()))
    assert remainder(exact, {}) == 0.0
    assert remainder(exact, {"A": np.ones((3, 3))}) == 0.0  # a constant in every column changes nothing


def test_projected_floors_hold_for_every_rank() -> None:
    for seed in range(60):
        problem = drawn(seed, losses.Squared())
        if seed % 3 == 1:  # rank one
            problem = problem.with_features(np.outer(problem.Phi[:, 0], np.arange(1.0, 5.0)), problem.Y)
        if seed % 3 == 2:  # collinear but for 1e-12
            problem = problem.with_features(problem.Phi[:, :1] + 1e-12 * problem.Phi, problem.Y)
        exact = ClosedForm(problem)
        floors = projected_floors(exact)
        assert len(floors) == 3
        length = float(np.sum(exact.gradient["A"] ** 2) + np.sum(exact.gradient["B"] ** 2))
        assert floors.max() <= length
        G = shallow_gradient(exact)
        assert floors.max() <= rate_floor(problem) * float(np.sum(G**2)) * (1 + 1e-9)


def test_the_projected_floor_is_exact_on_orthonormal_features() -> None:
    problem = Problem(np.zeros((2, 2)), np.eye(2), 3.0 * np.eye(2), np.zeros((2, 2)), 0.5, losses.Squared())
    exact = ClosedForm(problem)
    full = 4 * rate_floor(problem) * 9.0 * float(np.sum(exact.F**2))  # k = rank, all singular values 3
    assert projected_floors(exact)[-1] == pytest.approx(full, rel=1e-12)


def soft(seed: int) -> Problem:
    problem = drawn(seed, CrossEntropy(0.0), "label")
    weights = np.exp(np.random.default_rng(seed).standard_normal(problem.Y.shape))
    return Problem(problem.A, problem.B, problem.Phi, weights / weights.sum(axis=0), problem.gamma, problem.loss)


def test_the_quotient_curvature_is_a_lower_bound_on_the_sublevel_set() -> None:
    inside = 0
    for seed in range(30):
        problem = soft(seed)
        level = ClosedForm(problem).loss
        rho = quotient_curvature(problem, level)
        assert rho > 0
        rng = np.random.default_rng(seed)
        for _ in range(200):
            F = rng.standard_normal(problem.Y.shape) * rng.choice([0.1, 1.0, 3.0])
            if float(problem.loss.value(F, problem.Y)) <= level:
                inside += 1
                for H in problem.loss.hessian(F, problem.Y):
                    quotient = np.array([1.0, -1.0]) / np.sqrt(2.0)  # p = 2: all that is orthogonal to 1
                    assert quotient @ H @ quotient >= rho * (1 - 1e-12)
    assert inside > 500


def test_the_quotient_inequality_holds_and_needs_the_quotient() -> None:
    for seed in range(30):
        problem = soft(seed)
        exact = ClosedForm(problem)
        kappa = quotient_polyak_lojasiewicz(problem, exact.loss)
        fall = exact.loss - infimum(problem).attained
        assert fall > 0
        assert 0.5 * float(np.sum(shallow_gradient(exact) ** 2)) >= kappa * fall
        assert problem.loss.curvature(exact.loss) == 0.0


def test_one_hot_targets_have_no_curvature_and_no_data_none_either() -> None:
    assert quotient_curvature(drawn(0, CrossEntropy(0.0), "label"), 1.0) == 0.0
    empty = Problem(np.eye(2), np.eye(2), np.zeros((2, 0)), np.zeros((2, 0)), 0.5, CrossEntropy(0.0))
    assert quotient_curvature(empty, 1.0) == 0.0


def test_the_rate_without_mass_is_gamma_tau_and_never_above_gamma() -> None:
    for seed in range(20):
        exact = ClosedForm(drawn(seed, losses.Squared()))
        gamma_tau = exact.problem.gamma * dobrushin(exact.S)
        assert gamma_tau <= exact.zero_mass_rate <= min(exact.problem.gamma, gamma_tau * (1 + 1e-14))
