"""From violations to root causes: which of them follow from others, across the dtypes of a target.

:mod:`deqverify.running.premises` says, job by job, which laws a violation may follow from. It does where one of them is
violated in the same report, by itself or in turn; otherwise it is reported as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from deqverify.registry import laws, premises
from deqverify.running.diagnosis import ABSOLUTE
from deqverify.running.premises import COUPLED, REMEMBERED
from deqverify.running.readings import ADJOINT_EARLY, EARLY, NARROW, SHORT
from deqverify.running.results import Result, Verdict

WRONG = (Verdict.VIOLATED, Verdict.EXPECTED, Verdict.FOLLOWS)
"""Verdicts that stand for a violation."""


@dataclass
class Cause:
    """One thing that is wrong with a target: a law that is violated by itself, in one or several dtypes, and the ids of
    what follows from it. ``results`` are those of the law, the one with the smallest counterexample first."""

    law: str
    target: str
    results: list[Result]
    followers: list[str] = field(default_factory=list)

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def expected(self) -> bool:
        return all(result.verdict is Verdict.EXPECTED for result in self.results)

    @property
    def dtypes(self) -> list[str]:
        return [result.job.dtype for result in self.results if result.job.dtype]


def settled(results: Sequence[Result]) -> list[Result]:
    """``results`` in the same order, those that follow from another of them marked so, with the law to blame."""
    results = [replace(r, verdict=Verdict.VIOLATED) if r.verdict is Verdict.FOLLOWS else r for r in results]
    blamed: dict[int, str] = {}
    for target in dict.fromkeys(result.job.target for result in results):
        blamed |= _blamed([r for r in results if r.job.target == target and r.verdict in WRONG])
    return [
        replace(result, verdict=_following(result.verdict), cause=blamed[id(result)])
        if id(result) in blamed
        else replace(result, cause="")
        for result in results
    ]


def _following(verdict: Verdict) -> Verdict:
    """What is expected stays so, with its own reason."""
    return Verdict.FOLLOWS if verdict is Verdict.VIOLATED else verdict


def _blamed(mine: Sequence[Result]) -> dict[int, str]:
    """By the identity of a result that follows: the law to blame for it, itself a cause."""
    by_law: dict[str, list[Result]] = {}
    for result in mine:
        by_law.setdefault(result.job.law, []).append(result)
    found: dict[int, str] = {}
    alone: set[str] = set()
    one_with: dict[str, str] = {}
    # Nothing that it may follow from is violated: a cause, or one with others that are alike.
    causes = [result for result in mine if not any(law in by_law and law != result.job.law for law in result.follows)]
    heads: dict[object, str] = {}
    # The most basic first, and what says most: a wrong answer more than none.
    for result in sorted(causes, key=lambda result: (_ended(result), len(premises(laws()[result.job.law])))):
        head = heads.setdefault(_alike(result), result.job.law)
        if head == result.job.law:
            alone.add(head)
        else:
            found[id(result)] = one_with[result.job.law] = head

    def root(follows: Iterable[str], seen: frozenset[str]) -> str | None:
        for law in follows:
            if law in seen or law not in by_law:
                continue
            if law in alone:
                return law
            if law in one_with:
                return one_with[law]
            if further := root((f for result in by_law[law] for f in result.follows), seen | {law}):
                return further
        return None

    while True:
        for result in mine:
            if id(result) not in found and (law := root(result.follows, frozenset({result.job.law}))):
                found[id(result)] = law
        # What is left goes round: a call differs from the one before, and is wrong among others. One of them is named.
        left = {result.job.law for result in mine if id(result) not in found} - alone
        if not left:
            return found
        known = {law: place for place, law in enumerate(REMEMBERED)}
        alone.add(min(left, key=lambda law: (known.get(law, len(known)), len(premises(laws()[law])))))


def _alike(result: Result) -> object:
    """What violations that are one have in common: the state that only a used implementation shows, by a crash too,
    what no data point alone shows, the words of a crash or a hang, a tolerance that is absolute, a precision that is
    lower or an iteration that stops early in both passes, or the words that a gradient's blocks and the adjoint are
    told apart by; nothing for others."""
    violation, family = result.violation, laws()[result.job.law].family
    said = violation.diagnosis if violation else ""
    if "deterministic" in result.follows or (family == "state" and "history" in result.follows):
        return REMEMBERED
    if {*COUPLED} <= {*result.follows}:
        return COUPLED
    if violation and _ended(result):
        return violation.kind, violation.description.splitlines()[0]
    for words in (ABSOLUTE, NARROW):
        if words in said:
            return words
    if said.startswith((EARLY, ADJOINT_EARLY, SHORT)):
        return EARLY
    return said if said and family in ("gradient", "adjoint") else id(result)


def _ended(result: Result) -> bool:
    """Whether there was no answer."""
    return result.violation is not None and result.violation.kind in ("crash", "hang", "death")


def causes(results: Sequence[Result]) -> list[Cause]:
    """The root causes among settled ``results``, target by target: those that are not expected first, and of them
    those from which most follows."""
    found: dict[tuple[str, str], Cause] = {}
    wrong = [result for result in results if result.verdict in WRONG]
    for result in wrong:
        if not result.cause:
            key = result.job.target, result.job.law
            found.setdefault(key, Cause(result.job.law, result.job.target, [])).results.append(result)
    for result in wrong:
        cause = found.get((result.job.target, result.cause))
        if cause and result.job.law not in cause.followers and (result.job.target, result.job.law) not in found:
            cause.followers.append(result.job.law)
    for cause in found.values():
        cause.results.sort(key=lambda result: (result.verdict is not Verdict.VIOLATED, _size(result)))
    targets = list(dict.fromkeys(result.job.target for result in results))
    order = list(laws())
    return sorted(
        found.values(), key=lambda c: (c.expected, targets.index(c.target), -len(c.followers), order.index(c.law))
    )


def _size(result: Result) -> int:
    return len(result.violation.snippet) if result.violation else 0


def holding_dtypes(results: Sequence[Result], cause: Cause) -> list[str]:
    """The dtypes in which the law of ``cause`` holds for its target."""
    mine = [r for r in results if (r.job.target, r.job.law) == (cause.target, cause.law)]
    return [r.job.dtype for r in mine if r.verdict is Verdict.HOLDS and r.job.dtype]


def trusted(results: Sequence[Result], target: str) -> list[str]:
    """The laws that hold for ``target`` in every dtype that they decided in."""
    verdicts: dict[str, set[Verdict]] = {}
    for result in results:
        if result.job.target == target:
            verdicts.setdefault(result.job.law, set()).add(result.verdict)
    return [law for law, seen in verdicts.items() if Verdict.HOLDS in seen and not seen & {*WRONG}]
