"""Arrays that are drawn fast and shrink well.

A matrix drawn entry by entry costs a draw an entry. Here a drawn seed fills the array, and a few drawn edits
overwrite single entries, one draw each: seed 0 is the constant background, so a failure shrinks to a constant array
with at most a handful of small numbers in it, while random arrays have all entries distinct.

What is drawn for an array does not depend on its size, and a smaller array begins like a larger one: so sizes shrink
without the array's becoming another.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from deqverify.dtypes import Array

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
