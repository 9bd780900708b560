"""Losses of labels, each with a ridge τ: logistic, softmax cross-entropy, squared hinge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses.base import Ridged, diagonal, nearest
from deqverify.namespaces import array_namespace


@dataclass(frozen=True)
class Logistic(Ridged):
    """``Σ softplus(F) − Y∘F + τF²`` with targets in [0, 1].

    On ``{L ≤ level}`` every entry satisfies ``τF² ≤ level`` (the rest is never negative), hence the curvature
    ``2τ + σ′(√(level/τ))``; σ′ falls with ``|F|``.
    """

    name: ClassVar[str] = "logistic"
    smooth: ClassVar[bool] = True

    def check_targets(self, Y: Array) -> None:
        if np.any((Y < 0) | (Y > 1)):
            raise ValueError("Y: targets of the logistic loss lie in [0, 1]; use labels 0 and 1 or probabilities")

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        return xp.sum(xp.logaddexp(xp.zeros_like(F), F) - Y * F + self.ridge * F**2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return _sigmoid(F) - Y + 2.0 * self.ridge * F

    def hessian(self, F: Array, Y: Array) -> Array:
        return diagonal(_sigmoid_slope(np.abs(F)) + 2.0 * self.ridge)

    def curvature(self, level: float) -> float:
        return 2.0 * self.ridge + float(_sigmoid_slope(np.asarray(self.reach(level))))

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        # No two values of σ are further apart than 1.
        return np.minimum(error * _sigmoid_slope(nearest(np.abs(F), error)), 1.0) + 2.0 * self.ridge * error

    def terms(self, F: Array, Y: Array) -> Array:
        return 1.0 + np.abs(Y) + 2.0 * self.ridge * np.abs(F)

    def value_terms(self, F: Array, Y: Array) -> Array:
        # softplus(F) ≤ log 2 + |F|
        return 1.0 + np.abs(F) * (1.0 + Y) + self.ridge * F**2


@dataclass(frozen=True)
class CrossEntropy(Ridged):
    """``Σ_i −Σ_j Y_ji log softmax(F_:i)_j + τ‖F_:i‖²``, targets not negative (labels one-hot or probabilities).

    The Hessian of the first part is singular along **1** at every point, so the curvature is 2τ. With p = 1
    and no ridge the loss is identically zero.
    """

    name: ClassVar[str] = "cross-entropy"
    smooth: ClassVar[bool] = True

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
        return diagonal(P * total + 2.0 * self.ridge) - np.einsum("ji,ki,i->ijk", P, P, total)

    def curvature(self, level: float) -> float:
        return 2.0 * self.ridge

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        """A row of the Hessian, ``P_j(1 − P_j)`` and ``−P_jP_k``, is at most ¼ and ¼ in absolute sum.

        An error of s in every output changes no ``P_j`` and no ``1 − P_j`` by more than the factor ``exp(2s)``, used
        where s is small.
        """
        P, top = _softmax(F), error.max(axis=0, initial=0.0)
        others = (1.0 - np.eye(len(F))) @ P  # 1 − P would cancel
        small = np.minimum(top, 0.25)
        relative = np.where(top <= 0.25, np.minimum(P, others) * np.exp(2.0 * small) * np.expm1(2.0 * small), 1.0)
        return Y.sum(axis=0) * np.minimum(0.25 * (error + top), relative) + 2.0 * self.ridge * error

    def terms(self, F: Array, Y: Array) -> Array:
        # p·|F − max| ≤ 1/e: rounding the exponent's argument costs no more than rounding a one.
        return Y.sum(axis=0) + np.abs(Y) + 2.0 * self.ridge * np.abs(F)

    def value_terms(self, F: Array, Y: Array) -> Array:
        if F.size == 0:
            return F
        log_sum = np.abs(F.max(axis=0)) + len(F)  # |log Σ exp| ≤ |max| + log p, and its sum of p rounded terms
        return Y * (log_sum + np.abs(F)) + self.ridge * F**2


@dataclass(frozen=True)
class HingeSquared(Ridged):
    """``Σ max(0, 1 − Y∘F)² + τF²`` with targets −1 and 1: the gradient has kinks, where a margin ``Y∘F`` is 1.

    Generalised Hessian ``2 + 2τ`` where ``Y∘F < 1``, else 2τ. On ``{L ≤ level}`` every entry satisfies ``τF² ≤
    level``: below τ no margin reaches 1, and the curvature is ``2 + 2τ``; from there on it is 2τ.
    """

    name: ClassVar[str] = "squared hinge"
    smooth: ClassVar[bool] = False

    def check_targets(self, Y: Array) -> None:
        if np.any(np.abs(Y) != 1):
            raise ValueError("Y: targets of the squared hinge are labels −1 and 1; use 2·Y − 1 for labels 0 and 1")

    def value(self, F: Any, Y: Any) -> Any:
        xp = array_namespace(F)
        short = 1.0 - Y * F
        return xp.sum(xp.where(short > 0, short, xp.zeros_like(short)) ** 2 + self.ridge * F**2)

    def gradient(self, F: Array, Y: Array) -> Array:
        return -2.0 * Y * np.maximum(1.0 - Y * F, 0.0) + 2.0 * self.ridge * F

    def hessian(self, F: Array, Y: Array) -> Array:
        return diagonal(np.where(Y * F < 1.0, 2.0, 0.0) + 2.0 * self.ridge)

    def curvature(self, level: float) -> float:
        return 2.0 * self.ridge + (2.0 if self.reach(level) < 1.0 else 0.0)

    def spread(self, F: Array, Y: Array, error: Array) -> Array:
        # Where no margin in reach falls below 1 the hinge is silent.
        short = np.maximum(1.0 - Y * F + 2.0 * error, 0.0)
        return 2.0 * np.minimum(error, short) + 2.0 * self.ridge * error

    def terms(self, F: Array, Y: Array) -> Array:
        return np.where(Y * F < 1.0, 2.0 * (1.0 + np.abs(F)), 0.0) + 2.0 * self.ridge * np.abs(F)

    def value_terms(self, F: Array, Y: Array) -> Array:
        return np.maximum(1.0 - Y * F, 0.0) ** 2 + self.ridge * F**2


def _sigmoid(F: Array) -> Array:
    tail = np.exp(-np.abs(F))
    return np.where(F >= 0, 1.0, tail) / (1.0 + tail)


def _sigmoid_slope(distance: Array) -> Array:
    """σ′ at ±``distance``."""
    tail = np.exp(-distance)
    return tail / (1.0 + tail) ** 2


def _softmax(F: Array) -> Array:
    if F.size == 0:
        return F
    E = np.exp(F - F.max(axis=0))
    return E / E.sum(axis=0)
