"""The clock of one example: it rings after a limit, and time that is nobody's fault, as compiling, does not count."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

GRACE = 0.1
"""Seconds between the limit and the alarm: what is forgiven is said right after it was spent."""

MOST_COMPILING = 300.0
"""After so many seconds compiling is a hang too."""

_POLL = 1.0


class Interrupted(BaseException):
    """Raised by the suite's own clock; passes through everything."""


class Hang(Interrupted):
    """One example ran past its limit."""


@dataclass
class _Running:
    """When the example in the main thread is over; ``warned`` once that was so and the grace period began."""

    deadline: float
    warned: bool = False
    compiling: bool = False


_running: _Running | None = None

_forgiven = 0.0


def now() -> float:
    """The time in seconds, less what was forgiven in this process so far."""
    return time.monotonic() - _forgiven


def forgive(seconds: float) -> None:
    """Lets the running example, if there is one, take ``seconds`` more. May be called from any thread."""
    global _forgiven
    if _running and not _running.compiling:
        _running.deadline += seconds
        _forgiven += seconds


@contextmanager
def compiling() -> Iterator[None]:
    """What is done in this context does not count against the running example, as long as it is not endless. May be
    entered in any thread."""
    global _forgiven
    running = _running
    if running is None or running.compiling:
        yield
        return
    started, running.compiling = time.monotonic(), True
    running.deadline += MOST_COMPILING
    try:
        yield
    finally:
        spent = time.monotonic() - started
        running.deadline += spent - MOST_COMPILING
        running.compiling, _forgiven = False, _forgiven + spent


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises :class:`Hang` in the main thread after ``seconds``, not counting what was forgiven; elsewhere, and where
    there are no signals, nothing. Loops in C that never return to Python are left to the worker's hard limit.
    """
    global _running
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    running = _Running(time.monotonic() + seconds)

    def ring(signum: int, frame: Any) -> None:
        left = running.deadline - time.monotonic()
        if left > 0.0:
            running.warned = False
            signal.setitimer(signal.ITIMER_REAL, min(left, _POLL))  # the deadline may be moved back again
        elif not running.warned:
            running.warned = True
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        else:
            raise Hang(f"no answer within {seconds:g} s")

    outer, before = _running, signal.signal(signal.SIGALRM, ring)
    _running = running
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        _running = outer
