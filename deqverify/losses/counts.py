"""A loss of counts and other targets that are not negative: Poisson regression with a ridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses.base import Ridged, diagonal
from deqverify.namespaces import array_namespace


@dataclass(frozen=True)
class Poisson(Ridged):
    """``Σ exp F − Y∘F + (Y log Y − Y) + τF²`` with targets ≥ 0; ``0 log 0 = 0``.

    The constant ``Y log Y − Y`` is the least value of ``exp F − YF``, at ``F = log Y``, with its sign turned: no entry
    is negative. On ``{L ≤ level}`` every entry therefore satisfies ``τF² ≤ level``, hence the curvature
    ``2τ + exp(−√(level/τ))``. The Hessian ``exp F + 2τ`` is not bounded from above.
    """

    name: ClassVar[str] = "poisson"
    smooth: ClassVar[bool] = True

    def check_targets(self, Y: Array) -> None:
        if np.any(Y < 0):
            raise ValueError("Y: targets of the Poisson loss are counts or rates, not negative")

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        constant = Y * xp.log(xp.where(Y > 0, Y, xp.ones_like(Y))) - Y
        with np.errstate(over="ignore"):
            return xp.sum(xp.exp(F) - Y * F + constant + self.ridge * F**2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return _exp(F) - Y + 2.0 * self.ridge * F

    def hessian(self, F: Array, Y: Array) -> Array:
        return diagonal(_exp(F) + 2.0 * self.ridge)

    def curvature(self, level: float) -> float:
        return 2.0 * self.ridge + float(np.exp(-self.reach(level)))

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        # exp is convex: its steepest step in reach goes from F + error to F + 2 error.
        return np.where(error > 0, _exp(F + 2.0 * error), 0.0) * -np.expm1(-error) + 2.0 * self.ridge * error

    def terms(self, F: Array, Y: Array) -> Array:
        return _exp(F) + Y + 2.0 * self.ridge * np.abs(F)

    def value_terms(self, F: Array, Y: Array) -> Array:
        constant = Y * (np.abs(np.log(np.where(Y > 0, Y, 1.0))) + 1.0)
        return _exp(F) + Y * np.abs(F) + constant + self.ridge * F**2


def _exp(F: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(F)
