"""What arrays that carry something beside their values have in common: an error (:mod:`deqverify.inexact`), a
derivative (:mod:`deqverify.dual`).

A class says how +, ×, / , @ and the sign act on its parts, and what is done to each of them alike; the rest follows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from deqverify.namespaces import array_namespace


class Carrying(ABC):
    """The operations that follow from ``+``, ``-x``, ``*``, ``/``, ``@`` and :meth:`each`."""

    value: Any

    __array_ufunc__ = None  # NumPy's arrays leave products with these to them
    device = "cpu"

    @abstractmethod
    def each(self, move: Callable[[Any], Any]) -> Self:
        """With ``move``, which is linear and has no other argument, done to each part."""

    @abstractmethod
    def _beside(self, other: Any) -> Self:
        """``other``, a plain array or a number too, as one of these."""

    @abstractmethod
    def __add__(self, other: Any) -> Self: ...

    @abstractmethod
    def __neg__(self) -> Self: ...

    @abstractmethod
    def __mul__(self, other: Any) -> Self: ...

    @abstractmethod
    def __truediv__(self, other: Any) -> Self: ...

    @abstractmethod
    def __matmul__(self, other: Any) -> Self: ...

    def __radd__(self, other: Any) -> Self:
        return self + other

    def __rmul__(self, other: Any) -> Self:
        return self * other

    def __sub__(self, other: Any) -> Self:
        return self + -self._beside(other)

    def __rsub__(self, other: Any) -> Self:
        return self._beside(other) - self

    def __rtruediv__(self, other: Any) -> Self:
        return self._beside(other) / self

    def __rmatmul__(self, other: Any) -> Self:
        return self._beside(other) @ self

    def __getitem__(self, key: Any) -> Self:
        return self.each(lambda part: part[key])

    def __len__(self) -> int:
        return len(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        return int(self.value.ndim)

    @property
    def T(self) -> Self:
        return self.each(lambda part: part.T)


class Rearranging:
    """The functions of the array API that move entries and do nothing else."""

    asarray, ones_like = np.asarray, staticmethod(lambda x: np.ones(x.shape))
    triu, tril = staticmethod(np.triu), staticmethod(np.tril)

    @staticmethod
    def reshape(x: Carrying, shape: tuple[int, ...]) -> Carrying:
        return x.each(lambda part: array_namespace(part).reshape(part, shape))

    @staticmethod
    def take(x: Carrying, places: Any, axis: int) -> Carrying:
        return x.each(lambda part: array_namespace(part).take(part, places, axis=axis))

    @staticmethod
    def permute_dims(x: Carrying, axes: tuple[int, ...]) -> Carrying:
        return x.each(lambda part: array_namespace(part).permute_dims(part, axes))

    @staticmethod
    def matrix_transpose(x: Carrying) -> Carrying:
        return x.each(lambda part: array_namespace(part).matrix_transpose(part))

    @staticmethod
    def flip(x: Carrying, axis: Any) -> Carrying:
        return x.each(lambda part: array_namespace(part).flip(part, axis=axis))

    @staticmethod
    def roll(x: Carrying, shift: int, axis: int) -> Carrying:
        return x.each(lambda part: array_namespace(part).roll(part, shift, axis=axis))
