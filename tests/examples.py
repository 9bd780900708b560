"""Seeded problems for tests that need many at once, without Hypothesis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deqverify.losses import CrossEntropy, Logistic, Loss, Squared
from deqverify.problem import Problem

LOSSES: tuple[Loss, ...] = (Squared(), Logistic(0.125), CrossEntropy(0.125))


def random_problem(seed: int, gamma: float = 0.75, loss: Loss | None = None, largest: int = 5) -> Problem:
    """Gaussian A, B and Φ of sizes at most ``largest``; targets that every loss takes."""
    rng = np.random.default_rng(seed)
    m, p, n = rng.integers(1, largest + 1, size=3)
    Y = (np.arange(p)[:, None] == rng.integers(0, p, size=n)).astype(float)
    A, B, Phi = rng.normal(size=(m, m)), rng.normal(size=(p, m)), rng.normal(size=(m, n))
    return Problem(A, B, Phi, Y, gamma, loss or LOSSES[seed % 3])


def random_problems(count: int, gamma: float = 0.75) -> Iterator[Problem]:
    for seed in range(count):
        yield random_problem(seed, gamma)
