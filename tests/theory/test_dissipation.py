"""The linear rate against itself (theory: linear-rate): D built explicitly, its smallest eigenvalue,
the infimum, and the inequality for κ."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from flint import arb, arb_mat, ctx

from deqverify.losses import CrossEntropy, HingeSquared, Logistic, Loss, Poisson, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import (
    _projected,
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
    """``D = (U⁻ᵀ⊗I) 𝒮 (U⁻¹⊗I)``, written out with Kronecker products (theory: flow)."""
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


def deficient(problem: SoftmaxProblem, kind: str) -> SoftmaxProblem:
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
        problem = SoftmaxProblem(np.zeros((m, m)), np.ones((p, m)), Phi, Y, 0.5, Squared())
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
        found = infimum(SoftmaxProblem(np.zeros((m, m)), np.ones((p, m)), Phi, Y, 0.5, loss))
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


def test_the_floor_by_hand_and_how_near_it_comes() -> None:
    problem = random_problem(1, gamma=0.5)
    assert rate_floor(problem) == 1 / (problem.m * 2.25)
    # All columns of S nearly e₁ and W = 0: ‖U‖₂² is nearly 1 + mγ² and 𝒮 = I; the floor says m(1+γ)².
    m = 40
    A = np.zeros((m, m))
    A[0] = 60.0
    steep = SoftmaxProblem(A, np.zeros((1, m)), np.ones((m, 1)), np.zeros((1, 1)), 0.96, Squared())
    smallest = 1 / np.linalg.norm(ClosedForm(steep).U, 2) ** 2
    assert rate_floor(steep) <= smallest <= 1.96**2 / 0.96**2 * rate_floor(steep)


def test_the_lower_end_is_within_rounding_of_the_value_attained() -> None:
    for seed in range(24):
        problem = random_problem(seed)
        found = infimum(problem)
        values = np.linalg.svd(problem.Phi, compute_uv=False)
        if values[-1] < 1e-2 * values[0]:
            continue
        size = found.attained + float(np.sum(problem.Y**2))
        value = float(problem.loss.value(found.W @ problem.Phi, problem.Y))
        rounding = found.attained - value
        assert 2.0**-53 * value <= rounding <= 1e3 * 2.0**-53 * size  # at most 32 terms of 12 roundings, and the sum
        # The slack is a square: of the angle, 8 max(m, n) u σ₁/σ ≤ 1e-12, and of what Newton leaves of the gradient.
        assert max(0.0, value - rounding * (1 + 1e-6) - 1e-20 * size - 2.0**-52 * value) <= found.lower
        assert found.lower <= max(0.0, value - rounding * (1 - 1e-6)) + 2.0**-52 * value


def rows_in(values: list[float], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Φ with the given singular values, and its right singular vectors, all n of them (columns)."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return left * values @ right[:, : len(values)].T, right


@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e10])
@pytest.mark.parametrize("smallest", [1.0, 1e-6])
def test_a_projection_is_bounded_from_above_and_closely(scale: float, smallest: float) -> None:
    for seed in range(10):
        Phi, right = rows_in([scale, scale * smallest], 5, seed)
        inside, outside = 3.0 * right[:, :2].T, 3.0 * right[:, 2:].T  # (2, n) and (3, n)
        angle = 8 * 5 * 2.0**-53 / smallest
        # The decomposition itself turns vectors by an eighth of that angle and less.
        norm = np.linalg.norm(inside)
        assert norm * (1 - 2.0**-50) <= _projected(inside, Phi) <= norm * (1 + 1.2 * angle + 2.0**-50)
        assert 0.99 * angle <= _projected(outside, Phi) / np.linalg.norm(outside) <= 1.2 * angle + 2.0**-50


def test_a_direction_whose_singular_value_is_unknown_counts_as_reachable() -> None:
    for smallest, reachable in ((2.0**-25.5, False), (2.0**-26.5, True), (1e-12, True)):
        Phi, right = rows_in([1.0, smallest], 5, 0)
        outside = right[:, 2:].T
        share = _projected(outside, Phi) / np.linalg.norm(outside)
        assert share >= 1.0 if reachable else share < 1e-5
    assert _projected(np.ones((1, 3)), np.zeros((2, 3))) == 0.0


def weights(Phi: list[list[float]]) -> SoftmaxProblem:
    m, n = np.shape(Phi)
    return SoftmaxProblem(np.zeros((m, m)), np.ones((1, m)), np.array(Phi), np.zeros((1, n)), 0.5, Squared())


def test_kappa_by_hand() -> None:
    error = 4 * 2 * 2.0**-53 * 4.0  # 4 max(m, n) u σ₁
    assert polyak_lojasiewicz(weights([[4.0, 0.0], [0.0, 2.0]]), 1.0) == 2.0 * (2.0 - error) ** 2
    error = 4 * 3 * 2.0**-53 * 4.0
    assert polyak_lojasiewicz(weights([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), 1.0) == 2.0 * (2.0 - error) ** 2
    assert polyak_lojasiewicz(weights([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 1.0) == 2.0 * (4.0 - error) ** 2
    assert polyak_lojasiewicz(weights([[1.0, 0.0], [0.0, 1e-17]]), 1.0) == 0.0  # inside the error: nothing is known
    assert polyak_lojasiewicz(weights([[0.0, 0.0]]), 1.0) == 0.0
    error = 4 * 2 * 2.0**-53 * 2.0**-20  # it scales with Φ
    assert polyak_lojasiewicz(weights([[2.0**-20, 0.0], [0.0, 2.0**-50]]), 1.0) == 2.0 * (2.0**-50 - error) ** 2


def test_kappa_takes_the_curvature_at_the_level() -> None:
    problem = weights([[1.0]])
    for level in (0.5, 4.0):
        curved = SoftmaxProblem(problem.A, problem.B, problem.Phi, problem.Y, 0.5, Logistic(0.125))
        expected = Logistic(0.125).curvature(level) * (1.0 - 4 * 2.0**-53) ** 2
        assert polyak_lojasiewicz(curved, level) == expected


class PseudoHuber(Squared):
    """``Σ √(1 + (F − Y)²) − 1``: convex, and Newton's full step overshoots wherever ``|F − Y| > 1``."""

    def value(self, F: np.ndarray, Y: np.ndarray) -> np.ndarray:
        return np.sum(np.sqrt(1.0 + (F - Y) ** 2) - 1.0)

    def gradient(self, F: np.ndarray, Y: np.ndarray) -> np.ndarray:
        return (F - Y) / np.sqrt(1.0 + (F - Y) ** 2)

    def hessian(self, F: np.ndarray, Y: np.ndarray) -> np.ndarray:
        return np.einsum("ji,jk->ijk", (1.0 + (F - Y) ** 2) ** -1.5, np.eye(F.shape[0]))

    def curvature(self, level: float) -> float:
        return 0.0


def test_a_newton_step_that_overshoots_is_halved() -> None:
    problem = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[30.0]], 0.5, PseudoHuber())
    found = infimum(problem)
    assert found.attained <= 2.0**-50  # fitted: L* = 0, values of size 1 subtracted
    assert abs(found.W[0, 0] - 30.0) <= 1e-6  # a value of 2⁻⁵⁰ is a distance below 2⁻²⁴
    assert found.lower == 0.0


def test_where_no_step_lowers_the_value_the_start_is_kept() -> None:
    class Uphill(Squared):
        def gradient(self, F: np.ndarray, Y: np.ndarray) -> np.ndarray:
            return -2.0 * (F - Y)

    problem = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[3.0]], 0.5, Uphill())
    found = infimum(problem)
    assert (found.attained, found.W.tolist()) == (9.0 + (1 + 12) * 2.0**-53 * 9.0, [[0.0]])


def test_the_slack_of_the_lower_end_by_hand() -> None:
    # Without a Newton step W = 0 and dF = −2Y; row and singular value of Φ are exact. L* = 16.
    problem = SoftmaxProblem([[0.0]], [[1.0]], [[1.0, 0.0]], [[3.0, 4.0]], 0.5, Squared())
    found = infimum(problem, newton_steps=0)
    angle = 8 * 2 * 2.0**-53
    moved = (1 + 6) * 2.0**-53 * 10.0  # the rounding of dF, in length
    slack = (6.0 + angle * 10.0 + moved) ** 2 / 4.0  # of (−6, −8) only the first is reachable
    rounding = (2 + 12) * 2.0**-53 * 25.0  # two terms of a dozen roundings, at F = 0 exactly
    assert abs(found.attained - (25.0 + rounding)) <= 2.0**-48  # the last bit of 25
    assert abs(found.lower - (25.0 - slack - rounding)) <= 2.0**-48
    curved = SoftmaxProblem([[0.0]], [[1.0]], [[1.0, 0.0]], [[1.0, 0.5]], 0.5, Logistic(0.125))
    start = infimum(curved, newton_steps=0)
    dF = np.array([[-0.5, 0.0]])  # σ(0) − Y
    assert 0 < start.attained - 2 * np.log(2) <= 20 * 2.0**-53 * (2 * np.log(2) + 1)
    slack = 0.5**2 / (2 * Logistic(0.125).curvature(start.attained))
    assert np.array_equal(Logistic(0.125).gradient(np.zeros((1, 2)), curved.Y), dF)
    assert abs(start.lower - (start.attained - slack)) <= 256 * 2.0**-53  # both ends are widened, by 40 u each


def test_the_rounding_of_the_value_attained_by_hand() -> None:
    for seed, (m, p) in enumerate([(1, 1), (2, 3), (4, 2)]):
        rng = np.random.default_rng(seed)
        Phi, Y, unit = rng.normal(size=(m, 1)), rng.normal(size=(p, 1)), 2.0**-53
        found = infimum(SoftmaxProblem(np.zeros((m, m)), np.ones((p, m)), Phi, Y, 0.5, Squared()))
        F = found.W @ Phi  # fitted but for rounding, so that nothing hides the terms below
        expected = float(np.sum((F - Y) ** 2))
        for j in range(p):
            error = (m + 1) * unit * sum(abs(found.W[j, k] * Phi[k, 0]) for k in range(m))
            moved = 2 * error + (p + 6) * unit * 2 * (abs(F[j, 0]) + abs(Y[j, 0]))
            expected += (2 * abs(F[j, 0] - Y[j, 0]) + moved) * error + (p + 12) * unit * (F[j, 0] - Y[j, 0]) ** 2
        assert 0 < expected < 1e-28
        assert abs(found.attained - expected) <= 64 * unit * expected


def test_without_curvature_the_minimiser_found_is_returned() -> None:
    problem = random_problem(2, loss=Logistic(0.0))
    found = infimum(problem, newton_steps=3)
    value = float(problem.loss.value(found.W @ problem.Phi, problem.Y))
    assert value <= found.attained <= value + 1e3 * 2.0**-53
