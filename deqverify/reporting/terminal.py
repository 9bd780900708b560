"""Results for people: the causes of what is wrong, and on demand the matrix of laws × implementations and every
violation, ready to paste."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deqverify.registry import laws
from deqverify.reporting.wording import (
    FULL_SHARE,
    LEGEND,
    counts,
    details,
    ending,
    named,
    plain,
    remarks,
    said,
    strength,
)
from deqverify.running.causes import Cause, trusted
from deqverify.running.counterexamples import Counterexample
from deqverify.running.plan import Report
from deqverify.running.replaying import script
from deqverify.running.results import Job, Result, Verdict

STYLES = {
    Verdict.HOLDS: "green",
    Verdict.VIOLATED: "bold red",
    Verdict.FOLLOWS: "red",
    Verdict.EXPECTED: "yellow",
    Verdict.INCONCLUSIVE: "cyan",
    Verdict.NOT_CLAIMED: "dim",
    Verdict.COULD_NOT_RUN: "bold magenta",
}


def _text(text: str, style: str = "") -> Text:
    """``text``, of a target perhaps, as it can be shown."""
    return Text(plain(text), style=style)


def show(report: Report, console: Console, full: bool = False) -> None:
    """The causes, what could not run, stale expectations, the counts and one line of summary; ``full``: the matrix and
    every violation besides."""
    ran = {result.job.column for result in report.results if result.verdict is not Verdict.COULD_NOT_RUN}
    tried = [result for result in report.results if result.job.column in ran]
    if full or len({result.job.law for result in tried}) <= FEW:
        for table in matrices(tried, console.width):
            console.print(table)
    _causes(report, console, detailed=not full)
    if full:
        for result in report.results:
            if result.violation:
                violation_of(result, console)
    failed: dict[tuple[str, str], list[Job]] = {}
    for result in report.of(Verdict.COULD_NOT_RUN):
        failed.setdefault((result.job.target, result.reason.rstrip()), []).append(result.job)
    for (target, reason), jobs in failed.items():  # what every law says alike is said once
        names, columns = {job.law for job in jobs}, {job.column for job in jobs}
        which = jobs[0].law if len(names) == 1 else f"{len(names)} laws"
        where = jobs[0].column if len(columns) == 1 else target
        console.print(_text(f"could not run: {which} × {where}", style=STYLES[Verdict.COULD_NOT_RUN]))
        console.print(_text(reason))
    for sentence in remarks(report):
        console.print(_text(sentence, style="yellow"))
    for sentence in strength(report):
        console.print(_text(sentence, style="green"))
    for sentence in report.stale:
        console.print(_text(f"stale expectation: {sentence}", style="bold red"))
    if full:
        _legend(report, console)
    console.print(summary(report))


FEW = 8
"""With so many laws the matrix is short enough to be shown unasked."""


def _causes(report: Report, console: Console, detailed: bool) -> None:
    """Two lines a cause: what is wrong, and where it begins and what follows from it; one line for what is expected.
    What can still be trusted of a target stands below its causes, and what is not kept anywhere, if ``detailed``."""
    found = report.causes
    unexpected = [cause for cause in found if not cause.expected]
    if unexpected:
        count = "one cause" if len(unexpected) == 1 else f"{len(unexpected)} causes"
        console.print(_text(f"{count} of what is violated", style="bold"))
    for number, cause in enumerate(unexpected, start=1):
        head = _text(f"{number}  {cause.target} {said(cause)}", style=STYLES[Verdict.VIOLATED])
        console.print(head.append(f"  ({cause.law})", style="default"))
        id = cause.first.violation.id if cause.first.violation else ""
        parts = details(cause, report) + ([f"deqverify show {id}"] if id else [])
        console.print(_text("   " + "; ".join(parts)))
    for line in _expected([cause for cause in found if cause.expected]):
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    for target in dict.fromkeys(cause.target for cause in unexpected):
        if holding := trusted(report.results, target):
            count = f"{len(holding)} law{'s' if len(holding) != 1 else ''}"
            console.print(_text(f"{target} can still be trusted in {count}: {named(holding)}", style="green"))
    for cause in unexpected if detailed else ():
        if not (cause.first.violation and cause.first.violation.id):
            violation_of(cause.first, console)


def _expected(found: Sequence[Cause]) -> list[Text]:
    """A line for each reason; what it stands for in several laws or targets is said once."""
    by_reason: dict[str, list[Cause]] = {}
    for cause in found:
        by_reason.setdefault(cause.first.reason, []).append(cause)
    lines = []
    for reason, causes in by_reason.items():
        targets, ids = (list(dict.fromkeys(getattr(c, name) for c in causes)) for name in ("target", "law"))
        follow = sum(len(cause.followers) for cause in causes)
        also = f" ({follow} more follow)" if follow else ""
        more = f" and {len(targets) - 1} targets more" if len(targets) > 1 else ""
        line = _text(f"expected  {', '.join(ids)} × {targets[0]}{more}{also}: ", style=STYLES[Verdict.EXPECTED])
        lines.append(line.append(plain(reason), style="default"))
    return lines


def matrices(results: Sequence[Result], width: int = 80) -> list[Table]:
    """Laws down, implementations across, families apart; as many tables as it takes for ``width``. Where names are too
    long for it, numbers head the columns and the last caption says whose they are."""
    columns = list(dict.fromkeys(result.job.column for result in results))
    headings = {column: column for column in columns}
    if sum(max(len(column), _WIDEST) + 3 for column in columns) + _LAW > width:
        headings = {column: f"({number})" for number, column in enumerate(columns, start=1)}
    most = max(1, (width - _LAW) // (max(_WIDEST, *map(len, headings.values())) + 3)) if columns else 1
    tables = [_matrix(results, columns[i : i + most], headings) for i in range(0, len(columns), most)]
    if tables and headings[columns[0]] != columns[0]:
        key = "\n".join(f"{heading} {column}" for column, heading in headings.items())
        tables[-1].caption, tables[-1].caption_justify = _text(key, style="default"), "left"
    return tables


_WIDEST, _LAW = len("holds 62 %"), 24
"""Columns of text that a cell and the name of a law take."""


def _matrix(results: Sequence[Result], columns: Sequence[str], headings: dict[str, str]) -> Table:
    cells = {(result.job.law, result.job.column): result for result in results}
    table = Table(title="laws × implementations", title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("law", no_wrap=True)
    for column in columns:
        table.add_column(_text(headings[column]), no_wrap=True)
    known, family = laws(), None
    for law in dict.fromkeys(result.job.law for result in results):
        if family not in (None, known[law].family):
            table.add_section()
        family = known[law].family
        table.add_row(law, *(_cell(cells.get((law, column))) for column in columns))
    return table


SHORT = {
    Verdict.NOT_CLAIMED: "–",
    Verdict.INCONCLUSIVE: "?",
    Verdict.COULD_NOT_RUN: "error",
    Verdict.VIOLATED: "VIOLATED",
}


def _cell(result: Result | None) -> Text:
    if not result:
        return _text("")
    word = SHORT.get(result.verdict, result.verdict.value)
    if result.verdict is Verdict.HOLDS and result.share < FULL_SHARE:
        word += f" {100 * result.share:.0f} %"
    return _text(word, style=STYLES[result.verdict])


def _legend(report: Report, console: Console) -> None:
    for verdict in Verdict:
        if count := len(report.of(verdict)):
            sign = f" ({SHORT[verdict]})" if len(SHORT.get(verdict, "  ")) == 1 else ""
            line = _text(f"{verdict.value + sign:17}", style=STYLES[verdict])
            console.print(line.append(f"{count:4}  {LEGEND[verdict]}", style="default"))


def violation_of(result: Result, console: Console) -> None:
    """A violation in full: what was seen, what is at stake, and the snippet that shows it again."""
    violation = result.violation
    assert violation
    console.print()
    title = f"{result.verdict.value.upper()}  {result.job.law} × {result.job.column}  ({violation.anomaly})"
    console.print(_text(title, style=STYLES[result.verdict]))
    for line in (
        violation.diagnosis and f"it {violation.diagnosis}",
        violation.boundary_said,
        violation.boundary_drawn,
    ):
        if line:
            console.print(_text(line))
    console.print(_text(violation.description))
    if result.verdict is Verdict.EXPECTED:
        console.print(_text(f"expected: {result.reason}", style="yellow"))
    else:
        console.print(_text(violation.at_stake, style="italic"))
    if result.output.strip():
        console.print(_text(f"it printed: {result.output.strip()[-300:]}", style="dim"))
    # Never wrapped: what is shown must paste.
    console.print(_text(violation.snippet), soft_wrap=True)


def counterexample_text(known: Counterexample) -> str:
    """A stored counterexample in full."""
    said, law = known.said, laws()[known.law]
    column = " ".join(
        part for part in (known.target, known.dtype, known.device if known.device != "cpu" else None) if part
    )
    lines = [f"{known.law} × {column}  ({said.get('diagnosis') or said.get('anomaly') or law.anomaly})", law.statement]
    lines += [str(said[key]) for key in ("boundary_said", "boundary_drawn", "description") if said.get(key)]
    lines += [str(said.get("at_stake") or law.at_stake), ""]
    versions = ", ".join(f"{name} {number}" for name, number in known.versions.items())
    return "\n".join([*lines, f"found with {versions}", "", script(known)])


def summary(report: Report) -> Text:
    """One line: what happened, and what it means for the exit code."""
    style = ("bold green", "bold red", "bold magenta")[report.exit_code]
    return _text(f"\n{counts(report)} {ending(report)}", style=style)
