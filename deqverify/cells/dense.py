"""What dense cells ``f(z) = φ(Wz + Ux + b)`` have in common, φ acting entry by entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis.strategies import DrawFn

from deqverify.cells.base import Certificate, Parts, Shape, Theta
from deqverify.cells.norms import contraction, smallest_norm
from deqverify.drawing import draw_rate, draw_signal, draw_size, one_of, size_up_to
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

WEIGHT_REGIMES = ("gaussian", "gaussian", "triangular", "cyclic", "identity", "minus identity")


@dataclass(frozen=True)
class DenseCell(ABC):
    """Parameters ``W`` (m, m), ``U`` (m, d) and ``b`` (m,); states (n, m), inputs (n, d). A cell that makes W of
    other parameters says how in :meth:`weight`, :meth:`pull_weight` and :meth:`push_weight`."""

    @abstractmethod
    def activation(self, v: Any) -> Any:
        """φ(v), entry by entry."""

    @abstractmethod
    def slope(self, v: Any) -> Any:
        """φ′(v), entry by entry."""

    def weight(self, theta: Theta) -> Any:
        """W."""
        return theta["W"]

    def pull_weight(self, theta: Theta, cotangent: Any) -> dict[str, Any]:
        """``(∂W/∂θ)ᵀ`` applied to ``cotangent`` (m, m), for the parameters that W is made of."""
        return {"W": cotangent}

    def push_weight(self, theta: Theta, tangent: Theta) -> Any:
        """``∂W/∂θ dθ``."""
        return tangent["W"]

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return (theta["U"].shape[0],)

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        W, offset = self.weight(theta), x @ theta["U"].T + theta["b"]
        return lambda z: self.activation(z @ W.T + offset)

    def _slope(self, theta: Theta, x: Any, z: Any) -> Any:
        return self.slope(z @ self.weight(theta).T + (x @ theta["U"].T + theta["b"]))

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With ``v = c∘φ′``: ``∂W = vᵀz``, ``∂U = vᵀx``, ``∂b = Σ v``, ``∂x = vU``, ``∂z = vW``."""
        v = cotangent * self._slope(theta, x, z)
        parts = {**self.pull_weight(theta, v.T @ z), "U": v.T @ x, "b": array_namespace(v).sum(v, axis=0)}
        return Parts(parts, v @ theta["U"], v @ self.weight(theta))

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``φ′∘(dW z + W dz + dU x + U dx + db)``."""
        d = tangent.theta
        linear = z @ self.push_weight(theta, d).T + tangent.z @ self.weight(theta).T
        linear = linear + x @ d["U"].T + tangent.x @ theta["U"].T + d["b"]
        return self._slope(theta, x, z) * linear

    def jacobian(self, theta: Theta, x: Any, z: Any) -> Any:
        """``diag(φ′) W``."""
        return self._slope(theta, x, z)[:, :, None] * self.weight(theta)

    def certificate(self, theta: Theta) -> Certificate | None:
        return contraction(self.weight(theta))


def draw_dense(
    draw: DrawFn, dtype: str, n: int, large: bool, regimes: tuple[str, ...], steepest: float = 1.0, alive: bool = False
) -> tuple[dict[str, Array], Array]:
    """W, U, b and x: W as :func:`draw_weight` draws it, the smallest of its norms times ``steepest`` a drawn
    contraction factor, and what is Gaussian in the first regime becomes in another

    - "no bias": b = 0;
    - "kinks": the last row of W, U and b is zero, so that the last argument of φ is 0 exactly; not of one unit, which
      would have 0 for its equilibrium;
    - "dead", "active": b is moved by −16 or 16, so that nearly every argument is negative, or positive;
    - "one alive": as "dead", but for the first unit;
    - "saturated": U and b are 16 times as large.

    If ``alive``, the first row of U and b has the sign that makes the first argument of φ at z = 0 positive, or 0, for
    the first data point, before b is moved: where it is positive, 0 is not the equilibrium of a relu.

    Shrinks to m = d = 1, W = 1/(2 ``steepest``), U = 1, b = 0, x = 1.
    """
    m, d, regime = draw_size(draw, 1, 6, large), draw(size_up_to(1, 4)), draw(one_of(regimes))
    W, rate = draw_weight(draw, m), draw_rate(draw, dtype, large)
    U, b, x = draw_signal(draw, (m, d), 1.0), draw_signal(draw, (m,)), draw_signal(draw, (n, d), 1.0)
    if regime == "no bias":
        b = np.zeros(m)
    if alive and n and U[0] @ x[0] + b[0] < 0:
        U[0], b[0] = -U[0], -b[0]
    if regime == "kinks" and m > 1:
        W[-1], U[-1], b[-1] = 0.0, 0.0, 0.0
    elif regime in ("dead", "active"):
        b = b + (16.0 if regime == "active" else -16.0)
    elif regime == "one alive":
        b[1:] -= 16.0
    elif regime == "saturated":
        U, b = 16.0 * U, 16.0 * b
    return {"W": scaled_to(rate, W, slope=steepest), "U": U, "b": b}, x


def draw_weight(draw: DrawFn, m: int, background: float = 1.0) -> Array:
    """A matrix (m, m): Gaussian, strictly triangular or cyclic (far from normal), or ± the identity, the slowest and
    the most oscillating contraction. Shrinks to ``background`` everywhere."""
    W = draw_signal(draw, (m, m), background)
    regime = draw(one_of(WEIGHT_REGIMES))
    if regime == "triangular":
        return np.triu(W, 1)
    if regime == "cyclic":
        return np.roll(np.diag(np.diag(W)), 1, axis=0)
    if regime == "identity":
        return np.eye(m)
    if regime == "minus identity":
        return -np.eye(m)
    return W


def scaled_to(rate: float, W: Array, *others: Array, slope: float = 1.0) -> Array:
    """W times the number that makes the smallest norm of the product, times ``slope``, equal to ``rate``; 0 stays 0.

    Rounded to a dtype of unit roundoff u it is at most ``√m u`` larger, relatively, which :func:`contraction_factors`
    leaves room for.
    """
    return W * (rate / (smallest_norm(W, *others, slope=slope)[0] or 1.0))
