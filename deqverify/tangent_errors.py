"""Derivatives of the equilibrium, of its adjoint and of the pulled gradient along a direction, with bounds of their
errors.

A running error analysis (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.3): every intermediate carries
its value in float64 and a bound on the error of the same quantity computed in the dtype under test (theory: tangents).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from deqverify.bounds import Errors
from deqverify.dtypes import Array
from deqverify.inexact import Inexact


class TangentErrors:
    """What a direction d in A, Phi and gamma (arrays of their shapes) does to the equilibrium and the pulled gradient.

    ``errors`` holds the problem, the cotangent, the dtype and the accuracy claimed of each pass, which the solves along
    the direction are forgiven too. The unit is doubled: automatic differentiation forms each product in two parts.
    """

    def __init__(self, errors: Errors, direction: Mapping[str, Array]):
        self.errors, exact = errors, errors.exact
        self._unit = 2 * (errors.arithmetic.unit + errors.arithmetic.storage)
        self._dA, self._dPhi, self._dgamma = (self._given(direction[block]) for block in ("A", "Phi", "gamma"))
        self._gamma = self._given(exact.problem.gamma)
        shape = exact.Z.shape
        self.S = Inexact(exact.S, errors.softmax, self._unit)
        self.Z = Inexact(exact.Z, np.broadcast_to(errors.z, shape), self._unit)
        self.adjoint = Inexact(exact.adjoint, np.broadcast_to(errors.adjoint_from(0.0), shape), self._unit)

    @cached_property
    def dS(self) -> Inexact:
        """The softmax along d: ``dS = S∘(dA − 1·1ᵀ(S∘dA))``, (m, m); its error by the rules of :class:`Inexact`."""
        return self.S * (self._dA - (self.S * self._dA).sum(axis=0))

    @cached_property
    def _dK(self) -> Inexact:
        """``(γS)′ = γ dS + dγ S``, (m, m)."""
        return self._gamma * self.dS + self._dgamma * self.S

    @cached_property
    def dZ(self) -> Inexact:
        """``dZ = U⁻¹((γS)′Z + dΦ)``, (m, n), with ``‖e_right‖₁`` given to its solve (theory: second-order)."""
        right = self._dK @ self.Z + self._dPhi
        value = self.errors.exact.solve(right.value)
        return self._solved(value, right, np.abs(right.error).sum(axis=0), dual=False)

    @cached_property
    def dadjoint(self) -> Inexact:
        """``dΛ = U⁻ᵀ(γS)′ᵀΛ``, (m, n), the derivative of the gradient in Φ, with ``‖e_right‖_∞`` given to its solve."""
        right = self._dK.T @ self.adjoint
        value = self.errors.exact.solve_transposed(right.value)
        return self._solved(value, right, np.abs(right.error).max(axis=0, initial=0.0), dual=True)

    @cached_property
    def second(self) -> dict[str, Inexact]:
        """The derivative along d of every block of the pulled gradient, the cotangent being held fixed.

        With ``M = γΛZᵀ`` and ``dM = dγ ΛZᵀ + γ(dΛ Zᵀ + Λ dZᵀ)``: ``dS∘(M − 1·1ᵀ(S∘M)) + S∘(dM − 1·1ᵀ(S∘M)′)`` in A,
        (m, m); dΛ in Phi, (m, n); ``⟨dΛ, SZ⟩ + ⟨Λ, dS Z + S dZ⟩`` in gamma. Errors by the rules of :class:`Inexact`.
        """
        outer = self.adjoint @ self.Z.T
        M = self._gamma * outer
        dM = self._dgamma * outer + self._gamma * (self.dadjoint @ self.Z.T + self.adjoint @ self.dZ.T)
        column = (self.S * M).sum(axis=0)
        dcolumn = (self.dS * M + self.S * dM).sum(axis=0)
        image, dimage = self.S @ self.Z, self.dS @ self.Z + self.S @ self.dZ
        return {
            "A": self.dS * (M - column) + self.S * (dM - dcolumn),
            "Phi": self.dadjoint,
            "gamma": (self.dadjoint * image + self.adjoint * dimage).sum(),
        }

    def _solved(self, value: Array, right: Inexact, given: Array, dual: bool) -> Inexact:
        """``value`` (m, n) and its error ``residual/(1−γ) + u'‖value‖``, the same for all entries of a data point.

        The residual is that of :meth:`Errors.solved`, ``given`` (n,) the norms of the right side's error.
        """
        errors = self.errors
        size = np.abs(value).max(axis=0, initial=0.0) if dual else np.abs(value).sum(axis=0)
        residual = errors.solved(value, right.value, given, dual)
        norm = residual * errors.amplification + errors.arithmetic.storage * size
        return Inexact(value, np.broadcast_to(norm, value.shape), self._unit)

    def _given(self, value: Array | float) -> Inexact:
        exact = np.asarray(value, dtype=np.float64)
        return Inexact(exact, np.zeros(exact.shape), self._unit)
