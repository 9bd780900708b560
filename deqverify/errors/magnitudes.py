"""Arithmetic of magnitudes, infinity among them, that bounds of any cell have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deqverify.dtypes import Array


def product(left: Array, right: Array) -> Array:
    """The matrix product, with ``0 · ∞ = ∞``: a bound that nobody knows allows everything."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = left @ right
    return np.asarray(np.where(np.isnan(found), np.inf, found))


def well_inside(largest: float, cotangent: float, state: float, others: Sequence[float]) -> bool:
    """Whether sums of magnitudes, of an adjoint with its cotangent, of the states and of others, and the product of the
    first two stay below largest/64, where overflow is nobody's fault; false for NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        most = np.max([cotangent * np.maximum(state, 1.0), state, *others])
    return bool(most < largest / 64)
