"""One job in a process of its own, which ends it whatever it does: what a worker of a cluster calls.

Each thread of a worker keeps one process that has imported what every job needs, and forks one for each job: a job
begins in milliseconds, and with the same modules imported whatever ran before it, so that what its seed draws does not
depend on that. It is a plain subprocess, since a worker of Dask is not allowed children of :mod:`multiprocessing`.
A process ends with its parent, so that none goes on for a worker that was killed (on Linux). Needs ``os.fork``.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from deqverify.claims import Claims
from deqverify.clock import HUNG, LOADED, watched
from deqverify.registry import laws
from deqverify.running.compiling import kept_compiled
from deqverify.running.jobs import ask, killed, run_job
from deqverify.running.results import Job, Result, Verdict

OUTPUT_KEPT = 2000
"""So many bytes of what a target prints are kept, the last."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

IMPORTING = 300.0
"""Seconds for importing the suite and a framework, which no job is to blame for."""

_QUESTION, _ANSWER, _EXAMPLE, _PRINTED = "question", "answer", "example", "printed"
_OWN_FAULT = 70
"""The exit code where the suite itself failed, not the target."""

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG, of Linux."""


def run_alone(job: Job, seconds: float, path: Sequence[str] = (), pinned: Mapping[str, str] | None = None) -> Result:
    """The result of ``job`` in a process of its own, killed after ``seconds`` of its own, or
    :data:`~deqverify.clock.LOADED` times as many on the wall.

    ``path`` is where it looks for modules before its own places; ``pinned`` are the counterexamples that are tried
    first, as text by the name of their file.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="deqverify-") as name:
            folder = Path(name)
            files = tuple(str(folder / file) for file in pinned or {})
            for file, text in (pinned or {}).items():
                (folder / file).write_text(text, encoding="utf-8")
            try:
                result = _answer(folder, replace(job, pinned=files or job.pinned), seconds, path)
            except TimeoutError:
                result = killed(job, "hang", f"no answer; killed after {seconds:g} s", folder / _EXAMPLE)
            except ChildProcessError as death:
                result = killed(job, "death", f"the process died: {death}", folder / _EXAMPLE)
            return replace(result, job=job, output=_printed(folder))
    except Exception as error:  # the worker's own trouble, such as a full disk: not the target's
        return Result(job, Verdict.COULD_NOT_RUN, f"{type(error).__name__}: {error}")


def ask_alone(target: str, seconds: float, path: Sequence[str] = ()) -> Claims | str:
    """What ``target`` claims, or why it cannot be loaded, as seen by a process of its own."""
    with tempfile.TemporaryDirectory(prefix="deqverify-") as name:
        try:
            claims: Claims | str = _answer(Path(name), target, seconds, path)
        except TimeoutError:
            return f"target {target!r}: importing and building it took more than {seconds:g} s"
        except ChildProcessError as death:
            return f"target {target!r}: the process died of importing or building it: {death}"
        return claims


def cause(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def die_with_parent() -> None:
    """This process ends when its parent does, wherever it is then: a hang in C would go on for ever. (On Linux.)"""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _answer(folder: Path, question: Job | str, seconds: float, path: Sequence[str]) -> Any:
    """What a process of its own answers; TimeoutError where it had to be killed, ChildProcessError where it died."""
    (folder / _QUESTION).write_bytes(pickle.dumps((list(path), question, seconds)))
    exitcode = _template().fork(folder, LOADED * seconds)
    if exitcode == HUNG:
        raise TimeoutError
    if exitcode == _OWN_FAULT:
        raise RuntimeError(_printed(folder))
    if not (folder / _ANSWER).exists():
        raise ChildProcessError(cause(exitcode))
    return pickle.loads((folder / _ANSWER).read_bytes())


def _printed(folder: Path) -> str:
    file = folder / _PRINTED
    return file.read_bytes()[-OUTPUT_KEPT:].decode(errors="replace") if file.exists() else ""


_of_thread = threading.local()


def _template() -> Template:
    """The template of this thread, made where there is none."""
    known: Template | None = getattr(_of_thread, "template", None)
    if known is None or not known.alive:
        known = _of_thread.template = Template()
    return known


class Template:
    """The process that forks. It reads folders, one a line, and answers with the id of the process that it forked for
    each, and with its exit code."""

    def __init__(self) -> None:
        places = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deqverify.running.alone", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(THREADS, "1") | kept_compiled() | {"PYTHONPATH": places},
            bufsize=0,
        )
        self._line(IMPORTING)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, folder: Path, seconds: float) -> int:
        """The exit code of the process that answers what is in ``folder``. TimeoutError, after it was killed, where it
        takes more than ``seconds``; RuntimeError where the template itself is gone."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{folder}\n".encode())
            pid = int(self._line(IMPORTING))
            try:
                return int(self._line(seconds))
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                self._line(IMPORTING)
                raise
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            self._process.kill()
            raise RuntimeError(f"the process that starts jobs was lost: {error}") from error

    def _line(self, seconds: float) -> str:
        output = self._process.stdout
        assert output
        if not select.select([output], [], [], seconds)[0]:
            raise TimeoutError
        line = output.readline().decode()
        if not line:
            raise OSError("it ended")
        return line


def _serve(parent: int) -> None:
    """Forks a process for each folder that is read, until there are no more."""
    die_with_parent()
    if os.getppid() != parent:  # it was gone before that was asked for
        return
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    laws()
    if find_spec("torch"):
        import torch  # noqa: F401  (most of what a process needs to begin)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            answers.close()
            _child(Path(line.rstrip("\n")))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        with suppress(ProcessLookupError):  # what it started itself and left behind
            os.killpg(pid, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _child(folder: Path) -> NoReturn:
    try:
        os.setsid()
        die_with_parent()
        with (folder / _PRINTED).open("wb") as printed, open(os.devnull, "rb") as nothing:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            os.dup2(nothing.fileno(), 0)
        path, question, seconds = pickle.loads((folder / _QUESTION).read_bytes())
        sys.path[:0] = [each for each in path if each not in sys.path]
        with watched(seconds):
            answer = ask(question) if isinstance(question, str) else run_job(question, scratch=folder / _EXAMPLE)
        part = folder / f"{_ANSWER}.part"
        part.write_bytes(pickle.dumps(answer))
        part.replace(folder / _ANSWER)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(_OWN_FAULT)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
