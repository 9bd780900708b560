"""What the page and the Markdown have in common: templates in which every text is made safe, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deqverify.registry import laws
from deqverify.reporting.wording import first_line, plain
from deqverify.running.plan import Report
from deqverify.running.results import Result, Verdict


@cache
def environment() -> Environment:
    """Templates of ``templates/``. Whatever is put into one is escaped for HTML, and free of what cannot be shown."""
    found = Environment(
        loader=PackageLoader("deqverify.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    found.globals["Verdict"] = Verdict
    found.filters["first_line"] = first_line
    return found


@dataclass(frozen=True)
class Row:
    """One law of a matrix, with its results by column, None where it was not tried."""

    law: str
    family: str
    results: list[Result | None]

    @property
    def wrong(self) -> bool:
        """Whether it holds a verdict that somebody has to look at."""
        bad = (Verdict.VIOLATED, Verdict.FOLLOWS, Verdict.COULD_NOT_RUN)
        return any(result is not None and result.verdict in bad for result in self.results)


@dataclass(frozen=True)
class Matrix:
    """Laws × implementations; ``groups`` are the targets, each with the names of its columns, dtype and device."""

    groups: list[tuple[str, list[str]]]
    rows: list[Row]


def matrix(report: Report) -> Matrix:
    """In the order of laws, targets and their dtypes."""
    columns = list(dict.fromkeys((result.job.target, result.job.column) for result in report.results))
    targets = list(dict.fromkeys(target for target, _ in columns))
    columns.sort(key=lambda column: targets.index(column[0]))
    cells = {(result.job.law, result.job.column): result for result in report.results}
    known = laws()
    order = sorted({result.job.law for result in report.results}, key=lambda law: _place(law, known))
    rows = [
        Row(id, known[id].family if id in known else "", [cells.get((id, column)) for _, column in columns])
        for id in order
    ]
    groups = [(t, [column.removeprefix(t).strip() for target, column in columns if target == t]) for t in targets]
    return Matrix(groups, rows)


def _place(id: str, known: Any) -> tuple[int, str]:
    order = list(known)
    return (order.index(id) if id in known else len(order), id)


def undecided(results: Sequence[Result]) -> list[tuple[Verdict, str, str, list[str]]]:
    """What was not judged, and why: verdict, target, reason, and the laws of which that is true."""
    found: dict[tuple[Verdict, str, str], list[str]] = {}
    for result in results:
        if result.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_CLAIMED):
            laws_ = found.setdefault((result.verdict, result.job.target, result.reason), [])
            if result.job.law not in laws_:
                laws_.append(result.job.law)
    return [(*key, names) for key, names in found.items()]


def failures(report: Report) -> list[tuple[str, str, list[str], str]]:
    """What could not run: target, reason, laws, and what was printed; what every law says alike once."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in report.of(Verdict.COULD_NOT_RUN):
        found.setdefault((result.job.target, result.reason.rstrip()), []).append(result)
    return [
        (target, reason, list(dict.fromkeys(r.job.law for r in some)), next((r.output for r in some if r.output), ""))
        for (target, reason), some in found.items()
    ]


def arguments(counterexample: dict[str, Any]) -> list[tuple[str, str]]:
    """The arguments of a stored counterexample, by name, as text; of large arrays the shape and a few entries."""
    found: list[tuple[str, str]] = []
    for name, value in counterexample.get("arguments", {}).items():
        found += _parts(name, value)
    return found


def _parts(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and "problem" in value:
        inner = {key: each for key, each in value.items() if key not in ("problem", "theta", "loss")}
        parts = [(name if name != "problem" else "cell", str(value["problem"]))]
        for key, each in (value.get("theta", {}) | inner).items():
            parts += _parts(key, each)
        given = {key: each for key, each in value["loss"].items() if key != "name"}
        listed = ", ".join(f"{key} = {each}" for key, each in given.items())
        return [*parts, ("loss", f"{value['loss']['name']}({listed})")]
    return [(name, _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, dict) and "array" in value:
        array = np.array([float(each) for each in value["array"]]).reshape(value["shape"])
        shape = " × ".join(map(str, array.shape)) or "a number"
        return f"{np.array2string(array, precision=4, threshold=60, max_line_width=90, edgeitems=2)}  ({shape})"
    return str(value) if not isinstance(value, dict | list) else f"{str(value)[:200]}"
