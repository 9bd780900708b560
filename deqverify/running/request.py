"""What a run is asked for, the same from every face, checked before anything starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deqverify.cells import check_cells
from deqverify.dtypes import dtype
from deqverify.implementations.devices import check_device
from deqverify.implementations.loading import parse
from deqverify.running import counterexamples
from deqverify.running.expectations import Expectation
from deqverify.running.plan import DATABASE, select
from deqverify.running.profiles import Profile, profile


@dataclass(frozen=True)
class Request:
    """``targets`` to be verified by ``laws`` (ids or families) on ``cells`` in ``dtypes``; empty means all, or all that
    are claimed.

    ``profile`` is a profile or the name of one; ``examples``, ``seconds`` and ``seed`` replace its own. So do
    ``minutes`` of the workers for each target; where ``seconds`` for each law are given, there is no other limit.
    ``expectations`` are the violations that are known. ``database`` is the folder, or the address of the Redis server,
    in which Hypothesis keeps failing examples, and ``counterexamples`` the folder in which counterexamples are kept as
    data; None: nothing is kept or tried again.
    ``in_hand``: the target is an object of the caller's, held by the executor, and ``targets`` only its name.
    ``fail_fast``: after the first violation of a target nothing more is tried on it.
    ``remote``: jobs run on other machines, so that this one need not have the device.

    Raises ValueError, which names the argument, for what is not known or cannot be.
    """

    targets: Sequence[str]
    laws: Sequence[str] = ()
    cells: Sequence[str] = ()
    dtypes: Sequence[str] = ()
    device: str = "cpu"
    profile: str | Profile = "default"
    examples: int | None = None
    seconds: float | None = None
    minutes: float | None = None
    seed: int | None = None
    expectations: Sequence[Expectation] = ()
    database: str | None = str(DATABASE)
    counterexamples: Path | None = counterexamples.FOLDER
    in_hand: bool = False
    fail_fast: bool = False
    remote: bool = False

    def __post_init__(self) -> None:
        for name in ("targets", "laws", "cells", "dtypes", "expectations"):
            object.__setattr__(self, name, _several(getattr(self, name), name))
        if not self.targets:
            raise ValueError("targets: at least one is needed")
        if not self.in_hand:
            object.__setattr__(self, "targets", _several([str(parse(each)) for each in self.targets], "targets"))
        check_cells(self.cells)
        object.__setattr__(self, "dtypes", _several([dtype(each).name for each in self.dtypes], "dtypes"))
        check_device(self.device, self.remote)
        for name, least in (("examples", 1), ("seconds", 0.1), ("minutes", 0.1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name}: must be at least {least}, got {value!r}")
        _ = self.effort, self.law_ids

    @cached_property
    def law_ids(self) -> list[str]:
        """Ids of the laws that are asked for, in the order of all laws."""
        return select(self.laws)

    @cached_property
    def effort(self) -> Profile:
        """The profile with what replaces it."""
        chosen = profile(self.profile) if isinstance(self.profile, str) else self.profile
        changes: dict[str, Any] = {"examples": self.examples, "seconds": self.seconds, "seed": self.seed}
        if self.minutes is not None:
            changes["target_seconds"] = 60.0 * self.minutes
        elif self.seconds is not None:
            changes["target_seconds"] = math.inf
        return dataclasses.replace(chosen, **{name: value for name, value in changes.items() if value is not None})


def _several(values: Iterable[Any], name: str) -> tuple[Any, ...]:
    """``values`` as a tuple, each once."""
    if isinstance(values, str):
        raise ValueError(f"{name}: expected a sequence, got the text {values!r}; write [{values!r}]")
    return tuple(dict.fromkeys(values))
