"""One job, run in this process: load, bind, try, judge. Nothing that a target does leaves here as an exception."""

from __future__ import annotations

import pickle
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deqverify.claims import Claims
from deqverify.clock import Hang, alarm
from deqverify.database import part
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.subject import Subject
from deqverify.registry import Law, LawsError, bring, laws
from deqverify.running.boundary import boundary
from deqverify.running.counterexamples import CounterexampleError, parsed, read
from deqverify.running.diagnosis import circumstance, diagnosed
from deqverify.running.premises import REMEMBERED, Blame, blame
from deqverify.running.results import Job, Result, Verdict, as_data, result_of, violation_of
from deqverify.running.tally import Tally
from deqverify.trial import Effort, Failure, Trial, replay


def run_job(job: Job, implementation: Any = None, scratch: Path | None = None) -> Result:
    """The result of ``job``; ``implementation`` stands in for its target where the caller has the object.

    ``scratch`` is a file that always holds the example being tried, for whoever finds this process dead.
    """
    try:
        law = law_of(job)
        candidate = load(job.target) if implementation is None else implementation
        name = job.target if implementation is None else None
        subject = Subject(candidate, job.dtype, job.device, name, only=job.cells)
    except (TypeError, ValueError) as error:  # TargetError and LawsError are ValueErrors
        return Result(job, Verdict.COULD_NOT_RUN, str(error))
    if reason := law.missing(subject):
        return Result(job, Verdict.NOT_CLAIMED, reason)
    started = time.process_time()
    limits = (job.examples, job.seconds, job.example_seconds, job.seed, job.database)
    effort = Effort(*limits, push=job.push, brief=job.brief, expected=job.expected, allotted=job.allotted)

    unused = subject
    if job.in_hand and subject.claims.copies:
        with suppress(TargetFailure):  # the law ``copies`` judges that
            unused = subject.copied()
    tally = Tally()
    # What one job leaves switched on would be the next one's start, for which no law could blame it any more.
    settings = subject.framework.settings() if subject.is_layer else None
    try:
        with warnings.catch_warnings(), _announcing(scratch) as announce:
            warnings.simplefilter("ignore")
            trial, passing = _again(job, law, subject, announce)
            if not (job.pinned_only or trial.failure):
                trial = law.trial(subject, effort, announce, tally.add)
            if settings and trial.failure:
                subject.framework.restore(settings)  # what it rests on is not asked under what it left behind
            made = partial(_fresh, job, unused)
            blamed = blame(law, subject, made, trial.failure, effort, not job.expected) if trial.failure else None
            if blamed:
                trial.failure = blamed.failure
            # What only shows in certain circumstances may turn out to be a cause: whether it follows is not known yet.
            alone = (
                blamed
                and not job.expected
                and (circumstance(blamed.follows) or not ({*blamed.follows} - {*REMEMBERED}) & {*job.tried})
            )
            words = diagnosed(law, subject, blamed.failure, effort, blamed.follows) if blamed and alone else ""
            lines = boundary(law, lambda: subject, blamed.failure, effort) if blamed and alone else []
            result = result_of(job, law, trial, words, lines)
            result.follows = blamed.follows if blamed else ()
            result.convicts = _convicting(job, blamed) if blamed and not job.expected else {}
    finally:
        if settings:
            subject.framework.restore(settings)
    result.tally, result.busy = tally, time.process_time() - started
    if job.strict and passing:
        result.stale = f"{law.id} × {job.column}: {passing_said(passing)}"
        if result.verdict is Verdict.HOLDS:
            result.verdict, result.reason = Verdict.INCONCLUSIVE, "only what is pinned was tried, and it passes"
    return result


@contextmanager
def _announcing(scratch: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes each example into ``scratch``. The file stays open, since opening one takes longer than drawing, and
    each example overwrites the last: what a longer one left behind it is read by nobody."""
    file = None
    with suppress(OSError):  # a full disk: should this process die, nobody can say of what
        file = scratch.open("wb", buffering=0) if scratch else None

    def announce(arguments: dict[str, Any]) -> None:
        if file:
            with suppress(OSError):
                file.seek(0)
                file.write(pickle.dumps(arguments))

    with file or nullcontext():
        yield announce


def _convicting(job: Job, blamed: Blame) -> dict[str, Any]:
    """The document of the counterexample to a law that the violation of ``job`` rests on; empty without one."""
    if blamed.convicts is None:
        return {}
    law, arguments = blamed.convicts
    return as_data(replace(job, law=law), Failure("wrong", None, "", arguments), {})


def passing_said(files: Sequence[str]) -> str:
    """What is wrong where pinned counterexamples pass."""
    return f"the pinned counterexample passes ({', '.join(files)}); remove its entry, and all examples are tried again"


def home_of(law: str) -> str:
    """The module of a law of others, which a worker has to import; empty for ours."""
    return "" if laws()[law].ours else laws()[law].home


def law_of(job: Job) -> Law:
    """The law of ``job``, its module imported where that was not yet; LawsError where it cannot be."""
    if job.home and job.law not in laws():
        bring(job.home)
    if job.law not in laws():
        raise LawsError(f"there is no law {job.law!r} in {job.home or 'deqverify'} in this process")
    return laws()[job.law]


def _again(job: Job, law: Law, subject: Subject, announce: Callable[[dict[str, Any]], None]) -> tuple[Trial, list[str]]:
    """The counterexamples that are pinned, until one fails again, and the files of those that pass; where they are
    expected to fail, all of them. One that can no longer be read is no news where a run goes on with examples of its
    own; where nothing else is tried it could not run."""
    last, failing, passing = Trial(), None, list[str]()
    stored: list[Path | str] = [*map(Path, job.pinned), *job.given]
    for known in stored:
        found = _one_again(job, law, subject, announce, known)
        if found.failure and not job.strict:
            return found, passing
        if found.error and job.pinned_only:
            return found, passing
        last, failing = found, failing or (found if found.failure else None)
        if not found.failure:
            passing.append(str(known))
    return failing or last, passing


def _one_again(
    job: Job, law: Law, subject: Subject, announce: Callable[[dict[str, Any]], None], one: Path | str
) -> Trial:
    try:
        known = read(one) if isinstance(one, Path) else parsed(one)
        announce(known.arguments)
        with alarm(job.example_seconds):
            found = replay(law.body, subject, known.arguments)
    except Hang as hang:
        return Trial(failure=Failure("hang", None, str(hang), known.arguments))
    except Exception as error:
        said = str(error) if isinstance(error, CounterexampleError) else f"{type(error).__name__}: {error}"
        return Trial(error=said)
    if found.failure and found.failure.kind == "crash" and not (law.judges_crashes or known.kind == "crash"):
        found.failure = None  # as in a trial, which leaves a crash undecided
    return found


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


def database_of(database: str, job: Job) -> str:
    """The part of ``database`` for failures of this (law, implementation): a part for each, since Hypothesis's keys
    don't tell targets apart."""
    target = re.sub(r"[^\w.\-]+", "_", job.column)
    return part(database, f"{target}/{job.law}")
