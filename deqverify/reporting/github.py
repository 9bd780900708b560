"""Annotations on GitHub: lines that its runner turns into marks beside the code, one for each cause."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from deqverify.implementations.loading import TargetError, parse
from deqverify.reporting.wording import details, first_line, plain, said
from deqverify.running.plan import Report
from deqverify.running.results import Verdict

MOST = 10
"""GitHub shows so many errors of a step and drops the others; the last of them says how many are left."""


def lines(report: Report) -> list[str]:
    """Workflow commands, ``::error …``, a line each."""
    found = list(_errors(report))
    if len(found) > MOST:
        left = len(found) - MOST + 1
        found = [*found[: MOST - 1], _command(f"deqverify: {left} more", "the log of this step names them all")]
    return found


def _errors(report: Report) -> Iterator[str]:
    for cause in report.causes:
        if not cause.expected:
            id = cause.first.violation.id if cause.first.violation else ""
            parts = details(cause, report) + ([f"deqverify show {id}"] if id else [])
            title = f"{cause.target} {said(cause)}"
            yield _command(title, f"{cause.law}: {'; '.join(parts)}", _place(cause.target))
    failed = {(r.job.target, r.reason): r for r in report.of(Verdict.COULD_NOT_RUN)}
    for target, reason in failed:
        yield _command(f"{target} could not run", reason.strip(), _place(target))
    for sentence in report.stale:
        yield _command("stale expectation", sentence)
    if not report.results:
        yield _command("deqverify", "nothing ran")


def _command(title: str, message: str, place: dict[str, str] | None = None) -> str:
    properties = (place or {}) | {"title": first_line(title)}
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::error {listed}::{_message(message)}"


def _message(text: str) -> str:
    """As the runner unescapes it; a line break would end the command, and begin what the text likes."""
    return plain(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _place(target: str) -> dict[str, str]:
    """File and line of ``module:name`` in this folder, relative to the repository; nothing for what is installed. The
    file is read and not imported."""
    try:
        module, _, name = parse(target).name.partition(":")
    except TargetError:
        return {}
    stem = Path(*module.split("."))
    file = next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)
    if not name or file is None:
        return {}
    root = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    place = {"file": Path(os.path.relpath(file.resolve(), Path(root).resolve())).as_posix()}
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return place
    return place | next(({"line": str(node.lineno)} for node in body if name in _names(node)), {})


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [each.id for each in targets if isinstance(each, ast.Name)]
    return []
