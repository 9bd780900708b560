"""What the suite asks of a loss, and what several losses share.

Outputs ``F`` and targets ``Y`` are (p, n), one data point a column. ``value`` is written over the array
API, so that an implementation's own framework can differentiate it; everything else is float64 NumPy. Where a true
value is beyond float64, infinity is the answer, and no warning is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from deqverify.dtypes import Array


class Loss(Protocol):
    """A convex, continuously differentiable loss. No value of a loss is negative."""

    name: ClassVar[str]
    smooth: ClassVar[bool]
    """Twice continuously differentiable: theory: trust-region holds for no other."""

    def check_targets(self, Y: Array) -> None:
        """Raises ValueError for targets that the loss is not defined for."""

    def value(self, F: Any, Y: Any) -> Any:
        """``Σ_i ℓ(F_:i, Y_:i)``, a scalar of the framework of F."""

    def gradient(self, F: Array, Y: Array) -> Array:
        """``∂L/∂F``, (p, n)."""

    def hessian(self, F: Array, Y: Array) -> Array:
        """(n, p, p), one matrix a data point; where the loss is not smooth, an element of the generalised Hessian."""

    def curvature(self, level: float) -> float:
        """ρ ≥ 0, a lower bound on the Hessian of every data point on ``{L₀ ≤ level}`` (theory: constants).

        No entry's or data point's loss is negative, so each is at most ``level`` there.
        """

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        """At least ``|gradient(F″) − gradient(F′)|`` for all ``|F″ − F′| ≤ error`` and ``|F′ − F| ≤ error``; (p, n).

        Two errors, since F itself is known only to within rounding, which is the ``error`` at the least.
        """

    def terms(self, F: Array, Y: Array) -> Array:
        """Magnitudes that the rounding of the gradient is proportional to, (p, n)."""

    def value_terms(self, F: Array, Y: Array) -> Array:
        """Magnitudes that the rounding of the value is proportional to, (p, n), a dozen roundings each."""


@dataclass(frozen=True)
class Ridged:
    """A loss with a ridge ``τF²``, τ finite and not negative."""

    ridge: float = 0.5

    def __post_init__(self) -> None:
        if not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"ridge: must be finite and not negative, got {self.ridge!r}")

    def reach(self, level: float) -> float:
        """``√(level/τ)``, what no ``|F|`` exceeds where ``τF² ≤ level``; infinite without a ridge."""
        return float(np.sqrt(max(level, 0.0) / self.ridge)) if self.ridge > 0 else np.inf


def diagonal(entries: Array) -> Array:
    """Diagonal matrices, (n, p, p), of entries (p, n)."""
    return np.einsum("ji,jk->ijk", entries, np.eye(entries.shape[0]))


def nearest(distance: Array, error: Array) -> Array:
    """The least ``|r″|`` for r″ within twice ``error`` of r, ``distance = |r|``."""
    return np.maximum(distance - 2.0 * error, 0.0)
