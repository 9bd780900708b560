"""Verdicts, and the picklable record of one job."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deqverify.comparison import Measurement
from deqverify.describing import arguments_code, describe, where_code
from deqverify.problem import Problem
from deqverify.registry import Law
from deqverify.running import boundary
from deqverify.running.counterexamples import Counterexample, CounterexampleError
from deqverify.running.installed import versions
from deqverify.running.snippets import finding_module, finding_target
from deqverify.running.tally import Tally
from deqverify.trial import Brief, Failure, Trial


class Verdict(enum.Enum):
    """What a job ends with; the value is the word that people read."""

    HOLDS = "holds"
    VIOLATED = "violated"
    FOLLOWS = "follows"
    EXPECTED = "expected"
    INCONCLUSIVE = "inconclusive"
    NOT_CLAIMED = "not claimed"
    COULD_NOT_RUN = "could not run"


@dataclass(frozen=True)
class Job:
    """One law on one implementation: what a worker, here or on another machine, needs to know.

    ``target`` is text that :func:`deqverify.implementations.loading.load` understands.
    """

    law: str
    target: str
    dtype: str | None
    device: str
    examples: int
    seconds: float
    example_seconds: float
    seed: int | None = None
    database: str | None = None
    in_hand: bool = False
    """The implementation is an object of the caller's, ``target`` only its name."""
    push: bool = False
    """Half of the examples climb towards a larger measured/allowed."""
    first: bool = False
    """Its law is one of those that run first on its target."""
    brief: Brief = ""
    """A part of its examples, and few, before any law has all of its own: what is easily found is found in seconds."""
    cells: tuple[str, ...] = ()
    """The cells to be judged on; all that are claimed, without any."""
    compiles: bool = False
    """The implementation compiles for each shape, which takes time that is not the law's."""
    found: tuple[str, ...] = ()
    """The lines of Python that find an object in hand again."""
    pinned: tuple[str, ...] = ()
    """Files of counterexamples that are tried first."""
    given: tuple[str, ...] = ()
    """Documents of counterexamples, as text, that are tried like the pinned ones."""
    pinned_only: bool = False
    """Nothing but these is tried."""
    tried: tuple[str, ...] = ()
    """The laws of the same run: what may follow from none of them needs words of its own."""
    home: str = ""
    """The module that defines its law, where that is none of ours: a worker imports it."""
    allotted: float | None = None
    """After so many seconds nothing more is tried, whatever they were spent on, compiling too."""
    expected: bool = False
    """A violation is expected: its cause is known, and no time is spent on shrinking and weighing it, or on words."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells the jobs of one run apart."""
        return self.law, self.column

    @property
    def strict(self) -> bool:
        """Whether pinned counterexamples have to fail: nothing else is tried."""
        return self.expected and self.pinned_only

    @property
    def column(self) -> str:
        """The implementation as shown: target, and dtype and device where they were chosen."""
        extras = [part for part in (self.dtype, self.device if self.device != "cpu" else None) if part]
        return " ".join([self.target, *extras])


@dataclass
class Violation:
    """The smallest counterexample of one law on one implementation, ready to be shown and pasted.

    ``failing`` of ``surveyed`` fresh examples fail too; ``worst_error`` is the largest relative error seen, None where
    no failure measured one, and ``worst_at`` says where. ``where`` is the place of the counterexample in the space of
    problems, ``diagnosis`` what the implementation does instead of what it should, a clause that begins with a verb.
    ``boundary`` shows where it begins (:mod:`deqverify.running.boundary`), in numbers, in words and
    as a picture of text.
    ``counterexample`` is the same as data (:mod:`deqverify.running.counterexamples`), empty where its arguments are
    none, and ``id`` its name where it is stored.
    """

    kind: str
    anomaly: str
    at_stake: str
    description: str
    snippet: str
    measured: float | None = None
    allowed: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    details: str = ""
    failing: int = 0
    surveyed: int = 0
    worst_error: float | None = None
    worst_at: str = ""
    where: str = ""
    diagnosis: str = ""
    id: str = ""
    counterexample: dict[str, Any] = field(default_factory=dict)
    boundary: list[dict[str, Any]] = field(default_factory=list)
    boundary_said: str = ""
    boundary_drawn: str = ""


@dataclass
class Result:
    """The outcome of one job. ``worst`` is the largest measured/allowed among examples that held; ``not_finite`` counts
    answers to finite problems that hold NaN or infinity and were reported as not converged. ``failed_at`` is the place
    of the first example that failed, from 1, before shrinking; 0 where none did; ``failed_after`` the processor's
    seconds until then. ``busy`` are those of the whole job, its target loaded, with the words and the weighing of a
    violation; 0 where its process did not end by itself.

    ``follows`` names the laws that a violation may follow from, the most basic first; where it does the verdict is
    "follows", and ``cause`` the law that is to blame. ``convicts`` is the document of a counterexample to the most
    basic of them that was seen to fail too, empty where there is none."""

    job: Job
    verdict: Verdict
    reason: str = ""
    examples: int = 0
    informative: int = 0
    reported: int = 0
    crashed: int = 0
    not_finite: int = 0
    failed_at: int = 0
    failed_after: float = 0.0
    worst: float = 0.0
    seconds: float = 0.0
    violation: Violation | None = None
    output: str = ""
    tally: Tally = field(default_factory=Tally)
    follows: tuple[str, ...] = ()
    cause: str = ""
    convicts: dict[str, Any] = field(default_factory=dict)
    busy: float = 0.0
    stale: str = ""
    """Why its expectation is none any more, where a pinned counterexample passes."""

    @property
    def share(self) -> float:
        """Informative examples among all."""
        return self.informative / self.examples if self.examples else 0.0


def result_of(job: Job, law: Law, trial: Trial, diagnosis: str = "", lines: Sequence[boundary.Line] = ()) -> Result:
    """The verdict that the evidence of ``trial`` allows; ``lines`` show where a violation begins."""
    verdict, reason = _verdict(trial)
    violation = violation_of(job, law, trial.failure, diagnosis, lines) if trial.failure else None
    counts = (trial.examples, trial.informative, trial.reported, trial.crashed, trial.not_finite, trial.failed_at)
    return Result(job, verdict, reason, *counts, trial.failed_after, trial.worst, trial.seconds, violation)


def _verdict(trial: Trial) -> tuple[Verdict, str]:
    if trial.failure:
        return Verdict.VIOLATED, trial.failure.message
    if trial.error:
        return Verdict.COULD_NOT_RUN, trial.error
    if not trial.decisive:
        return Verdict.INCONCLUSIVE, trial.undecided
    return Verdict.HOLDS, trial.stopped or ""


def violation_of(
    job: Job, law: Law, failure: Failure, diagnosis: str = "", lines: Sequence[boundary.Line] = ()
) -> Violation:
    """The violation as shown and as stored: description, snippet, numbers, data."""
    anomaly = law.anomaly if failure.kind == "wrong" else failure.kind
    violation = Violation(
        failure.kind, anomaly, law.at_stake, describe(failure), snippet(job, failure), details=failure.details
    )
    violation.where, violation.diagnosis = where_code(failure.arguments), diagnosis
    violation.boundary = boundary.document(lines)
    violation.boundary_said, violation.boundary_drawn = boundary.said(lines), boundary.drawn(lines)
    if isinstance(failure.seen, Measurement):
        violation.measured, violation.allowed = failure.seen.measured, failure.seen.allowed
        violation.terms = failure.seen.terms
    if failure.severity:
        violation.failing, violation.surveyed = failure.severity.failing, failure.severity.examples
        if failure.severity.arguments:
            violation.worst_error = failure.severity.relative_error
            violation.worst_at = where_code(failure.severity.arguments)
    violation.counterexample = as_data(job, failure, {name: getattr(violation, name) for name in _SAID})
    return violation


_SAID = ("anomaly", "at_stake", "description", "where", "diagnosis", "boundary_said", "boundary_drawn", "measured")


def as_data(job: Job, failure: Failure, said: dict[str, Any]) -> dict[str, Any]:
    """The document of a counterexample of ``job``'s law, and of what was ``said`` of it; empty where there is none."""
    asked = job.law, job.target, job.dtype, job.device
    try:
        return Counterexample(*asked, failure.arguments, failure.kind, said, versions()).document()
    except CounterexampleError:  # a cell of somebody's own has no name to be found by
        return {}


def _kinds(arguments: dict[str, Any]) -> list[str]:
    """The classes of problems among ``arguments``, by name."""
    return sorted({type(value).__name__ for value in arguments.values() if isinstance(value, Problem)})


def snippet(job: Job, failure: Failure) -> str:
    """Self-contained Python that shows the violation again: ``replay`` raises AssertionError with the same numbers."""
    first = list(job.found if job.in_hand else finding_target(job.target))
    if job.home and job.home != "__main__":
        first += [*finding_module(job.home), f"import {job.home}  # holds the law"]
    options = ["deq" if job.in_hand else f'"{job.target}"']
    options += [f'dtype="{job.dtype}"'] if job.dtype else []
    options += [f'device="{job.device}"'] if job.device != "cpu" else []
    return "\n".join(
        [
            *first,
            "import numpy as np",
            f"from deqverify import {', '.join([*_kinds(failure.arguments), 'laws', 'losses'])}",
            "",
            f'laws()["{job.law}"].replay({", ".join(options)}, {arguments_code(failure.arguments)})',
        ]
    )
