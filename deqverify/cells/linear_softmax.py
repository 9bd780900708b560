"""The cell of the deep equilibrium linear model: ``f(z) = γ σ(A) z + x``, σ the softmax of every column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from deqverify.cells.base import Contraction, Theta


@dataclass(frozen=True)
class LinearSoftmaxCell:
    """Kawaguchi, ICLR 2021, equation 2. Parameters: ``A`` (m, m) and ``gamma``, a scalar in (0, 1).

    ``‖γS‖₁ = γ`` (maximum column sum), so the cell contracts in the 1-norm at rate γ; in the 2-norm it need not
    (theory: contraction). Stateless, hashable, and the same under NumPy, PyTorch and JAX.
    """

    def softmax(self, A: Any) -> Any:
        """S, (m, m): the softmax of every column of A; columns sum to one."""
        xp = array_namespace(A)
        # The shift cancels; differentiating through it would only add rounding to the largest entry.
        fixed = A.detach() if hasattr(A, "detach") else A
        E = xp.exp(A - xp.max(fixed, axis=0, keepdims=True))
        return E / xp.sum(E, axis=0, keepdims=True)

    def matrix(self, theta: Theta) -> Any:
        """K = γS."""
        return theta["gamma"] * self.softmax(theta["A"])

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        K = self.matrix(theta)
        return lambda z: z @ K.T + x

    def contraction(self, theta: Theta) -> Contraction:
        gamma = float(theta["gamma"])
        if not 0.0 < gamma < 1.0:
            raise ValueError(f"gamma: must lie strictly between 0 and 1, got {gamma!r}")
        return Contraction(rate=gamma, norm=1)

    def pullback(self, theta: Theta, z: Any, cotangent: Any) -> dict[str, Any]:
        """With ``M = γ cᵀz``: ``∂A = S∘(M − 1·1ᵀ(S∘M))`` and ``∂γ = ⟨c, zSᵀ⟩`` (theory: gradient)."""
        xp = array_namespace(z)
        S = self.softmax(theta["A"])
        M = theta["gamma"] * (cotangent.T @ z)
        return {
            "A": S * (M - xp.sum(S * M, axis=0, keepdims=True)),
            "gamma": xp.sum(cotangent * (z @ S.T)),
        }

    def pushforward(self, theta: Theta, z: Any, tangent: Theta) -> Any:
        """``(γ dS + dγ S) z`` with ``dS = S∘(dA − 1·1ᵀ(S∘dA))``."""
        xp = array_namespace(z)
        S, dA = self.softmax(theta["A"]), tangent["A"]
        dS = S * (dA - xp.sum(S * dA, axis=0, keepdims=True))
        return z @ (theta["gamma"] * dS + tangent["gamma"] * S).T
