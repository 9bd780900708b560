"""One measurement: seconds and peak memory of the passes of several targets on one problem, in turns, and their errors.

Warm-up, and with it compilation, lies outside of what is timed; the device is waited for inside. What is compared is
measured in rounds, in each round all targets one after the other, in rotating order: what the machine does meanwhile
hits all alike, and how far the rounds lie apart is the noise.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deqverify.benchmarking.problems import Achieved, FixedProblem, achieved
from deqverify.benchmarking.targets import Run, TimedTarget, Unavailable, timed_target

ROUNDS = 3
LEAST_CALLS = 5
"""Calls of one pass, all rounds together, unless a single one takes ten times the budget."""

_CONTROLLED = 0.02
"""Seconds a round for what tells of the machine: some ten calls."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LOOSE, _TIGHT = 1e-2, 1e-8
_TELLING = 20  # further iterations; with fewer, what the allocator keeps hides a state each


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median, the quartiles and the fastest of ``count`` calls. ``processor`` is the median of what
    the process spent on the processor, all threads together (on a GPU: the median again); ``rounds`` the steady time
    of each round."""

    median: float
    low: float
    high: float
    fastest: float
    processor: float
    count: int
    rounds: tuple[float, ...] = ()

    @property
    def steady(self) -> float:
        """The median by the clock or by the processor, whichever is less: the clock counts others' turns on a loaded
        machine, the processor every thread."""
        return min(self.median, self.processor)

    @property
    def noise(self) -> float | None:
        """How far a round lies from the median of the rounds at most, a natural logarithm; None of fewer than two."""
        if len(self.rounds) < 2:
            return None
        middle = statistics.median(self.rounds)
        return max(abs(math.log(each / middle)) for each in self.rounds)


class Watch:
    """Times one call, a round at a time. On "cuda" the time is the device's own, between two events."""

    def __init__(self, call: Callable[[], Any], synchronise: Callable[[], None] = lambda: None, device: str = "cpu"):
        self._call, self._synchronise = call, synchronise
        self._once = _between_events if device == "cuda" else _by_the_clock
        self._on_gpu = device == "cuda"
        self._rounds: list[list[tuple[float, float]]] = []

    def round(self, budget: float, least: int = 1) -> None:
        """Calls once to warm up, then at least ``least`` times and for about ``budget`` seconds.

        A call that alone takes ten times the budget is timed once a round, and warmed up in the first alone.
        """
        slow = bool(self._rounds) and self._rounds[0][0][0] > 10 * budget
        if not slow:
            started = time.perf_counter()
            self._call()
            self._synchronise()
            first = time.perf_counter() - started
        found: list[tuple[float, float]] = []

        def more() -> bool:
            if not found or slow:
                return not found
            spent, fastest = sum(seconds for seconds, _ in found), min(first, found[0][0])
            return len(found) < 1000 and (spent < budget or (len(found) < least and fastest < 10 * budget))

        while more():
            spent = time.process_time()
            seconds = self._once(self._call, self._synchronise)
            found.append((seconds, seconds if self._on_gpu else time.process_time() - spent))
        self._rounds.append(found)

    def timing(self) -> Timing:
        """Of all rounds so far, one at least."""
        calls = [each for found in self._rounds for each in found]
        seconds, processor = ([each[k] for each in calls] for k in (0, 1))
        low, median, high = statistics.quantiles(seconds * 2, n=4, method="inclusive")  # of one call too
        rounds = tuple(min(statistics.median(each[k] for each in found) for k in (0, 1)) for found in self._rounds)
        return Timing(median, low, high, min(seconds), statistics.median(processor), len(calls), rounds)


def timed(call: Callable[[], Any], synchronise: Callable[[], None], device: str = "cpu", budget: float = 0.3) -> Timing:
    """One call by itself, in one round."""
    watch = Watch(call, synchronise, device)
    watch.round(budget, LEAST_CALLS)
    return watch.timing()


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


_SOME = np.linspace(-1.0, 1.0, 96 * 96).reshape(96, 96)


def control() -> float:
    """What no target has a part in, by NumPy and by the interpreter, about as long each, a millisecond or so: how long
    it takes tells of the machine."""
    product = _SOME
    for _ in range(8):
        product = np.tanh(product @ _SOME)
    return float(product[0, 0]) + sum(k * 0.5 for k in range(20_000))


@dataclass(frozen=True)
class Row:
    """``note`` says why there is no time: what is missing (``missing``), what was raised, or that an accuracy that was
    asked for was not reached. Seconds and bytes; ``control``: seconds of :func:`control` in the same rounds."""

    name: str
    which: str
    problem: FixedProblem
    dtype: str
    device: str
    tolerance: float | None = None
    timing: Timing | None = None
    achieved: Achieved | None = None
    iterations: int | None = None
    memory: int | None = None
    control: float | None = None
    note: str = ""
    missing: bool = False

    def without(self, error: Exception) -> Row:
        """The row of what could not be timed because of ``error``."""
        if isinstance(error, Unavailable):
            return replace(self, note=str(error), missing=True)
        return replace(self, note=f"{type(error).__name__}: {error}"[:100])


@dataclass(frozen=True)
class Entry:
    """A run that is ready to be timed, and what its row says already."""

    row: Row
    run: Run
    watched: bool


def entered(row: Row, who: TimedTarget, run: Run) -> Entry | Row:
    """The row with the run that is to be timed, its answer judged; whatever the run raises becomes the row's note."""
    try:
        reached = achieved(row.problem.problem(row.dtype), *run.answer(row.which))
    except Exception as error:  # a stranger's library may raise anything
        return row.without(error)
    return Entry(replace(row, achieved=reached, iterations=run.iterations), run, who.watched)


def measured(entries: Sequence[Entry | Row], budget: float = 0.3, rounds: int = ROUNDS) -> list[Row]:
    """The rows of all entries, timed in turns; each gets ``budget`` seconds, all rounds together. What is a row already
    stays as it is."""
    ready = [(k, entry) for k, entry in enumerate(entries) if isinstance(entry, Entry)]
    watches = {
        k: Watch(getattr(e.run, e.row.which), e.run.synchronise, e.row.device if e.watched else "cpu") for k, e in ready
    }
    machine, order, failed = Watch(control), list(watches), dict[int, Exception]()
    for round_ in range(rounds if order else 0):
        machine.round(_CONTROLLED, LEAST_CALLS)
        start = round_ * len(order) // rounds
        for k in (*order[start:], *order[:start]):
            if k in failed:
                continue
            try:
                watches[k].round(budget / rounds, math.ceil(LEAST_CALLS / rounds))
            except Exception as error:
                failed[k] = error
    found = [entry.row if isinstance(entry, Entry) else entry for entry in entries]
    for k, entry in ready:
        call, row = getattr(entry.run, entry.row.which), entry.row
        try:
            if k in failed:
                raise failed[k]
            seen = entry.watched or row.device == "cpu"
            memory = peak_memory(call, row.device, entry.run.synchronise) if seen else None
            found[k] = replace(row, timing=watches[k].timing(), memory=memory, control=machine.timing().steady)
        except Exception as error:
            found[k] = row.without(error)
    return found


def rows(
    names: Iterable[str],
    which: Sequence[str],
    problem: FixedProblem,
    dtype: str,
    device: str,
    budget: float = 0.3,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """A row for every target and pass, each at the target's own tolerance; one alone where nothing can be prepared.
    ``say`` hears who is being prepared."""
    entries: list[Entry | Row] = []
    for name in names:
        say(name)
        try:
            who = timed_target(name)
            run = who.prepare(problem.problem(dtype), dtype, device)
        except Exception as error:
            entries.append(Row(name, which[0], problem, dtype, device).without(error))
            continue
        entries += [entered(Row(name, each, problem, dtype, device), who, run) for each in which]
    say("timing")
    return measured(entries, budget)


def peak_memory(
    call: Callable[[], Any], device: str = "cpu", synchronise: Callable[[], None] = lambda: None
) -> int | None:
    """Bytes that one call needs beyond what is held before it, at its peak; None where it can't be known.

    On "cuda" it is the allocator's own count. On the CPU it is resident memory, by Linux's resettable peak, after freed
    memory was given back: call once before, and expect whole pages, about 0.1 MB.
    """
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - int(held)
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")  # resets VmHWM, proc(5)
        held = _kilobytes("VmRSS")
        result = call()
        synchronise()  # JAX returns before it has computed
        peak = _kilobytes("VmHWM")
        del result
    except (OSError, AttributeError):
        return None
    return max(0, peak - held) * 1024


def _kilobytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"no {field} in {_STATUS}")


def growth(who: TimedTarget, fixed: FixedProblem, dtype: str, device: str = "cpu") -> float | None:
    """States (m·n numbers) kept for each further iteration of a gradient, from a loose and a tight tolerance.

    None where it is meaningless or can't be known: a direct solve, no tolerance, iterations that are not reported or
    too few more of them, memory of a GPU that PyTorch does not see. An implicit backward pass does not grow; an
    unrolled one keeps at least a state an iteration.
    """
    if not who.tunable or (device == "cuda" and not who.watched):
        return None
    problem, found = fixed.problem(dtype), []
    for tolerance in (_LOOSE, _TIGHT):
        run = who.prepare(problem, dtype, device, tolerance)
        for _ in range(3):  # the allocator settles
            run.gradient()
        run.synchronise()
        peaks = [peak_memory(run.gradient, device, run.synchronise) for _ in range(5)]
        if run.iterations is None or None in peaks:
            return None
        found.append((run.iterations, min(peak for peak in peaks if peak is not None)))
    (few, small), (many, large) = found
    state = fixed.m * fixed.n * (8 if dtype == "float64" else 4)
    return (large - small) / (many - few) / state if many - few >= _TELLING else None
