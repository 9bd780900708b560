"""How near a law's examples came to their bounds: counts, the worst, and the distribution of measured/allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from deqverify.registry import arguments_code, where_code
from deqverify.trial import Example

MODERATE = 0.99
"""Up to this γ every accuracy law should be able to tell; nearer to one, conditioning alone may hide an error."""

BINS_PER_DECADE = 4

MOST_CODE = 20_000
"""Characters of code that are kept of the worst arguments: those of 300 states are megabytes."""

LOOSE = 1e-3
"""A bound is loose when the worst measured is below this share of it: then a reason is due (``Law.loose``)."""


@dataclass
class Tally:
    """Examples that did not fail. ``bounded`` are those that measured something, ``exact`` those of them that measured
    0; ``bins`` counts the others by ``floor(4 log10(measured/allowed))``.

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

    def add(self, example: Example) -> None:
        self.examples += 1
        self.informative += example.informative
        if getattr(example.arguments.get("problem"), "gamma", 1.0) <= MODERATE:
            self.moderate += 1
            self.moderate_informative += example.informative
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
        for bin_, count in other.bins.items():
            self.bins[bin_] = self.bins.get(bin_, 0) + count
        if other.worst > self.worst:
            self.worst, self.arguments = other.worst, other.arguments

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
        return asdict(self) | {"bins": {str(bin_): count for bin_, count in sorted(self.bins.items())}}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Tally:
        return cls(**document | {"bins": {int(bin_): count for bin_, count in document["bins"].items()}})
