"""§4 against itself: the identity, the certificate, and two independent solvers of the subproblem."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from deqverify.losses import CrossEntropy, Squared
from deqverify.problem import Problem
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import flow_velocity
from deqverify.theory.trust_region import smoothing, subproblem
from tests.examples import random_problems
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


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_certificate_vanishes_for_exact_gradients(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        newton = subproblem(exact)
        residual = newton.residual(flow_velocity(exact, exact.gradient["A"], exact.gradient["B"]))
        size = np.abs(newton.delta * newton.H + newton.metric) @ np.abs(velocity_of(exact)) + np.abs(newton.g)
        assert np.abs(residual).max(initial=0.0) <= slack(exact) * size.max(initial=0.0)


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
        # THEORY.md §4: one step of trust-krylov reaches 1e-5 to 1e-6 of the minimiser.
        assert np.linalg.norm(result.x - factor.T @ v) <= 2e-5 * radius


def test_a_loss_that_is_flat_everywhere_is_handled() -> None:
    rng = np.random.default_rng(0)
    problem = Problem(
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
    assert not newton.residual(flow_velocity(exact, exact.gradient["A"], exact.gradient["B"])).any()


def test_smoothing_is_the_identity_where_the_softmax_is_constant() -> None:
    problem = Problem(np.zeros((1, 1)), np.ones((2, 1)), np.ones((1, 2)), np.zeros((2, 2)), 0.5, Squared())
    assert np.array_equal(smoothing(ClosedForm(problem)), np.eye(2))
