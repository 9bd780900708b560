"""How time and memory grow: with the width m, the data points n, 1/(1−γ), and the number of problems in a batch.

Every point is a gradient (z and the gradient in A, B, Φ and γ). A series ends at the first point that takes longer than
the limit, or that fails. Points are kept in a JSON file as they are measured, so that a run goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from deqverify.benchmarking.batched import BATCHED, batched
from deqverify.benchmarking.contenders import Run, Unavailable, contender
from deqverify.benchmarking.measure import machine
from deqverify.benchmarking.memory import peak_memory
from deqverify.benchmarking.problems import FixedProblem
from deqverify.benchmarking.timing import timed
from deqverify.problem import Problem

TOLERANCE = 1e-8
"""Relative, for those that take one: what it achieves is drawn too."""


@dataclass(frozen=True)
class Axis:
    """What grows; ``problem`` maps a value to the fixed problem, None for batches of problems."""

    name: str
    title: str
    values: tuple[float, ...]
    contenders: tuple[str, ...]
    problem: Callable[[float], FixedProblem] | None


_DIRECT = ("reference", "reference[fast]", "plain[solve]", "reference[jax]")
_ITERATIVE = ("reference[mass]", "jaxopt[gmres]", "optimistix[gmres]")

AXES = {
    axis.name: axis
    for axis in (
        Axis("m", "width m (n = 16, γ = 0.9)", tuple(2.0**k for k in range(4, 14)), (*_DIRECT, *_ITERATIVE),
             lambda m: FixedProblem(int(m), 16, 0.9)),
        Axis("n", "data points n (m = 64, γ = 0.9)", tuple(4.0**k for k in range(9)), (*_DIRECT, *_ITERATIVE),
             lambda n: FixedProblem(64, int(n), 0.9)),
        Axis("gamma", "1/(1−γ) (m = 64, n = 64)", (2.0, *(10.0**k for k in range(1, 7))),
             (*_DIRECT, *_ITERATIVE, "reference[picard]", "torchdeq[ift,broyden]"),
             lambda amplified: FixedProblem(64, 64, 1.0 - 1.0 / amplified)),
        Axis("problems", "problems in a batch (m = 8, n = 1, γ = 0.9)", tuple(10.0**k for k in range(6)), BATCHED,
             None),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """``seconds`` and ``memory`` (bytes) of one gradient; ``residual`` relative, the worst data point's."""

    axis: str
    name: str
    value: float
    seconds: float | None
    memory: int | None
    residual: float | None
    iterations: int | None
    note: str = ""


def measured(
    path: Path, limit: float, axes: tuple[str, ...] = tuple(AXES), largest: float = math.inf, device: str = "cpu"
) -> Iterator[Point]:
    """Measures what ``path`` does not hold yet, up to ``largest`` on every axis, writes it there and yields it.

    ValueError where the points in ``path`` were measured on another device.
    """
    points, here = read(path), machine(device)["device"]
    if points and here != (before := json.loads(path.read_text())["machine"].get("device", "cpu")):
        raise ValueError(f"{path} holds times of {before}, not of {here}; take another page")
    known = {(p.axis, p.name, p.value) for p in points}
    for axis in (AXES[name] for name in axes):
        for name in axis.contenders:
            for value in axis.values:
                if value > largest or _ended(points, axis.name, name, limit):
                    break
                if (axis.name, name, value) not in known:
                    point = _point(axis, name, value, device)
                    if point is None:
                        break
                    points.append(point)
                    write(path, points, device)
                    yield point


def _point(axis: Axis, name: str, value: float, device: str) -> Point | None:
    """None where something is missing that may be there the next time."""
    try:
        if axis.problem is None:
            run, problem, watched = batched(name, int(value), device), None, True
        else:
            who = contender(name)
            problem, watched = axis.problem(value).problem(), who.watched
            run = who.prepare(problem, "float64", device, TOLERANCE if who.tunable else None)
        timing = timed(run.gradient, run.synchronise, device if watched else "cpu", budget=0.2)
        memory = peak_memory(run.gradient, device, run.synchronise) if watched or device == "cpu" else None
        residual = _residual(run, problem) if problem else None
        return Point(axis.name, name, value, timing.steady, memory, residual, run.iterations)
    except Unavailable:
        return None
    except Exception as error:  # a stranger's library may raise anything
        return Point(axis.name, name, value, None, None, None, None, f"{type(error).__name__}: {error}"[:100])


def _residual(run: Run, problem: Problem) -> float:
    z = run.answer()[0]
    assert z is not None  # every contender of an axis shows it
    f = problem.cell.step(problem.theta, problem.x)(z)
    return float(np.max(np.linalg.norm(f - z, axis=1) / np.linalg.norm(f, axis=1)))


def _ended(points: list[Point], axis: str, name: str, limit: float) -> bool:
    return any(p.axis == axis and p.name == name and (p.seconds is None or p.seconds > limit) for p in points)


def exponent(values: list[float], sizes: list[float]) -> float | None:
    """The slope of log size over log value by least squares over the upper half, at least three points."""
    count = max(3, math.ceil(len(values) / 2))
    x, y = values[-count:], sizes[-count:]
    if len(x) < 3 or min(y) <= 0:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def read(path: Path) -> list[Point]:
    """The points in a file of results; none where there is no file."""
    return [Point(**point) for point in json.loads(path.read_text())["points"]] if path.exists() else []


def write(path: Path, points: list[Point], device: str = "cpu") -> None:
    """Writes all points with what they depend on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(device), "points": [asdict(point) for point in points]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
