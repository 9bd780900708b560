"""The page docs/findings.md, made of what tools/findings.py keeps of each library."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from deqverify.registry import laws
from deqverify.running.expectations import read as read_expectations

ROOT = Path(__file__).parent.parent

SETTINGS: dict[str, list[str]] = {
    "plain": ["plain"],
    "torchdeq": [
        "torchdeq", "torchdeq[ift]", "torchdeq[ift,anderson]", "torchdeq[ift,broyden]", "torchdeq[ift,tight]",
        "torchdeq[ift,broyden,tight]",
    ],
    "xitorch": ["xitorch", "xitorch[anderson]", "xitorch[broyden2]", "xitorch[tight]"],
    "jaxopt": ["jaxopt", "jaxopt[anderson]", "jaxopt[gmres]", "jaxopt[tight]", "jaxopt[anderson,gmres,tight]"],
    "optimistix": ["optimistix", "optimistix[newton]", "optimistix[gmres]", "optimistix[tight]"],
    "torchopt": ["torchopt", "torchopt[inv]", "torchopt[inv,tight]"],
    "deepinv": ["deepinv", "deepinv[anderson]", "deepinv[tight]"],
    "scipy": ["scipy", "scipy[krylov]", "scipy[newton_krylov]", "scipy[iteration]", "scipy[gmres]"],
}  # fmt: skip
"""By library, the rows of the table; the first is a dense solve in PyTorch, without a library."""

GAMMAS = (0.5, 0.9, 0.99, 0.999)
RIGHT = 1e-3
"""A gradient counts as right here up to this relative error: three digits, which training in float32 has."""

SLOW = 120.0
"""Seconds after which a call is given up."""

REPEATS = 5


def text(folder: Path) -> str:
    """The page, of what is kept in ``folder``: a JSON file for each library, notes.md and words.toml."""
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    order = [name for name in SETTINGS if name in kept]
    parts = [_HEAD, *_table_of({name: kept[name] for name in order}), (folder / "notes.md").read_text(encoding="utf-8")]
    for name in order:
        if "found" in kept[name]:
            parts += _section(name, kept[name], folder)
    return "\n".join(parts).rstrip() + "\n"


def words_of(law: str, target: str, kept: Path) -> dict[str, Any]:
    """What people said of a finding: its cause, whether it is declared, how to avoid it."""
    known = tomllib.loads((kept / "words.toml").read_text(encoding="utf-8"))["finding"]
    plain = re.sub(r",?claim=relative", "", target).replace("[]", "")
    of_law = [entry for entry in known if law in entry["law"]]
    return next((entry for each in (target, plain) for entry in of_law if each in entry["target"]), {})


_HEAD = """# What we found

Each violation of each library, on its defaults and its best settings: the law, the smallest problem, the version, a
script that needs only that library and NumPy, whether the documentation declares it, and how to avoid it. Written by
`python -m tools.findings run`; `--only LIBRARY` runs one again and keeps the rest. No law knows a library's name.

## Which settings give right gradients, up to which γ, at which cost
"""


_UNDER_THE_TABLE = """Relative errors of z / ∂L/∂A / ∂L/∂Φ against our oracle, linear-softmax cell, m = 16, n = 32,
float64; *says so*: what stands there was reported as not converged. Right: all three at most {right:g}, up to the
largest γ of the four below which that is so. A library without a gradient shows z alone. ms: processor time of both
passes at γ = 0.9, the least of {repeats}, conversions included. Too slow: no answer within {slow:g} s, on a machine
that was busy. Measured: {dates}, {machine}.
"""


def _table_of(kept: dict[str, Any]) -> list[str]:
    heads = [f"γ = {gamma:g}" for gamma in GAMMAS]
    lines = [f"| settings | {' | '.join(heads)} | right up to | ms |", "|---|" + "---|" * len(GAMMAS) + "---|---|"]
    for name in kept:
        for row in kept[name].get("table", []):
            shown = " | ".join(_cell_text(cell) for cell in row["cells"])
            right, ms = _right_up_to(row["cells"]), f"{row['ms']:.2g}" if row["ms"] else ""
            lines.append(f"| `{row['target']}` | {shown} | {right} | {ms} |")
    dates = sorted({kept[name]["measured"]["date"] for name in kept if "measured" in kept[name]})
    machine = next((kept[name]["measured"]["machine"] for name in kept if "measured" in kept[name]), "")
    said = {"right": RIGHT, "repeats": REPEATS, "slow": SLOW, "dates": ", ".join(dates), "machine": machine}
    return [*lines, "", _UNDER_THE_TABLE.format(**said)]


def _cell_text(cell: dict[str, Any]) -> str:
    if cell.get("raises"):
        return str(cell["raises"])
    said = ", *says so*" if cell["said"] else ""
    return (
        " / ".join(f"{value:.0e}".replace("e-0", "e-").replace("1e+00", "1") for value in cell["errors"].values())
        + said
    )


def _right_up_to(cells: list[dict[str, Any]]) -> str:
    right = ""
    for gamma, cell in zip(GAMMAS, cells, strict=True):
        if not cell["errors"] or not max(cell["errors"].values()) <= RIGHT:
            return right or "—"
        right = f"{gamma:g}"
    return right


def _section(library: str, kept: dict[str, Any], folder: Path) -> list[str]:
    when, at = kept["verified"], kept["verified"]["versions"]
    below = "jax" if library in ("jaxopt", "optimistix") else "scipy" if library == "scipy" else "torch"
    packages = ", ".join(f"{name} {at[name]}" for name in dict.fromkeys((library, below, "numpy")) if name in at)
    lines = [f"## {library}", "", f"{packages}; {when['date']}, {when['machine']}.", "", "```sh"]
    lines += [*kept["commands"], "```", "", _count(kept["asked"]), ""]
    lines += [line for entry in kept["found"] for line in _entry(entry, folder)]
    return [*lines, *_known_before(library, kept["found"])]


EXPECTATIONS = ROOT / "expectations.toml", ROOT / "expectations-libraries.toml"


def _known_before(library: str, found: list[dict[str, Any]]) -> list[str]:
    """What the files of expectations know of a library beside what this run found."""
    seen = {
        (law, target) for entry in found for law in (entry["law"], *entry["follows"]) for target in entry["targets"]
    }
    known: dict[str, tuple[list[str], list[str]]] = {}
    met = set()
    for expected in (each for file in EXPECTATIONS for each in read_expectations(file)):
        if expected.target.partition("[")[0] == library:
            law_ids, targets = known.setdefault(expected.reason, ([], []))
            law_ids.append(f"`{expected.law}`")
            targets.append(f"`{expected.target}`")
            met |= {expected.reason} if (expected.law, expected.target) in seen else set()
    lines = []
    for reason, (law_ids, targets) in known.items():
        if reason not in met:
            lines += [f"- {', '.join(dict.fromkeys(law_ids))} × {', '.join(dict.fromkeys(targets))}: {reason}"]
    return ["### Known from longer runs, and not met by the examples of this one", "", *lines, ""] if lines else []


def _count(asked: dict[str, dict[str, int]]) -> str:
    said = []
    for target, counts in asked.items():
        told = ", ".join(
            f"{counts[key]} {key}" for key in ("holds", "violated", "follows", "inconclusive") if key in counts
        )
        said.append(f"`{target}`: {told}")
    return "; ".join(said) + "."


def _entry(entry: dict[str, Any], folder: Path) -> list[str]:
    law, target = laws()[entry["law"]], entry["targets"][0]
    words = words_of(entry["law"], target, folder)
    lines = [f"### `{law.id}`: {words.get('title', law.anomaly)}", ""]
    lines += [
        f"{law.statement[0].upper()}{law.statement[1:]}. Violated by {', '.join(f'`{t}`' for t in entry['targets'])}.",
        "",
    ]
    lines += [f"- Cause: {words['cause']}" if words else f"- Cause: not looked into. {entry['diagnosis']}"]
    lines += [f"- Smallest problem: {entry['smallest'] or 'see the script'}; {entry['seen']}"]
    lines += [f"- Where: {entry['boundary']}"] if entry["boundary"] else []
    lines += [f"- Declared: {words['declared']}", f"- Avoid it: {words['avoid']}"] if words else []
    if entry["script"]:
        lines += [f"- Script: [{entry['script']}](findings/{entry['script']}) prints"]
        lines += ["", "  ```text", *(f"  {line}" for line in entry["printed"]), "  ```", ""]
    else:
        lines += [f"- Script: with deqverify alone, since {entry['why']}."]
    if entry["follows"]:
        lines += [f"- What follows from it: {', '.join(entry['follows'])}."]
    return [*lines, ""]
