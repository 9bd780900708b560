"""A scenario's results as files: a picture (SVG), numbers for programs (JSON) and a page (Markdown)."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deqverify.benchmarking.results import processor
from deqverify.figures import svg
from deqverify.running.files import write_whole
from deqverify.running.installed import versions
from deqverify.scenarios.registry import Outcome, Scenario

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
}

LARGEST = 200_000
"""Bytes of a picture that may be committed."""


def picture(outcome: Outcome) -> str:
    """The picture, SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.4), layout="constrained")
        outcome.draw(figure)
        return svg(figure)


def document(of: Scenario, outcome: Outcome, sizes: Mapping[str, Any], seed: int, seconds: float) -> dict[str, Any]:
    """Everything but the picture, JSON-ready."""
    return {
        "deqverify scenario": 1,
        "name": of.name,
        "title": of.title,
        "source": of.source,
        "sizes": dict(sizes),
        "seed": seed,
        "holds": outcome.holds,
        "claims": [
            {
                "name": claim.name,
                "measured": _number(claim.measured),
                "low": _number(claim.low),
                "high": _number(claim.high),
                "holds": claim.holds,
                "why": claim.why,
            }
            for claim in outcome.claims
        ],
        "columns": list(outcome.columns),
        "rows": [[_number(value) for value in row] for row in outcome.rows],
        "notes": list(outcome.notes),
        "machine": {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "seconds": round(seconds, 1),
        },
        "versions": versions(),
    }


def _number(value: Any) -> Any:
    """As JSON has it: no NaN and no infinity."""
    if isinstance(value, int | str | None):
        return value
    value = float(value)
    return value if value == value and abs(value) != float("inf") else str(value)


def page(of: Scenario, outcome: Outcome, known: Mapping[str, Any]) -> str:
    """The page: what is claimed and whether it holds, the picture, the table, and where the numbers come from."""
    machine = known["machine"]
    claims = [
        ("holds" if claim.holds else "**fails**", claim.name, f"{claim.measured:.4g}", claim.bound, claim.why)
        for claim in outcome.claims
    ]
    seed = f" --seed {known['seed']}" if known["seed"] else ""
    quick = " --quick" if known["sizes"] == dict(of.quick) else ""
    return (
        "\n\n".join(
            [
                f"# {of.title}",
                of.words,
                f"Source: {of.source}.",
                f"![{of.title}]({of.name}.svg)",
                _table(("", "claim", "measured", "bound", "why this bound"), claims),
                _table(outcome.columns, [[cell(value) for value in row] for row in outcome.rows]),
                *outcome.notes,
                f"`deqverify scenario {of.name}{quick}{seed}`: {machine['seconds']:g} s, {machine['date'][:10]}, "
                f"{machine['processor']}, {machine['system']}, NumPy {known['versions'].get('numpy', '?')}, "
                f"SciPy {known['versions'].get('scipy', '?')}. All numbers: [{of.name}.json]({of.name}.json).",
            ]
        ).replace("\n\n\n", "\n\n")
        + "\n"
    )


def cell(value: Any) -> str:
    """An entry of a table."""
    return value if isinstance(value, str) else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def write(
    of: Scenario, outcome: Outcome, sizes: Mapping[str, Any], seed: int, seconds: float, folder: Path
) -> list[Path]:
    """Writes ``NAME.svg``, ``NAME.json`` and ``NAME.md`` into ``folder``, and says which files those are."""
    known = document(of, outcome, sizes, seed, seconds)
    texts = {
        ".svg": picture(outcome),
        ".json": json.dumps(known, indent=1, ensure_ascii=False) + "\n",
        ".md": page(of, outcome, known),
    }
    for suffix, text in texts.items():
        write_whole(folder / f"{of.name}{suffix}", text)
    return [folder / f"{of.name}{suffix}" for suffix in texts]
