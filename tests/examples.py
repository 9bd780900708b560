"""Seeded problems for tests that need many at once, without Hypothesis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Loss, Poisson, PseudoHuber, Squared
from deqverify.oracle import Oracle
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm

NEAR_ONE = 1 - 1e-6
"""1/(1−γ) costs an LU six of its digits."""

LOSSES: tuple[Loss, ...] = (
    Squared(),
    Logistic(0.125),
    CrossEntropy(0.125),
    PseudoHuber(0.25),
    LogCosh(),
    Poisson(0.125),
    HingeSquared(0.125),
)


def targets_of(loss: Loss, one_hot: np.ndarray) -> np.ndarray:
    """Targets that ``loss`` takes, made of one-hot columns."""
    return 2.0 * one_hot - 1.0 if isinstance(loss, HingeSquared) else one_hot


def random_problem(seed: int, gamma: float = 0.75, loss: Loss | None = None, largest: int = 5) -> SoftmaxProblem:
    """Gaussian A, B and Φ of sizes at most ``largest``, B a tenth of that for the Poisson loss; by default one of the
    first three losses.
    """
    rng = np.random.default_rng(seed)
    m, p, n = rng.integers(1, largest + 1, size=3)
    Y = (np.arange(p)[:, None] == rng.integers(0, p, size=n)).astype(float)
    A, B, Phi = rng.normal(size=(m, m)), rng.normal(size=(p, m)), rng.normal(size=(m, n))
    loss = loss or LOSSES[seed % 3]
    return SoftmaxProblem(A, 0.1 * B if isinstance(loss, Poisson) else B, Phi, targets_of(loss, Y), gamma, loss)


def gaussian(
    m: int, n: int, gamma: float, seed: int = 0, shift: np.ndarray | float = 0.0, scale: float = 1.0
) -> SoftmaxProblem:
    """Gaussian A, scaled and shifted, B of two outputs and Φ; targets of zero."""
    rng = np.random.default_rng(seed)
    A, B, Phi = scale * rng.normal(size=(m, m)) + shift, rng.normal(size=(2, m)), rng.normal(size=(m, n))
    return SoftmaxProblem(A, B, Phi, np.zeros((2, n)), gamma, Squared())


def refined(problem: SoftmaxProblem) -> np.ndarray:
    """Z by LU in float64, refined twice in ball-arithmetic residuals: good to about u, whatever the conditioning."""
    exact, oracle = ClosedForm(problem), Oracle(problem)
    Z = exact.Z
    for _ in range(2):
        Z = Z + exact.solve(oracle.residual(Z))
    return Z


def random_problems(count: int, gamma: float = 0.75) -> Iterator[SoftmaxProblem]:
    for seed in range(count):
        yield random_problem(seed, gamma)
