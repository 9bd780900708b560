"""From a request to a report: one run, a stream of events that handlers are called with."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

from deqverify.cells import LinearSoftmaxCell
from deqverify.registry import laws
from deqverify.running import counterexamples
from deqverify.running.budget import Budget
from deqverify.running.convicting import convictions
from deqverify.running.events import (
    Event,
    Handler,
    JobFinished,
    JobPaused,
    JobStarted,
    RunFinished,
    RunStarted,
    ViolationFound,
)
from deqverify.running.executors import Executor
from deqverify.running.expectations import apply, marked, stale
from deqverify.running.plan import Asked, Report, in_order, make_jobs, untried
from deqverify.running.request import Request
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.sketches import Sketch
from deqverify.trial import Brief

ROUNDS: tuple[tuple[int, Brief], ...] = ((8, "main"), (8, "others"), (25, "main"))
"""Examples for each of the laws that run first, round by round, before any has all of its own, and what they are of."""

MOST_PINNED = 5
"""So many of the counterexamples of a job, the newest, are tried again."""


class Run:
    """One run of ``request`` by ``executor``: iterate over its events, or take its :meth:`report`. Each of ``handlers``
    is called with every event, in their order, before it is yielded. Jobs whose result is ``done``, by their key, are
    not run again.

    Without a seed the counterexamples of earlier runs are tried first, and those found are kept.
    """

    def __init__(
        self,
        request: Request,
        executor: Executor,
        handlers: Sequence[Handler] = (),
        done: Mapping[tuple[str, str], Result] | None = None,
    ):
        self.request, self._executor, self._handlers, self._done = request, executor, handlers, done or {}

    def __iter__(self) -> Iterator[Event]:
        for event in self._events():
            for handle in self._handlers:
                handle(event)
            yield event

    def report(self) -> Report:
        """Runs to the end."""
        for event in self:
            if isinstance(event, RunFinished):
                return event.report
        raise AssertionError("a run ends with RunFinished")

    @cached_property
    def asked(self) -> Asked:
        """By target, what it claims, or why it cannot be loaded: asked once."""
        return self._executor.ask(self.request.targets)

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs of the request, in the order in which they are run."""
        return self.jobs_of(self.request.law_ids)

    def jobs_of(self, law_ids: Sequence[str]) -> list[Job]:
        """The jobs of ``law_ids``, those whose violation is expected marked so."""
        asked = self.request
        chosen = (asked.targets, law_ids, asked.effort, asked.dtypes, asked.device)
        jobs = make_jobs(*chosen, database=asked.database, asked=self.asked, only=asked.cells)
        return marked([self._pinned(job) for job in jobs], asked.expectations)

    def result(self, job: Job) -> Result:
        """The result of one job, for a face that chooses itself what runs when."""
        reasons = self._reasons
        if job.target in reasons:
            return Result(job, Verdict.COULD_NOT_RUN, reasons[job.target])
        return self._judged(next(self._executor.run([job])))

    def _events(self) -> Iterator[Event]:
        yield RunStarted(self.request, tuple(self.jobs), self.asked)
        found: list[Result] = []
        reasons = self._reasons
        left = []
        for job in self.jobs:
            if job.key in self._done:
                found.append(self._done[job.key])
            elif job.target in reasons:  # not tried again: importing it is what failed
                found.append(Result(job, Verdict.COULD_NOT_RUN, reasons[job.target]))
            else:
                left.append(job)
                continue
            yield JobFinished(found[-1])
        over = {result.job.target for result in found if result.verdict is Verdict.VIOLATED}
        seconds, ending = self.request.effort.target_seconds, over if self.request.fail_fast else None
        for event in in_rounds(left, self._executor, seconds, ending):
            if not isinstance(event, JobFinished):
                yield event
                continue
            found.append(self._judged(event.result))
            if found[-1].verdict is Verdict.VIOLATED:
                yield ViolationFound(found[-1])
            yield JobFinished(found[-1])
        for event in convictions(found, self.jobs, self._judging):
            if isinstance(event, JobFinished):
                found = [result for result in found if result.job.key != event.result.job.key] + [event.result]
            yield event
        yield RunFinished(self.report_of(found))

    def _judging(self, jobs: Sequence[Job]) -> Iterator[JobStarted | JobFinished]:
        for event in self._executor.follow(jobs):
            yield JobFinished(self._judged(event.result)) if isinstance(event, JobFinished) else event

    def report_of(self, found: Sequence[Result]) -> Report:
        """The report of results that a face has collected itself."""
        # What a first violation left out is said below, and is no law or dtype that nobody asked for.
        ran = self.jobs if self.request.fail_fast else [result.job for result in found]
        missing = untried(ran, list({job.law for job in ran}), self.asked)
        if self.request.fail_fast and (left := len(self.jobs) - len(found)):
            missing.append(f"{left} of {len(self.jobs)} jobs: their targets were violated already (--fail-fast)")
        gone = stale(self.request.expectations, laws(), self.request.targets if self.request.in_hand else ())
        return Report(in_order(found, self.jobs), gone, missing, sketching=self._sketches)

    def _sketches(self) -> list[Sketch]:
        """Of each target that could be loaded, in the first of its dtypes."""
        if self.request.cells and LinearSoftmaxCell.name not in self.request.cells:
            return []
        first: dict[str, tuple[str, str | None, str]] = {}
        for job in self.jobs:
            if job.target not in self._reasons:
                first.setdefault(job.target, (job.target, job.dtype, job.device))
        return self._executor.sketches(list(first.values()))

    @property
    def _reasons(self) -> dict[str, str]:
        return {target: answer for target, answer in self.asked.items() if isinstance(answer, str)}

    @cached_property
    def _known(self) -> dict[tuple[str, str, str | None, str], list[str]]:
        folder, seed = self.request.counterexamples, self.request.effort.seed
        return counterexamples.kept_for(folder) if folder is not None and seed is None else {}

    def _pinned(self, job: Job) -> Job:
        files = self._known.get((job.law, job.target, job.dtype, job.device), [])
        return dataclasses.replace(job, pinned=tuple(files[:MOST_PINNED]))

    def _judged(self, result: Result) -> Result:
        """``result`` with its counterexample kept, and marked where it was expected."""
        folder = self.request.counterexamples
        if folder is not None and result.violation and result.violation.counterexample:
            with suppress(OSError):  # a folder that cannot be written into takes no verdict away
                result.violation.id = counterexamples.keep(result.violation.counterexample, folder)
        return apply(result, self.request.expectations)


def in_rounds(
    jobs: Sequence[Job], executor: Executor, seconds: float = math.inf, over: set[str] | None = None
) -> Iterator[JobStarted | JobPaused | JobFinished]:
    """What happens to ``jobs``, each finished once: in the first rounds of a few examples, of the laws that run first
    and in the first dtype of each target, what is violated already; all others afterwards. Those of each target share
    ``seconds`` of the workers.

    Jobs of targets in ``over`` are left out, where it is given: a target is put there at its first violation."""
    early: dict[tuple[str, str], Job] = {}
    for job in jobs:
        if job.first:
            early.setdefault((job.target, job.law), job)
    rounds = [
        [dataclasses.replace(job, examples=few, brief=part) for job in early.values() if job.examples >= 2 * few]
        for few, part in ROUNDS
    ]
    budget = Budget(seconds, [*jobs, *itertools.chain(*rounds)])

    def left(some: Iterable[Job]) -> Iterator[Job]:
        """Asked one by one as workers become free, so that what was found and spent meanwhile counts."""
        for job in some:
            late = job.brief and budget.short(job.target)  # what would be tried twice is time that others lack
            if late or job.key in found or (over is not None and job.target in over):
                budget.dropped(job)
            else:
                yield budget.granted(job)

    def followed(some: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for event in executor.follow(left(some)):
            if isinstance(event, JobFinished):
                budget.spent(event.result)
                if over is not None and _unexpected(event.result):
                    over.add(event.result.job.target)
                job = dataclasses.replace(event.result.job, allotted=None)  # the job as it was planned
                event = JobFinished(dataclasses.replace(event.result, job=job))
            yield event

    found = set[tuple[str, str]]()
    for brief in rounds:
        for event in followed(brief):
            if isinstance(event, JobStarted):
                yield event
            elif event.result.verdict is not Verdict.VIOLATED:
                yield JobPaused(event.result.job, event.result)
            else:
                tried = event.result.job
                found.add(tried.key)
                whole = early[tried.target, tried.law].examples
                job = dataclasses.replace(tried, examples=whole, brief="")
                yield JobFinished(dataclasses.replace(event.result, job=job))
    yield from followed(jobs)


def _unexpected(result: Result) -> bool:
    return result.verdict is Verdict.VIOLATED and not result.job.expected
