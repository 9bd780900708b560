"""The report as Markdown for a pull request: causes, a table of verdicts, the scripts folded away.

Text of targets stands in code, where it names nobody and formats nothing; what is left over at the length of a comment
is counted.
"""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

from deqverify.reporting import rendering
from deqverify.reporting.wording import counts, details, ending, plain, remarks, said, strength
from deqverify.running.plan import Report

MOST = 60_000
"""Characters; GitHub takes 65,536 in a comment."""

MOST_SCRIPT = 4_000


def text(report: Report) -> str:
    """Markdown, as GitHub understands it."""
    room, shown = MOST - 12_000, []
    found = report.causes
    for number, cause in enumerate(found, start=1):
        part = _template("cause.md", report, number=number, cause=cause)
        if len(part) > room:
            break
        room -= len(part)
        shown.append(Markup(part))
    left = len(found) - len(shown)
    whole = _template("report.md", report, causes=shown, left=left, matrix=rendering.matrix(report))
    if len(whole) > MOST:  # too many columns for a table
        whole = _template("report.md", report, causes=shown, left=left, matrix=None)
    return re.sub(r"\n{3,}", "\n\n", whole)


def _template(name: str, report: Report, **given: Any) -> str:
    return (
        rendering.environment()
        .get_template(name)
        .render(
            report=report,
            code=code,
            fenced=fenced,
            words=words,
            said=said,
            details=details,
            failures=rendering.failures(report),
            remarks=remarks(report) + strength(report),
            counts=f"{counts(report)} {ending(report)}",
            most=MOST_SCRIPT,
            **given,
        )
    )


def code(text: str, in_table: bool = False) -> Markup:
    """``text`` in one line as code; more backticks around it than within. A bar would end the cell of a table."""
    line = " ".join(plain(text).split())[:300] or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    line = line.replace("|", "\\|") if in_table else line
    return Markup(f"{ticks}{pad}{line}{pad}{ticks}")


def fenced(text: str, language: str = "") -> Markup:
    """``text`` as a block of code, which nothing in it can end."""
    body = plain(text).rstrip()
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return Markup(f"{ticks}{language}\n{body}\n{ticks}")


def words(text: str) -> Markup:
    """``text`` as words: what Markdown would take for markup, a mention or a tag is none any more."""
    line = " ".join(plain(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\u200b").replace("#", "#\u200b")
    return Markup(re.sub(r"([\\`*_\[\]{}|~!])", r"\\\1", line))
