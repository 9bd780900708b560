"""Rows as a table for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deqverify.benchmarking.compare import Comparison
from deqverify.benchmarking.measure import Row


def console() -> Console:
    """A console as wide as the terminal, and wide enough for every column where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=180)


def followed(rows: Iterable[Row], total: int, title: str, out: Console) -> list[Row]:
    """The rows, with a line on a terminal that says how far they have come."""
    made = []
    with out.status(f"{escape(title)}: starting") as line:
        for row in rows:
            made.append(row)
            line.update(f"{escape(title)}: {len(made)} of {total}, last {escape(row.name)} {row.which}")
    return made


def table(rows: Iterable[Row], title: str) -> Table:
    """Beside each time what was achieved, so that faster but wrong shows."""
    made = Table(title=escape(title), title_justify="left", header_style="bold", pad_edge=False)
    made.add_column("contender", no_wrap=True)
    for heading in (
        "pass",
        "time",
        "quartiles",
        "cpu",
        "residual",
        "error z",
        "∂θ",
        "∂x",
        "iter",
        "floor",
        "× floor",
        "peak",
    ):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("note", overflow="fold")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def comparisons(found: Iterable[Comparison], base: str) -> Table:
    """Base, head, their ratio with the threshold that it is judged by, and the verdict."""
    made = Table(title=f"head against {escape(base)}", title_justify="left", header_style="bold", pad_edge=False)
    made.add_column("benchmark", no_wrap=True)
    for heading in ("base", "head", "head/base", "threshold", "rounds"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("verdict")
    for one in found:
        numbers = [""] * 4
        if one.effects:
            ratio, threshold = math.exp(one.effect), math.exp(one.threshold)
            numbers = [seconds(one.seconds[0]), seconds(one.seconds[1]), f"{ratio:.3f}", f"{threshold:.3f}"]
        made.add_row(escape(one.name), *numbers, str(len(one.effects)), escape(one.verdict))
    return made


def _cells(row: Row) -> list[str]:
    if row.timing is None:
        return [escape(row.name), row.which, *[""] * 11, escape(row.note)]
    timing, errors = row.timing, row.achieved
    found = (errors.residual, errors.z, errors.theta, errors.x) if errors else (None,) * 4
    return [
        escape(row.name),
        row.which,
        seconds(timing.median),
        f"{seconds(timing.low)} to {seconds(timing.high)}",
        seconds(timing.processor),
        *(_number(value) for value in found),
        "" if row.iterations is None else str(row.iterations),
        "" if row.floor is None else seconds(row.floor),
        "" if row.ratio is None else f"{row.ratio:.3g}",
        "" if row.memory is None else f"{row.memory / 1e6:.1f} MB",
        escape(row.note),
    ]


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"
