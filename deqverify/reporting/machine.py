"""Results for programs: one JSON document a run, as ``schema.json`` beside this file describes it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from deqverify.running.installed import versions
from deqverify.running.plan import Report
from deqverify.running.results import Result

__all__ = ["FORMAT", "document", "plain", "schema", "text", "versions"]

FORMAT = 1
"""Goes up when a key changes its meaning or goes away; new keys may come without."""


def document(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data; the keys of a result are those of :class:`deqverify.running.results.Result`."""
    causes = [
        {"target": c.target, "law": c.law, "dtypes": c.dtypes, "follows": c.followers, "expected": c.expected}
        | ({"diagnosis": v.diagnosis, "where": v.where, "boundary": v.boundary} if (v := c.first.violation) else {})
        for c in report.causes
    ]
    return {
        "deqverify report": FORMAT,
        "versions": versions(),
        "exit_code": report.exit_code,
        "causes": causes,
        "stale": report.stale,
        "untried": report.untried,
        "sketches": [asdict(sketch) for sketch in report.sketches],
        "results": [_entry(result) for result in report.results],
    }


def _entry(result: Result) -> dict[str, Any]:
    violation = result.violation and vars(result.violation)
    job = {name: value for name, value in vars(result.job).items() if name != "allotted"}  # a worker's matter
    parts = {"job": job, "verdict": result.verdict.value, "violation": violation}
    return vars(result) | parts | {"tally": vars(result.tally)}


def text(report: Report) -> str:
    """The document; numbers that JSON has no word for (inf, NaN) become strings, and halves of characters "�"."""
    return json.dumps(plain(document(report)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of the document."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text(encoding="utf-8"))
    return found


_HALVES = re.compile("[\ud800-\udfff]")


def plain(value: Any) -> Any:
    """``value`` as strict JSON has it: numbers that it has no word for become text, halves of characters "�"."""
    if isinstance(value, str):
        return _HALVES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
