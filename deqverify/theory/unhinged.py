"""A loss that is linear in the outputs, as the unhinged loss is: B and Φ move by a linear flow (theory: unhinged)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm


@dataclass(frozen=True)
class Path:
    """A point of the flow, or a velocity: B (p, m) and Φ (m, n)."""

    B: Array
    Phi: Array

    @classmethod
    def of(cls, problem: SoftmaxProblem) -> Path:
        """Where ``problem`` stands."""
        return cls(problem.B, problem.Phi)

    def on(self, problem: SoftmaxProblem) -> SoftmaxProblem:
        """``problem`` with these weights and features."""
        return SoftmaxProblem(problem.A, self.B, self.Phi, problem.Y, problem.gamma, problem.loss)

    def __add__(self, other: Path) -> Path:
        return Path(self.B + other.B, self.Phi + other.Phi)

    def __mul__(self, factor: float) -> Path:
        return Path(factor * self.B, factor * self.Phi)

    def distance(self, other: Path) -> float:
        """Of the two, in the Frobenius norm of both blocks together."""
        return float(np.hypot(np.linalg.norm(self.B - other.B), np.linalg.norm(self.Phi - other.Phi)))

    @property
    def size(self) -> float:
        return self.distance(self * 0.0)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.B).all() and np.isfinite(self.Phi).all())


@dataclass(frozen=True)
class Generator:
    """N, symmetric, of ``d vec[Bᵀ, Φ]/dt = N vec[Bᵀ, Φ]``; vec stacks columns."""

    N: Array
    slope: float
    """‖∂L/∂F‖₂."""
    inverse: float
    """‖U⁻¹‖₂."""

    @property
    def count(self) -> int:
        return len(self.N)

    @property
    def largest(self) -> float:
        """``‖N‖₂ = ‖∂L/∂F‖₂‖U⁻¹‖₂``, the fastest that anything grows."""
        return self.slope * self.inverse

    def moved(self, start: Path, time: float) -> Path:
        """``exp(N time)`` applied to ``start``, by its series: for a time of at most 1/‖N‖ the terms fall from the
        first on, at most twenty count, and nothing cancels."""
        (p, m), n = start.B.shape, start.Phi.shape[1]
        term = ended = np.concatenate([start.B.ravel(), start.Phi.T.ravel()])  # columns of Bᵀ, then of Φ
        count = 0
        while np.linalg.norm(term) > 2.0**-60 * np.linalg.norm(ended):
            count += 1
            term = (time / count) * (self.N @ term)
            ended = ended + term
        return Path(ended[: p * m].reshape(p, m), ended[p * m :].reshape(n, m).T)


def generator(problem: SoftmaxProblem, dF: Array) -> Generator:
    """For A and γ of ``problem`` and a constant ``dF`` = ∂L/∂F (p, n): off N's diagonal ``−dF ⊗ U⁻¹`` and its
    transpose (theory: unhinged)."""
    (p, n), m = dF.shape, problem.m
    inverse = ClosedForm(problem).solve(np.eye(m))
    N = np.zeros((m * (p + n), m * (p + n)))
    N[: m * p, m * p :] = -np.kron(dF, inverse)
    N[m * p :, : m * p] = N[: m * p, m * p :].T
    return Generator(N, float(np.linalg.norm(dF, 2)), float(np.linalg.norm(inverse, 2)))
