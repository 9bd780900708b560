"""The reference with weights of a few bits, in NumPy: A is quantised before either pass, and the gradient at the
quantised A is handed on to A (theory: quantised)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from deqverify.cells import LinearCell, LinearSoftmaxCell
from deqverify.cells.base import Theta
from deqverify.claims import Claims
from deqverify.implementations.protocol import Pull, Solution
from deqverify.namespaces import array_namespace
from deqverify.reference.numpy_direct import NumpyDirect

WORD = "bits="
"""Begins the option that says how many."""


def bits_of(option: str) -> int:
    """The number in ``bits=8``. ValueError, with how it is written, for what is none."""
    number = option.removeprefix(WORD)
    if not number.isdecimal():
        raise ValueError(f"bits: takes a whole number of 2 or more, as in reference[bits=8], got {option!r}")
    return int(number)


def on_grid(A: Any, bits: int) -> Any:
    """A, of either framework, on the symmetric grid of so many bits: the nearest multiples of the least power of two of
    which ``2^(bits−1) − 1`` reach the largest magnitude. Not differentiable; nothing is rounded on the way.

    :func:`deqverify.dtypes.to_grid`, which the laws use, is written independently of it.
    """
    xp, step = array_namespace(A), step_of(A, bits)
    steps = xp.round(xp.astype(A, xp.float64) / step)  # in float16 their number may overflow
    return xp.astype(steps * step, A.dtype)


def step_of(A: Any, bits: int) -> float:
    """The step of A's grid; 1 for an A that has none, being zero or not finite."""
    xp, most = array_namespace(A), 2 ** (bits - 1) - 1
    largest = float(xp.max(xp.abs(A)))
    if not 0.0 < largest < math.inf:
        return 1.0
    step = 2.0 ** math.frexp(largest / most)[1]  # it may be twice what is needed
    while most * (step / 2) >= largest:
        step /= 2
    return step


def claiming(direct: Claims, bits: int, where: str) -> Claims:
    """The claims of a direct solve, at the quantised A; ValueError for a number of bits that no grid has."""
    return replace(direct, cells=(LinearSoftmaxCell.name,), bits=bits, where=f"deqverify/reference/{where}")


def quantised(theta: Theta, bits: int) -> dict[str, Any]:
    """θ with A on the grid."""
    return {**theta, "A": on_grid(theta["A"], bits)}


class NumpyQuantised(NumpyDirect):
    """The direct solve at the quantised A, and the pull there: NumPy's pull is written out, so that what it says of the
    quantised A is what A is told."""

    def __init__(self, bits: int):
        self.bits, self.name = bits, f"reference[numpy,{WORD}{bits}]"
        self.claims = claiming(NumpyDirect.claims, bits, "quantised.py")

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        return super().vjp(cell, quantised(theta, self.bits), x, z0)

    def jvp(self, cell: LinearCell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """Along a tangent in the quantised A."""
        return super().jvp(cell, quantised(theta, self.bits), x, tangent)
