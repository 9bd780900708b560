"""One stored counterexample, tried again: fixed, still violated, or it cannot run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.loading import TargetError
from deqverify.running.counterexamples import FOLDER, Counterexample, CounterexampleError, find
from deqverify.running.elsewhere import ChildError, Elsewhere, interpreter_of
from deqverify.running.jobs import home_of
from deqverify.running.results import Job, Result, Verdict, snippet
from deqverify.running.standalone import NoScriptError, standalone
from deqverify.running.workers import Workers
from deqverify.trial import Failure

SECONDS = 60.0
"""After so long the process of a replay is killed."""

EXAMPLE_SECONDS = 20.0

CODE_SECONDS = 300.0
"""So long another environment may take to import its library and to write a script."""

FIXED, STILL, CANNOT = "fixed", "still violated", "cannot run"
EXIT_CODES = {FIXED: 0, STILL: 1, CANNOT: 2}


def job_of(known: Counterexample) -> Job:
    """The job that tries ``known`` and nothing else; its file is to be pinned."""
    asked = known.law, known.target, known.dtype, known.device
    return Job(*asked, 1, SECONDS, EXAMPLE_SECONDS, pinned_only=True, home=home_of(known.law))


def chosen(id_or_file: str, target: str | None, folder: Path = FOLDER) -> Counterexample:
    """The counterexample of an id or a file, for ``target`` where one is given.

    CounterexampleError for one that cannot be read, and for a file from elsewhere without ``target``: importing what a
    stranger's file names would run it.
    """
    known, own = find(id_or_file, folder)
    if target is None and not own:
        raise CounterexampleError(
            f"{id_or_file}: comes from elsewhere and names the target {known.target!r}, which would be imported; say "
            "which one to try with --target"
        )
    return dataclasses.replace(known, target=target or known.target)


def replayed(id_or_file: str, target: str | None = None, folder: Path = FOLDER) -> tuple[str, str, Result | None]:
    """ "fixed", "still violated" or "cannot run", why, and the result; in a process of its own, which a hang costs."""
    try:
        known = chosen(id_or_file, target, folder)
    except CounterexampleError as error:
        return CANNOT, str(error), None
    own = folder / f"{id_or_file}.json"
    job = dataclasses.replace(job_of(known), pinned=(str(own if own.is_file() else id_or_file),))
    with Workers(SECONDS, 1) as workers:
        (result,) = workers.run([job])
    if result.verdict is Verdict.VIOLATED:
        return STILL, result.reason, result
    if result.verdict in (Verdict.COULD_NOT_RUN, Verdict.NOT_CLAIMED):
        return CANNOT, result.reason, result
    honest = "; it reports itself that it is not converged" if result.reported else ""
    return FIXED, f"{known.law} is not violated any more{honest}", result


def code(known: Counterexample) -> str:
    """A script that shows the violation with the library under test and NumPy alone: it asks the target for one. Where
    there is none, that of this suite, and why."""
    if python := interpreter_of(known.target):
        child = Elsewhere(python)
        try:
            return str(child.ask("code", known, seconds=CODE_SECONDS))
        except (ChildError, TimeoutError) as error:
            why = str(error) or f"{python} gave no answer within {CODE_SECONDS:g} s"
            return f"# This script needs deqverify: {why}.\n{script(known)}"
        finally:
            child.close()
    try:
        return standalone(known)
    except (NoScriptError, TargetError, TargetFailure, ArithmeticError, ValueError) as error:
        return f"# This script needs deqverify: {error}.\n{script(known)}"


def script(known: Counterexample) -> str:
    """Python that shows the violation again with this suite, and in its last lines what was seen and what is allowed:
    nothing is asked of the target."""
    code = snippet(job_of(known), Failure(known.kind, None, "", known.arguments))
    said = str(known.said.get("description", "")).splitlines()
    return "\n".join(
        [code, "", "# Seen when it was found, what is allowed beside it:", *(f"# {line}" for line in said)]
    )
