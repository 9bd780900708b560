"""Bytes of one call at its peak, and how they grow with the iterations."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deqverify.benchmarking.contenders import Contender
from deqverify.benchmarking.problems import FixedProblem

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LOOSE, _TIGHT = 1e-2, 1e-8
_TELLING = 20  # further iterations; with fewer, what the allocator keeps hides a state each


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


def growth(who: Contender, fixed: FixedProblem, dtype: str, device: str = "cpu") -> float | None:
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
