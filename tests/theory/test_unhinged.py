"""The linear flow of B and Φ under a constant ∂L/∂F, against SciPy's exponential and against gradients."""

from __future__ import annotations

import numpy as np
import pytest
from deqverify.properties.softmax import _flow_rounding
from flint import arb, arb_mat, ctx
from scipy.linalg import expm

from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.unhinged import Path, generator


def instance(seed: int) -> tuple[SoftmaxProblem, np.ndarray]:
    draws = np.random.default_rng(seed)
    m, p, n = draws.integers(1, 5, size=3)
    A, B, Phi, Y, D = (draws.standard_normal(s) for s in ((m, m), (p, m), (m, n), (p, n), (p, n)))
    return SoftmaxProblem(A, B, Phi, Y, (0.5, 0.9)[seed % 2], Squared()), D


ROUNDING = 1e3 * 2.0**-53
"""Relative: some tens of rows, κ₁(U) ≤ 19, and a growth of at most e."""


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_that_of_the_exponential_and_its_velocity_the_gradient(seed: int) -> None:
    problem, D = instance(seed)
    flow, start = generator(problem, D), Path.of(problem)
    state = np.concatenate([problem.B.T.ravel(order="F"), problem.Phi.ravel(order="F")])
    time = 1.0 / flow.largest
    expected = expm(flow.N * time) @ state
    found = flow.moved(start, time)
    assert np.allclose(
        np.concatenate([found.B.ravel(), found.Phi.ravel(order="F")]),
        expected,
        rtol=0,
        atol=ROUNDING * np.linalg.norm(expected),
    )
    exact = ClosedForm(problem, problem.B.T @ D)
    velocity = flow.N @ state
    size = ROUNDING * flow.largest * np.linalg.norm(state)
    p, m = problem.B.shape
    assert np.allclose(velocity[: p * m].reshape(p, m), -D @ exact.Z.T, rtol=0, atol=size)
    assert np.allclose(velocity[p * m :].reshape(-1, m).T, -exact.gradient["Phi"], rtol=0, atol=size)


@pytest.mark.parametrize("seed", range(6))
def test_the_fastest_growth_is_the_product_of_two_norms_and_the_balance_is_kept(seed: int) -> None:
    problem, D = instance(seed)
    flow, start = generator(problem, D), Path.of(problem)
    inverse = np.linalg.inv(ClosedForm(problem).U)
    assert flow.inverse == pytest.approx(np.linalg.norm(inverse, 2), rel=ROUNDING)
    assert flow.largest == pytest.approx(np.abs(np.linalg.eigvalsh(flow.N)).max(), rel=ROUNDING)
    assert flow.count == len(flow.N)
    ended = flow.moved(start, 1.0 / flow.largest)
    balances = [np.linalg.norm(at.B) ** 2 - np.linalg.norm(at.Phi) ** 2 for at in (start, ended)]
    assert balances[0] == pytest.approx(balances[1], abs=ROUNDING * ended.size**2)


def exact_end(problem: SoftmaxProblem, D: np.ndarray, time: float) -> np.ndarray:
    """Where the flow from ``problem`` is after ``time``, as Arb has it, of 200 bits: rows of B, then columns of Φ."""
    (p, n), m = D.shape, problem.m
    with ctx.workprec(200):
        E = [
            [(arb(a) - arb(top)).exp() for a, top in zip(row, problem.A.max(axis=0), strict=True)] for row in problem.A
        ]
        sums = [sum(column, arb(0)) for column in zip(*E, strict=True)]
        U = arb_mat([[arb(i == j) - arb(problem.gamma) * E[i][j] / sums[j] for j in range(m)] for i in range(m)])
        inverse, N = U.inv(), arb_mat(m * (p + n), m * (p + n))
        for a, b, i, j in np.ndindex(p, n, m, m):
            N[a * m + i, (p + b) * m + j] = N[(p + b) * m + j, a * m + i] = -arb(D[a, b]) * inverse[i, j]
        start = np.concatenate([problem.B.ravel(), problem.Phi.T.ravel()])
        ended = (N * arb(time)).exp() * arb_mat([[arb(value)] for value in start])
        return np.array([float(value.mid()) for value in ended.entries()])


@pytest.mark.parametrize("seed", range(8))
def test_the_law_allows_the_rounding_of_the_exponential_and_little_more(seed: int) -> None:
    """On one processor, a hundredth of what is allowed is needed."""
    problem, D = instance(seed)
    flow, start = generator(problem, D), Path.of(problem)
    time = 0.25 / flow.largest
    ended, exact = flow.moved(start, time), exact_end(problem, D, time)
    off = np.concatenate([ended.B.ravel(), ended.Phi.T.ravel()]) - exact
    allowed = _flow_rounding(problem, flow, time, 2) * np.exp(0.25) * start.size
    assert np.linalg.norm(off) <= allowed
    # 30 additions, 32 rows at a quarter of 32√32, and four states at 1/(1−γ) = 10 for U⁻¹: 300 units and growth.
    assert allowed <= 1000 * 2.0**-53 * start.size


def test_a_path_adds_scales_and_measures() -> None:
    one = Path(np.array([[3.0]]), np.array([[4.0]]))
    assert (one + one * -1.0).size == 0.0
    assert one.size == 5.0
    assert one.distance(one * 2.0) == 5.0
    assert one.finite
    assert not (one * np.nan).finite
    problem = SoftmaxProblem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), 0.5, Squared())
    assert one.on(problem).B[0, 0] == 3.0
    assert Path.of(one.on(problem)).distance(one) == 0.0
