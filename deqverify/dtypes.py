"""The floating-point formats that implementations compute in.

A problem is held in float64 whatever the format under test: its values are *representable* in that
format (:func:`round_to`), so that an oracle and an implementation see the same numbers.
"""

from __future__ import annotations

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
    """``values`` rounded to the nearest numbers of the format ``name``, held in float64 (same shape)."""
    exact = np.asarray(values, dtype=np.float64)
    fmt = dtype(name)
    if fmt.name == "float64":
        return exact
    if fmt.name != "bfloat16":
        with np.errstate(over="ignore"):
            return exact.astype(fmt.name).astype(np.float64)
    # NumPy has no bfloat16: keep the upper half of a float32, rounded to even.
    with np.errstate(over="ignore"):
        bits = exact.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    rounded = (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(np.isfinite(exact), rounded, exact)
