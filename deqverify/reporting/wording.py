"""Words that every report uses alike, and text of others made safe to show."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from deqverify.bounds import DISCRIMINATING
from deqverify.registry import OTHER_CELLS
from deqverify.running.causes import Cause, holding_dtypes
from deqverify.running.plan import Report
from deqverify.running.results import Verdict
from deqverify.trial import TIME_LIMIT

LEGEND = {
    Verdict.HOLDS: "no counterexample; the bounds could have told, in so many of the examples where a share is given",
    Verdict.VIOLATED: "a counterexample was found and shrunk",
    Verdict.FOLLOWS: "violated, but only where a law that it rests on is violated too",
    Verdict.EXPECTED: "violated, as the expectations say, for the reason given there",
    Verdict.INCONCLUSIVE: "too little evidence: mostly reported as not converged, or the claims allow too much",
    Verdict.NOT_CLAIMED: "the implementation does not claim what the law needs",
    Verdict.COULD_NOT_RUN: "the target or the law failed to start",
}


FULL_SHARE = 0.95
"""Where fewer of the examples could have told, the share stands beside the verdict."""


NAMED = 6
"""So many of the laws that follow, or that hold, are named."""


def said(cause: Cause) -> str:
    """What is wrong, as a clause that begins with a verb."""
    violation = cause.first.violation
    assert violation
    return violation.diagnosis or (violation.anomaly if violation.kind == "wrong" else _ENDS[violation.kind])


_ENDS = {"crash": "raises an error", "hang": "does not come back", "death": "kills its process"}


def details(cause: Cause, report: Report) -> list[str]:
    """Where it begins, in which dtypes, how far off it is, and what follows from it: clauses."""
    violation = cause.first.violation
    assert violation
    parts = [violation.boundary_said or (f"smallest at {violation.where}" if violation.where else "")]
    right = holding_dtypes(report.by_law[cause.target, cause.law], cause)
    also = f", not in {' and '.join(right)}" if right else ""
    parts += [f"in {' and '.join(cause.dtypes)}{also}"] if cause.dtypes else []
    if violation.kind != "wrong":
        parts.append(violation.description.splitlines()[0])
    elif violation.measured is not None and violation.allowed:
        parts.append(excess(violation.measured / violation.allowed, violation.worst_error))
    if cause.followers:
        many = len(cause.followers) > 1
        parts.append(f"{len(cause.followers)} law{'s follow' if many else ' follows'}: {named(cause.followers)}")
    return [part for part in parts if part]


def excess(ratio: float, worst: float | None) -> str:
    """How far beyond its bound an error is at the smallest problem, and how large one was seen relative to the size of
    what is right. A ratio of many digits says only that nearly nothing is allowed."""
    said = f"{ratio:.2g} times what is allowed" if ratio < TELLING else "far beyond rounding and claims"
    if worst is None or not 1e-3 <= worst < np.inf:
        return said
    if worst >= 10:
        return f"off by up to {worst:.2g} times its size, {said}"
    return f"off by up to {100 * worst:.{0 if worst >= 0.1 else 1}f} %, {said}"


TELLING = 1e6
"""A ratio of error and bound that is larger says no more of the error."""


def named(laws: Sequence[str]) -> str:
    """Some of them by name."""
    left = len(laws) - NAMED
    return ", ".join(laws[:NAMED]) + (f" and {left} more" if left > 0 else "")


def remarks(report: Report) -> list[str]:
    """What no law forbids and is worth a line: answers that hold NaN, reported; and what was claimed and not tried."""
    counts: dict[str, int] = {}
    for result in report.results:
        counts[result.job.column] = counts.get(result.job.column, 0) + result.not_finite
    found = [
        f"{column}: {count} answers to finite problems hold NaN or infinity; each was reported as not converged"
        for column, count in counts.items()
        if count
    ]
    found += _cut_short(report)
    return found + [f"not tried: {what}" for what in report.untried]


def _cut_short(report: Report) -> list[str]:
    """By column, how many laws hold on fewer examples than they were to have, as there was no time for more."""
    short: dict[str, list[int]] = {}
    for result in report.of(Verdict.HOLDS):
        if result.reason == TIME_LIMIT:
            short.setdefault(result.job.column, []).append(result.examples)
    return [
        f"{column}: {'1 law holds' if len(numbers) == 1 else f'{len(numbers)} laws hold'} on the {_between(numbers)} "
        "examples that there was time for (--max-minutes, --max-time)"
        for column, numbers in short.items()
    ]


def _between(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else str(numbers[0])


STRENGTH = {"enclosure": "an equilibrium", "energy": "a gradient"}
"""The laws that compare the whole of something with what it should be, relative to its size."""


def strength(report: Report) -> list[str]:
    """What would have been seen, a sentence for each target of which something is compared with what it should be and
    nothing is violated."""
    wrong = (Verdict.VIOLATED, Verdict.FOLLOWS, Verdict.EXPECTED)
    broken = {result.job.column for result in report.results if result.verdict in wrong}
    found: dict[str, dict[str, list[str]]] = {}
    for result in report.of(Verdict.HOLDS):
        job, least = result.job, result.tally.found_by_half
        if job.law in STRENGTH and least < DISCRIMINATING and job.column not in broken:
            found.setdefault(job.target, {}).setdefault(job.law, []).append(f"{least:.0e} in {job.dtype}")
    return [
        f"{target}: half of the examples would have shown "
        + ", or ".join(f"{STRENGTH[law]} off by {', '.join(sizes)}" for law, sizes in laws.items())
        for target, laws in found.items()
    ]


def counts(report: Report) -> str:
    """A sentence: how many verdicts of which kind, from how many examples."""
    examples = sum(result.examples for result in report.results)
    of = {verdict: len(report.of(verdict)) for verdict in Verdict}
    always = (Verdict.VIOLATED, Verdict.EXPECTED)
    others = sum(result.reason.startswith(OTHER_CELLS) for result in report.of(Verdict.NOT_CLAIMED))
    more = {Verdict.NOT_CLAIMED: f" ({others} about other cells)"} if others else {}
    listed = ", ".join(
        f"{count} {verdict.value}{more.get(verdict, '')}" for verdict, count in of.items() if count or verdict in always
    )
    verdicts = "1 verdict" if len(report.results) == 1 else f"{len(report.results)} verdicts"
    return f"{verdicts} from {examples} example{'s' if examples != 1 else ''}: {listed}."


def ending(report: Report) -> str:
    """What that means for the exit code."""
    if report.exit_code == 0:
        return "Nothing beyond the expectations."
    if report.exit_code == 1:
        return f"{len(report.stale)} stale expectations."
    return "Some could not run." if report.results else "Nothing ran."


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])|\x9b[0-?]*[ -/]*[@-~]")
"""What moves a terminal's cursor or colours its text: control sequences, titles and links, and short ones."""

_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""Control characters but tab and newline, what reverses or hides text, and what XML and UTF-8 forbid."""


def plain(text: str) -> str:
    """``text`` of a target, as it can be shown anywhere: escape sequences are left out, other characters that cannot be
    seen become "�"."""
    return _UNSHOWN.sub("\ufffd", _ESCAPES.sub("", text.replace("\r\n", "\n")))


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
