"""Seconds of one call. Warm-up, and with it compilation, lies outside; the device is waited for inside."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median, the quartiles and the fastest of ``count`` calls. ``processor`` is the median of what
    the process spent on the processor, all threads together (on a GPU: the median again)."""

    median: float
    low: float
    high: float
    fastest: float
    processor: float
    count: int

    @property
    def steady(self) -> float:
        """The median by the clock or by the processor, whichever is less: the clock counts others' turns on a loaded
        machine, the processor every thread."""
        return min(self.median, self.processor)

    @classmethod
    def of(cls, seconds: list[float], processor: list[float]) -> Timing:
        low, median, high = statistics.quantiles(seconds * 2, n=4, method="inclusive")  # of one call too
        return cls(median, low, high, min(seconds), statistics.median(processor), len(seconds))


def wait_for(device: str) -> None:
    """Returns when PyTorch's work on ``device`` is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def timed(
    call: Callable[[], Any], synchronise: Callable[[], None], device: str = "cpu", budget: float = 0.3, least: int = 5
) -> Timing:
    """Calls once to warm up, then at least ``least`` times and for about ``budget`` seconds.

    A call that alone takes ten times the budget is timed once more and no further. On "cuda" the time is the device's
    own, between two events.
    """
    started = time.perf_counter()
    call()
    synchronise()
    first = time.perf_counter() - started
    once = _between_events if device == "cuda" else _by_the_clock
    seconds: list[float] = []
    processor: list[float] = []

    def more() -> bool:
        if not seconds or len(seconds) >= 1000:
            return not seconds
        return sum(seconds) < budget or (len(seconds) < least and min(first, seconds[0]) < 10 * budget)

    while more():
        spent = time.process_time()
        seconds.append(once(call, synchronise))
        processor.append(time.process_time() - spent)
    return Timing.of(seconds, seconds if device == "cuda" else processor)


def _by_the_clock(call: Callable[[], Any], synchronise: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - started


def _between_events(call: Callable[[], Any], synchronise: Callable[[], None]) -> float:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
