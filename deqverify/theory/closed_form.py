"""The closed forms of one problem (theory: equilibrium, theory: gradient), computed once and kept."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.linalg

from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem


class ClosedForm:
    """S, U, Z, F, W and the gradient of ``problem`` in float64; names and shapes as in theory: notation.

    Used for the magnitudes that bounds are made of and for identities. It is float64 itself: a law that compares an
    implementation with a number from here adds that number's own rounding. ``cotangent`` (m, n) replaces ``BᵀdF`` as
    the right side of the adjoint equation.
    """

    def __init__(self, problem: SoftmaxProblem, cotangent: Array | None = None):
        self.problem = problem
        self._cotangent = cotangent

    @cached_property
    def S(self) -> Array:
        A = self.problem.A
        E = np.exp(A - A.max(axis=0))
        return E / E.sum(axis=0)

    @cached_property
    def U(self) -> Array:
        return np.eye(self.problem.m) - self.problem.gamma * self.S

    @cached_property
    def lu(self) -> tuple[Array, Array]:
        lu, pivots = scipy.linalg.lu_factor(self.U, check_finite=False)
        return lu, pivots

    @cached_property
    def growth(self) -> float:
        """``‖|L||U|‖₁`` of the LU factorisation of U, what its backward error is proportional to."""
        packed = np.abs(self.lu[0])
        upper = np.triu(packed)
        lower_sums = 1.0 + (packed - upper).sum(axis=0)
        return float((lower_sums @ upper).max())

    @cached_property
    def zero_mass_rate(self) -> float:
        """γτ, raised by its own rounding: how γS contracts what has no mass, and γSᵀ what oscillates."""
        return self.problem.gamma * min(1.0, dobrushin(self.S) * (1.0 + 8 * self.problem.m * 2.0**-53))

    def solve(self, rhs: Array) -> Array:
        """``U⁻¹ rhs``."""
        return scipy.linalg.lu_solve(self.lu, rhs, check_finite=False) if rhs.size else rhs.copy()

    def solve_transposed(self, rhs: Array) -> Array:
        """``U⁻ᵀ rhs``."""
        return scipy.linalg.lu_solve(self.lu, rhs, trans=1, check_finite=False) if rhs.size else rhs.copy()

    @cached_property
    def Z(self) -> Array:
        return self.solve(self.problem.Phi)

    @cached_property
    def F(self) -> Array:
        return self.problem.B @ self.Z

    @cached_property
    def W(self) -> Array:
        """The shallow model ``BU⁻¹``."""
        return self.solve_transposed(self.problem.B.T).T

    @cached_property
    def loss(self) -> float:
        return float(self.problem.loss.value(self.F, self.problem.Y))

    @cached_property
    def dF(self) -> Array:
        return self.problem.loss.gradient(self.F, self.problem.Y)

    @cached_property
    def cotangent(self) -> Array:
        """The right side of the adjoint equation, (m, n)."""
        return self.problem.B.T @ self.dF if self._cotangent is None else self._cotangent

    @cached_property
    def adjoint(self) -> Array:
        """``Λ = U⁻ᵀ BᵀdF``, (m, n)."""
        return self.solve_transposed(self.cotangent)

    @cached_property
    def softmax_product(self) -> Array:
        """``S∘M`` with ``M = γΛZᵀ``."""
        return self.S * (self.problem.gamma * self.adjoint @ self.Z.T)

    @cached_property
    def gradient(self) -> dict[str, Array]:
        """The gradient in every block (theory: gradient); ``gamma`` is an array without axes."""
        SM = self.softmax_product
        return {
            "A": SM - self.S * SM.sum(axis=0),
            "B": self.dF @ self.Z.T,
            "Phi": self.adjoint,
            "gamma": np.asarray(np.sum(self.adjoint * (self.S @ self.Z))),
        }

    @cached_property
    def block_gradient(self) -> dict[str, Array]:
        """The gradient in the blocks of the problem, data points first: "x" (n, m) for Φ."""
        return {"x" if name == "Phi" else name: g.T if name == "Phi" else g for name, g in self.gradient.items()}


def softmax_jacobian(S: Array, dA: Array) -> Array:
    """``dS``, the differential of the column softmax at S along dA: ``dS_:k = J_k dA_:k``."""
    return S * dA - S * (S * dA).sum(axis=0)


def dobrushin(S: Array) -> float:
    """``τ = ½ max_{i,j} ‖S_:i − S_:j‖₁``, the contraction of S on vectors of zero mass (theory: zero-mass)."""
    return 0.5 * max(float(np.abs(S - column[:, None]).sum(axis=0).max()) for column in S.T)
