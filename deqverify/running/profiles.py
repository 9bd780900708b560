"""How hard a run tries."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """``examples`` and soft ``seconds`` for each (law, implementation); a single example that takes
    ``example_seconds``, the time that it waits for a processor left out, is a hang. All laws together share
    ``target_seconds`` of the workers for each target (:mod:`deqverify.running.budget`).

    With a ``seed`` a run draws the same problems in the same order, as many as its time allows, and neither reads nor
    writes the store of earlier failures.
    """

    name: str
    examples: int
    seconds: float
    seed: int | None = None
    example_seconds: float = 20.0
    target_seconds: float = math.inf

    @property
    def hard_seconds(self) -> float:
        """After this long, by the clocks of :mod:`deqverify.clock`, the worker is killed: the soft limits did not reach
        it. Starting takes up to 15 s, and asking what a violation rests on and where it begins up to 25 s."""
        return self.seconds + self.example_seconds + 40.0


PROFILES = {
    "quick": Profile("quick", 40, 10.0),
    "default": Profile("default", 100, 20.0, target_seconds=190.0),
    "ci": Profile("ci", 200, 60.0, seed=0),
    "thorough": Profile("thorough", 2000, 600.0),
}


def profile(name: str) -> Profile:
    """The profile called ``name``; ValueError names the known ones."""
    if name not in PROFILES:
        raise ValueError(f"profile: {name!r} is not known; use one of {', '.join(PROFILES)}")
    return PROFILES[name]
