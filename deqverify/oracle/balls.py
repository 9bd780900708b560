"""Arrays of balls: NumPy arrays of dtype object that hold Arb numbers (Johansson, arXiv 1611.02831).

A cell written over the array API runs on them as it stands, since NumPy calls each number's own ``exp``, ``tanh``,
``sqrt`` and operators (theory: balls). Every operation rounds at the precision in force, ``flint.ctx.prec`` bits, and
adds what it rounds to the radius: at the precision of a dtype the radius of one evaluation is what rounding in that
dtype may do to it (theory: rounding-of-a-cell).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from flint import arb, ctx

from deqverify.dtypes import Array, dtype

_BESIDE_BITS = 128

Balls = npt.NDArray[np.object_]


def balls(array: npt.ArrayLike, radius: npt.ArrayLike | None = None) -> Balls:
    """``array``, numbers or balls, as balls; exact whatever the precision, or the midpoints alone widened by
    ``radius`` ≥ 0, which is broadcast."""
    if radius is None:
        return np.asarray(_EXACT(array), dtype=object)
    return np.asarray(_WIDE(array, np.asarray(radius, dtype=np.float64)), dtype=object)


def centres(array: Balls) -> Balls:
    """The midpoints, as balls of radius zero."""
    return np.asarray(_CENTRE(array), dtype=object)


def middle(array: Any) -> Array:
    """The midpoints rounded to the nearest float64."""
    return _floats(_MIDDLE, array)


def radius(array: Any) -> Array:
    """The radii, rounded up; 0 below the range of float64. A ball of radius r and midpoint m lies within
    ``r + 2⁻⁵³|m|`` of ``middle``."""
    return _floats(_RADIUS, array)


def magnitude(array: Any) -> Array:
    """The least float64 that no point of each ball exceeds in magnitude, or the next; 0 below the range of float64."""
    return _floats(_MAGNITUDE, array)


def beside(array: Array, unit: float) -> Balls:
    """``array`` (n, …) moved by a third of ``unit`` of each entry and of its data point's largest, as exact points.

    At a number of the dtype an operation may happen to be exact that rounds at every neighbour, ``¾ · 4 + 1`` for one;
    at a point with digits without end none is (theory: rounding-of-a-cell).
    """
    size = np.abs(array)
    largest = size.max(axis=tuple(range(1, array.ndim)), keepdims=True, initial=0.0)
    with ctx.workprec(_BESIDE_BITS):
        return centres(balls(array) + balls(unit * (size + largest)) / 3)


@contextmanager
def precision(dtype_name: str) -> Iterator[None]:
    """Ball arithmetic with the significand of a dtype: 53, 24, 11 or 8 bits."""
    with ctx.workprec(dtype(dtype_name).significand):
        yield


def _up(ball: arb) -> float:
    value = float(ball)
    return math.nextafter(value, math.inf) if value else 0.0


_EXACT = np.frompyfunc(arb, 1, 1)
_WIDE = np.frompyfunc(lambda x, r: arb(x.mid() if isinstance(x, arb) else x, r), 2, 1)
_CENTRE = np.frompyfunc(arb.mid, 1, 1)
_MIDDLE = np.frompyfunc(float, 1, 1)
# NumPy's sum of no balls is the integer 0.
_RADIUS = np.frompyfunc(lambda ball: _up(ball.rad()) if isinstance(ball, arb) else 0.0, 1, 1)
_MAGNITUDE = np.frompyfunc(lambda ball: _up(ball.abs_upper()) if isinstance(ball, arb) else float(abs(ball)), 1, 1)


def _floats(function: Callable[[Any], Any], array: Any) -> Array:
    return np.asarray(function(np.asarray(array, dtype=object)), dtype=np.float64)
