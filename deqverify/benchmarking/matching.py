"""Equal accuracy: the loosest tolerance with which a contender's achieved errors stay below a target.

A tolerance argument means something else in every library (absolute or relative, of the residual or of the step). So
contenders are compared at the same achieved error, the worst of z, ∂L/∂θ and ∂L/∂x. The search walks in factors of
√10 and is cached: beside the contender, the problem, dtype, device and target, the key holds the versions that matter.
That a target is not reached is a result, kept like any other. What was found before is checked when it is used: where
the error now exceeds the target (the code changed under one version), the search starts again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from deqverify.benchmarking.contenders import Contender, Unavailable, contender
from deqverify.benchmarking.measure import Row, machine, passes
from deqverify.benchmarking.problems import FixedProblem, digest
from deqverify.benchmarking.truth import achieved

CACHE = Path(".deqverify/equal-accuracy.json")
TIGHTEST = {"float64": 1e-15, "float32": 1e-8}
_ROOT_TEN = 10**0.5


@dataclass(frozen=True)
class Match:
    """``tolerance`` None: the contender takes none. ``reached`` tells whether ``error`` is at most the target."""

    tolerance: float | None
    error: float
    reached: bool
    tries: int


def loosest(error_at: Callable[[float], float], target: float, tightest: float) -> Match:
    """The loosest of ``target · 10^(k/2)``, k ≤ 2, at which ``error_at(tolerance) ≤ target``, down to ``tightest``.

    It starts at ``target`` and tightens, tenfold first and then back by √10, so that few solves are needed; errors need
    not fall monotonically. The best error seen is what "not reached" reports.
    """
    tolerance, tries = target * 10, 0
    best: tuple[float | None, float] = (None, float("inf"))
    while tolerance >= tightest:
        error, tries = error_at(tolerance), tries + 1
        if error <= target:
            looser = error_at(tolerance * _ROOT_TEN)
            if looser <= target:
                return Match(tolerance * _ROOT_TEN, looser, True, tries + 1)
            return Match(tolerance, error, True, tries + 1)
        if error < best[1]:
            best = (tolerance, error)
        tolerance /= 10
    return Match(best[0], best[1], False, tries)


def match(
    who: Contender,
    fixed: FixedProblem,
    dtype: str,
    device: str,
    target: float,
    cache: Path = CACHE,
    again: bool = False,
) -> Match:
    """The match of one contender, from the cache where it was found before, unless ``again``. Unavailable passes
    through."""
    problem = fixed.problem(dtype)
    key = _key(who, digest(problem), dtype, device, target)
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if key in known and not again:
        return Match(**known[key])

    def error_at(tolerance: float | None) -> float:
        try:
            return achieved(problem, *who.prepare(problem, dtype, device, tolerance).answer()).worst
        except Unavailable:
            raise
        except Exception:  # a library that raises at this tolerance has not reached the target with it
            return float("inf")

    if who.tunable:
        found = loosest(error_at, target, TIGHTEST.get(dtype, 1e-4))
    else:
        error = error_at(None)
        found = Match(None, error, error <= target, 1)
    known[key] = asdict(found)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return found


def rows(
    names: Iterable[str],
    which: Iterable[str],
    fixed: FixedProblem,
    dtype: str,
    device: str,
    target: float,
    budget: float = 0.3,
    cache: Path = CACHE,
) -> Iterator[Row]:
    """As :func:`measure.rows`, each contender at the tolerance that achieves ``target``."""
    which = tuple(which)
    for name in names:
        try:
            who = contender(name)
            found = match(who, fixed, dtype, device, target, cache)
            made = _at(who, found, which, fixed, dtype, device, budget) if found.reached else []
            if any(row.achieved and row.achieved.worst > target for row in made):
                found = match(who, fixed, dtype, device, target, cache, again=True)
                made = _at(who, found, which, fixed, dtype, device, budget) if found.reached else []
            if not found.reached:
                note = f"not reached: {found.error:.0e}"
                yield Row(name, which[0], fixed, dtype, device, found.tolerance, note=note)
            yield from made
        except Unavailable as missing:
            yield Row(name, which[0], fixed, dtype, device, note=str(missing))


def _at(
    who: Contender, found: Match, which: tuple[str, ...], fixed: FixedProblem, dtype: str, device: str, budget: float
) -> list[Row]:
    note = "" if found.tolerance is None else f"tolerance {found.tolerance:.0e}"
    return list(passes(who, which, fixed, dtype, device, found.tolerance, budget, note))


def _key(who: Contender, problem: str, dtype: str, device: str, target: float) -> str:
    known = machine()
    libraries = [who.name.split("[")[0], *who.needs, "deqverify", "torch"]
    versions = " ".join(f"{name}={known[name]}" for name in dict.fromkeys(libraries) if name in known)
    return f"{who.name} {problem} {dtype} {device} {target:g} {versions}"
