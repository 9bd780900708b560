"""What a target may take altogether, shared among its jobs: a slow one is tried on fewer examples of every law."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from deqverify.running.results import Job, Result

COMPILING = 1.5
"""A target that compiles for each shape may take this many times as long: most of that time is the compiler's."""

LEAST = 0.05
"""No job's share is below so many seconds; one example is tried in any case."""

KNOWN_EXAMPLES, KNOWN_SECONDS = 0.01, 0.1
"""Once this part of a target's examples was tried, or of its seconds spent, it is known what an example takes."""


@dataclass
class _Account:
    """Of one target: ``seconds`` are left for ``jobs`` that have not begun, of ``coming`` examples. ``tried`` examples
    of those that held took ``spent``; ``ended`` jobs took ``beyond`` more than their shares: for a last example, for
    shrinking and for words."""

    seconds: float
    jobs: int = 0
    coming: int = 0
    tried: int = 0
    spent: float = 0.0
    ended: int = 0
    beyond: float = 0.0

    @property
    def free(self) -> float:
        """Seconds that can be given away: those left, less what will be taken beyond the shares."""
        return self.seconds - (self.jobs * self.beyond / self.ended if self.ended else 0.0)

    @property
    def needed(self) -> float | None:
        """Seconds that all coming examples will take; None as long as that is not known."""
        enough = self.tried >= KNOWN_EXAMPLES * (self.coming + self.tried)
        long = self.spent >= KNOWN_SECONDS * (self.seconds + self.spent)
        return self.coming * self.spent / self.tried if self.tried and (enough or long) else None

    def share(self, examples: int) -> float:
        """Seconds for a job of ``examples``, the next of those that come: in proportion to them, or all that the others
        won't need."""
        part = examples / self.coming
        left = self.free - self.needed * (1.0 - part) if self.needed is not None else 0.0
        return max(LEAST, self.free * part, left)


class Budget:
    """``seconds`` of workers for each target, whatever they are spent on; infinity for none.

    Each job that is about to start is :meth:`granted` its share of what is left, each that ended was :meth:`spent`, and
    one that won't be run is :meth:`dropped`.
    """

    def __init__(self, seconds: float, jobs: Iterable[Job]):
        self._accounts: dict[str, _Account] = {}
        self._begun: dict[tuple[str, str], float] = {}
        for job in jobs:
            most = seconds * (COMPILING if job.compiles else 1.0)
            account = self._accounts.setdefault(job.target, _Account(most))
            account.coming += job.examples
            account.jobs += 1

    def granted(self, job: Job) -> Job:
        """``job`` with its share, less than its own seconds or not; a brief one as it is."""
        share = self._accounts[job.target].share(job.examples)
        self.dropped(job)
        self._begun[job.key] = time.monotonic()
        return dataclasses.replace(job, allotted=share) if math.isfinite(share) and not job.brief else job

    def dropped(self, job: Job) -> None:
        """Leaves what ``job`` was to have to the others."""
        account = self._accounts[job.target]
        account.coming -= job.examples
        account.jobs -= 1

    def short(self, target: str) -> bool:
        """Whether it is known that there is no time for all examples of ``target``."""
        account = self._accounts[target]
        return account.needed is not None and account.needed > account.free

    def spent(self, result: Result) -> None:
        """Counts in what the job of ``result`` took, which was granted before."""
        account = self._accounts[result.job.target]
        wall = time.monotonic() - self._begun.pop(result.job.key)
        # A process that was ended says nothing; one of several threads is busy for more seconds than there are.
        took = max(result.seconds, min(result.busy, wall)) if result.busy else wall
        account.seconds -= took
        account.ended += 1
        account.beyond += max(0.0, took - (math.inf if result.job.allotted is None else result.job.allotted))
        if not result.violation:  # most of that time goes into the shrinking and the words
            account.spent, account.tried = account.spent + took, account.tried + result.examples
