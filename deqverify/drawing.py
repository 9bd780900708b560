"""What is drawn, fast, and shrinks well: arrays, sizes, scales and contraction factors.

A matrix drawn entry by entry costs a draw an entry. Here a drawn seed fills the array, and a few drawn edits
overwrite single entries, one draw each: seed 0 is the constant background, so a failure shrinks to a constant array
with at most a handful of small numbers in it, while random arrays have all entries distinct.

What is drawn for an array does not depend on its size, and a smaller array begins like a larger one: so sizes shrink
without the array's becoming another.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.dtypes import Array, dtype, round_to

MOST_EDITS = 4
EDIT_VALUES = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -3.0)
"""What an edit may write; an edit shrinks along this tuple and towards the first entry of the array."""

PATTERN = (2.0, -2.0, 1.0, 0.5, -1.0, 3.0, 0.0, -3.0, 1.5, -0.5, -1.5)
"""What seed 1 repeats. The shrinker tries it early and keeps it while sizes fall, so the largest numbers come first."""

_ROUND_SEEDS = 256  # below it entries are multiples of ½: simple arrays for the shrinker to arrive at
_SEEDS = st.integers(0, 2**16 - 1)
_EDITS = st.integers(0, 2**12 * len(EDIT_VALUES) - 1)  # place and value in one: a draw costs more than a division
_EDIT_COUNTS = st.sampled_from((0, 0, 0, 0, 0, 1, 2, MOST_EDITS))


@st.composite
def signals(draw: DrawFn, shape: tuple[int, ...], background: float = 0.0) -> Array:
    """A float64 array of ``shape``: standard normal entries from a drawn seed, some then overwritten by small numbers.

    Shrinks to the constant ``background``: the seed goes to 0, which stands for that constant, or to 1, which stands
    for :data:`PATTERN`, and the edits go one by one, their values to 0; an array of at most four entries is thereby
    shrunk entry by entry. Costs two draws and one an edit, whatever the shape; most arrays have none. ValueError for a
    negative size.
    """
    return draw_signal(draw, shape, background)


def draw_signal(draw: DrawFn, shape: tuple[int, ...], background: float = 0.0) -> Array:
    """As :func:`signals`, inside another strategy: a nested strategy costs as much as a draw."""
    if any(size < 0 for size in shape):
        raise ValueError(f"shape: sizes are not negative, got {shape}")
    size = math.prod(shape)
    array = _filled(draw(_SEEDS), background, size)
    if size:
        for _ in range(draw(_EDIT_COUNTS)):
            place, value = divmod(draw(_EDITS), len(EDIT_VALUES))
            array[place % size] = EDIT_VALUES[value]
    return array.reshape(shape)


def _filled(seed: int, background: float, size: int) -> Array:
    if seed == 0:
        return np.full(size, background)
    if seed == 1:
        return np.resize(PATTERN, size)
    array = np.random.Generator(np.random.SFC64(seed)).standard_normal(size)
    return np.rint(2 * array) / 2 + 0.0 if seed < _ROUND_SEEDS else array  # + 0.0: no negative zeros


_NARROW_DTYPES = ("float16", "bfloat16")
_SMALL = 4  # sizes up to here are drawn most often
LARGEST_LARGE = 300


@lru_cache(maxsize=64)
def contraction_factors(dtype_name: str = "float64", largest: float = 1 - 1e-6) -> SearchStrategy[float]:
    """γ in (0, ``largest``], a number of the dtype: everyday values, values approaching 1, and a dense spread. One
    draw.

    Shrinks to ½. In float16 and bfloat16 γ stays at most 0.9: beyond it their own spacing decides the answer.
    """
    if not 0 < largest < 1:
        raise ValueError(f"largest: γ lies strictly between 0 and 1, got {largest!r}")
    if dtype_name in _NARROW_DTYPES:
        largest = min(largest, 0.9)
    # What prints in few digits comes first, for a failure to shrink to: in narrow dtypes sums of powers of two.
    everyday = [0.5, 0.9 if dtype_name == "float64" else 0.875, 0.125, 0.75] * 24
    spread = [k / 128 for k in range(1, 128)]
    powers = [1 - 2.0**-k for k in (7, 10, 13, 20)]
    approaching = [0.99, 0.999, 1 - 1e-4, 1 - 1e-6] if dtype_name == "float64" else powers
    menu = [*everyday, *spread, *4 * approaching, *(1 - 10.0**-k for k in np.linspace(1, 6, 24))]
    below = dtype(dtype_name).below_one
    return st.sampled_from([min(float(round_to(g, dtype_name)), below) for g in menu if g <= largest] or [largest])


@lru_cache(maxsize=8)
def scales(dtype_name: str = "float64") -> SearchStrategy[int]:
    """Exponents of two for features; 0 most often, and a range in which fourth powers are normal numbers. One draw."""
    if dtype_name in _NARROW_DTYPES:
        return st.sampled_from([0, 0, 0, 1, -1])
    widest = 200 if dtype_name == "float64" else 26
    rare = {-3, 3, -10, 10, -26, 26, *range(-widest, widest + 1, max(1, widest // 12))} - {0}
    absolute = [-min(27, widest)] * 4  # 1e-8: what absolute tolerances let pass, in every run
    return st.sampled_from([*[0] * 40, *sorted(rare, key=lambda k: (abs(k), k)), *absolute])


_STEP: ContextVar[int | None] = ContextVar("the step of a menu of shapes", default=None)


@st.composite
def few_shapes(draw: DrawFn, strategy: SearchStrategy[Any]) -> Any:
    """As ``strategy``, every size in it one of three, and all of them the same: least, one more, or two more. For what
    is compiled anew for each shape. One draw more."""
    token = _STEP.set(draw(st.sampled_from((0, 1, 2))))
    try:
        return draw(strategy)
    finally:
        _STEP.reset(token)


def size_up_to(least: int, largest: int) -> SearchStrategy[int]:
    """Sizes up to four stand six times in the menu; the first is the simplest. Asked while something is drawn."""
    step = _STEP.get()
    return _sizes(least, largest) if step is None else st.just(min(largest, least + step))


@lru_cache(maxsize=256)
def _sizes(least: int, largest: int) -> SearchStrategy[int]:
    menu = [size for size in range(least, largest + 1) for _ in range(6 if size <= _SMALL else 1)]
    return st.sampled_from(menu if len(menu) > 1 else 2 * menu)  # a menu of one draws nothing: shrinking would misalign


_LARGE_STEPS = {256: (65, 129, 257)}


def large_size(largest: int, threshold: int = 256, most: int = LARGEST_LARGE) -> SearchStrategy[int]:
    """Sizes beyond ``largest`` up to ``most``, four times in five beyond ``threshold``: what fails from a threshold on
    fails there, and shrinks to it. Asked while something is drawn."""
    step = _STEP.get()
    if step is None:
        return _large_sizes(largest, threshold, most)
    return st.just(_LARGE_STEPS.get(threshold, range(threshold + 1, threshold + 4))[step])


@lru_cache(maxsize=32)
def _large_sizes(largest: int, threshold: int, most: int) -> SearchStrategy[int]:
    below, above = range(largest + 1, threshold + 1), range(threshold + 1, most + 1)
    often = 4 * len(below) // len(above) + 1
    return st.sampled_from([*below, *(size for size in above for _ in range(often))])


def draw_size(
    draw: DrawFn, least: int, largest: int, large: bool = False, threshold: int = 256, most: int = LARGEST_LARGE
) -> int:
    """A size up to ``largest``, or if ``large`` beyond it (:func:`large_size`). One draw."""
    return draw(large_size(largest, threshold, most) if large else size_up_to(least, largest))


def draw_rate(draw: DrawFn, dtype_name: str, large: bool = False) -> float:
    """As :func:`contraction_factors`; if ``large`` at most .99. One draw."""
    return draw(contraction_factors(dtype_name, 0.99) if large else contraction_factors(dtype_name))


@lru_cache(maxsize=64)
def one_of(regimes: tuple[str, ...]) -> SearchStrategy[str]:
    """One of some words, the first the simplest. One draw."""
    return st.sampled_from(regimes)
