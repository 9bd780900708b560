"""Results for programs: one JSON document a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deqverify.running.files import write_whole
from deqverify.running.installed import versions
from deqverify.running.plan import Report

__all__ = ["document", "versions", "write"]


def document(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data; its keys are those of :class:`deqverify.running.results.Result`."""
    results = []
    for result in report.results:
        entry = asdict(result)
        entry["verdict"] = result.verdict.value
        results.append(entry)
    causes = [
        {"target": c.target, "law": c.law, "dtypes": c.dtypes, "follows": c.followers, "expected": c.expected}
        | ({"diagnosis": v.diagnosis, "where": v.where, "boundary": v.boundary} if (v := c.first.violation) else {})
        for c in report.causes
    ]
    said = {"causes": causes, "stale": report.stale, "untried": report.untried}
    return {"versions": versions(), "exit_code": report.exit_code} | said | {"results": results}


def write(report: Report, path: Path) -> None:
    """Writes the document; numbers that JSON has no word for (inf, NaN) become strings."""
    write_whole(path, json.dumps(_plain(document(report)), indent=1, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
