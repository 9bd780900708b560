"""The closed forms of THEORY.md §1 and §2 against ball arithmetic, and the inequalities that bounds rest on."""

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
