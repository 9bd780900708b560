"""How near a law's examples came to their bounds: counts, the worst, and the distribution of measured/allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from deqverify.describing import arguments_code, where_code
from deqverify.trial import Example

MODERATE = 0.99
"""Up to this γ every accuracy law should be able to tell; nearer to one, conditioning alone may hide an error."""

BINS_PER_DECADE = 4

BINS = ("bins", "finds")
"""What a tally counts by bin."""

MOST_CODE = 20_000
"""Characters of code that are kept of the worst arguments: those of 300 states are megabytes."""

LOOSE = 1e-3
"""A bound is loose when the worst measured is below this share of it: then a reason is due (``Law.loose``)."""


@dataclass
class Tally:
    """Examples that did not fail. ``bounded`` are those that measured something, ``exact`` those of them that measured
    0; ``bins`` counts the others by ``floor(4 log10(measured/allowed))``. ``finds`` counts those that would have shown
    a relative error by ``ceil(4 log10(the smallest))``.

    ``worst`` is the largest measured/allowed, and ``arguments`` the Python code of the arguments that gave it.
    """

    examples: int = 0
    informative: int = 0
    moderate: int = 0
    moderate_informative: int = 0
    bounded: int = 0
    exact: int = 0
    worst: float = 0.0
    arguments: str = ""
    bins: dict[int, int] = field(default_factory=dict)
    finds: dict[int, int] = field(default_factory=dict)

    def add(self, example: Example) -> None:
        self.examples += 1
        self.informative += example.informative
        if getattr(example.arguments.get("problem"), "gamma", 1.0) <= MODERATE:
            self.moderate += 1
            self.moderate_informative += example.informative
        if 0.0 < example.finds < math.inf:
            least = math.ceil(BINS_PER_DECADE * math.log10(example.finds))
            self.finds[least] = self.finds.get(least, 0) + 1
        if example.ratio is None:
            return
        self.bounded += 1
        if not 0.0 < example.ratio < math.inf:  # infinity against infinity is no distance to a bound either
            self.exact += 1
            return
        bin_ = math.floor(BINS_PER_DECADE * math.log10(example.ratio))
        self.bins[bin_] = self.bins.get(bin_, 0) + 1
        if example.ratio > self.worst:
            code = arguments_code(example.arguments)
            where = where_code(example.arguments)
            self.worst, self.arguments = (
                example.ratio,
                code if len(code) <= MOST_CODE else f"too large to print: {where}",
            )

    def merge(self, other: Tally) -> None:
        """Adds the counts of ``other``, and keeps the worse worst."""
        for name in ("examples", "informative", "moderate", "moderate_informative", "bounded", "exact"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in BINS:
            mine = getattr(self, name)
            for bin_, count in getattr(other, name).items():
                mine[bin_] = mine.get(bin_, 0) + count
        if other.worst > self.worst:
            self.worst, self.arguments = other.worst, other.arguments

    @property
    def found_by_half(self) -> float:
        """The smallest relative error, rounded up to a quarter of a decade, that half of the examples would have shown;
        infinite where fewer would have shown any."""
        seen = 0
        for least, count in sorted(self.finds.items()):
            seen += count
            if 2 * seen >= self.examples:
                return float(10.0 ** (least / BINS_PER_DECADE))
        return math.inf

    @property
    def loose(self) -> bool:
        """Whether something was measured, and nothing came near its bound."""
        return self.bounded > 0 and self.worst < LOOSE

    @property
    def share(self) -> float:
        """Informative examples among all; NaN for none."""
        return self.informative / self.examples if self.examples else math.nan

    @property
    def moderate_share(self) -> float:
        """The same among those with γ ≤ 0.99."""
        return self.moderate_informative / self.moderate if self.moderate else math.nan

    def document(self) -> dict[str, Any]:
        """JSON-ready; :meth:`of` reads it."""
        return asdict(self) | {name: {str(k): v for k, v in sorted(getattr(self, name).items())} for name in BINS}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Tally:
        return cls(**document | {name: {int(k): v for k, v in document.get(name, {}).items()} for name in BINS})
