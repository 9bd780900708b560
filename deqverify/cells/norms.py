"""Norms of matrices, bounded from above, and the contraction that they certify."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from deqverify.cells.base import Contraction
from deqverify.dtypes import Array

Norm = Literal["1", "2", "max"]
NORMS: tuple[Norm, ...] = ("max", "1", "2")


def matrix_norms(matrix: Array) -> dict[Norm, float]:
    """Bounds from above on the operator norms: the largest row sum of magnitudes ("max"), the largest column sum
    ("1"), the largest singular value ("2").

    A computed sum of k terms is raised by its k − 1 roundings; a single number is exact. A computed largest singular
    value is that of ``W + E`` with ``‖E‖₂ ≤ p(m) u ‖W‖₂``, p a slowly growing function (LAPACK Users' Guide, §4.9):
    ten times the larger size is allowed for it.
    """
    W = np.asarray(matrix, dtype=np.float64)
    rows, columns = W.shape
    size = np.abs(W)
    if W.size == 1:
        return dict.fromkeys(NORMS, float(size.item()))
    return {
        "max": raised(float(size.sum(axis=1).max()), columns - 1),
        "1": raised(float(size.sum(axis=0).max()), rows - 1),
        "2": raised(float(np.linalg.norm(W, 2)), 10 * max(rows, columns)) if np.isfinite(W).all() else float("inf"),
    }


def raised(value: float, roundings: int) -> float:
    """What ``value`` rounds, at most, after so many roundings in float64: ``(1 − u)^−k ≤ 1 + 4ku``."""
    return value * (1.0 + 4 * roundings * 2.0**-53)


def product(first: float, second: float) -> float:
    """A bound on ``first · second`` ≥ 0 from above: exact where one of them is a power of two."""
    exact = math.frexp(first)[0] == 0.5 or math.frexp(second)[0] == 0.5
    return raised(first * second, 0 if exact else 1)


def smallest_norm(*matrices: Array, slope: float = 1.0) -> tuple[float, Norm]:
    """The smallest bound on ``slope · ∏ ‖W_k‖``, one norm for all, and the norm."""
    rates = dict.fromkeys(NORMS, slope)
    for norms in map(matrix_norms, matrices):
        rates = {norm: product(rate, norms[norm]) for norm, rate in rates.items()}
    norm = min(rates, key=lambda name: rates[name])
    return rates[norm], norm


def contraction(*matrices: Array, slope: float = 1.0) -> Contraction | None:
    """The certificate of ``z ↦ φ(W_1 ⋯ W_k z + …)``, φ entry by entry and at most ``slope`` steep, or of a Kronecker
    product in place of the product: in the norm in which it contracts most, None where it contracts in none."""
    rate, norm = smallest_norm(*matrices, slope=slope)
    return Contraction(rate, norm) if rate < 1.0 else None
