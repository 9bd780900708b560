"""Where jobs run: in this process here; in worker processes (:mod:`deqverify.running.workers`)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import Any

from deqverify.claims import Claims
from deqverify.implementations.loading import forget
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.jobs import ask, run_job
from deqverify.running.results import Job, Result
from deqverify.running.sketches import Sketch, sketches_of
from deqverify.running.snippets import finding_object

GROWING = 5.0
"""After so many seconds without a result it is looked whether there are more workers now."""


class Executor(ABC):
    """Runs jobs, one or several at a time. Whatever a target does is a result, never an exception."""

    @abstractmethod
    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        """What each of ``targets`` claims, or why no law can be tried on it."""

    @abstractmethod
    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        """Each job when it starts, and its result when it ended. ``jobs`` may be endless: each is taken when its turn
        has come."""

    def sketches(self, asked: Sequence[tuple[str, str | None, str]]) -> list[Sketch]:
        """Sketches (:mod:`deqverify.running.sketches`) of each target, dtype and device; in a process of their own,
        unless there is a better place."""
        from deqverify.running.workers import Workers

        with Workers(0.0, 1) as workers:
            return workers.sketches(asked)

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Results in the order in which jobs end."""
        return (event.result for event in self.follow(jobs) if isinstance(event, JobFinished))


class ThisProcess(Executor):
    """One job after another, here: a hang in C code hangs the run. ``deq`` stands in for the target where the caller
    has the object, and ``claims`` is what it claims."""

    def __init__(self, deq: Any = None, claims: Claims | None = None):
        self._deq, self._claims = deq, claims
        self._found = () if deq is None else tuple(finding_object(deq))

    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        forget()  # what failed to be imported before may have been mended since
        return {target: self._claims or ask(target) for target in targets}

    def sketches(self, asked: Sequence[tuple[str, str | None, str]]) -> list[Sketch]:
        return [
            sketch
            for target, dtype, device in asked
            for sketch in sketches_of(target, dtype, device, implementation=self._deq)
        ]

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for job in jobs:
            yield JobStarted(job)
            if self._deq is not None:
                job = dataclasses.replace(job, in_hand=True, found=self._found)
            yield JobFinished(run_job(job, self._deq))


class Several(Executor):
    """What executors with several workers have in common: as many jobs under way as there are workers."""

    @property
    @abstractmethod
    def width(self) -> int:
        """So many jobs run at the same time."""

    @abstractmethod
    def submit(self, job: Job) -> Future[Any]:
        """Hands ``job`` to a worker that is free."""

    @abstractmethod
    def collect(self, job: Job, future: Future[Any]) -> Result:
        """The result of ``job``, whose ``future`` is done, however it ended."""

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        pending: dict[Future[Any], Job] = {}
        coming = iter(jobs)
        while True:
            for job in islice(coming, max(0, self.width - len(pending))):
                pending[self.submit(job)] = job
                yield JobStarted(job)
            if not pending:
                return
            done, _ = wait(pending, GROWING, return_when=FIRST_COMPLETED)
            for future in done:
                yield JobFinished(self.collect(pending.pop(future), future))
