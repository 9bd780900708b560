"""The verdicts of a run, one line each as it arrives, so that a run that was killed goes on where it was.

A journal belongs to one request and to the sources of the suite that it was begun with.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

from deqverify.running.events import Event, JobFinished
from deqverify.running.files import locked
from deqverify.running.installed import fingerprint
from deqverify.running.request import Request
from deqverify.running.results import Job, Result, Verdict, Violation
from deqverify.running.tally import Tally

FOLDER = Path(".deqverify") / "runs"
KEPT = 20
"""So many journals are kept, the newest."""

Key = tuple[str, str]
"""A law and a column: what tells the jobs of one run apart."""


class JournalError(ValueError):
    """A journal that cannot be used; the message says why and what to do."""


def name_of(request: Request) -> str:
    """A name for what a run's verdicts depend on: the request, and the sources of the suite."""
    asked = (request.targets, request.law_ids, request.cells, request.dtypes, request.device)
    known = sorted(map(repr, request.expectations))
    return hashlib.sha256(repr((asked, request.effort, known, fingerprint())).encode()).hexdigest()[:12]


class Journal:
    """A handler that writes down each verdict once, into ``file`` where there is one. ``done`` are those that stand
    there; ``said`` is a sentence for the user, or empty."""

    def __init__(self, file: IO[bytes] | None, done: Mapping[Key, Result], said: str = ""):
        self._file, self.done, self.said = file, dict(done), said

    def __call__(self, event: Event) -> None:
        if self._file is None or not isinstance(event, JobFinished) or event.result.job.key in self.done:
            return
        if event.result.verdict is Verdict.COULD_NOT_RUN:  # no verdict on the target: tried again
            return
        try:
            self._file.write(json.dumps(document(event.result)).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # costs no verdict, only that the run could be resumed
            self._file, self.said = None, f"cannot be resumed: {error.strerror} while its journal was written"
        else:
            self.done[event.result.job.key] = event.result

    @property
    def resumable(self) -> bool:
        return self._file is not None


@contextmanager
def journal(request: Request, resume: bool, folder: Path = FOLDER) -> Iterator[Journal]:
    """The journal of ``request`` while the context lasts: that of the run before, to go on with it, or a new one in its
    place. Nothing is written where another run of the same request is going, or where ``folder`` cannot be written
    into: its sentence says so. JournalError where a run that is still going was to be resumed.
    """
    path = folder / f"{name_of(request)}.jsonl"
    with ExitStack() as stack:
        try:
            own = stack.enter_context(locked(path))
            if own:
                done, size = read(path) if resume else ({}, 0)
                _forget_old(folder, path)
                file = stack.enter_context(path.open("r+b"))
                file.truncate(size)  # a line that a kill cut off
                file.seek(size)
        except OSError as error:
            yield Journal(None, {}, f"cannot be resumed: {error.strerror}: {folder}")
            return
        if own:
            afresh = "nothing to go on with: starting afresh" if resume else ""
            yield Journal(file, done, f"going on after {len(done)} verdicts" if done else afresh)
        elif resume:
            raise JournalError(f"resume: that run is still going; wait for it, or end it (its journal is {path})")
        else:
            yield Journal(None, {}, "cannot be resumed: another run of the same is going in this folder")


def read(path: Path) -> tuple[dict[Key, Result], int]:
    """The verdicts in the journal ``path``, and the size of what holds them: a last line may be cut off."""
    done: dict[Key, Result] = {}
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            result = result_of(json.loads(line))
        except (ValueError, TypeError, KeyError):
            break
        done[result.job.key] = result
        size += len(line)
    return done, size


def document(result: Result) -> dict[str, Any]:
    """JSON-ready, with the numbers that Python's own JSON knows (Infinity, NaN); :func:`result_of` reads it."""
    return asdict(result) | {"verdict": result.verdict.value, "tally": result.tally.document()}


def result_of(document: dict[str, Any]) -> Result:
    """What :func:`document` wrote."""
    job: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document["job"].items()
    }
    violation = Violation(**document["violation"]) if document["violation"] else None
    read = {"job": Job(**job), "verdict": Verdict(document["verdict"]), "violation": violation}
    read |= {"tally": Tally.of(document["tally"]), "follows": tuple(document["follows"])}
    return Result(**{field.name: document[field.name] for field in fields(Result)} | read)


def _forget_old(folder: Path, own: Path) -> None:
    journals = sorted(folder.glob("*.jsonl"), key=lambda each: each.stat().st_mtime, reverse=True)
    for old in [each for each in journals if each != own][KEPT:]:
        old.unlink(missing_ok=True)
