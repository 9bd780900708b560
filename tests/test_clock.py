"""The clock of one example: it rings, forgives, waits for what compiles, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from deqverify import clock
from deqverify.clock import Hang, alarm, compiling, forgive

LIMIT = 0.1


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def endless(forgiven: float = 0.0, compiled: float = 0.0) -> None:
    """An alarm that never comes fails by its time, not by hanging."""
    forgive(forgiven)
    with compiling():
        busy(compiled)
    busy(60.0)


def test_it_rings_after_the_limit_and_what_was_forgiven() -> None:
    for forgiven in (0.0, 0.5):
        started = time.monotonic()
        with pytest.raises(Hang, match=r"no answer within 0\.1 s"), alarm(LIMIT):
            endless(forgiven)
        assert LIMIT + forgiven <= time.monotonic() - started < 30.0


def test_what_is_forgiven_in_time_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "GRACE", 5.0)  # however slow the machine
    with alarm(LIMIT):
        busy(2 * LIMIT)  # over, in the grace period
        forgive(60.0)
        busy(2 * LIMIT)


def test_compiling_does_not_count_and_what_follows_does() -> None:
    with alarm(2.0), compiling(), compiling():
        busy(3.0)
        forgive(60.0)  # is in it already
    started = time.monotonic()
    with pytest.raises(Hang), alarm(LIMIT):
        endless(compiled=2 * LIMIT)
    assert time.monotonic() - started < 30.0


def test_endless_compiling_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "MOST_COMPILING", LIMIT)
    with pytest.raises(Hang), alarm(LIMIT), compiling():
        endless()


def test_it_is_quiet_in_another_thread_and_without_an_example() -> None:
    forgive(1.0)
    with compiling():
        pass
    seen: list[str] = []

    def elsewhere() -> None:
        with alarm(LIMIT / 10):
            busy(LIMIT)
            seen.append("not interrupted")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["not interrupted"]


def test_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with alarm(60.0):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
