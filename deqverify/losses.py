"""Losses: a sum over data points of a convex function of the outputs.

Outputs ``F`` and targets ``Y`` are (p, n), one data point a column. ``value`` is written over the array
API, so that an implementation's own framework can differentiate it; everything else is float64 NumPy.

Each loss knows what THEORY.md §3 item 6 asks of it: ``curvature``, a lower bound ρ on the Hessian of one data point
on the sublevel set ``{L₀ ≤ level}``, and ``smoothness``, an upper bound on the same Hessian in the maximum
norm, from which rounding bounds are built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from array_api_compat import array_namespace

from deqverify.dtypes import Array


class Loss(Protocol):
    """What the suite asks of a loss; shapes as in the module's docstring."""

    name: ClassVar[str]

    def check_targets(self, Y: Array) -> None: ...
    def value(self, F: Any, Y: Any) -> Any: ...
    def gradient(self, F: Array, Y: Array) -> Array: ...
    def hessian(self, F: Array, Y: Array) -> Array: ...
    def curvature(self, level: float) -> float: ...
    def smoothness(self, Y: Array) -> float: ...
    def terms(self, F: Array, Y: Array) -> Array: ...


@dataclass(frozen=True)
class Squared:
    """``‖F − Y‖²``: gradient ``2(F − Y)``, Hessian ``2I``, curvature 2 everywhere."""

    name: ClassVar[str] = "squared"

    def check_targets(self, Y: Array) -> None:
        """Any finite target will do."""

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        return xp.sum((F - Y) ** 2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return 2.0 * (F - Y)

    def hessian(self, F: Array, Y: Array) -> Array:
        """(n, p, p), one matrix a data point."""
        p, n = F.shape
        return np.broadcast_to(2.0 * np.eye(p), (n, p, p))

    def curvature(self, level: float) -> float:
        return 2.0

    def smoothness(self, Y: Array) -> float:
        return 2.0

    def terms(self, F: Array, Y: Array) -> Array:
        """Magnitudes that the rounding of the gradient is proportional to, (p, n)."""
        return 2.0 * (np.abs(F) + np.abs(Y))


@dataclass(frozen=True)
class _Ridged:
    ridge: float = 0.5

    def __post_init__(self) -> None:
        if not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"ridge: must be finite and not negative, got {self.ridge!r}")


@dataclass(frozen=True)
class Logistic(_Ridged):
    """``Σ softplus(F) − Y∘F + τF²`` with targets in [0, 1] and ridge τ.

    On ``{L ≤ level}`` every entry satisfies ``τF² ≤ level`` (the rest is never negative), hence the curvature
    ``2τ + σ′(√(level/τ))``; σ′ falls with ``|F|``.
    """

    name: ClassVar[str] = "logistic"

    def check_targets(self, Y: Array) -> None:
        if np.any((Y < 0) | (Y > 1)):
            raise ValueError("Y: targets of the logistic loss lie in [0, 1]; use labels 0 and 1 or probabilities")

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        return xp.sum(xp.logaddexp(xp.zeros_like(F), F) - Y * F + self.ridge * F**2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return _sigmoid(F) - Y + 2.0 * self.ridge * F

    def hessian(self, F: Array, Y: Array) -> Array:
        s = _sigmoid(F)
        return np.einsum("ji,jk->ijk", s * (1.0 - s) + 2.0 * self.ridge, np.eye(F.shape[0]))

    def curvature(self, level: float) -> float:
        if self.ridge == 0.0 or not np.isfinite(level):
            return 2.0 * self.ridge
        s = float(_sigmoid(np.array(-np.sqrt(max(level, 0.0) / self.ridge))))
        return 2.0 * self.ridge + s * (1.0 - s)

    def smoothness(self, Y: Array) -> float:
        return 0.25 + 2.0 * self.ridge

    def terms(self, F: Array, Y: Array) -> Array:
        return 1.0 + np.abs(Y) + 2.0 * self.ridge * np.abs(F)


@dataclass(frozen=True)
class CrossEntropy(_Ridged):
    """``Σ_i −Σ_j Y_ji log softmax(F_:i)_j + τ‖F_:i‖²``, targets not negative (labels one-hot or probabilities).

    The Hessian of the first part is singular along **1** at every point, so the curvature is 2τ. With p = 1
    and no ridge the loss is identically zero.
    """

    name: ClassVar[str] = "cross-entropy"

    def check_targets(self, Y: Array) -> None:
        if np.any(Y < 0):
            raise ValueError("Y: targets of the cross-entropy are probabilities, not negative; use one-hot columns")

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        if F.shape[1] == 0:
            return xp.sum(F)
        top = xp.max(F, axis=0, keepdims=True)
        log_sum = top + xp.log(xp.sum(xp.exp(F - top), axis=0, keepdims=True))
        return xp.sum(Y * (log_sum - F) + self.ridge * F**2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return _softmax(F) * Y.sum(axis=0) - Y + 2.0 * self.ridge * F

    def hessian(self, F: Array, Y: Array) -> Array:
        P, total = _softmax(F), Y.sum(axis=0)
        eye = np.eye(F.shape[0])
        diag = np.einsum("ji,jk->ijk", P * total + 2.0 * self.ridge, eye)
        return diag - np.einsum("ji,ki,i->ijk", P, P, total)

    def curvature(self, level: float) -> float:
        return 2.0 * self.ridge

    def smoothness(self, Y: Array) -> float:
        # The absolute row sums of diag(p) − ppᵀ are 2p(1 − p) ≤ ½.
        return 0.5 * float(Y.sum(axis=0).max(initial=0.0)) + 2.0 * self.ridge

    def terms(self, F: Array, Y: Array) -> Array:
        # p·|F − max| ≤ 1/e: rounding the exponent's argument costs no more than rounding a one.
        return Y.sum(axis=0) + np.abs(Y) + 2.0 * self.ridge * np.abs(F)


def _sigmoid(F: Array) -> Array:
    tail = np.exp(-np.abs(F))
    return np.where(F >= 0, 1.0, tail) / (1.0 + tail)


def _softmax(F: Array) -> Array:
    if F.size == 0:
        return F
    E = np.exp(F - F.max(axis=0))
    return E / E.sum(axis=0)
