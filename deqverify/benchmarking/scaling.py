"""How time and memory grow: with the width m, the data points n, 1/(1−γ), and the number of problems in a batch.

Every point is a gradient (z and the gradient in every parameter, in x and in B). A series ends at the first point that
takes longer than the limit, or that fails. Points are kept in a JSON file as they are measured, so that a run goes on
where it stopped, and drawn on one static HTML page with the pictures inside (matplotlib, SVG). Many small problems at
once, each with weights of its own, show what a batch dimension gives over a loop.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deqverify.benchmarking.measuring import peak_memory, timed
from deqverify.benchmarking.problems import OUTPUTS, SOFTMAX, FixedProblem, bell
from deqverify.benchmarking.results import machine, versions
from deqverify.benchmarking.showing import seconds
from deqverify.benchmarking.targets import Run, Unavailable, timed_target, wait_for
from deqverify.dtypes import Array
from deqverify.figures import svg
from deqverify.implementations.devices import cuda_present
from deqverify.losses import Squared
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.running.files import write_whole

TOLERANCE = 1e-8
"""Relative, for those that take one: what it achieves is drawn too."""

M, GAMMA = 8, 0.9
"""Of the problems in a batch."""


@dataclass(frozen=True)
class Axis:
    """What grows; ``problem`` maps a value and a cell to the fixed problem, None for batches of problems."""

    name: str
    title: str
    values: tuple[float, ...]
    problem: Callable[[float, str], FixedProblem] | None


AXES = {
    axis.name: axis
    for axis in (
        Axis("m", "width m (n = 16, γ = 0.9)", tuple(2.0**k for k in range(4, 14)),
             lambda m, cell: FixedProblem(int(m), 16, 0.9, cell=cell)),
        Axis("n", "data points n (m = 64, γ = 0.9)", tuple(4.0**k for k in range(9)),
             lambda n, cell: FixedProblem(64, int(n), 0.9, cell=cell)),
        Axis("gamma", "1/(1−γ) (m = 64, n = 64)", (2.0, *(10.0**k for k in range(1, 7))),
             lambda amplified, cell: FixedProblem(64, 64, 1.0 - 1.0 / amplified, cell=cell)),
        Axis("problems", f"problems in a batch (m = {M}, n = 1, γ = {GAMMA})", tuple(10.0**k for k in range(6)), None),
    )
}  # fmt: skip

_SOFTMAX = (
    "reference",
    "reference[fast]",
    "plain[solve]",
    "reference[jax]",
    "reference[mass]",
    "jaxopt[gmres]",
    "optimistix[gmres]",
)
_NEAR_ONE = ("reference[picard]", "torchdeq[ift,broyden]")
_ANY_CELL = ("reference[newton]", "plain[unrolled]", "torchdeq[ift]", "jaxopt[gmres]", "optimistix[gmres]")
BATCHED = (
    "reference[fast], batched",
    "torch-solve, batched",
    "jax-solve, vmap",
    "reference, loop",
    "reference[numpy], loop",
)


def series(axis: str, cell: str = SOFTMAX, targets: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the lines on ``axis``: ``targets``, or without any those that are worth comparing on ``cell``. A
    batch of problems, which is the linear-softmax cell's, a target solves in a loop."""
    if axis == "problems":
        looped = tuple(f"{target}, loop" for target in targets) or BATCHED
        return looped if cell == SOFTMAX else ()
    if targets or cell != SOFTMAX:
        return targets or _ANY_CELL
    return (*_SOFTMAX, *(_NEAR_ONE if axis == "gamma" else ()))


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
    path: Path,
    limit: float,
    axes: tuple[str, ...] = tuple(AXES),
    largest: float = math.inf,
    device: str = "cpu",
    cell: str = SOFTMAX,
    targets: tuple[str, ...] = (),
) -> Iterator[Point]:
    """Measures what ``path`` does not hold yet, up to ``largest`` on every axis, writes it there and yields it.

    ValueError where the points in ``path`` were measured on another device or cell.
    """
    points = read(path)
    about: dict[str, Any] = {"machine": machine(device), "versions": versions(targets), "cell": cell}
    if points:
        before = json.loads(path.read_text())
        there = (before["machine"].get("device", "cpu"), before.get("cell", SOFTMAX))
        for here, held in zip((about["machine"]["device"], cell), there, strict=True):
            if here != held:
                raise ValueError(f"{path} holds times of {held}, not of {here}; take another page")
    known = {(p.axis, p.name, p.value) for p in points}
    for axis in (AXES[name] for name in axes):
        for name in series(axis.name, cell, targets):
            for value in axis.values:
                if value > largest or _ended(points, axis.name, name, limit):
                    break
                if (axis.name, name, value) not in known:
                    point = _point(axis, name, value, device, cell)
                    if point is None:
                        break
                    points.append(point)
                    write(path, points, about)
                    yield point


def _point(axis: Axis, name: str, value: float, device: str, cell: str) -> Point | None:
    """None where something is missing that may be there the next time."""
    try:
        if axis.problem is None:
            run, problem, watched = batched(name, int(value), device), None, True
        else:
            who = timed_target(name)
            problem, watched = axis.problem(value, cell).problem(), who.watched
            run = who.prepare(problem, "float64", device, TOLERANCE if who.tunable else None)
        timing = timed(run.gradient, run.synchronise, device if watched else "cpu", budget=0.2)
        memory = peak_memory(run.gradient, device, run.synchronise) if watched or device == "cpu" else None
        residual = _residual(run, problem) if problem else None
        return Point(axis.name, name, value, timing.steady, memory, residual, run.iterations)
    except Unavailable:
        return None
    except Exception as error:  # a stranger's library may raise anything
        return Point(axis.name, name, value, None, None, None, None, f"{type(error).__name__}: {error}"[:100])


def _residual(run: Run, problem: Problem) -> float | None:
    z = run.answer("gradient")[0]
    if z is None:  # a whole model
        return None
    f = problem.cell.step(problem.theta, problem.x)(z)
    size, off = (np.linalg.norm(states.reshape(len(states), -1), axis=1) for states in (f, f - z))
    return float(np.max(off / size))


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


def write(path: Path, points: list[Point], about: dict[str, Any]) -> None:
    """Writes all points with what they depend on: the machine, versions and the cell."""
    document = about | {"points": [asdict(point) for point in points]}
    write_whole(path, json.dumps(document, indent=1) + "\n")


def arrays(count: int) -> tuple[Array, Array, Array, Array]:
    """A (count, m, m), B (count, p, m), φ (count, m) and y (count, p); more problems begin with those of fewer."""
    shapes = ((count, M, M), (count, OUTPUTS, M), (count, M), (count, OUTPUTS))
    A, B, phi, y = (bell(shape, 10 + which, M) for which, shape in enumerate(shapes))
    return A, B, phi, y


def batched(name: str, count: int, device: str = "cpu") -> Any:
    """The run ``name`` on ``count`` problems: ``gradient`` and ``synchronise``. Unavailable without its library, or
    where it does not run on ``device``."""
    kind, _, how = name.partition(", ")
    if device == "cuda" and (how != "batched" or not cuda_present()):
        raise Unavailable(f"{name} does not run on cuda here")
    if how == "loop":
        return _Loop(kind, count)
    try:
        return _Torch(kind, count, device) if how == "batched" else _Jax(count)
    except ImportError as error:
        raise Unavailable(str(error)) from error


class _Loop:
    """One problem after the other through a target."""

    iterations = None

    def __init__(self, name: str, count: int):
        who, (A, B, phi, y) = timed_target(name), arrays(count)
        self.runs = [
            who.prepare(SoftmaxProblem(A[k], B[k], phi[k][:, None], y[k][:, None], GAMMA, Squared()), "float64")
            for k in range(count)
        ]

    def gradient(self) -> Any:
        return [run.gradient() for run in self.runs]

    def synchronise(self) -> None: ...


class _Torch:
    """One differentiable solve of all problems, by the fast reference or by torch.linalg.solve."""

    iterations = None

    def __init__(self, kind: str, count: int, device: str):
        import torch

        self.device = device
        self.arrays = [torch.tensor(np.ascontiguousarray(a), device=device) for a in arrays(count)]
        self.equilibria = _plain_solve if kind == "torch-solve" else _fast_solve

    def gradient(self) -> Any:
        import torch

        A, B, phi, y = self.arrays
        leaves = [t.detach().requires_grad_() for t in (A, B, phi)]
        A, B, phi = leaves
        z = self.equilibria(A, phi)
        loss = torch.sum((torch.einsum("kpm,km->kp", B, z) - y) ** 2)
        return z, torch.autograd.grad(loss, leaves)

    def synchronise(self) -> None:
        wait_for(self.device)


def _plain_solve(A: Any, phi: Any) -> Any:
    import torch

    U = torch.eye(M, dtype=A.dtype, device=A.device) - GAMMA * torch.softmax(A, dim=1)
    return torch.linalg.solve(U, phi)


def _fast_solve(A: Any, phi: Any) -> Any:
    from deqverify.reference import solve

    return solve(A, phi[:, None], GAMMA)[:, 0]


class _Jax:
    iterations = None

    def __init__(self, count: int):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)

        def loss(A: Any, B: Any, phi: Any, y: Any) -> Any:
            z = jnp.linalg.solve(jnp.eye(M) - GAMMA * jax.nn.softmax(A, axis=0), phi)
            return jnp.sum((B @ z - y) ** 2)

        self.arrays = [jnp.asarray(np.ascontiguousarray(a)) for a in arrays(count)]
        self._gradient, self._last = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2)))), None

    def gradient(self) -> Any:
        self._last = self._gradient(*self.arrays)
        return self._last

    def synchronise(self) -> None:
        import jax

        jax.block_until_ready(self._last)


_QUANTITIES: tuple[tuple[str, Callable[[Point], float | None]], ...] = (
    ("seconds of a gradient", lambda p: p.seconds),
    ("peak memory, MB", lambda p: p.memory / 1e6 if p.memory else None),
    ("relative residual", lambda p: p.residual or None),
)
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
svg{max-width:100%;height:auto}table{border-collapse:collapse;font-size:.9rem}
td,th{padding:.1rem .8rem;text-align:right;white-space:nowrap;border-bottom:1px solid #ddd}
td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}td:last-child{white-space:normal}
.note{color:#666;font-size:.9rem}"""


def page(points: list[Point], document: dict[str, Any]) -> str:
    """The page for these points: for each axis its pictures, fitted exponents and a table; what they depend on stands
    in ``document``, as :func:`write` wrote it."""
    facts = document.get("machine", {}) | document.get("versions", {})
    about = ", ".join(f"{html.escape(str(k))} {html.escape(str(v))}" for k, v in facts.items())
    cell = html.escape(document.get("cell", SOFTMAX))
    sections = [_section(axis, points) for axis in AXES.values() if any(p.axis == axis.name for p in points)]
    lead = (
        "A point is one gradient: the equilibrium and the gradient in the parameters, in x and in B, float64. "
        "Exponents are fitted over the upper half of a series. A series ends where one call took too long, or failed."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>deqverify: scaling</title>'
        f"<style>{_STYLE}</style><h1>How time and memory grow: {cell}</h1><p>{lead}</p>"
        f'<p class="note">{about}</p>{"".join(sections)}</html>\n'
    )


def _section(axis: Axis, points: list[Point]) -> str:
    lines: dict[str, list[Point]] = {}
    for point in (p for p in points if p.axis == axis.name):
        lines.setdefault(point.name, []).append(point)
    lines = {n: sorted(line, key=lambda p: p.value) for n, line in lines.items() if any(p.seconds for p in line)}
    return f"<h2>{html.escape(axis.title)}</h2>{_picture(axis, lines)}{_table(lines)}" if lines else ""


def _picture(axis: Axis, lines: dict[str, list[Point]]) -> str:
    from matplotlib.figure import Figure

    shown = [(title, of) for title, of in _QUANTITIES if any(of(p) for line in lines.values() for p in line)]
    figure = Figure(figsize=(4.6 * len(shown), 4.2), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)
    for (title, of), at in zip(shown, axes[0], strict=True):
        for number, (name, line) in enumerate(lines.items()):
            pairs = [(p.value, size) for p in line if (size := of(p))]
            if pairs:
                x, y = (list(t) for t in zip(*pairs, strict=True))
                at.loglog(x, y, marker="osD^v<>Ph*"[number % 10], markersize=4, linewidth=1.2, label=name)
        low, high = at.get_ylim()
        if high < 10 * low:  # rounding is no trend
            at.set_ylim(low / 3, high * 3)
        at.set_xlabel(axis.title.split(" (")[0])
        at.set_title(title, fontsize=11)
        at.grid(True, which="major", alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    text = svg(figure)
    return text[text.index("<svg") :]


def _table(lines: dict[str, list[Point]]) -> str:
    rows = []
    for name, line in lines.items():
        done = [p for p in line if p.seconds]
        last = done[-1]
        powers = [_power(done, of) for _, of in _QUANTITIES[:2]]
        stopped = next((p.note for p in line if p.note), "")
        cells = (name, *powers, f"{last.value:g}", seconds(last.seconds or 0.0), stopped)
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    headings = ("target", "time ∝", "memory ∝", "largest", "its time", "ended by")
    return f"<table><tr>{''.join(f'<th>{h}</th>' for h in headings)}</tr>{''.join(rows)}</table>"


def _power(line: list[Point], of: Callable[[Point], float | None]) -> str:
    pairs = [(p.value, size) for p in line if (size := of(p))]
    fitted = exponent([x for x, _ in pairs], [y for _, y in pairs])
    return "" if fitted is None else f"x^{round(fitted, 2) + 0.0:.2f}"  # and no -0.00


def draw(kept: Path, path: Path) -> None:
    """Writes the page of the points in ``kept``."""
    path.write_text(page(read(kept), json.loads(kept.read_text())), encoding="utf-8")
