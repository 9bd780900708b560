"""What a law yields: a quantity measured against what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deqverify.bounds import DISCRIMINATING, Bound


@dataclass(frozen=True)
class Measurement:
    """The worst entry of one comparison. ``allowed`` is the sum of ``terms``; ``scale`` is the size of what was
    compared. ``finds`` is the smallest e for which it would have failed, had all that was compared been ``1 ± e`` times
    what it was, infinite where nothing would."""

    what: str
    measured: float
    allowed: float
    terms: dict[str, float]
    scale: float
    discriminates: bool = True
    finds: float = math.inf

    @property
    def holds(self) -> bool:
        return self.measured <= self.allowed  # false for NaN

    @property
    def ratio(self) -> float:
        """measured/allowed; 0 where both are 0."""
        if self.measured == 0.0:
            return 0.0
        return self.measured / self.allowed if self.allowed > 0 else float("inf")

    @property
    def relative_error(self) -> float:
        """measured over the size of what was compared: NaN where that is 0, infinite where NaN was measured."""
        if not self.scale > 0:
            return float("nan")
        return self.measured / self.scale if self.measured == self.measured else float("inf")

    @property
    def informative(self) -> bool:
        """Whether a bound could have told a wrong answer: for some entry it allows a small share of what was
        compared."""
        return self.discriminates or not self.holds


def compare(what: str, measured: npt.ArrayLike, bound: Bound, scale: npt.ArrayLike) -> Measurement:
    """The entry of ``measured`` (a magnitude, any shape) that comes nearest to its bound or exceeds it most.

    ``scale`` is the size of the quantity compared, entry by entry or one for all. A NaN exceeds every bound; a
    comparison of nothing (no entries) holds.
    """
    values = np.asarray(measured, dtype=np.float64)
    allowed = np.broadcast_to(bound.total, values.shape)
    if not values.size:
        return Measurement(what, 0.0, 0.0, {}, 0.0, False)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(values == 0, 0.0, values / allowed)
    ratio = np.where(np.isnan(values), np.inf, np.where(np.isinf(allowed), 0.0, ratio))
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratio)), values.shape))
    sizes = np.broadcast_to(np.asarray(scale, dtype=np.float64), values.shape)
    discriminates = bool(np.any((sizes > 0) & (allowed <= DISCRIMINATING * sizes)))
    widened = Bound({name: np.broadcast_to(term, values.shape) for name, term in bound.terms.items()})
    with np.errstate(divide="ignore", invalid="ignore"):
        # An error of e times the size may point against what is off already.
        finds = np.where(sizes > 0, (allowed + values) / sizes, np.inf).min()
    finds = math.inf if np.isnan(finds) else float(finds)
    worst = float(values[index]), float(allowed[index]), widened.at(index), float(sizes[index])
    return Measurement(what, *worst, discriminates, finds)


@dataclass(frozen=True)
class Fact:
    """A statement that holds or not, with the sentence that says what was seen."""

    what: str
    holds: bool
    seen: str
    informative: bool = True
    ratio: float = field(default=0.0, init=False)
