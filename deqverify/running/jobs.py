"""One job, run in this process: load, bind, try, judge. Nothing that a target does leaves here as an exception."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from deqverify.claims import Claims
from deqverify.clock import Hang, alarm
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.subject import Subject, TargetFailure
from deqverify.law import Law, laws
from deqverify.running.boundary import boundary
from deqverify.running.counterexamples import CounterexampleError, read
from deqverify.running.diagnosis import CIRCUMSTANCES, diagnosed
from deqverify.running.premises import blame
from deqverify.running.results import Job, Result, Verdict, result_of, violation_of
from deqverify.running.tally import Tally
from deqverify.trial import Effort, Failure, Trial, replay


def run_job(job: Job, implementation: Any = None, scratch: Path | None = None) -> Result:
    """The result of ``job``; ``implementation`` stands in for its target where the caller has the object.

    ``scratch`` is a file that always holds the example being tried, for whoever finds this process dead.
    """
    law = laws()[job.law]
    try:
        candidate = load(job.target) if implementation is None else implementation
        name = job.target if implementation is None else None
        subject = Subject(candidate, job.dtype, job.device, name, only=job.cells)
    except (TargetError, TypeError, ValueError) as error:
        return Result(job, Verdict.COULD_NOT_RUN, str(error))
    if reason := law.missing(subject):
        return Result(job, Verdict.NOT_CLAIMED, reason)
    database = Path(job.database) if job.database else None
    limits = (job.examples, job.seconds, job.example_seconds, job.seed, database)
    effort = Effort(*limits, push=job.push, brief=job.brief, expected=job.expected)

    def announce(arguments: dict[str, Any]) -> None:
        if scratch:
            scratch.write_bytes(pickle.dumps(arguments))

    unused = subject
    if job.in_hand and subject.claims.copies:
        with suppress(TargetFailure):  # the law ``copies`` judges that
            unused = subject.copied()
    tally = Tally()
    # What one job leaves switched on would be the next one's start, for which no law could blame it any more.
    settings = subject.framework.settings() if subject.is_layer else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = _again(job, law, subject, announce)
            if not (job.pinned_only or trial.failure):
                trial = law.trial(subject, effort, announce, tally.add)
            made = partial(_fresh, job, unused)
            blamed = blame(law, subject, made, trial.failure, effort, not job.expected) if trial.failure else None
            if blamed:
                trial.failure = blamed.failure
            # What only shows in certain circumstances may turn out to be a cause: whether it follows is not known yet.
            alone = (
                blamed
                and not job.expected
                and (blamed.follows in CIRCUMSTANCES or not {*blamed.follows} & {*job.tried})
            )
            words = diagnosed(law, subject, blamed.failure, effort, blamed.follows) if blamed and alone else ""
            lines = boundary(law, lambda: subject, blamed.failure, effort) if blamed and alone else []
            result = result_of(job, law, trial, words, lines)
            result.follows = blamed.follows if blamed else ()
    finally:
        if settings:
            subject.framework.restore(settings)
    result.tally = tally
    return result


def _again(job: Job, law: Law, subject: Subject, announce: Callable[[dict[str, Any]], None]) -> Trial:
    """The counterexamples of earlier runs, until one fails again. One that can no longer be read is no news where a run
    goes on with examples of its own; where nothing else is tried it could not run."""
    trial = Trial()
    for file in job.pinned:
        try:
            known = read(Path(file))
            announce(known.arguments)
            with alarm(job.example_seconds):
                found = replay(law.body, subject, known.arguments)
        except Hang as hang:
            trial.failure = Failure("hang", None, str(hang), known.arguments)
            return trial
        except Exception as error:
            if job.pinned_only:
                trial.error = (
                    str(error) if isinstance(error, CounterexampleError) else f"{type(error).__name__}: {error}"
                )
            continue
        if found.failure and found.failure.kind == "crash" and not (law.judges_crashes or known.kind == "crash"):
            found.failure = None  # as in a trial, which leaves a crash undecided
        if found.failure or job.pinned_only:
            return found
    return trial


def _fresh(job: Job, unused: Subject) -> Subject:
    """One that nobody has asked anything yet, as far as can be: made anew from its name, or ``unused``."""
    if job.in_hand:
        return unused
    try:
        return Subject(load(job.target), job.dtype, job.device, job.target, only=job.cells)
    except (TargetError, TypeError, ValueError):  # a factory that works once
        return unused


def ask(target: str) -> Claims | str:
    """What ``target`` claims, or the reason why it cannot be imported or built."""
    try:
        claims: Claims = load(target).claims
    except TargetError as error:
        return str(error)
    return claims


def killed(job: Job, kind: str, message: str, scratch: Path) -> Result:
    """The result of a job whose process had to be killed or died: the example being tried is the counterexample."""
    law: Law = laws()[job.law]
    try:
        arguments = pickle.loads(scratch.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):
        return Result(job, Verdict.COULD_NOT_RUN, f"{message}, before any example was tried")
    failure = Failure(kind, None, message, arguments)
    return Result(job, Verdict.VIOLATED, message, violation=violation_of(job, law, failure))


def database_folder(root: Path, job: Job) -> Path:
    """Where failures of this (law, implementation) are kept: one folder each, since Hypothesis's keys don't tell
    targets apart."""
    target = re.sub(r"[^\w.\-]+", "_", job.column)
    return root / target / job.law
