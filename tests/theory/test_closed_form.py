"""The closed forms (theory: equilibrium, theory: gradient) against ball arithmetic, and the inequalities that bounds
rest on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg

from deqverify.oracle import Oracle
from deqverify.theory.closed_form import ClosedForm, dobrushin, softmax_jacobian
from tests.examples import random_problems

GAMMAS = [0.5, 0.9, 0.999]


def solve_slack(exact: ClosedForm) -> float:
    """Relative error of a backward-stable solve: unit roundoff × (3m‖|L||U|‖₁ + m + 8) × κ₁(U) (deqverify.bounds)."""
    m, gamma = exact.problem.m, exact.problem.gamma
    return 2.0**-53 * (3 * m * exact.growth + m + 8) * (1 + gamma) / (1 - gamma)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_equilibrium_is_the_oracles(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        error = np.abs(exact.Z - Oracle(problem).equilibrium().value).sum(axis=0)
        assert np.all(error <= solve_slack(exact) * np.abs(exact.Z).sum(axis=0))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_shallow_model_computes_the_same_outputs(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        size = np.abs(exact.W) @ np.abs(problem.Phi) + np.abs(problem.B) @ np.abs(exact.Z)
        assert np.all(np.abs(exact.W @ problem.Phi - exact.F) <= 2 * solve_slack(exact) * size.max(initial=0.0))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_inverse_is_above_the_identity_and_its_columns_have_a_known_mass(gamma: float) -> None:
    for problem in random_problems(30, gamma):
        exact = ClosedForm(problem)
        inverse = exact.solve(np.eye(problem.m))
        slack = solve_slack(exact) / (1 - gamma)
        assert np.all(inverse - np.eye(problem.m) >= -slack)
        assert np.allclose(inverse.sum(axis=0), 1 / (1 - gamma), rtol=solve_slack(exact), atol=0)
        condition = np.abs(exact.U).sum(axis=0).max() * np.abs(inverse).sum(axis=0).max()
        assert condition <= (1 + gamma) / (1 - gamma) * (1 + solve_slack(exact))


def test_growth_is_the_norm_of_the_factors() -> None:
    for problem in random_problems(30):
        exact = ClosedForm(problem)
        _, L, U = scipy.linalg.lu(exact.U)
        expected = float((np.abs(L) @ np.abs(U)).sum(axis=0).max())
        assert abs(exact.growth - expected) <= 4 * problem.m * 2.0**-53 * expected  # two ways of summing
        assert exact.growth <= 2 * (problem.m + 1)  # U is column diagonally dominant


def test_dobrushins_coefficient_by_brute_force() -> None:
    for problem in random_problems(30):
        S = ClosedForm(problem).S
        pairs = itertools.product(range(problem.m), repeat=2)
        expected = max(0.5 * sum(abs(S[k, i] - S[k, j]) for k in range(problem.m)) for i, j in pairs)
        assert abs(dobrushin(S) - expected) <= 4 * problem.m * 2.0**-53
        assert dobrushin(S) <= 1 - S.min(axis=1).sum() + 4 * problem.m * 2.0**-53


def test_dobrushins_coefficient_contracts_vectors_without_mass() -> None:
    rng = np.random.default_rng(0)
    for problem in random_problems(30):
        S = ClosedForm(problem).S
        v = rng.normal(size=(problem.m, 50))
        v -= v.mean(axis=0)
        slack = 8 * problem.m * 2.0**-53 * 4.0  # v without its mean keeps a mass of a few roundings of numbers below 4
        assert np.all(np.abs(S @ v).sum(axis=0) <= dobrushin(S) * np.abs(v).sum(axis=0) + slack)


def test_the_softmax_jacobian_is_its_differential() -> None:
    h = 2.0**-17  # truncation h²·6, rounding u/h
    rng = np.random.default_rng(0)
    for problem in random_problems(20):
        exact, d = ClosedForm(problem), rng.normal(size=problem.A.shape)
        ahead, behind = (ClosedForm(replace(problem, A=problem.A + sign * h * d)).S for sign in (1, -1))
        allowed = 6 * h**2 * np.abs(d).max() ** 3 + 8 * problem.m * 2.0**-53 / h
        assert np.abs((ahead - behind) / (2 * h) - softmax_jacobian(exact.S, d)).max() <= allowed


def test_a_given_cotangent_replaces_the_losss() -> None:
    for problem in random_problems(10):
        plain = ClosedForm(problem)
        given = ClosedForm(problem, plain.cotangent)
        assert np.array_equal(plain.adjoint, given.adjoint)


def test_dobrushins_coefficient_is_attained_on_a_pair_of_columns() -> None:
    for problem in random_problems(30):
        S, m = ClosedForm(problem).S, problem.m
        shares = [0.5 * np.abs(S @ (np.eye(m)[i] - np.eye(m)[j])).sum() for i in range(m) for j in range(m)]
        assert abs(max(shares) - dobrushin(S)) <= 4 * m * 2.0**-53


def perron(S: np.ndarray) -> np.ndarray:
    """The vector with ``Sπ = π`` and ``1ᵀπ = 1``: one column of a high power, S being positive."""
    for _ in range(12):  # S^4096, its columns rescaled against rounding
        S = S @ S
        S = S / S.sum(axis=0)
    return S[:, 0]


def test_the_perron_vector_by_brute_force() -> None:
    for problem in random_problems(30):
        exact, m = ClosedForm(problem), problem.m
        S, pi = exact.S, perron(exact.S)
        assert np.all(pi > 0)
        assert np.abs(S @ pi - pi).max() <= 100 * m * 2.0**-53  # a fixed point of the power itself, rounded
        # U π = (1 − γ)π: the slow mode of the equilibrium; 1ᵀU = (1 − γ)1ᵀ: that of the adjoint.
        slack = solve_slack(exact) / (1 - problem.gamma)
        assert np.abs(exact.solve(pi) - pi / (1 - problem.gamma)).max() <= slack + 400 * m * 2.0**-53
        assert np.abs(exact.solve_transposed(np.ones(m)) - 1 / (1 - problem.gamma)).max() <= 4 * slack
        # Asymptotically Picard's zero-mass errors fall by γ|λ₂|, at most by γτ at every step.
        others = np.sort(np.abs(np.linalg.eigvals(S)))[:-1]
        assert others.max(initial=0.0) <= dobrushin(S) + 1e-6  # eigenvalues of nonsymmetric S are worth √u at worst


def test_the_value_is_the_oracles_objective() -> None:
    for problem in random_problems(30):
        exact, oracle = ClosedForm(problem), Oracle(problem).objective()
        # F is good to solve_slack relative to |B||Z|; the loss moves by its gradient and its curvature, at most 3.
        size = (np.abs(problem.B) @ np.abs(exact.Z)).max(initial=0.0)
        allowed = solve_slack(exact) * size * float(np.abs(exact.dF).sum() + 3 * size) * 2
        rounding = (exact.F.size + 8) * 2.0**-53 * float(np.sum(exact.F**2 + problem.Y**2 + np.abs(exact.F) + 1.0))
        assert abs(exact.loss - float(oracle.value[0, 0])) <= allowed + rounding


def test_logits_of_any_size_have_a_softmax() -> None:
    problem = next(problem for problem in random_problems(30) if problem.m > 2)
    m = problem.m
    large = replace(problem, A=np.where(np.eye(m) > 0, 800.0, -800.0) * np.ones((m, m)))
    assert np.array_equal(ClosedForm(large).S, np.eye(m))
    columns = np.broadcast_to(800.0 * (-1.0) ** np.arange(m), (m, m))  # constant in each column
    assert np.array_equal(ClosedForm(replace(problem, A=columns)).S, np.full((m, m), 1 / m))
