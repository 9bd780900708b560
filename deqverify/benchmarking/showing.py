"""What was measured, for people: tables in the terminal, tables in Markdown, and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deqverify.benchmarking.against import Comparison
from deqverify.benchmarking.measuring import Row
from deqverify.benchmarking.results import Pair, Result
from deqverify.figures import save


def console() -> Console:
    """A console as wide as the terminal, and wide enough for every column where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=190)


def table(rows: list[Row], title: str, equal: bool = False) -> Table:
    """Beside each time what was achieved, so that faster but wrong shows. ``equal``: all were tuned to one accuracy, so
    that times can be divided by the fastest one's."""
    made = Table(title=escape(title), title_justify="left", header_style="bold", pad_edge=False)
    made.add_column("target", no_wrap=True)
    headings = ("pass", "time", *(["× fastest"] if equal else []), "quartiles", "cpu", "rounds", "residual", "error z")
    for heading in (*headings, "∂θ", "∂x", "iter", "peak"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("note", overflow="fold")
    for row in rows:
        cells = _cells(row, *([_fastest(rows, row.which)] if equal else []))
        tolerance = "" if row.tolerance is None else f"tolerance {row.tolerance:.0e}"
        made.add_row(escape(row.name), row.which, *cells, escape(row.note or tolerance))
    return made


def _cells(row: Row, *fastest: float) -> list[str]:
    if row.timing is None:
        return [""] * (10 + len(fastest))
    timing, errors, noise = row.timing, row.achieved, row.timing.noise
    found = (errors.residual, errors.z, errors.theta, errors.x) if errors else (None,) * 4
    return [
        seconds(timing.median),
        *(f"{timing.steady / least:.3g}" for least in fastest),
        f"{seconds(timing.low)} to {seconds(timing.high)}",
        seconds(timing.processor),
        "" if noise is None else f"±{math.expm1(noise):.0%}",
        *("" if value is None else f"{value:.0e}" for value in found),
        "" if row.iterations is None else str(row.iterations),
        "" if row.memory is None else f"{row.memory / 1e6:.1f} MB",
    ]


def _fastest(rows: Iterable[Row], which: str) -> float:
    return min((row.timing.steady for row in rows if row.timing and row.which == which), default=math.nan)


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def about(result: Result) -> str:
    """What the times of ``result`` depend on, in one paragraph."""
    facts = [f"{key} {value}" for known in (result.machine, result.versions) for key, value in known.items()]
    return ", ".join(facts)


def page(result: Result) -> str:
    """The compact tables of :func:`markdown` with the command, the machine and the versions."""
    at = (
        "Each target at its own tolerance"
        if result.accuracy is None
        else f"Achieved errors at most {result.accuracy:g}"
    )
    told = f"{at}; steady time of a call, behind it the ratio to the fastest in its column."
    command = f"`{result.command}`\n\n" if result.command else ""
    return f"{command}{about(result)}\n\n{told}{_noise(result.rows)}\n\n{markdown(result.rows)}"


def _noise(rows: list[Row]) -> str:
    """A sentence on how far ratios can be trusted."""
    found = sorted(noise for row in rows if row.timing and (noise := row.timing.noise) is not None)
    if not found:
        return ""
    middle, most = (math.expm1(noise) for noise in (found[len(found) // 2], found[-1]))
    return f" The rounds of one time lie apart by {middle:.0%} in the median and {most:.0%} at most."


def markdown(rows: list[Row]) -> str:
    """Tables of the steady time of every target, behind it its ratio to the fastest one's: a column for every cell, or
    of one cell alone for every width; a table for every pass and whatever else differs."""
    across = "cell" if len({row.problem.cell for row in rows}) > 1 else "m"
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_setting(row, across), []).append(row)
    return "\n".join(_markdown(setting, group, across) for setting, group in groups.items())


def _setting(row: Row, across: str) -> str:
    problem = row.problem
    own = f"m = {problem.m}" if across == "cell" else problem.cell
    kind = "" if problem.kind == "mixing" else f", {problem.kind}"
    return f"{row.which}, {own}, n = {problem.n}, γ = {problem.gamma:.10g}{kind}, {row.dtype}, {row.device}"


def _markdown(setting: str, rows: list[Row], across: str) -> str:
    columns = list(dict.fromkeys(getattr(row.problem, across) for row in rows))
    of = {(row.name, getattr(row.problem, across)): row for row in rows}
    least = [_fastest([row for row in rows if getattr(row.problem, across) == c], rows[0].which) for c in columns]
    lines = [[setting, *(str(c) if across == "cell" else f"m = {c}" for c in columns)]]
    for name in dict.fromkeys(row.name for row in rows):
        cells = [_compact(of.get((name, c)), fastest) for c, fastest in zip(columns, least, strict=True)]
        if any(cells):
            lines.append([f"`{name}`", *cells])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:], ""])


def _compact(row: Row | None, fastest: float) -> str:
    if row is None or row.missing:
        return ""
    if row.timing is None:
        return "not reached" if row.note.startswith("not reached") else "raised"
    ratio = row.timing.steady / fastest
    shown = f"{seconds(row.timing.steady)} ({ratio:.3g})"
    return f"**{shown}**" if ratio == 1 else shown


def draw(rows: list[Row], path: Path) -> None:
    """A panel for every cell and pass, a line for each target, a mark for each width, time along a logarithmic axis;
    the fastest on top. The suffix of ``path`` says the format, SVG without one. ValueError where nothing was timed."""
    from matplotlib.figure import Figure

    timed = [row for row in rows if row.timing]
    if not timed:
        raise ValueError("nothing was timed: there is nothing to draw")
    passes, cells = ([*dict.fromkeys(of(row) for row in timed)] for of in (lambda r: r.which, lambda r: r.problem.cell))
    widths = sorted({row.problem.m for row in timed})
    panels = [[[r for r in timed if (r.which, r.problem.cell) == (w, c)] for w in passes] for c in cells]
    heights = [0.22 * max(len({r.name for r in panel}) for panel in line) + 0.5 for line in panels]
    size = (6.5 * len(passes) + 1.5, sum(heights) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cells), len(passes), squeeze=False, height_ratios=heights)
    for line, at_cell, cell in zip(panels, axes, cells, strict=True):
        for panel, at, which in zip(line, at_cell, passes, strict=True):
            _panel(at, panel, widths)
            at.set_title(f"{cell}, {which}", fontsize=10, loc="left")
    axes[-1][0].set_xlabel("seconds")
    handles, labels = max((at.get_legend_handles_labels() for at in axes.flat), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8, frameon=False)
    save(figure, path)


def _panel(at: Any, rows: list[Row], widths: list[int]) -> None:
    times: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        if row.timing:
            times.setdefault(row.name, []).append((row.timing.steady, row.problem.m))
    order = sorted(times, key=lambda name: -sum(math.log(time) for time, _ in times[name]) / len(times[name]))
    for height, name in enumerate(order):
        at.plot([min(times[name])[0], max(times[name])[0]], [height, height], color="#ccc", zorder=1)
    for number, m in enumerate(widths):
        marks = [(time, height) for height, name in enumerate(order) for time, width in times[name] if width == m]
        if marks:
            at.scatter(*zip(*marks, strict=True), marker="osD^v"[number % 5], s=24, zorder=2, label=f"m = {m}")
    at.set_xscale("log")
    at.set_yticks(range(len(order)), order, fontsize=8)
    for label in at.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("reference") else "normal")
    at.grid(True, axis="x", alpha=0.3)


def pairs_table(pairs: Iterable[Pair]) -> Table:
    """Before, after, their ratio with the threshold that it is judged by, and the verdict."""
    made = _comparison(
        "after against before", "target", ("pass", "problem", "before", "after", "after/before", "threshold")
    )
    for pair in pairs:
        row, old, new = pair.after, pair.before.timing, pair.after.timing
        assert old
        assert new
        threshold = "" if pair.threshold is None else f"{math.exp(pair.threshold):.3f}"
        problem = f"{row.problem} {row.dtype} {row.device}"
        numbers = (seconds(old.steady), seconds(new.steady), f"{math.exp(pair.effect):.3f}", threshold)
        made.add_row(escape(row.name), row.which, escape(problem), *numbers, escape(pair.verdict))
    return made


def commits_table(found: Iterable[Comparison], base: str) -> Table:
    """The same of head and a base commit."""
    made = _comparison(f"head against {base}", "benchmark", ("base", "head", "head/base", "threshold", "rounds"))
    for one in found:
        numbers = [""] * 4
        if one.effects:
            ratio, threshold = math.exp(one.effect), math.exp(one.threshold)
            numbers = [seconds(one.seconds[0]), seconds(one.seconds[1]), f"{ratio:.3f}", f"{threshold:.3f}"]
        made.add_row(escape(one.name), *numbers, str(len(one.effects)), escape(one.verdict))
    return made


def _comparison(title: str, first: str, headings: Iterable[str]) -> Table:
    made = Table(title=escape(title), title_justify="left", header_style="bold", pad_edge=False)
    made.add_column(first, no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("verdict")
    return made
