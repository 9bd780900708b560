"""What the hardware allows: rates measured in the same run, and the least time of one pass at those rates.

``python -m tools.floor reference 'reference[fast]' --m 256`` times targets on the linear-softmax cell against it.

The floor belongs to an algorithm. Direct: the LU of U (``⅔m³`` operations at GETRF's rate) and two triangular solves
(``2m²n``, at GEMM's). Iterative with k products: ``2m²nk``. A gradient adds the same solve transposed (no second LU),
the outer product ``ΛZᵀ`` and ``⟨Λ, SZ⟩`` (``2m²n`` each) and the readout's three products (``2pmn``). Memory: A, Φ and
the results are moved once, each product reads K and the states and writes the states, at the rate of a copy as large as
all of it together (what fits a cache moves at the cache's rate). The floor is the greater of the two times.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import click

from deqverify.benchmarking.measuring import Row, rows
from deqverify.benchmarking.problems import OUTPUTS, FixedProblem
from deqverify.benchmarking.results import machine, versions
from deqverify.benchmarking.showing import seconds
from deqverify.benchmarking.targets import timed_target

_ORDER = {"cpu": 1024, "cuda": 8192}  # a GPU is not busy with less
_LARGEST = {"cpu": 26, "cuda": 30}  # a GPU's caches hold 64 MiB


@dataclass(frozen=True)
class Rates:
    """Operations a second of GEMM and GETRF of one order; bytes a second of copies by size (read and written). Each is
    the best of several."""

    gemm: float
    getrf: float
    copies: dict[int, float]
    order: int

    def bandwidth(self, size: float) -> float:
        """Of ``size`` bytes: the best of that size and of all larger ones, so that it is never too low."""
        fitting = [rate for copied, rate in self.copies.items() if copied >= size]
        return max(fitting) if fitting else self.copies[max(self.copies)]

    def __str__(self) -> str:
        small, large = min(self.copies), max(self.copies)
        rates = f"order {self.order}: GEMM {self.gemm / 1e9:.0f} GFlop/s, GETRF {self.getrf / 1e9:.0f}"
        copying = f"{self.copies[small] / 1e9:.1f} GB/s ({small >> 10} KiB) to {self.copies[large] / 1e9:.1f}"
        return f"{rates}; copying {copying} ({large >> 20} MiB)"


def copied_sizes(device: str) -> tuple[int, ...]:
    """Bytes: from 64 KiB, where a call costs little, to what no cache holds."""
    return tuple(1 << k for k in range(16, _LARGEST[device] + 1, 2))


@lru_cache(maxsize=8)
def rates(dtype: str, device: str = "cpu") -> Rates:
    """Measured once a process, with PyTorch where it is installed and with NumPy and SciPy otherwise."""
    try:
        import torch
    except ImportError:
        return _with_scipy(dtype)
    kind, order, sizes = getattr(torch, dtype), _ORDER[device], copied_sizes(device)
    generator = torch.Generator().manual_seed(0)
    a = torch.rand((order, order), dtype=torch.float32, generator=generator).to(device, kind)
    dominant = a + order * torch.eye(order, dtype=kind, device=device)
    source = torch.zeros(sizes[-1] // a.element_size(), dtype=kind, device=device)
    target = torch.empty_like(source)

    def copying(size: int) -> float:
        entries = size // a.element_size()
        one, other = source[:entries], target[:entries]
        return 2 * size / _best(lambda: other.copy_(one), wait, 50)

    wait = torch.cuda.synchronize if device == "cuda" else None

    return Rates(
        2 * order**3 / _best(lambda: a @ a, wait),
        2 / 3 * order**3 / _best(lambda: torch.linalg.lu_factor(dominant), wait),
        {size: copying(size) for size in sizes},
        order,
    )


def _with_scipy(dtype: str) -> Rates:
    import numpy as np
    import scipy.linalg

    order, sizes = _ORDER["cpu"], copied_sizes("cpu")
    a = np.ones((order, order), dtype=dtype)
    dominant = a + order * np.eye(order, dtype=dtype)
    source = np.zeros(sizes[-1] // a.itemsize, dtype=dtype)
    target = np.empty_like(source)

    def copying(size: int) -> float:
        entries = size // a.itemsize
        return 2 * size / _best(lambda: np.copyto(target[:entries], source[:entries]), times=50)

    return Rates(
        2 * order**3 / _best(lambda: a @ a),
        2 / 3 * order**3 / _best(lambda: scipy.linalg.lu_factor(dominant)),
        {size: copying(size) for size in sizes},
        order,
    )


def _best(call: Callable[[], Any], wait: Callable[[], None] | None = None, times: int = 5) -> float:
    """The fastest of ``times`` calls; on the CPU (no ``wait``) by the clock or the processor's time, whichever is less:
    the clock counts others' turns, the processor every thread."""
    best = float("inf")
    for _ in range(times):
        started, spent = time.perf_counter(), time.process_time()
        call()
        if wait:
            wait()
        elapsed = time.perf_counter() - started
        best = min(best, elapsed if wait else min(elapsed, time.process_time() - spent))
    return best


_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def floor_of(row: Row) -> float | None:
    """The floor of what a row's target did: a direct solve, or the products that it reports (one if it says nothing);
    None where nothing was timed."""
    if row.timing is None:
        return None
    direct = timed_target(row.name).direct or row.iterations == 0
    products = None if direct else (row.iterations or 1)
    rate = rates(row.dtype, row.device)
    return floor(rate, row.problem.m, row.problem.n, _BYTES[row.dtype], row.which, products)


def floor(rate: Rates, m: int, n: int, itemsize: int, which: str, products: int | None = None) -> float:
    """Seconds that a forward pass, or a gradient or step, cannot undercut; ``products`` None for a direct solve."""
    solves = 1 if which == "forward" else 2
    each = products if products is not None else 1  # two triangular solves are as much as one product
    arithmetic = solves * each * 2 * m * m * n / rate.gemm
    moved = m * m + 2 * m * n + solves * each * (m * m + 2 * m * n)
    if products is None:
        arithmetic += 2 / 3 * m**3 / rate.getrf
        moved += m * m
    if which != "forward":
        arithmetic += (4 * m * m * n + 6 * OUTPUTS * m * n) / rate.gemm
        moved += m * m + 2 * m * n
    held = (2 * m * m + 4 * m * n) * itemsize
    return max(arithmetic, moved * itemsize / rate.bandwidth(held))


@click.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("--m", "widths", type=click.IntRange(1), multiple=True, default=(256, 1024), show_default=True)
@click.option("--n", type=click.IntRange(1), default=256, show_default=True)
@click.option("--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "kept", type=click.Path(path_type=Path))
def main(targets: tuple[str, ...], widths: tuple[int, ...], n: int, dtype: str, device: str, kept: Path | None) -> None:
    """Time TARGETS against the floor: seconds, floor, and how many times the floor."""
    click.echo(str(rates(dtype, device)))
    found = []
    for m in widths:
        for row in rows(targets, ("forward", "gradient"), FixedProblem(m, n, 0.9), dtype, device):
            least = floor_of(row)
            told = {"target": row.name, "pass": row.which, "m": m, "n": n, "floor": least, "note": row.note}
            if row.timing and least:
                told |= {"seconds": row.timing.steady, "times": row.timing.steady / least}
                shown = f"{seconds(row.timing.steady):>9}  floor {seconds(least):>9}  × {told['times']:.3g}"
            click.echo(f"m = {m:5}  {row.name:22} {row.which:9} {shown if row.timing else row.note}")
            found.append(told)
    if kept:
        kept.write_text(
            json.dumps({"machine": machine(device), "versions": versions(targets), "rows": found}, indent=1)
        )


if __name__ == "__main__":
    main()
