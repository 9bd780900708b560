"""One row of a benchmark: a contender on a fixed problem, with time, what was achieved, the floor and memory."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deqverify.benchmarking import floor as limits
from deqverify.benchmarking.contenders import Contender, Run, Unavailable, contender
from deqverify.benchmarking.memory import peak_memory
from deqverify.benchmarking.problems import SOFTMAX, FixedProblem
from deqverify.benchmarking.timing import Timing, timed
from deqverify.benchmarking.truth import Achieved, achieved

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Row:
    """``note`` says why there is no time, or that an accuracy asked for was not reached. Seconds and bytes."""

    name: str
    which: str
    problem: FixedProblem
    dtype: str
    device: str
    tolerance: float | None = None
    timing: Timing | None = None
    achieved: Achieved | None = None
    iterations: int | None = None
    floor: float | None = None
    memory: int | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Steady time over floor."""
        return self.timing.steady / self.floor if self.timing and self.floor else None


def rows(
    names: Iterable[str], which: Iterable[str], problem: FixedProblem, dtype: str, device: str, budget: float = 0.3
) -> Iterator[Row]:
    """A row for every contender and pass, each at its own tolerance."""
    which = tuple(which)
    for name in names:
        try:
            yield from passes(contender(name), which, problem, dtype, device, None, budget)
        except Unavailable as missing:
            yield Row(name, which[0], problem, dtype, device, note=str(missing))


def passes(
    who: Contender,
    which: Iterable[str],
    problem: FixedProblem,
    dtype: str,
    device: str,
    tolerance: float | None = None,
    budget: float = 0.3,
    note: str = "",
) -> Iterator[Row]:
    """A row for each pass of one contender. Whatever it raises becomes a note."""
    try:
        run = who.prepare(problem.problem(dtype), dtype, device, tolerance)
        reached = achieved(problem.problem(dtype), *run.answer())
    except Unavailable:
        raise
    except Exception as error:  # a stranger's library may raise anything
        for each in which:
            yield Row(who.name, each, problem, dtype, device, tolerance, note=f"{type(error).__name__}: {error}"[:100])
        return
    for each in which:
        try:
            call = getattr(run, each)
            timing = timed(call, run.synchronise, device if who.watched else "cpu", budget)
            memory = peak_memory(call, device, run.synchronise) if who.watched or device == "cpu" else None
        except Unavailable as missing:
            yield Row(who.name, each, problem, dtype, device, tolerance, note=str(missing))
            continue
        least = floor_of(run, who, problem, dtype, each) if problem.cell == SOFTMAX else None
        yield Row(
            who.name, each, problem, dtype, device, tolerance, timing, reached, run.iterations, least, memory, note
        )


def floor_of(run: Run, who: Contender, problem: FixedProblem, dtype: str, which: str) -> float:
    """The floor of what the contender did: a direct solve, or the products that it reports (one if it says nothing)."""
    direct = who.direct or run.iterations == 0
    products = None if direct else (run.iterations or 1)
    return limits.floor(limits.rates(dtype, run.device), problem.m, problem.n, _BYTES[dtype], which, products)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a time depends on: machine, threads, versions and the date."""
    libraries = ("torchdeq", "torchopt", "xitorch", "jaxopt", "optimistix", "lineax", "equinox", "asv")
    packages = ("deqverify", "numpy", "scipy", "torch", "jax", "jaxlib", *libraries)
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["device"] = device
    if device == "cuda":
        import torch

        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def plain(row: Row) -> dict[str, Any]:
    """The row as JSON-ready data, the ratio and the worst error with it."""
    found = asdict(row)
    found["problem"] = asdict(row.problem)
    found["ratio"] = row.ratio
    found["worst"] = row.achieved.worst if row.achieved else None
    return found
