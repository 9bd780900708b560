"""The cell of the deep equilibrium linear model: ``f(z) = γ σ(A) z + x``, σ the softmax of every column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from hypothesis.strategies import DrawFn

from deqverify.cells.arithmetic import softmax, softmax_slope
from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.drawing import draw_rate, draw_signal, draw_size, one_of, scales
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

LOGIT_REGIMES = ("gaussian", "gaussian", "constant columns", "wide", "one-hot", "permutation", "identity")


@dataclass(frozen=True)
class LinearSoftmaxCell:
    """Kawaguchi, ICLR 2021, equation 2. Parameters: ``A`` (m, m) and ``gamma``, a scalar in (0, 1).

    ``‖γS‖₁ = γ`` (maximum column sum), so the cell contracts in the 1-norm at rate γ; in the 2-norm it need not
    (theory: contraction).
    """

    name: ClassVar[str] = "linear-softmax"
    additive: ClassVar[bool] = True
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = "E = xp.exp(A - xp.amax(A, 0))\nreturn z @ (gamma * E / E.sum(0)).T + x"

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return inputs

    def softmax(self, A: Any) -> Any:
        """S, (m, m): the softmax of every column of A; columns sum to one."""
        return softmax(A, axis=0)

    def matrix(self, theta: Theta) -> Any:
        """K = γS."""
        return theta["gamma"] * self.softmax(theta["A"])

    def offset(self, theta: Theta, x: Any) -> Any:
        return x

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        K = self.matrix(theta)
        return lambda z: z @ K.T + x

    def certificate(self, theta: Theta) -> Contraction:
        gamma = float(theta["gamma"])
        if not 0.0 < gamma < 1.0:
            raise ValueError(f"gamma: must lie strictly between 0 and 1, got {gamma!r}")
        return Contraction(rate=gamma, norm="1")

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With ``M = γ cᵀz``: ``∂A = S∘(M − 1·1ᵀ(S∘M))`` and ``∂γ = ⟨c, zSᵀ⟩`` (theory: gradient)."""
        xp = array_namespace(z)
        S, gamma = self.softmax(theta["A"]), theta["gamma"]
        M = gamma * (cotangent.T @ z)
        parts = {"A": softmax_slope(S, M, axis=0), "gamma": xp.sum(cotangent * (z @ S.T))}
        return Parts(parts, cotangent, gamma * (cotangent @ S))

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``(γ dS + dγ S) z + dx + γS dz`` with ``dS = S∘(dA − 1·1ᵀ(S∘dA))``."""
        S, gamma = self.softmax(theta["A"]), theta["gamma"]
        dS = softmax_slope(S, tangent.theta["A"], axis=0)
        return z @ (gamma * dS + tangent.theta["gamma"] * S).T + tangent.x + gamma * (tangent.z @ S.T)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """Gaussian features at a scale of any power of two; shrinks to m = 1, A = 0, γ = ½, x = 1."""
        m = draw_size(draw, 1, 8, large)
        theta = {"A": draw_logits(draw, m), "gamma": np.asarray(draw_rate(draw, dtype, large))}
        return theta, draw_signal(draw, (n, m), 1.0) * 2.0 ** draw(scales(dtype))


def draw_logits(draw: DrawFn, m: int, regimes: tuple[str, ...] = LOGIT_REGIMES) -> Array:
    """A, (m, m): Gaussian, or its columns constant, three times wider, nearly one-hot, or S near a permutation or
    the identity. Shrinks to zero."""
    base = draw_signal(draw, (m, m))
    regime = draw(one_of(regimes))
    if regime == "wide":
        return 3.0 * base
    if regime == "constant columns":
        return np.broadcast_to(base[0], (m, m)).copy()
    if regime == "one-hot":
        return base + 30.0 * (np.arange(m)[:, None] == np.abs(base).argmax(axis=0))
    if regime == "permutation":
        return base + 20.0 * np.roll(np.eye(m), 1, axis=0)
    if regime == "identity":
        return base + 20.0 * np.eye(m)
    return base


CELL = LinearSoftmaxCell()
