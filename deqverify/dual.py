"""Arrays that carry their derivative along a direction beside their value, each with a bound on its error.

A cell's own pull-back, run on them, gives the derivative of its gradient: no second derivative is written for any cell
(theory: second-order-of-a-cell).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deqverify.inexact import Inexact


@dataclass(frozen=True, eq=False)
class Dual:
    """``value + ε tangent`` with ``ε² = 0``: every operation is its product or chain rule, in :class:`Inexact` arrays.
    Plain arrays and numbers have no derivative."""

    value: Inexact
    tangent: Inexact

    __array_ufunc__ = None
    device = "cpu"

    def __array_namespace__(self, api_version: str | None = None) -> type[_Namespace]:
        return _Namespace

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    def __len__(self) -> int:
        return len(self.value)

    def __matmul__(self, other: Any) -> Dual:
        other = self._beside(other)
        return Dual(self.value @ other.value, self.tangent @ other.value + self.value @ other.tangent)

    def __rmatmul__(self, other: Any) -> Dual:
        return self._beside(other) @ self

    def __mul__(self, other: Any) -> Dual:
        other = self._beside(other)
        return Dual(self.value * other.value, self.tangent * other.value + self.value * other.tangent)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        other = self._beside(other)
        value = self.value / other.value
        return Dual(value, (self.tangent - value * other.tangent) / other.value)

    def __rtruediv__(self, other: Any) -> Dual:
        return self._beside(other) / self

    def __add__(self, other: Any) -> Dual:
        other = self._beside(other)
        return Dual(self.value + other.value, self.tangent + other.tangent)

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.tangent)

    def __sub__(self, other: Any) -> Dual:
        return self + -self._beside(other)

    def __rsub__(self, other: Any) -> Dual:
        return self._beside(other) - self

    def __getitem__(self, key: Any) -> Dual:
        return self.both(lambda part: part[key])

    @property
    def T(self) -> Dual:
        return self.both(lambda part: part.T)

    def relu(self) -> Dual:
        return Dual(self.value.relu(), self.value.gate() * self.tangent)

    def gate(self) -> Dual:
        """Of slope zero; where the sign is open there may be a jump, and nothing is known."""
        gate = self.value.gate()
        jump = np.where(gate.error > 0, np.inf, 0.0)
        return Dual(gate, Inexact(np.zeros(gate.shape), jump, gate.unit))

    def both(self, move: Callable[[Any], Any]) -> Dual:
        """What is linear and without other arguments is done to both."""
        return Dual(move(self.value), move(self.tangent))

    def _beside(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return other
        value = np.asarray(other, dtype=np.float64)
        none = np.zeros(value.shape)
        return Dual(Inexact(value, none, self.value.unit), Inexact(none, none, self.value.unit))


class _Namespace:
    """The functions of the array API that cells call."""

    asarray, ones_like = np.asarray, staticmethod(lambda x: np.ones(x.shape))
    triu, tril = staticmethod(np.triu), staticmethod(np.tril)

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
        return x.both(lambda part: part.sum(axis, keepdims))

    @staticmethod
    def stack(parts: tuple[Dual, ...], axis: int) -> Dual:
        stack = _of(parts[0]).stack
        return Dual(stack(tuple(p.value for p in parts), axis), stack(tuple(p.tangent for p in parts), axis))

    @staticmethod
    def reshape(x: Dual, shape: tuple[int, ...]) -> Dual:
        return x.both(lambda part: _of(x).reshape(part, shape))

    @staticmethod
    def take(x: Dual, places: Any, axis: int) -> Dual:
        return x.both(lambda part: _of(x).take(part, places, axis))

    @staticmethod
    def permute_dims(x: Dual, axes: tuple[int, ...]) -> Dual:
        return x.both(lambda part: _of(x).permute_dims(part, axes))

    @staticmethod
    def matrix_transpose(x: Dual) -> Dual:
        return x.both(_of(x).matrix_transpose)

    @staticmethod
    def flip(x: Dual, axis: Any) -> Dual:
        return x.both(lambda part: _of(x).flip(part, axis))

    @staticmethod
    def roll(x: Dual, shift: int, axis: int) -> Dual:
        return x.both(lambda part: _of(x).roll(part, shift, axis))


def _of(x: Dual) -> Any:
    return x.value.__array_namespace__()
