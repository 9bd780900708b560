"""The scaling page: one static HTML file with the pictures inside (matplotlib, SVG)."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deqverify.benchmarking.scaling import AXES, Axis, Point, exponent
from deqverify.benchmarking.table import seconds

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


def page(points: list[Point], machine: dict[str, Any]) -> str:
    """The page for these points: for each axis its pictures, fitted exponents and a table."""
    about = ", ".join(f"{html.escape(str(k))} {html.escape(str(v))}" for k, v in machine.items())
    sections = [_section(axis, points) for axis in AXES.values() if any(p.axis == axis.name for p in points)]
    lead = (
        "A point is one gradient: the equilibrium and the gradient in A, B, Φ and γ, float64, on one thread. "
        "Exponents are fitted over the upper half of a series. A series ends where one call took too long, or failed."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>deqverify: scaling</title>'
        f"<style>{_STYLE}</style><h1>How time and memory grow</h1><p>{lead}</p>"
        f'<p class="note">{about}</p>{"".join(sections)}</html>\n'
    )


def _section(axis: Axis, points: list[Point]) -> str:
    series = {name: sorted((p for p in points if p.axis == axis.name and p.name == name), key=lambda p: p.value)
              for name in axis.contenders}  # fmt: skip
    series = {name: line for name, line in series.items() if any(p.seconds for p in line)}
    if not series:
        return ""
    return f"<h2>{html.escape(axis.title)}</h2>{_picture(axis, series)}{_table(series)}"


def _picture(axis: Axis, series: dict[str, list[Point]]) -> str:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [(title, of) for title, of in _QUANTITIES if any(of(p) for line in series.values() for p in line)]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.6 * len(shown), 4.2), squeeze=False, layout="constrained")
    for (title, of), at in zip(shown, axes[0], strict=True):
        for number, (name, line) in enumerate(series.items()):
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
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "deqverify"}):  # the same points, the same file
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _table(series: dict[str, list[Point]]) -> str:
    rows = []
    for name, line in series.items():
        done = [p for p in line if p.seconds]
        last = done[-1]
        powers = [_power(done, of) for _, of in _QUANTITIES[:2]]
        stopped = next((p.note for p in line if p.note), "")
        cells = (name, *powers, f"{last.value:g}", seconds(last.seconds or 0.0), stopped)
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    headings = ("contender", "time ∝", "memory ∝", "largest", "its time", "ended by")
    return f"<table><tr>{''.join(f'<th>{h}</th>' for h in headings)}</tr>{''.join(rows)}</table>"


def _power(line: list[Point], of: Callable[[Point], float | None]) -> str:
    pairs = [(p.value, size) for p in line if (size := of(p))]
    fitted = exponent([x for x, _ in pairs], [y for _, y in pairs])
    return "" if fitted is None else f"x^{round(fitted, 2) + 0.0:.2f}"  # and no -0.00


def draw(points: list[Point], machine: dict[str, Any], path: Path) -> None:
    """Writes the page."""
    path.write_text(page(points, machine), encoding="utf-8")
