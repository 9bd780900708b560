"""Arrays that are drawn fast and shrink well.

A matrix drawn entry by entry costs a draw an entry. Here a drawn seed fills the array, and a few drawn edits overwrite single
entries: seed 0 is the constant background, so a failure shrinks to a constant array with at most
a handful of small numbers in it, while random arrays have all entries distinct.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.dtypes import Array

MOST_EDITS = 4
_SMALL = 4  # arrays of at most this many entries may be drawn entry by entry


def numbers(largest: float = 8.0) -> SearchStrategy[float]:
    """Numbers of everyday size: small integers first, then floats of magnitude at most ``largest``.

    Shrinks towards 0 through integers.
    """
    _check_positive("largest", largest)
    bound = int(min(largest, 3))
    return st.integers(-bound, bound).map(float) | st.floats(-largest, largest, width=32)


@st.composite
def signals(draw: DrawFn, shape: tuple[int, ...], background: float = 0.0, edits: int = MOST_EDITS) -> Array:
    """A float64 array of ``shape``: standard normal entries from a drawn seed, then at most ``edits`` drawn entries.

    Shrinks to the constant ``background``: the seed goes to 0, which stands for that constant, and the edits go one by one, their
    values to 0. Costs two draws and three for each edit, whatever the shape. ValueError for a negative size.
    """
    if any(size < 0 for size in shape):
        raise ValueError(f"shape: sizes are not negative, got {shape}")
    size = int(np.prod(shape, dtype=int))
    seed = draw(_SEEDS)
    array = np.full(size, background) if seed == 0 else np.random.Generator(np.random.SFC64(seed)).standard_normal(size)
    if size and edits:
        entries = _edits(size, edits if size > _SMALL else min(edits, size))
        for index, value in draw(entries):
            array[index] = value
    return array.reshape(shape)


_SEEDS = st.integers(0, 2**16 - 1)
_EDITS: dict[tuple[int, int], SearchStrategy[list[tuple[int, float]]]] = {}


def _edits(size: int, most: int) -> SearchStrategy[list[tuple[int, float]]]:
    """Kept by size: building a strategy costs more than drawing from it."""
    if (size, most) not in _EDITS:
        entry = st.tuples(st.integers(0, size - 1), numbers())
        _EDITS[size, most] = st.lists(entry, max_size=most, unique_by=lambda pair: pair[0])
    return _EDITS[size, most]


def _check_positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be positive and finite, got {value!r}")
