"""A law that holds in its own examples and fails at the counterexample of another one that rests on it.

What is rare may be met by one law and missed by the one that is to blame. That one is tried again then, with what was
asked of it where the violation was found, so that the report names the cause and not what follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from deqverify.running.causes import WRONG
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.results import Job, Result, Verdict

Follow = Callable[[Sequence[Job]], Iterable[JobStarted | JobFinished]]
"""How jobs are run, as :meth:`deqverify.running.executors.Executor.follow`."""


def convictions(found: Iterable[Result], jobs: Iterable[Job], follow: Follow) -> Iterator[JobStarted | JobFinished]:
    """What happens to those of ``jobs`` that are tried again, of which ``found`` are the results: each ends with its
    result now, in place of the one before.

    A law that is convicted may rest on another one: so on until there is nothing new.
    """
    results = {result.job.key: result for result in found}
    known, tried = {job.key: job for job in jobs}, set[tuple[str, str]]()
    while accused := _accused(list(results.values()), known, tried):
        tried |= {job.key for job in accused}
        for event in follow(accused):
            if isinstance(event, JobFinished):
                key = event.result.job.key
                before, again = results.get(key), replace(event.result, job=known[key])
                results[key] = again if before is None else _judged_again(before, again)
                event = JobFinished(results[key])
            yield event


def _accused(results: Sequence[Result], known: dict[tuple[str, str], Job], tried: set[tuple[str, str]]) -> list[Job]:
    """A job for each law that a violation rests on, where none that it rests on is violated yet."""
    wrong = {(result.job.target, result.job.law) for result in results if result.verdict in WRONG}
    settled = {result.job.key for result in results if result.verdict not in (Verdict.HOLDS, Verdict.INCONCLUSIVE)}
    chosen: dict[tuple[str, str], Job] = {}
    for result in results:
        if result.verdict is not Verdict.VIOLATED or not result.convicts:
            continue
        if any((result.job.target, law) in wrong for law in result.follows if law != result.job.law):
            continue
        key = replace(result.job, law=result.convicts["law"]).key
        if key in known and key not in settled | tried:
            document = json.dumps(result.convicts)
            chosen.setdefault(key, replace(known[key], given=(document,), pinned=(), pinned_only=True, expected=False))
    return list(chosen.values())


def _judged_again(before: Result, again: Result) -> Result:
    """``again`` with the evidence of ``before``; that one where what was violated once holds now, as of something that
    minds what was asked before."""
    if again.verdict not in WRONG:
        return before
    counts = ("examples", "informative", "reported", "crashed", "not_finite", "seconds", "busy")
    sums = {name: getattr(before, name) + getattr(again, name) for name in counts}
    place = before.examples + 1
    return replace(again, **sums, failed_at=place, worst=max(before.worst, again.worst), tally=before.tally)
