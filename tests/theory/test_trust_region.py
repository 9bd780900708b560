"""Trust-region Newton against itself (theory: trust-region): the
identity, the certificate, and two independent solvers of the subproblem."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Poisson, PseudoHuber, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import flow_velocity
from deqverify.theory.trust_region import smoothing, subproblem
from tests.examples import random_problem, random_problems
from tests.theory.test_dissipation import explicit_D, slack

GAMMAS = [0.5, 0.9]


def velocity_of(exact: ClosedForm) -> np.ndarray:
    return flow_velocity(exact, exact.gradient["A"], exact.gradient["B"]).T.ravel()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_hessian_and_metric_add_up_to_the_inverse_of_D(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        newton = subproblem(exact)
        together = newton.delta * newton.H + newton.metric
        identity = together @ explicit_D(exact)
        size = np.abs(together) @ np.abs(explicit_D(exact))
        assert np.all(np.abs(identity - np.eye(len(identity))) <= slack(exact) * size.max())


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_metric_is_positive_definite(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        newton = subproblem(ClosedForm(problem))
        assert np.linalg.eigvalsh(newton.metric)[0] > 0


def fisher_of(exact: ClosedForm) -> np.ndarray:
    """``𝓕 = Σ_i z_iz_iᵀ ⊗ ∇²ℓ_i``, one Kronecker product a data point."""
    curvature = exact.problem.loss.hessian(exact.F, exact.problem.Y)
    size = exact.problem.p * exact.problem.m
    points = (np.kron(np.outer(z, z), C) for z, C in zip(exact.Z.T, curvature, strict=True))
    return sum(points, np.zeros((size, size)))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_delta_is_half_of_the_largest_that_is_admissible(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        delta, spread, fisher = subproblem(exact).delta, smoothing(exact), fisher_of(exact)
        # 𝒮^½𝓕𝒮^½ has the eigenvalues of 𝒮𝓕, the largest 1/(2δ): so 𝒮⁻¹ − δ𝓕 ⪰ ½𝒮⁻¹ and 𝒮⁻¹ − 2δ𝓕 is singular.
        inverse, top = np.linalg.inv(spread), float(np.linalg.eigvalsh(spread)[-1])
        rounding = slack(exact) * np.linalg.norm(inverse, 2)
        assert np.linalg.eigvalsh(inverse - delta * fisher)[0] >= 0.5 / top - rounding
        assert abs(np.linalg.eigvalsh(inverse - 2 * delta * fisher)[0]) <= rounding


@pytest.mark.parametrize("gamma", GAMMAS)
def test_H_is_the_derivative_of_the_shallow_gradient(gamma: float) -> None:
    h = 2.0**-17  # balances truncation h² and rounding u/h, both near 2⁻³⁵
    rng = np.random.default_rng(0)
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        d = rng.normal(size=exact.W.shape)
        F, along, Phi = exact.W @ problem.Phi, d @ problem.Phi, np.abs(problem.Phi)
        ends = [problem.loss.gradient(F + sign * h * along, problem.Y) @ problem.Phi.T for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * h)
        # Third derivatives of a loss's gradient along a direction of size s are at most s³ (softmax and σ: below 1);
        # gradients of terms rounded 20 times each, products with Φ included; F + hd itself rounded, curvature ≤ 3.
        size = float(problem.loss.terms(F, problem.Y).max(initial=0.0)) + 3 * float(np.abs(F).max(initial=0.0))
        entry = h**2 * float(np.abs(along).max(initial=0.0)) ** 3 + 20 * 2.0**-53 * size / h
        found = (subproblem(exact).H @ d.T.ravel()).reshape(d.T.shape).T
        assert np.all(np.abs(found - difference) <= entry * Phi.sum(axis=1))


def certificate(exact: ClosedForm, grad_A: np.ndarray, grad_B: np.ndarray) -> float:
    """The largest residual over the rounding allowed to it."""
    newton, velocity = subproblem(exact), flow_velocity(exact, grad_A, grad_B)
    size = np.abs(newton.delta * newton.H + newton.metric) @ np.abs(velocity.T.ravel()) + np.abs(newton.g)
    return float(np.abs(newton.residual(velocity)).max() / (slack(exact) * size.max()))


WRONG = {
    "the sign of ∂A": lambda A, B: (-A, B),
    "no ∂A": lambda A, B: (0 * A, B),
    "no ∂B": lambda A, B: (A, 0 * B),
    "half of both": lambda A, B: (A / 2, B / 2),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_the_certificate_refuses_a_wrong_gradient(wrong: str) -> None:
    judged = 0
    for problem in random_problems(30, 0.5):
        exact = ClosedForm(problem)
        A, B = exact.gradient["A"], exact.gradient["B"]
        if np.linalg.norm(A) < 1e-3 * np.linalg.norm(B) or not B.any():  # m = 1: ∂A vanishes, nothing to be wrong
            continue
        judged += 1
        assert certificate(exact, *WRONG[wrong](A, B)) > 10.0  # ten times what rounding is allowed
    assert judged >= 10


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_certificate_vanishes_for_exact_gradients(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        newton = subproblem(exact)
        residual = newton.residual(flow_velocity(exact, exact.gradient["A"], exact.gradient["B"]))
        size = np.abs(newton.delta * newton.H + newton.metric) @ np.abs(velocity_of(exact)) + np.abs(newton.g)
        assert np.abs(residual).max(initial=0.0) <= slack(exact) * size.max(initial=0.0)


@pytest.mark.parametrize("loss", [PseudoHuber(0.25), LogCosh(), Poisson(0.125)], ids=repr)
def test_the_certificate_vanishes_and_refuses_for_every_smooth_loss(loss) -> None:  # type: ignore[no-untyped-def]
    judged = 0
    for seed in range(30):
        exact = ClosedForm(random_problem(seed, 0.5, loss))
        A, B = exact.gradient["A"], exact.gradient["B"]
        assert certificate(exact, A, B) <= 1.0
        if np.linalg.norm(A) < 1e-3 * np.linalg.norm(B) or not B.any():
            continue
        judged += 1
        assert all(certificate(exact, *wrong(A, B)) > 10.0 for wrong in WRONG.values())
    assert judged >= 10


def test_a_loss_without_a_hessian_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^loss: HingeSquared"):
        subproblem(ClosedForm(random_problem(1, loss=HingeSquared())))


@pytest.mark.filterwarnings("error")
def test_a_curvature_that_all_but_underflows_is_handled() -> None:
    one = np.ones((1, 1))
    problem = SoftmaxProblem(
        0 * one, 1e6 * 352.0 * one, 5e-7 * one, 0 * one, 0.5, LogCosh()
    )  # F = 352, 1/cosh² F ≈ 1e-305
    newton = subproblem(ClosedForm(problem))
    assert 0 < newton.H[0, 0] < 1e-310
    assert np.isfinite(newton.metric).all()
    assert newton.delta == 1.0


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_velocity_solves_the_secular_equation(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        newton, flowing = subproblem(exact), velocity_of(exact)
        v = newton.delta * flowing
        radius = np.sqrt(v @ newton.metric @ v)
        if radius == 0:
            continue
        values, vectors = scipy.linalg.eigh(newton.H, newton.metric)  # vectorsᵀ metric vectors = I
        weights = vectors.T @ newton.g

        def length(mu: float, values=values, weights=weights) -> float:  # type: ignore[no-untyped-def]
            return float(np.linalg.norm(weights / (values + mu)))

        low, high = 1e-12 * (1 / newton.delta), 1e6 * (1 / newton.delta)
        mu = scipy.optimize.brentq(lambda t, radius=radius: length(t) - radius, low, high, xtol=1e-300, rtol=1e-14)
        solved = -vectors @ (weights / (values + mu))
        # The equation is solved to 1e-14; its conditioning is that of the metric, κ(U)² times that of 𝒮.
        tolerance = (1e-14 + slack(exact)) * np.linalg.cond(newton.metric)
        assert np.linalg.norm(solved - v) <= tolerance * np.linalg.norm(v)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_scipys_trust_krylov_takes_the_same_step(gamma: float) -> None:
    for problem in random_problems(15, gamma):
        exact = ClosedForm(problem)
        newton = subproblem(exact)
        v = newton.delta * velocity_of(exact)
        factor = np.linalg.cholesky(newton.metric)  # x = factorᵀ v has Euclidean length ‖v‖_metric
        radius = float(np.linalg.norm(factor.T @ v))
        if radius == 0:
            continue
        g = np.linalg.solve(factor, newton.g)
        H = np.linalg.solve(factor, np.linalg.solve(factor, newton.H).T)
        result = scipy.optimize.minimize(
            lambda x, g=g, H=H: float(g @ x + 0.5 * x @ H @ x),
            np.zeros(len(g)),
            jac=lambda x, g=g, H=H: g + H @ x,
            hess=lambda x, H=H: H,
            method="trust-krylov",
            options={"initial_trust_radius": radius, "max_trust_radius": 2 * radius, "maxiter": 1, "inexact": False},
        )
        # One step of trust-krylov reaches 1e-5 to 1e-6 of the minimiser.
        assert np.linalg.norm(result.x - factor.T @ v) <= 1e-5 * radius


@pytest.mark.parametrize("gamma", GAMMAS)
def test_no_point_of_the_ball_lies_lower_and_the_multiplier_is_one_over_delta(gamma: float) -> None:
    """The conditions of Moré and Sorensen, and the minimum that they promise against points drawn from the ball."""
    rng = np.random.default_rng(0)
    for problem in random_problems(15, gamma):
        exact = ClosedForm(problem)
        newton = subproblem(exact)
        v = newton.delta * velocity_of(exact)
        shifted = newton.H + newton.metric / newton.delta
        size = float(np.abs(shifted).sum())
        assert np.linalg.eigvalsh(shifted)[0] >= -slack(exact) * size
        assert np.abs(shifted @ v + newton.g).max() <= slack(exact) * (size * np.abs(v).max() + np.abs(newton.g).max())
        # Points of the ellipsoid's surface and inside it: x = factor⁻ᵀ u·radius with ‖u‖ ≤ 1.
        factor = np.linalg.cholesky(newton.metric)
        radius = np.linalg.norm(factor.T @ v)
        directions = rng.normal(size=(len(v), 50))
        directions *= radius * np.linspace(0.02, 1.0, 50) / np.linalg.norm(directions, axis=0)
        points = np.linalg.solve(factor.T, directions)
        lowest = float(newton.g @ v + 0.5 * v @ newton.H @ v)
        values = newton.g @ points + 0.5 * np.sum(points * (newton.H @ points), axis=0)
        scale = float(np.abs(newton.g) @ np.abs(v) + np.abs(v) @ np.abs(newton.H) @ np.abs(v))
        assert np.all(values >= lowest - slack(exact) * scale)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_residual_has_the_shape_of_the_velocity_and_is_vec_by_columns(gamma: float) -> None:
    for problem in random_problems(10, gamma):
        newton = subproblem(ClosedForm(problem))
        for k, j in np.ndindex(problem.p, problem.m):
            unit = np.zeros((problem.p, problem.m))
            unit[k, j] = 1.0
            found = newton.residual(unit) - newton.residual(0 * unit)
            column = (newton.delta * newton.H + newton.metric)[:, j * problem.p + k]
            assert found.shape == (problem.p, problem.m)
            rounding = 8 * 2.0**-53 * (np.abs(newton.g).max() + np.abs(column).max())
            assert np.abs(found.T.ravel() - column).max() <= rounding


def test_a_problem_with_a_gradient_is_among_those_solved() -> None:
    # The two solvers skip a radius of zero; they must have something left to solve.
    assert sum(bool(velocity_of(ClosedForm(problem)).any()) for problem in random_problems(15, 0.5)) >= 10


def test_a_loss_that_is_flat_everywhere_is_handled() -> None:
    rng = np.random.default_rng(0)
    problem = SoftmaxProblem(
        rng.normal(size=(3, 3)),
        rng.normal(size=(1, 3)),
        rng.normal(size=(3, 4)),
        np.ones((1, 4)),
        0.5,
        CrossEntropy(0.0),
    )
    exact = ClosedForm(problem)
    newton = subproblem(exact)
    assert newton.delta == 1.0
    assert not newton.g.any()
    assert not newton.H.any()
    assert not fisher_of(exact).any()
    assert not newton.residual(flow_velocity(exact, exact.gradient["A"], exact.gradient["B"])).any()


def test_smoothing_is_the_identity_where_the_softmax_is_constant() -> None:
    problem = SoftmaxProblem(np.zeros((1, 1)), np.ones((2, 1)), np.ones((1, 2)), np.zeros((2, 2)), 0.5, Squared())
    assert np.array_equal(smoothing(ClosedForm(problem)), np.eye(2))
