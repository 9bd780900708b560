"""What was found, written down as expected: an entry with its counterexample for each violation that is a cause."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deqverify.running import counterexamples
from deqverify.running.files import write_whole
from deqverify.running.plan import Report
from deqverify.running.results import Result, Verdict


def pin(report: Report, path: Path) -> tuple[list[str], list[str]]:
    """Appends an entry to the expectations in ``path`` for each violation of ``report`` that is neither expected nor
    follows from another; its counterexample is kept beside it, in a folder named after it.

    Their names, and sentences for those that are no data and cannot be pinned. OSError where nothing can be written.
    """
    folder = path.with_name(f"{path.stem}.pinned")
    pinned, left = [], []
    entries: list[str] = []
    for result in report.of(Verdict.VIOLATED):
        assert result.violation
        name = f"{result.job.law} × {result.job.column}"
        if not result.violation.counterexample:
            left.append(f"{name}: not pinned, since its counterexample is no data (a cell that has no name here)")
            continue
        id = counterexamples.keep(result.violation.counterexample, folder)
        entries.append(_entry(result, f"{folder.name}/{id}.json"))
        pinned.append(name)
    if entries:
        before = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.exists() else _HEAD
        write_whole(path, before + "\n".join(entries))
    return pinned, left


_HEAD = """# Violations that are known. A pinned counterexample has to fail: once it passes, its entry is to be removed.

"""


def _entry(result: Result, file: str) -> str:
    violation = result.violation
    assert violation
    reason = violation.diagnosis or (violation.anomaly if violation.kind == "wrong" else f"a {violation.kind}")
    values = {"law": result.job.law, "target": result.job.target, "reason": reason, "counterexample": file}
    # A JSON string without control characters is one of TOML, too.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["[[expect]]", *lines, ""])


def said(path: Path, pinned: Sequence[str], left: Sequence[str]) -> list[str]:
    """What was written, in sentences."""
    if not pinned and not left:
        return ["nothing to pin: no violation was unexpected"]
    done = [f"pinned in {path}: {', '.join(pinned)}; say there why each is expected, and where it is reported"]
    return (done if pinned else []) + list(left)
