"""Arrays that carry their derivative along a direction beside their value, each with a bound on its error.

A cell's own pull-back, run on them, gives the derivative of its gradient: no second derivative is written for any cell
(theory: second-order-of-a-cell).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deqverify.carrying import Carrying, Rearranging
from deqverify.inexact import Inexact


@dataclass(frozen=True, eq=False)
class Dual(Carrying):
    """``value + ε tangent`` with ``ε² = 0``: every operation is its product or chain rule, in :class:`Inexact` arrays.
    Plain arrays and numbers have no derivative."""

    value: Inexact
    tangent: Inexact

    def __array_namespace__(self, api_version: str | None = None) -> type[_Namespace]:
        return _Namespace

    def __matmul__(self, other: Any) -> Dual:
        other = self._beside(other)
        return Dual(self.value @ other.value, self.tangent @ other.value + self.value @ other.tangent)

    def __mul__(self, other: Any) -> Dual:
        other = self._beside(other)
        return Dual(self.value * other.value, self.tangent * other.value + self.value * other.tangent)

    def __truediv__(self, other: Any) -> Dual:
        other = self._beside(other)
        value = self.value / other.value
        return Dual(value, (self.tangent - value * other.tangent) / other.value)

    def __add__(self, other: Any) -> Dual:
        other = self._beside(other)
        return Dual(self.value + other.value, self.tangent + other.tangent)

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.tangent)

    def relu(self) -> Dual:
        return Dual(self.value.relu(), self.value.gate() * self.tangent)

    def gate(self) -> Dual:
        """Of slope zero; where the sign is open there may be a jump, and nothing is known."""
        gate = self.value.gate()
        jump = np.where(gate.error > 0, np.inf, 0.0)
        return Dual(gate, Inexact(np.zeros(gate.shape), jump, gate.unit))

    def each(self, move: Callable[[Any], Any]) -> Dual:
        return Dual(move(self.value), move(self.tangent))

    def _beside(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return other
        value = np.asarray(other, dtype=np.float64)
        none = np.zeros(value.shape)
        return Dual(Inexact(value, none, self.value.unit), Inexact(none, none, self.value.unit))


class _Namespace(Rearranging):
    """The functions of the array API that cells call."""

    @staticmethod
    def tanh(x: Dual) -> Dual:
        value = _of(x).tanh(x.value)
        return Dual(value, (1 - value * value) * x.tangent)

    @staticmethod
    def exp(x: Dual) -> Dual:
        value = _of(x).exp(x.value)
        return Dual(value, value * x.tangent)

    @staticmethod
    def log(x: Dual) -> Dual:
        return Dual(_of(x).log(x.value), x.tangent / x.value)

    @staticmethod
    def sqrt(x: Dual) -> Dual:
        value = _of(x).sqrt(x.value)
        return Dual(value, x.tangent / (2 * value))

    @staticmethod
    def max(x: Dual, axis: int, keepdims: bool = False) -> Any:
        return _of(x).max(x.value, axis, keepdims)

    @staticmethod
    def sum(x: Dual, axis: Any = None, keepdims: bool = False) -> Dual:
        return x.each(lambda part: part.sum(axis, keepdims))

    @staticmethod
    def stack(parts: tuple[Dual, ...], axis: int) -> Dual:
        stack = _of(parts[0]).stack
        return Dual(stack(tuple(p.value for p in parts), axis), stack(tuple(p.tangent for p in parts), axis))


def _of(x: Dual) -> Any:
    return x.value.__array_namespace__()
