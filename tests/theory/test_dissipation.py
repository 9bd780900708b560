"""§3 against itself: D built explicitly, its smallest eigenvalue, the infimum, and the inequality for κ."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from flint import arb, arb_mat, ctx

from deqverify.losses import CrossEntropy, HingeSquared, Logistic, Loss, Poisson, Squared
from deqverify.problem import Problem
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import (
    dissipation,
    flow_velocity,
    infimum,
    polyak_lojasiewicz,
    rate_floor,
    shallow_gradient,
)
from deqverify.theory.trust_region import smoothing
from tests.examples import LOSSES, random_problem, random_problems

GAMMAS = [0.5, 0.9, 0.99]


def explicit_D(exact: ClosedForm) -> np.ndarray:
    """``D = (U⁻ᵀ⊗I) 𝒮 (U⁻¹⊗I)``, written out with Kronecker products (THEORY.md §3 item 1)."""
    problem, p, m = exact.problem, exact.problem.p, exact.problem.m
    blocks = []
    for k in range(m):
        J = np.diag(exact.S[:, k]) - np.outer(exact.S[:, k], exact.S[:, k])
        blocks.append(np.eye(p) + problem.gamma**2 * exact.W @ J @ J @ exact.W.T)
    smoothing = np.zeros((p * m, p * m))
    for k, block in enumerate(blocks):
        smoothing[k * p : (k + 1) * p, k * p : (k + 1) * p] = block
    inverse = np.kron(np.linalg.inv(exact.U), np.eye(p))
    return inverse.T @ smoothing @ inverse


def slack(exact: ClosedForm) -> float:
    """Relative rounding of products with two inverses of U: a few hundred operations × κ(U)²."""
    gamma = exact.problem.gamma
    return 300 * 2.0**-53 * ((1 + gamma) / (1 - gamma)) ** 2


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_dissipation_is_a_quadratic_form_in_the_shallow_gradient(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        g = shallow_gradient(exact).T.ravel()
        D = explicit_D(exact)
        size = float(np.abs(g) @ np.abs(D) @ np.abs(g))
        assert abs(sum(dissipation(exact)) - float(g @ D @ g)) <= slack(exact) * size
        gradient = exact.gradient
        squared = float(np.sum(gradient["A"] ** 2) + np.sum(gradient["B"] ** 2))
        assert abs(squared - float(g @ D @ g)) <= slack(exact) * size


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_parts_of_the_dissipation_are_those_of_the_gradient(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        from_B, from_A = dissipation(exact)
        gradient, g = exact.gradient, shallow_gradient(exact).T.ravel()
        size = float(np.abs(g) @ np.abs(explicit_D(exact)) @ np.abs(g))
        assert abs(from_B - float(np.sum(gradient["B"] ** 2))) <= slack(exact) * size
        assert abs(from_A - float(np.sum(gradient["A"] ** 2))) <= slack(exact) * size


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_flow_moves_the_shallow_model_by_minus_D_g(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        velocity = flow_velocity(exact, exact.gradient["A"], exact.gradient["B"])
        D, g = explicit_D(exact), shallow_gradient(exact).T.ravel()
        size = float((np.abs(D) @ np.abs(g)).max(initial=0.0))
        assert np.abs(velocity.T.ravel() + D @ g).max(initial=0.0) <= slack(exact) * size


@pytest.mark.parametrize("gamma", [*GAMMAS, 1 - 1e-6])
def test_the_smallest_eigenvalue_is_above_the_floor_whatever_the_width(gamma: float) -> None:
    for problem in random_problems(60, gamma):
        # λ_min(D) = 1/‖D⁻¹‖₂, evaluated on the well-conditioned inverse.
        exact = ClosedForm(problem)
        half = np.kron(exact.U, np.eye(problem.p))
        largest = np.linalg.eigvalsh(half @ np.linalg.inv(smoothing(exact)) @ half.T)[-1]
        assert 1 / largest >= rate_floor(problem) * (1 - 300 * 2.0**-53)


def deficient(problem: Problem, kind: str) -> Problem:
    if kind == "duplicated":
        return problem.with_features(problem.Phi[:, np.zeros(problem.n, dtype=int)], problem.Y)
    if kind == "zero":
        return problem.with_features(0 * problem.Phi, problem.Y)
    if kind == "nearly collinear":
        return problem.with_features(problem.Phi[:, :1] + 1e-12 * problem.Phi, problem.Y)
    return problem


KINDS = ["plain", "duplicated", "zero", "nearly collinear"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_infimum_is_enclosed(kind: str, loss: Loss) -> None:
    for seed in range(12):
        problem = deficient(random_problem(seed, loss=loss), kind)
        found = infimum(problem)
        loss, Phi, Y = problem.loss, problem.Phi, problem.Y
        assert found.lower <= found.attained
        if isinstance(loss, Squared):
            best = float(np.sum((np.linalg.lstsq(Phi.T, Y.T, rcond=None)[0].T @ Phi - Y) ** 2))
        else:
            result = scipy.optimize.minimize(
                lambda w, problem=problem: float(
                    problem.loss.value(w.reshape(problem.p, problem.m) @ problem.Phi, problem.Y)
                ),
                np.zeros(problem.p * problem.m),
                jac=lambda w, problem=problem: (
                    problem.loss.gradient(w.reshape(problem.p, problem.m) @ problem.Phi, problem.Y) @ problem.Phi.T
                ).ravel(),
                method="BFGS",
                options={"gtol": 1e-10},
            )
            best = float(result.fun)
        if kind == "nearly collinear":  # W of size 1e12 rounds the optimiser's own outputs to 1e-4
            assert found.lower <= best + 1e-3
            continue
        rounding = 100 * 2.0**-53 * (best + float(np.sum(Y**2)) + 1)
        assert found.lower <= best + rounding
        assert found.attained >= best - max(rounding, 1e-12 * (1 + best))  # the optimiser's own gtol² / curvature
        assert found.attained <= best + max(rounding, 1e-12 * (1 + best))


def exact_least_squares(Phi: np.ndarray, Y: np.ndarray) -> float:
    """``‖Y‖² − ⟨YΦᵀ(ΦΦᵀ)⁻¹, YΦᵀ⟩`` at 1024 bits, for Φ of full row rank however nearly it fails."""
    with ctx.workprec(1024):
        X, T = arb_mat(Phi.tolist()), arb_mat(Y.tolist())
        cross = T * X.transpose()
        fitted = cross * (X * X.transpose()).inv() * cross.transpose()
        total = T * T.transpose()
        return float(sum((total[j, j] - fitted[j, j] for j in range(len(Y))), arb(0)).mid())


def test_on_nearly_collinear_data_the_infimum_is_that_of_ball_arithmetic() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, m = rng.integers(1, 4, size=2)
        base = rng.normal(size=(m, m + 3))
        Phi, Y = base[:, :1] + 1e-12 * base, rng.normal(size=(p, m + 3))
        problem = Problem(np.zeros((m, m)), np.ones((p, m)), Phi, Y, 0.5, Squared())
        found, best = infimum(problem), exact_least_squares(Phi, Y)
        rounding = 100 * 2.0**-53 * float(np.sum(Y**2))  # a sum of p(m + 3) ≤ 18 squares, and best's own rounding
        assert found.lower <= best + rounding
        # W reaches 1e12·‖Y‖, so outputs round by m·1e12·u·‖Y‖ each and the value by twice that times its root.
        outputs = 4 * m * 1e12 * 2.0**-53 * float(np.abs(Y).sum()) * float(np.abs(Phi).max())
        assert found.attained >= best - rounding - 2 * outputs * float(np.linalg.norm(Y)) - outputs**2


@pytest.mark.parametrize("kind", ["plain", "duplicated"])
def test_kappa_is_attained_along_the_weakest_direction(kind: str) -> None:
    """For the squared loss, ``L₀ − L* = σ²t²`` and ``½‖∇L₀‖² = 2σ⁴t²`` a step t along σ_min from the minimiser."""
    judged = 0
    for seed in range(24):
        problem = deficient(random_problem(seed, loss=Squared()), kind)
        u, values, _ = np.linalg.svd(problem.Phi)
        # Singular values that are zero in exact arithmetic come out near max(m, n)·u·σ₁.
        sigma = values[values > 1e-12 * values[0]][-1]
        if sigma < 1e-3 * values[0]:
            continue  # κ lowers σ by its error, which is to be far below σ here
        judged += 1
        W = infimum(problem).W + np.eye(problem.p)[:, :1] * u[:, int(np.argmin(np.abs(values - sigma)))]
        gap = sigma**2  # L₀ − L* without subtraction
        G = problem.loss.gradient(W @ problem.Phi, problem.Y) @ problem.Phi.T
        kappa = polyak_lojasiewicz(problem, float(problem.loss.value(W @ problem.Phi, problem.Y)))
        # Gradients of size ‖Φ‖²‖W‖ + ‖Y‖‖Φ‖ are rounded a hundred times, against 2σ²; σ/σ₁ ≥ 1e-3.
        size = float(values[0] * (values[0] * np.linalg.norm(W) + np.linalg.norm(problem.Y)))
        relative = 100 * 2.0**-53 * size / sigma**2
        assert 0.5 * float(np.sum(G**2)) >= kappa * gap * (1 - relative)
        if kind == "plain":  # exact zeros do not round to zeros: on duplicated data κ may only be smaller
            assert 0.5 * float(np.sum(G**2)) <= kappa * gap * (1 + relative + 1e-9)  # 8 max(m, n) u σ₁/σ ≤ 1e-11
    assert judged >= 10


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_on_well_conditioned_data_the_infimum_is_known_closely(loss: Loss) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        m, p = (int(size) for size in rng.integers(1, 4, size=2))
        n = m + 2
        Phi = np.linalg.qr(rng.normal(size=(n, m)))[0].T
        Y = np.rint(4 * np.abs(rng.normal(size=(p, n)))) if isinstance(loss, Poisson) else rng.normal(size=(p, n))
        Y = np.where(Y > 0, 1.0, -1.0) if isinstance(loss, HingeSquared) else Y
        Y = (Y > 0).astype(float) if isinstance(loss, Logistic | CrossEntropy) else Y
        found = infimum(Problem(np.zeros((m, m)), np.ones((p, m)), Phi, Y, 0.5, loss))
        # Newton's method ends at rounding: a hundred of the value's terms, at curvature 2τ = ¼ or e⁻²ᴸ at the least.
        size = float(np.sum(loss.value_terms(found.W @ Phi, Y) + loss.terms(found.W @ Phi, Y)))
        floor = loss.curvature(found.attained)
        assert 0.0 <= found.lower <= found.attained <= found.lower + 100 * 2.0**-53 * size * (1 + 2.0**-40 / floor)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_kappa_is_safe_on_the_sublevel_set(kind: str, loss: Loss) -> None:
    rng = np.random.default_rng(0)
    for seed in range(12):
        problem = deficient(random_problem(seed, loss=loss), kind)
        W0 = rng.normal(size=(problem.p, problem.m))
        level = float(problem.loss.value(W0 @ problem.Phi, problem.Y))
        kappa, lowest = polyak_lojasiewicz(problem, level), infimum(problem)
        for t in np.linspace(0.0, 1.0, 9):
            W = (1 - t) * W0 + t * lowest.W  # the sublevel set is convex
            value = float(problem.loss.value(W @ problem.Phi, problem.Y))
            G = problem.loss.gradient(W @ problem.Phi, problem.Y) @ problem.Phi.T
            size = float(np.sum(np.abs(problem.loss.terms(W @ problem.Phi, problem.Y)) @ np.abs(problem.Phi.T)))
            values = float(np.sum(problem.loss.value_terms(W @ problem.Phi, problem.Y)))
            rounding = 100 * 2.0**-53 * (size**2 + kappa * values)
            assert 0.5 * float(np.sum(G**2)) >= kappa * (value - lowest.attained) - rounding


def test_without_data_or_curvature_nothing_is_promised() -> None:
    empty = random_problem(1).with_features(np.zeros((random_problem(1).m, 0)))
    assert polyak_lojasiewicz(empty, 1.0) == 0.0
    assert infimum(empty).attained == 0.0
    for loss in (Logistic(0.0), CrossEntropy(0.0)):
        problem = random_problem(2, loss=loss)
        assert polyak_lojasiewicz(problem, 1.0) == 0.0
        assert infimum(problem, newton_steps=3).lower == 0.0
