"""The floating-point formats that implementations compute in, and the grids that weights are quantised to.

A problem is held in float64 whatever the format under test: its values are *representable* in that
format (:func:`round_to`), so that an oracle and an implementation see the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Dtype:
    """A binary floating-point format.

    ``unit_roundoff`` is half the spacing of 1 (IEEE 754 round to nearest), ``tiny`` the smallest normal
    number, ``largest`` the largest finite one. ``significand`` counts bits, the implicit one included.
    """

    name: str
    significand: int
    tiny: float
    largest: float

    @property
    def unit_roundoff(self) -> float:
        return 2.0**-self.significand

    @property
    def smallest(self) -> float:
        """The smallest positive number of the format, subnormal."""
        return self.tiny * 2.0 ** (1 - self.significand)

    @property
    def underflow(self) -> float:
        """What underflow may take of a number: all below the normal ones, but in float16 the spacing of its subnormal
        numbers, which are kept wherever it is computed in."""
        return self.smallest if self.name == "float16" else self.tiny

    @property
    def below_one(self) -> float:
        """The largest number of the format that is smaller than one."""
        return 1.0 - self.unit_roundoff


DTYPES = {
    "float64": Dtype("float64", 53, 2.0**-1022, float(np.finfo(np.float64).max)),
    "float32": Dtype("float32", 24, 2.0**-126, float(np.finfo(np.float32).max)),
    "float16": Dtype("float16", 11, 2.0**-14, 65504.0),
    "bfloat16": Dtype("bfloat16", 8, 2.0**-126, 3.3895313892515355e38),
}


def dtype(name: str) -> Dtype:
    """The format called ``name``; ValueError names the known ones."""
    try:
        return DTYPES[name]
    except KeyError:
        raise ValueError(f"dtype: {name!r} is not known; use one of {', '.join(DTYPES)}") from None


def round_to(values: npt.ArrayLike, name: str) -> Array:
    """``values`` rounded to the nearest numbers of the format ``name``, ties to even, held in float64 (same shape).

    Rounded once, from float64, subnormal numbers included; beyond the format's range infinite, as in IEEE 754. (PyTorch
    rounds float64 to bfloat16 twice, by way of float32: ``1 + 2⁻⁸ + 2⁻³⁰`` becomes 1 there and ``1 + 2⁻⁷`` here.)
    """
    exact = np.asarray(values, dtype=np.float64)
    fmt = dtype(name)
    if fmt.name == "float64":
        return exact
    with np.errstate(over="ignore"):
        if fmt.name != "bfloat16":
            return exact.astype(fmt.name).astype(np.float64)
        # NumPy has no bfloat16: round to a multiple of the spacing 2^k that the format has at each value. Scaling by a
        # power of two is exact, as is the value 2^128 that stands for overflow.
        spacing = np.maximum(np.frexp(exact)[1], _exponent(fmt.tiny)) - fmt.significand
        rounded = np.ldexp(np.rint(np.ldexp(exact, -spacing)), spacing)
    return np.where(np.abs(rounded) > fmt.largest, np.copysign(np.inf, rounded), rounded)


def _exponent(value: float) -> int:
    """k with ``2^(k−1) ≤ value < 2^k``, as frexp has it."""
    return math.frexp(value)[1]


MOST_BITS = 32
"""Steps of finer grids may underflow in float32, and say little: its significand has 24 bits."""


def check_bits(bits: object) -> int:
    """``bits`` itself; ValueError where no grid has so many."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= MOST_BITS:
        raise ValueError(f"bits: a symmetric grid has a whole number of them, 2 to {MOST_BITS}, got {bits!r}")
    return bits


def to_grid(values: npt.ArrayLike, bits: int) -> Array:
    """``values`` on the symmetric grid of ``bits`` bits (same shape): the nearest multiples, ties to even, of the least
    power of two of which ``2^(bits−1) − 1`` reach the largest magnitude.

    A power of two rounds nothing, so that all dtypes agree on the grid and numbers on it stay; and grids nest, those of
    fewer bits in those of more (theory: quantised). ValueError for bits below 2 or above 32.
    """
    exact, most = np.asarray(values, dtype=np.float64), 2 ** (check_bits(bits) - 1) - 1
    largest = float(np.abs(exact).max(initial=0.0))
    exponent = math.frexp(largest)[1] - bits + 1
    if math.ldexp(most, exponent) < largest:
        exponent += 1
    return np.ldexp(np.rint(np.ldexp(exact, -exponent)), exponent)
