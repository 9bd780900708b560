"""Losses of the residual ``r = F − Y``, any finite targets: squared, and two that grow linearly far out."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses.base import diagonal, nearest
from deqverify.namespaces import array_namespace


class _AnyTarget:
    smooth: ClassVar[bool] = True

    def check_targets(self, Y: Array) -> None:
        """Any finite target will do."""


@dataclass(frozen=True)
class Squared(_AnyTarget):
    """``‖F − Y‖²``: gradient ``2(F − Y)``, Hessian ``2I``, curvature 2 everywhere."""

    name: ClassVar[str] = "squared"

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        return xp.sum((F - Y) ** 2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return 2.0 * (F - Y)

    def hessian(self, F: Array, Y: Array) -> Array:
        p, n = F.shape
        return np.broadcast_to(2.0 * np.eye(p), (n, p, p))

    def curvature(self, level: float) -> float:
        return 2.0

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        return 2.0 * error

    def terms(self, F: Array, Y: Array) -> Array:
        return 2.0 * (np.abs(F) + np.abs(Y))

    def value_terms(self, F: Array, Y: Array) -> Array:
        return (F - Y) ** 2


@dataclass(frozen=True)
class PseudoHuber(_AnyTarget):
    """``Σ δ²(√(1 + (r/δ)²) − 1)``: quadratic near 0, of slope δ far out.

    Gradient ``r/h`` and Hessian ``h⁻³`` with ``h = √(1 + (r/δ)²)``. Curvature: on ``{L ≤ level}`` every entry has
    ``δ²(h − 1) ≤ level``, hence a Hessian of at least ``(1 + level/δ²)⁻³``.
    """

    delta: float = 1.0
    name: ClassVar[str] = "pseudo-huber"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise ValueError(f"delta: must be finite and positive, got {self.delta!r}")

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        r = F - Y
        t = r / self.delta
        # h − 1 = t²/(h + 1): nothing cancels at small r, nothing is squared at large ones.
        return xp.sum(self.delta * (r * (t / (xp.hypot(xp.ones_like(t), t) + 1.0))))

    def gradient(self, F: Array, Y: Array) -> Array:
        return (F - Y) / self._h(F - Y)

    def hessian(self, F: Array, Y: Array) -> Array:
        return diagonal((1.0 / self._h(F - Y)) ** 3)

    def curvature(self, level: float) -> float:
        return float((1.0 + max(level, 0.0) / self.delta / self.delta) ** -3)

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        # The Hessian falls with |r|; no gradient exceeds δ.
        return np.minimum(error * (1.0 / self._h(nearest(np.abs(F - Y), error))) ** 3, 2.0 * self.delta)

    def terms(self, F: Array, Y: Array) -> Array:
        # The derivative of r·(t/(h + 1)) adds three parts, none above min(|r|, δ).
        return 3.0 * np.minimum(np.abs(F) + np.abs(Y), self.delta)

    def value_terms(self, F: Array, Y: Array) -> Array:
        r = np.abs(F - Y)
        return r * np.minimum(r, self.delta)

    def _h(self, r: Array) -> Array:
        return np.hypot(1.0, r / self.delta)


@dataclass(frozen=True)
class LogCosh(_AnyTarget):
    """``Σ log cosh r``: gradient ``tanh r``, Hessian ``1/cosh² r``.

    Curvature: on ``{L ≤ level}`` every entry has ``cosh r ≤ exp(level)``, hence a Hessian of at least
    ``exp(−2 level)``.
    """

    name: ClassVar[str] = "log-cosh"

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        r = F - Y
        size = xp.abs(r)
        # log cosh r = log(1 + 2 sinh²(r/2)) near 0, where the other form cancels; clipped beyond its use, since
        # the slope of a clip at its end is another one in every framework.
        near = xp.log1p(2.0 * xp.sinh(0.5 * xp.clip(r, -2.0, 2.0)) ** 2)
        far = size + (xp.log1p(xp.exp(-2.0 * size)) - log(2.0))
        return xp.sum(xp.where(size <= 1.0, near, far))

    def gradient(self, F: Array, Y: Array) -> Array:
        return np.tanh(F - Y)

    def hessian(self, F: Array, Y: Array) -> Array:
        return diagonal(_sech_squared(np.abs(F - Y)))

    def curvature(self, level: float) -> float:
        return float(np.exp(-2.0 * max(level, 0.0)))

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        # The Hessian falls with |r|; no gradient exceeds 1.
        return np.minimum(error * _sech_squared(nearest(np.abs(F - Y), error)), 2.0)

    def terms(self, F: Array, Y: Array) -> Array:
        # A chain of eight derivatives near 0, |tanh r| in size; a sum of two far out.
        return 3.0 * np.minimum(np.abs(F) + np.abs(Y), 1.0)

    def value_terms(self, F: Array, Y: Array) -> Array:
        r = np.abs(F - Y)
        return np.where(r <= 1.0, 0.5 * r * np.minimum(r, 1.0), r + 1.0)


def _sech_squared(distance: Array) -> Array:
    tail = np.exp(-2.0 * distance)
    return 4.0 * tail / (1.0 + tail) ** 2
