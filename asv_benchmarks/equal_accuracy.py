"""Rows that ``deqverify bench --accuracy … --json`` wrote, as a Markdown table and a picture:
``python equal_accuracy.py FILE… [PICTURE.svg]``.

A cell is the steady time of a gradient (by the clock or by the processor, whichever is less; ``Timing.steady``)
and, behind it, its ratio to ``BASE`` at the same width.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deqverify.benchmarking.table import seconds

BASE = "reference[fast]"


def main(paths: list[Path]) -> None:
    documents = [json.loads(path.read_text()) for path in paths if path.suffix == ".json"]
    rows = [row for document in documents for row in document["rows"] if row["which"] == "gradient"]
    widths = sorted({row["problem"]["m"] for row in rows})
    found = {(row["name"], row["problem"]["m"]): row for row in rows}
    names = list(dict.fromkeys(row["name"] for row in rows))
    print("| gradient, achieved error ≤ 1e-6 | " + " | ".join(f"m = {m}" for m in widths) + " |")
    print("|---" * (len(widths) + 1) + "|")
    for name in names:
        cells = [_cell(found.get((name, m)), found.get((BASE, m))) for m in widths]
        if any(cells):
            print(f"| `{name}` | " + " | ".join(cells) + " |")
    for picture in (path for path in paths if path.suffix != ".json"):
        draw(found, names, widths, picture)


def draw(found: dict[tuple[str, int], dict[str, Any]], names: list[str], widths: list[int], picture: Path) -> None:
    """A line for each contender, a mark for each width, time along a logarithmic axis; the fastest on top."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    times = {name: {m: _steady(found[name, m]) for m in widths if _timed(found.get((name, m)))} for name in names}
    order = sorted((name for name in names if times[name]), key=lambda name: -sum(times[name].values()))
    figure, axes = pyplot.subplots(figsize=(8, 0.3 * len(order) + 1.2), layout="constrained")
    for row, name in enumerate(order):
        axes.plot([min(times[name].values()), max(times[name].values())], [row, row], color="#ccc", zorder=1)
    for number, m in enumerate(widths):
        points = [(times[name][m], row) for row, name in enumerate(order) if m in times[name]]
        axes.scatter(*zip(*points, strict=True), marker="osD^v"[number % 5], s=28, zorder=2, label=f"m = {m}")
    axes.set_xscale("log")
    axes.set_yticks(range(len(order)), order)
    if BASE in order:
        axes.get_yticklabels()[order.index(BASE)].set_fontweight("bold")
    axes.set_xlabel("seconds of a gradient")
    axes.grid(True, axis="x", alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "deqverify"}):
        figure.savefig(picture, metadata={"Date": None})


def _timed(row: dict[str, Any] | None) -> bool:
    return row is not None and row["timing"] is not None


def _cell(row: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["timing"] is None:
        return "not reached" if row["note"].startswith("not reached") else ""
    ratio = f" ({_steady(row) / _steady(base):.3g})" if base and base["timing"] else ""
    return seconds(_steady(row)) + ratio


def _steady(row: dict[str, Any]) -> float:
    return min(row["timing"]["median"], row["timing"]["processor"])


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
