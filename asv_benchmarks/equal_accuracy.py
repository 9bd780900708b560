"""Rows that ``deqverify bench --accuracy … --json`` wrote, as one Markdown table: ``python equal_accuracy.py FILE…``.

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
    documents = [json.loads(path.read_text()) for path in paths]
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
