"""What a scenario is: a function from sizes and a seed to claims, a table and a picture, and the list of them all."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deqverify.running.files import write_whole


@dataclass(frozen=True)
class Claim:
    """``low ≤ measured ≤ high``: ``name`` says what is measured, ``why`` where the bound comes from."""

    name: str
    measured: float
    why: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        return bool(self.low <= self.measured <= self.high)  # false for NaN

    @property
    def bound(self) -> str:
        """The interval in words: "at most 1", "at least 0.5", "0.9 to 1.1"."""
        if self.low == -math.inf:
            return f"at most {self.high:.4g}"
        if self.high == math.inf:
            return f"at least {self.low:.4g}"
        return f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Outcome:
    """What a scenario found. ``draw`` puts the picture on a Matplotlib figure; ``notes`` are sentences for the page."""

    claims: Sequence[Claim]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    draw: Callable[[Any], None]
    notes: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)


Computing = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[tuple[int, Any]]]
"""From a function and items to the place and the value of each, in the order in which they are done."""


def in_turn(compute: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Here, one after the other."""
    for place, item in enumerate(items):
        yield place, compute(item)


@dataclass
class Work:
    """One run of a scenario: its seed, and its parts, kept in ``file`` as they finish (nowhere where that is None).

    ``key`` names everything that a part's value depends on; parts of another key are not used. ``told`` hears of each
    part: how many are done, of how many, and which comes next. ``computed`` says where parts are computed: here, one
    after the other, or on the workers of a cluster, to which a Work goes as its seed alone.
    """

    seed: int = 0
    file: Path | None = None
    key: str = ""
    told: Callable[[int, int, str], None] = lambda done, of, what: None
    computed: Computing = in_turn
    _kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file and self.file.exists():
            try:
                known = json.loads(self.file.read_text(encoding="utf-8"))
            except ValueError:  # not ours, or written by hand
                known = {}
            if isinstance(known, dict) and known.get("key") == self.key:
                self._kept = known["parts"]

    def each(self, items: Sequence[Any], compute: Callable[[Any], Any], what: str = "") -> list[Any]:
        """``compute(item)`` for each item, JSON-ready values; those that a run before this one finished are not
        computed again. ``what`` tells apart two lists of items of one scenario."""
        named = {f"{what} {_said(item)}".strip(): item for item in items}
        left = [name for name in named if name not in self._kept]
        before = len(named) - len(left)
        self.told(before, len(named), (*left, what)[0])
        for done, (place, value) in enumerate(self.computed(compute, [named[name] for name in left]), 1):
            self._kept[left[place]] = json.loads(json.dumps(value))  # as it will be read again
            if self.file:
                write_whole(self.file, json.dumps({"key": self.key, "parts": self._kept}))
            self.told(before + done, len(named), (*left, what)[done])
        return [self._kept[name] for name in (f"{what} {_said(item)}".strip() for item in items)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Work, (self.seed,)

    def finished(self) -> None:
        """Removes the parts that were kept: the results are there."""
        if self.file:
            self.file.unlink(missing_ok=True)


def _said(item: Any) -> str:
    return ", ".join(map(str, item)) if isinstance(item, tuple) else str(item)


@dataclass(frozen=True)
class Scenario:
    """``compute(work, **sizes)`` is the experiment; ``quick`` and ``full`` are its sizes."""

    name: str
    title: str
    source: str
    words: str
    quick: Mapping[str, Any]
    full: Mapping[str, Any]
    compute: Callable[..., Outcome]
    needs: tuple[str, ...] = ()
    """Modules beyond what Matplotlib and deqverify bring."""


_known: dict[str, Scenario] = {}


def scenario(
    *,
    name: str,
    title: str,
    source: str,
    quick: Mapping[str, Any],
    full: Mapping[str, Any],
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Registers a function ``(work, **sizes) -> Outcome``; its docstring is what the page says of it."""

    def registered(compute: Callable[..., Outcome]) -> Callable[..., Outcome]:
        words = " ".join((compute.__doc__ or "").split())
        _known[name] = Scenario(name, title, source, words, quick, full, compute, needs)
        return compute

    return registered


ORDER = (
    "linear-rate",
    "trust-region",
    "implicit-bias",
    "ling",
    "gao",
    "unhinged",
    "two-layer",
    "spheres",
    "bits",
    "consensus",
    "edge",
    "correlations",
    "lattice",
)
"""In which scenarios are listed and run: the main paper first."""


def scenarios() -> dict[str, Scenario]:
    """Every scenario by name: the modules of this package are imported."""
    import deqverify.scenarios as here

    for module in pkgutil.iter_modules(here.__path__, f"{here.__name__}."):
        importlib.import_module(module.name)
    return {name: _known[name] for name in sorted(_known, key=ORDER.index)}
