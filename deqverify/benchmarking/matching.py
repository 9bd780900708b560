"""Equal accuracy: the loosest tolerance with which a target's achieved error stays below what was asked for.

A tolerance argument means something else in every library (absolute or relative, of the residual or of the step). So
targets are compared at the same achieved error: that of z for a forward pass, the worst of z, ∂L/∂θ and ∂L/∂x for a
gradient or a step. The search walks in factors of √10 and is cached: beside the target, the pass, the problem, dtype,
device and accuracy, the key holds the versions that matter. That an accuracy is not reached is a result, kept like any
other. What was found before is checked when it is used: where the error is now larger than asked for (the code changed
under one version), the search starts again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from deqverify.benchmarking.measuring import Entry, Row, entered, measured
from deqverify.benchmarking.problems import FixedProblem, achieved, digest
from deqverify.benchmarking.targets import TimedTarget, Unavailable, timed_target
from deqverify.running.files import write_whole
from deqverify.running.installed import versions

CACHE = Path(".deqverify/equal-accuracy.json")
TIGHTEST = {"float64": 1e-15, "float32": 1e-8}
_ROOT_TEN = 10**0.5


@dataclass(frozen=True)
class Match:
    """``tolerance`` None: the target takes none. ``reached`` tells whether ``error`` is small enough."""

    tolerance: float | None
    error: float
    reached: bool
    tries: int


def loosest(error_at: Callable[[float], float], accuracy: float, tightest: float) -> Match:
    """The loosest of ``accuracy · 10^(k/2)``, k ≤ 2, at which ``error_at(tolerance) ≤ accuracy``, down to ``tightest``.

    It starts at ``10 · accuracy`` and tightens, tenfold first and then back by √10, so that few solves are needed;
    errors need not fall monotonically. The best error seen is what "not reached" reports.
    """
    tolerance, tries = accuracy * 10, 0
    best: tuple[float | None, float] = (None, float("inf"))
    while tolerance >= tightest:
        error, tries = error_at(tolerance), tries + 1
        if error <= accuracy:
            looser = error_at(tolerance * _ROOT_TEN)
            if looser <= accuracy:
                return Match(tolerance * _ROOT_TEN, looser, True, tries + 1)
            return Match(tolerance, error, True, tries + 1)
        if error < best[1]:
            best = (tolerance, error)
        tolerance /= 10
    return Match(best[0], best[1], False, tries)


def match(who: TimedTarget, row: Row, accuracy: float, cache: Path = CACHE, again: bool = False) -> Match:
    """The match of one target for the pass and the problem of ``row``, from the cache where it was found before, unless
    ``again``. Unavailable passes through."""
    problem = row.problem.problem(row.dtype)
    key = _key(who, digest(problem), row, accuracy)
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if key in known and not again:
        return Match(**known[key])

    def error_at(tolerance: float | None) -> float:
        try:
            run = who.prepare(problem, row.dtype, row.device, tolerance)
            return achieved(problem, *run.answer(row.which)).worst
        except Unavailable:
            raise
        except Exception:  # a library that raises at this tolerance has not reached the accuracy with it
            return float("inf")

    if who.tunable:
        found = loosest(error_at, accuracy, TIGHTEST.get(row.dtype, 1e-4))
    else:
        error = error_at(None)
        found = Match(None, error, error <= accuracy, 1)
    known[key] = asdict(found)
    write_whole(cache, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return found


def rows(
    names: Iterable[str],
    which: Sequence[str],
    problem: FixedProblem,
    dtype: str,
    device: str,
    accuracy: float,
    budget: float = 0.3,
    cache: Path = CACHE,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """As :func:`deqverify.benchmarking.measuring.rows`, each target at the tolerance that achieves ``accuracy`` in
    each pass. ``say`` hears whose tolerance is looked for."""
    entries: list[Entry | Row] = []
    for name in names:
        say(name)
        try:
            who = timed_target(name)
            who.prepare(problem.problem(dtype), dtype, device)
        except Exception as error:
            entries.append(Row(name, which[0], problem, dtype, device).without(error))
            continue
        entries += [_matched(who, Row(name, each, problem, dtype, device), accuracy, cache) for each in which]
    say("timing")
    return measured(entries, budget)


def _matched(who: TimedTarget, row: Row, accuracy: float, cache: Path) -> Entry | Row:
    try:
        for again in (False, True):
            found = match(who, row, accuracy, cache, again)
            if not found.reached:
                return replace(row, tolerance=found.tolerance, note=f"not reached: {found.error:.0e}")
            tuned = replace(row, tolerance=found.tolerance)
            entry = entered(
                tuned, who, who.prepare(row.problem.problem(row.dtype), row.dtype, row.device, found.tolerance)
            )
            if isinstance(entry, Row) or (entry.row.achieved and entry.row.achieved.worst <= accuracy):
                return entry
    except Exception as error:
        return row.without(error)
    return replace(tuned, note="not reached twice alike: the answers differ from call to call")


def _key(who: TimedTarget, problem: str, row: Row, accuracy: float) -> str:
    known = versions()
    libraries = [who.name.split("[")[0], *who.needs, "deqverify", "torch"]
    installed = " ".join(f"{name}={known[name]}" for name in dict.fromkeys(libraries) if name in known)
    where = f"{row.problem.cell} {problem} {row.dtype} {row.device}"  # cells share weights, and so digests
    return f"{who.name} {row.which} {where} {accuracy:g} {installed}"
