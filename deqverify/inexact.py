"""Arrays that carry a bound on their error: a running error analysis (Higham, *Accuracy and Stability of Numerical
Algorithms*, §3.3).

A cell written over the array API runs on them as it stands, and NumPy does the work: where balls
(:mod:`deqverify.oracle.balls`) hold one number each, these hold an array (theory: inexact).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deqverify.carrying import Carrying, Rearranging
from deqverify.dtypes import Array

FUNCTION = 2
"""Units in the last place that exp, tanh, log and square roots may be off by."""


@dataclass(frozen=True, eq=False)
class Inexact(Carrying):
    """``|computed − value| ≤ error``, entry by entry, of one shape; every operation is rounded at ``unit``, u.

    ``e_xy = |x| e_y + e_x (|y| + e_y) + k u |x||y|``, k = 1 entry by entry and one more than the inner dimension for a
    matrix product; ``e_{x±y} = e_x + e_y + u |x ± y|``; ``e_Σx = Σ e_x + k u Σ|x|`` for k summands; a function moves by
    its largest slope within the error of its argument, and by 2u of itself (theory: inexact). Plain arrays and numbers
    are exact.
    """

    value: Array
    error: Array
    unit: float

    def __array_namespace__(self, api_version: str | None = None) -> type[_Namespace]:
        return _Namespace

    def __matmul__(self, other: Any) -> Inexact:
        other = self._beside(other)
        x, y = np.abs(self.value), np.abs(other.value)
        rounding = (x.shape[-1] + 1) * self.unit * (x @ y)
        return Inexact(self.value @ other.value, x @ other.error + self.error @ (y + other.error) + rounding, self.unit)

    def __mul__(self, other: Any) -> Inexact:
        other = self._beside(other)
        x, y = np.abs(self.value), np.abs(other.value)
        error = x * other.error + self.error * (y + other.error) + self.unit * x * y
        return Inexact(self.value * other.value, error, self.unit)

    def __truediv__(self, other: Any) -> Inexact:
        """``(e_x + |x/y| e_y)/(|y| − e_y)``, infinite where y may be 0."""
        other = self._beside(other)
        value, clear = self.value / other.value, np.abs(other.value) - other.error
        error = (self.error + np.abs(value) * other.error) / clear + self.unit * np.abs(value)
        return Inexact(value, np.where(clear > 0, error, np.inf), self.unit)

    def __add__(self, other: Any) -> Inexact:
        other = self._beside(other)
        value = self.value + other.value
        return Inexact(value, self.error + other.error + self.unit * np.abs(value), self.unit)

    def __neg__(self) -> Inexact:
        return Inexact(-self.value, self.error, self.unit)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Inexact:
        value = self.value.sum(axis=axis, keepdims=keepdims)
        count = self.value.size / max(1, value.size)
        rounding = count * self.unit * np.abs(self.value).sum(axis=axis, keepdims=keepdims)
        return Inexact(value, np.asarray(self.error.sum(axis=axis, keepdims=keepdims) + rounding), self.unit)

    def relu(self) -> Inexact:
        """Nothing is rounded, and no error grows."""
        return Inexact(np.where(self.value <= 0, 0.0, self.value), self.error, self.unit)

    def gate(self) -> Inexact:
        """The slope of :meth:`relu`: ½ ± ½ where the sign is open."""
        known = (np.abs(self.value) > self.error) | ((self.value == 0) & (self.error == 0))
        slope = np.where(known, np.where(self.value > 0, 1.0, 0.0), 0.5)
        return Inexact(slope, np.where(known, 0.0, 0.5), self.unit)

    def _beside(self, other: Any) -> Inexact:
        if isinstance(other, Inexact):
            return other
        value = np.asarray(other, dtype=np.float64)
        return Inexact(value, np.zeros(value.shape), self.unit)

    def each(self, move: Callable[[Any], Any]) -> Inexact:
        return Inexact(move(self.value), move(self.error), self.unit)

    def _applied(self, value: Array, moved: Array) -> Inexact:
        """A function's value, its argument's error having moved it by ``moved``."""
        return Inexact(value, moved + FUNCTION * self.unit * np.abs(value), self.unit)


class _Namespace(Rearranging):
    """The functions of the array API that cells call."""

    zeros_like = staticmethod(lambda x: 0.0 * x)

    @staticmethod
    def tanh(x: Inexact) -> Inexact:
        with np.errstate(over="ignore"):
            steepest = np.cosh(np.maximum(np.abs(x.value) - x.error, 0.0)) ** -2.0
        return x._applied(np.tanh(x.value), x.error * steepest)

    @staticmethod
    def exp(x: Inexact) -> Inexact:
        value = np.exp(x.value)
        return x._applied(value, value * np.expm1(x.error))

    @staticmethod
    def log(x: Inexact) -> Inexact:
        moved = -np.log1p(-x.error / x.value)
        return x._applied(np.log(x.value), np.where(x.error < x.value, moved, np.inf))

    @staticmethod
    def sqrt(x: Inexact) -> Inexact:
        value = np.sqrt(x.value)
        return x._applied(value, np.where(x.error <= x.value, x.error / value, np.inf))

    @staticmethod
    def sum(x: Inexact, axis: Any = None, keepdims: bool = False) -> Inexact:
        return x.sum(axis, keepdims)

    @staticmethod
    def max(x: Inexact, axis: int, keepdims: bool = False) -> Array:
        """Of the values: the shift of a softmax, for which any number will do."""
        return np.asarray(x.value.max(axis=axis, keepdims=keepdims))

    @staticmethod
    def stack(parts: tuple[Inexact, ...], axis: int) -> Inexact:
        value, error = (np.stack([getattr(p, name) for p in parts], axis) for name in ("value", "error"))
        return Inexact(value, error, parts[0].unit)
