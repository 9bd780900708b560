"""What happens in a run, in order: :class:`RunStarted`, events of jobs, :class:`RunFinished`.

A handler is called with each event as it happens, and minds those that it is about. One that raises ends the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deqverify.running.plan import Asked, Report
from deqverify.running.request import Request
from deqverify.running.results import Job, Result


@dataclass(frozen=True)
class RunStarted:
    """``jobs`` will each end in a :class:`JobFinished`. ``asked`` is, by target, what it claims, or why it cannot be
    loaded."""

    request: Request
    jobs: tuple[Job, ...]
    asked: Asked


@dataclass(frozen=True)
class JobStarted:
    """A worker has taken ``job``; where it is ``brief``, some of its examples, before others have all of theirs."""

    job: Job


@dataclass(frozen=True)
class JobPaused:
    """The first few examples of ``job`` violated nothing, ``result`` says how many they were; it starts again, with all
    its examples, later."""

    job: Job
    result: Result | None = None


@dataclass(frozen=True)
class ViolationFound:
    """A violation beyond the expectations; its :class:`JobFinished` comes next. Whether it follows from another is
    settled in the report only."""

    result: Result


@dataclass(frozen=True)
class JobFinished:
    """The verdict of one job; each job has one, unless the run ends at the first violation of a target. A law that
    fails at the counterexample of another one is started and finished once more, at the end of the run."""

    result: Result


@dataclass(frozen=True)
class RunFinished:
    """No job is left."""

    report: Report


Event = RunStarted | JobStarted | JobPaused | ViolationFound | JobFinished | RunFinished
Handler = Callable[[Event], None]
