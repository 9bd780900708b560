"""Clocks of an example and of a process: they ring after a limit, and time that is nobody's fault does not count.

That is time for compiling and importing, and time in which the process waited for a processor that others had. A
process that sleeps gains no processor time while the wall's clock runs, and one that waits gains a little all along: so
what sleeps is judged by the wall, and what computes by the processor. :data:`LOADED` times the limit on the wall ends
either.
"""

from __future__ import annotations

import os
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
"""After so many seconds compiling is a hang too, and so is importing."""

LOADED = 6.0
"""A machine may be so many times slower than an idle one. After this multiple of a limit on the wall patience ends."""

IDLE = 0.05
"""Who gained a smaller share of a span as processor time slept. A loop of naps of 10 ms gains 1 %; who waits for a
processor and gets less than 1/:data:`LOADED` of it cannot be told from a hang anyway."""

HUNG = 79
"""The exit code of a process that :func:`watched` ended: no shell's, and not one of ``sysexits.h``."""

STOPPED = 2.0
"""Seconds by which a look at the time comes late where a process gained nothing meanwhile: it was stopped, by Ctrl-Z
say, and not asleep. That counts for nobody."""

_LEAST, _POLL = 0.01, 1.0
"""Seconds from one look at the time to the next."""


class Interrupted(BaseException):
    """Raised by the suite's own clock; passes through everything."""


class Hang(Interrupted):
    """One example ran past its limit."""


@dataclass
class _Running:
    """When the example in the main thread is over; ``warned`` once that was so and the grace period began. So many
    seconds of waiting for a processor are left to be forgiven as ``patience`` says, and so many were to pass until the
    next look as ``expected`` says."""

    deadline: float
    patience: float
    expected: float
    warned: bool = False
    uncounted: bool = False


class _Watch:
    """How much of a span this process took for itself; a span begins where the last one ended."""

    def __init__(self) -> None:
        self._wall, self._busy = time.monotonic(), time.process_time()

    def span(self, expected: float) -> tuple[float, float, float]:
        """Seconds on the wall, those of them in which this process, all threads of it, did not wait for a processor,
        and those in which it was stopped, which are in neither. The span was to take ``expected`` seconds."""
        wall, busy = time.monotonic(), time.process_time()
        elapsed, gained = wall - self._wall, busy - self._busy
        self._wall, self._busy = wall, busy
        if gained >= IDLE * elapsed:
            return elapsed, min(gained, elapsed), 0.0
        stopped = elapsed - expected if elapsed - expected > STOPPED else 0.0
        return elapsed - stopped, elapsed - stopped, stopped


_running: _Running | None = None

_forgiven = 0.0


def now() -> float:
    """The time in seconds, less what was forgiven in this process so far."""
    return time.monotonic() - _forgiven


def forgive(seconds: float) -> None:
    """Lets the running example, if there is one, take ``seconds`` more. May be called from any thread."""
    global _forgiven
    if _running and not _running.uncounted:
        _running.deadline += seconds
        _forgiven += seconds


@contextmanager
def uncounted() -> Iterator[None]:
    """What is done in this context, compiling or importing, does not count against the running example, as long as it
    is not endless. May be entered in any thread."""
    global _forgiven
    running = _running
    if running is None or running.uncounted:
        yield
        return
    started, running.uncounted = time.monotonic(), True
    running.deadline += MOST_COMPILING
    try:
        yield
    finally:
        spent = time.monotonic() - started
        running.deadline += spent - MOST_COMPILING
        running.uncounted, _forgiven = False, _forgiven + spent


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises :class:`Hang` in the main thread after ``seconds``, not counting what was forgiven nor, up to
    :data:`LOADED` times as long, what it waited for a processor; elsewhere, and where there are no signals, nothing.
    Loops in C that never return to Python are left to the worker's hard limit. Within another one, that one rings when
    this one is over.
    """
    global _running
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    begun = time.monotonic()
    running, watch = _Running(begun + seconds, (LOADED - 1.0) * seconds, _next(seconds)), _Watch()

    def ring_after(seconds: float) -> None:
        running.expected = seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def ring(signum: int, frame: Any) -> None:
        elapsed, own, stopped = watch.span(running.expected)
        forgive(stopped)
        waited = min(elapsed - own, running.patience)
        running.deadline += waited
        running.patience -= waited
        left = running.deadline - time.monotonic()
        if left > 0.0:
            running.warned = False
            ring_after(_next(left))  # the deadline may be moved back again
        elif not running.warned:
            running.warned = True
            ring_after(GRACE)
        else:
            raise Hang(f"no answer within {seconds:g} s")

    outer, before = _running, signal.signal(signal.SIGALRM, ring)
    _running = running
    ring_after(running.expected)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        _running = outer
        if outer:
            outer.expected += time.monotonic() - begun
            signal.setitimer(signal.ITIMER_REAL, _next(outer.deadline - time.monotonic()))


def _next(left: float) -> float:
    """Seconds to the next look, where ``left`` are left; never so few that a timer takes them for none."""
    return min(max(left, _LEAST), _POLL)


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Ends this process with the exit code :data:`HUNG` where it takes ``seconds`` in this context, not counting what
    it waited for a processor. A thread does that, whatever the main one is in, C code included unless it keeps
    Python's lock. That one is left to whoever waits for this process, who should give up after :data:`LOADED` times
    ``seconds`` on the wall.
    """
    done = threading.Event()

    def look() -> None:
        watch, left = _Watch(), seconds
        while not done.wait(_next(left)):
            left -= watch.span(_next(left))[1]
            if left <= 0.0:
                os._exit(HUNG)

    thread = threading.Thread(target=look, name="deqverify's hard limit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
