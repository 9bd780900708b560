"""What adapters of libraries share: their options as words, a tolerance and a cap; and what else they import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.implementations.protocol import Solution, Status, worst

__all__ = ["DIRECT", "Accuracy", "Claims", "Configured", "Solution", "Status", "Traced", "cap", "chosen", "worst"]

TIGHT = 1e-12
"""The tolerance of the option ``tight``: what an iteration still reaches in float64 where states are of size one."""


@dataclass(eq=False)
class Configured:
    """Options of an adapter, which adds its own: ``tol``, the tolerance of both passes, and ``most``, their iteration
    cap, None for the library's own."""

    tol: Any = None
    most: Any = None

    name: ClassVar[str]
    MOST: ClassVar[int | None] = 5000
    """The cap where a tolerance was asked for: none that binds where the rate is below 0.99."""

    def limited(self, max_iterations: int) -> Self:
        """The same layer with its caps lowered."""
        return self._with(most=max_iterations)

    def at_tolerance(self, tolerance: float) -> Self:
        """The same layer with both tolerances set and no cap in the way."""
        return self._with(tol=tolerance, most=self.MOST)

    def _with(self, **changes: Any) -> Self:
        twin = replace(self, **changes)
        vars(twin)["name"] = self.name  # the target's text, which is no option
        return twin


@dataclass(eq=False)
class Traced(Configured):
    """Options of an adapter that can hand out the trace of a solve, and does so while ``tracing``."""

    tracing: bool = False

    def traced(self) -> Self:
        """The same layer, its solutions holding a trace."""
        return self._with(tracing=True)


def cap(given: Sequence[str], key: str, usual: int) -> int:
    """The cap that ``given`` says as ``key=2``, the last where it says several, and the ``usual`` one where it says
    none. ValueError where it is no whole number of at least 1."""
    said = [word.removeprefix(f"{key}=") for word in given if word.startswith(f"{key}=")]
    for value in said:
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(f"{key}: takes a whole number of at least 1, as in {key}=2, got {value!r}")
    return int(said[-1]) if said else usual


def chosen(layer: Any, given: Sequence[str], known: Sequence[str]) -> Any:
    """``layer``, at the tolerance ``TIGHT`` where ``given`` says ``tight``. ValueError for an option of a target that
    is neither that nor ``known``; where one ``known`` has a value, as ``b_max_iter=2``, any other value is."""
    keys = {word.partition("=")[0] for word in known if "=" in word}
    for word in given:
        if word not in (*known, "tight") and word.partition("=")[0] not in keys:
            raise ValueError(f"there is no option {word!r}; use some of {', '.join((*known, 'tight'))}")
    return layer.at_tolerance(TIGHT) if "tight" in given else layer
