"""Targets that need an environment of their own: a child process of another interpreter answers for them, one question
after another, as pickles over its pipes.

``DEQVERIFY_PYTHON_deepinv=/path/to/python``, or ``deqverify run deepinv --python deepinv=/path/to/python``, says which;
deqverify is installed there too, in the same version.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

from deqverify.clock import HUNG, LOADED, watched
from deqverify.implementations.loading import parse

PREFIX = "DEQVERIFY_PYTHON_"

_STARTING = 300.0
"""Seconds that importing deqverify in the child may take: much on a busy machine; only one that hangs costs it."""


def interpreter_of(target: str) -> str | None:
    """The interpreter that is named for ``target``, by its name or the package of its module; None for this one."""
    return os.environ.get(PREFIX + re.split(r"[:.]", parse(target).name)[0]) or None


def name_interpreters(given: Sequence[str]) -> None:
    """Takes ``name=/path/to/python`` for this process and its children. ValueError for what is no such thing."""
    for text in given:
        name, equals, path = text.partition("=")
        found = shutil.which(path) if equals and name else None
        if found is None:
            raise ValueError(
                f"python: {text!r} names no interpreter; write NAME=/path/to/python, the target's name first"
            )
        os.environ[PREFIX + name] = found


class ChildError(Exception):
    """The child ended without an answer; the message says why."""


class Elsewhere:
    """A child of the interpreter ``python``, started when first asked, and again after it died."""

    def __init__(self, python: str):
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, what: str, *arguments: Any, seconds: float) -> Any:
        """The answer of one of the functions of :func:`_served`. TimeoutError after ``seconds`` of the child's own, or
        :data:`~deqverify.clock.LOADED` times as many on the wall, when it is killed; :class:`ChildError` where it dies
        or cannot be started."""
        if self._process is None:
            self._process = subprocess.Popen(
                [self._python, "-m", "deqverify.running.elsewhere"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            version = self._answered(_STARTING)
            if version != _version():
                self.close()
                raise ChildError(
                    f"{self._python} has deqverify {version}, this is {_version()}; install the same there"
                )
        pickle.dump((what, arguments, seconds), _pipe(self._process.stdin))
        _pipe(self._process.stdin).flush()
        return self._answered(LOADED * seconds)

    def _answered(self, seconds: float) -> Any:
        assert self._process is not None
        process, late = self._process, threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            return pickle.load(_pipe(process.stdout))
        except (EOFError, pickle.UnpicklingError, BrokenPipeError) as error:
            self._process = None
            process.kill()
            code = process.wait()
            if late.is_set() or code == HUNG:
                raise TimeoutError from error
            raise ChildError(
                f"{self._python} ended with exit code {code}; is deqverify installed there, as by "
                f"{self._python} -m pip install deqverify?"
            ) from error
        finally:
            timer.cancel()

    def close(self) -> None:
        if self._process is not None:
            _pipe(self._process.stdin).close()
            self._process.wait()
            self._process = None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _version() -> str:
    from importlib.metadata import version

    return version("deqverify")


def _served(what: str, arguments: Sequence[Any]) -> Any:
    """What the child answers: what workers are asked, and for the script of a counterexample."""
    from deqverify.running import replaying, workers

    os.environ.update({name: "" for name in os.environ if name.startswith(PREFIX)})  # here is elsewhere
    served = (workers.ask_quietly, workers.run_quietly, workers.sketch_quietly, replaying.code)
    return {function.__name__: function for function in served}[what](*arguments)


def _serve() -> None:
    """Answers until its pipe is closed. What a target prints goes elsewhere than into the answers."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    pickle.dump(_version(), answers)
    answers.flush()
    while True:
        try:
            what, arguments, seconds = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        with watched(seconds):
            answer = _served(what, arguments)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
