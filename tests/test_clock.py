"""The clock of one example: it rings, forgives, waits for what compiles, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from deqverify import clock
from deqverify.clock import HUNG, LOADED, Hang, alarm, forgive, uncounted

LIMIT = 0.1


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def endless(forgiven: float = 0.0, compiled: float = 0.0) -> None:
    """An alarm that never comes fails by its time, not by hanging."""
    forgive(forgiven)
    with uncounted():
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
    with alarm(2.0), uncounted(), uncounted():
        busy(3.0)
        forgive(60.0)  # is in it already
    started = time.monotonic()
    with pytest.raises(Hang), alarm(LIMIT):
        endless(compiled=2 * LIMIT)
    assert time.monotonic() - started < 30.0


def test_endless_compiling_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "MOST_COMPILING", LIMIT)
    with pytest.raises(Hang), alarm(LIMIT), uncounted():
        endless()


def getting(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process seems to get ``share`` of a processor, whatever it does and others do."""
    faked = SimpleNamespace(monotonic=time.monotonic, process_time=lambda: share * time.monotonic())
    monkeypatch.setattr(clock, "time", faked)


@pytest.mark.parametrize(
    ("elapsed", "gained", "own", "stopped"),
    [
        (10.0, 10.0, 10.0, 0.0),  # computed
        (10.0, 0.1, 10.0, 0.0),  # slept, in naps
        (10.0, 0.0, 10.0, 0.0),  # slept
        (10.0, 2.0, 2.0, 0.0),  # waited for a processor
        (10.0, 19.0, 10.0, 0.0),  # computed in two threads
        (3600.0, 0.1, 10.0, 3590.0),  # was stopped
        (3600.0, 3000.0, 3000.0, 0.0),  # computed, in C that let no signal through
    ],
)
def test_what_is_slept_counts_and_what_is_waited_for_a_processor_does_not(
    elapsed: float, gained: float, own: float, stopped: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked = SimpleNamespace(monotonic=lambda: 5.0, process_time=lambda: 3.0)
    monkeypatch.setattr(clock, "time", faked)
    watch = clock._Watch()
    faked.monotonic, faked.process_time = lambda: 5.0 + elapsed, lambda: 3.0 + gained
    assert watch.span(10.0) == pytest.approx((elapsed - stopped, own, stopped))  # sums of short numbers, rounded
    assert watch.span(10.0) == (0.0, 0.0, 0.0), "a span begins where the last one ended"


def test_who_gets_a_fifth_of_a_processor_has_five_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    getting(0.2, monkeypatch)
    with alarm(1.0):
        time.sleep(1.5)  # longer than its limit; 5 s are what it has, much more than a loaded machine makes of this
    started = time.monotonic()
    with pytest.raises(Hang), alarm(LIMIT):
        time.sleep(60.0)
    assert time.monotonic() - started >= 5 * LIMIT


def test_patience_ends_whatever_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "IDLE", 0.0)
    getting(1e-4, monkeypatch)
    started = time.monotonic()
    with pytest.raises(Hang), alarm(LIMIT):
        time.sleep(60.0)  # by the processor alone this would take a quarter of an hour to be a hang
    assert time.monotonic() - started >= LOADED * LIMIT


def test_who_sleeps_has_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    getting(1e-4, monkeypatch)
    monkeypatch.setattr(clock, "LOADED", 1e6)  # patience is not what ends it
    with pytest.raises(Hang), alarm(LIMIT):
        time.sleep(60.0)


STOPPABLE = """
import time
from deqverify.clock import alarm, watched
with watched(3.0), alarm(3.0):
    print("ready", flush=True)
    for _ in range(10):
        time.sleep(0.05)
print("quiet")
"""


def test_who_was_stopped_did_not_hang() -> None:
    """By Ctrl-Z, or by whoever wanted the processor for a while."""
    child = subprocess.Popen([sys.executable, "-c", STOPPABLE], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGSTOP)
    time.sleep(6.0)
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == "quiet\n"
    assert child.returncode == 0


def test_an_alarm_in_another_leaves_it_on() -> None:
    def both() -> None:
        with alarm(60.0):
            pass
        endless()

    with pytest.raises(Hang, match=r"no answer within 0\.1 s"), alarm(LIMIT):
        both()


HANGS = """
import sys, time
from deqverify.clock import watched

with watched(0.2):
    pass
time.sleep(0.5)
print("not yet", flush=True)
with watched(0.2):
    while True:
        try:
            time.sleep(60.0)
        except BaseException:
            pass
"""


def test_a_process_that_hears_nothing_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=300.0, check=False)
    assert ended.returncode == HUNG
    assert ended.stdout == "not yet\n"


def test_it_is_quiet_in_another_thread_and_without_an_example() -> None:
    forgive(1.0)
    with uncounted():
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
