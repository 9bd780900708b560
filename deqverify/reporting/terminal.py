"""Results for people: progress, the matrix of laws × implementations, and every violation, ready to paste."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from deqverify.law import laws
from deqverify.running.plan import Report
from deqverify.running.results import Job, Result, Verdict

STYLES = {
    Verdict.HOLDS: "green",
    Verdict.VIOLATED: "bold red",
    Verdict.EXPECTED: "yellow",
    Verdict.INCONCLUSIVE: "cyan",
    Verdict.NOT_CLAIMED: "dim",
    Verdict.COULD_NOT_RUN: "bold magenta",
}
LEGEND = {
    Verdict.HOLDS: "no counterexample, and the bounds could have told",
    Verdict.VIOLATED: "a counterexample was found and shrunk",
    Verdict.EXPECTED: "violated, as the file of expectations says, for the reason given there",
    Verdict.INCONCLUSIVE: "too little evidence: reported as not converged, or the claims allow too much",
    Verdict.NOT_CLAIMED: "the implementation does not claim what the law needs",
    Verdict.COULD_NOT_RUN: "the target or the law failed to start",
}


def follow(results: Iterable[Result], jobs: Sequence[Job], console: Console) -> list[Result]:
    """Shows progress while ``results`` arrive: a bar on a terminal, a line for every tenth elsewhere."""
    found: list[Result] = []
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("verifying", total=len(jobs))
            for result in results:
                found.append(result)
                label = f"{result.job.law} × {result.job.column}: {result.verdict.value}"
                progress.update(task, advance=1, description=f"{label:60.60}")
        return found
    step = max(1, len(jobs) // 10)
    for result in results:
        found.append(result)
        if len(found) % step == 0 or len(found) == len(jobs):
            bad = sum(r.verdict is Verdict.VIOLATED for r in found)
            console.print(f"  {len(found)}/{len(jobs)} done, {bad} unexpected violations", highlight=False)
    return found


def show(report: Report, console: Console) -> None:
    """The matrix, the violations, what could not run, stale expectations, and one line of summary."""
    console.print(matrix(report.results, console.width))
    _legend(report, console)
    for result in report.results:
        if result.violation:
            _violation(result, console)
    failed: dict[tuple[str, str], list[str]] = {}
    for result in report.of(Verdict.COULD_NOT_RUN):
        failed.setdefault((result.job.column, result.reason.rstrip()), []).append(result.job.law)
    for (column, reason), names in failed.items():  # what every law says alike is said once
        which = names[0] if len(names) == 1 else f"{len(names)} laws"
        console.print(Text(f"could not run: {which} × {column}", style=STYLES[Verdict.COULD_NOT_RUN]))
        console.print(Text(reason))
    for sentence in report.stale:
        console.print(Text(f"stale expectation: {sentence}", style="bold red"))
    console.print(summary(report))


def matrix(results: Sequence[Result], width: int = 80) -> Table:
    """Laws down, implementations across, families apart; numbers head the columns where names don't fit in
    ``width``."""
    columns = list(dict.fromkeys(result.job.column for result in results))
    cells = {(result.job.law, result.job.column): result for result in results}
    table = Table(title="laws × implementations", title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("law", no_wrap=True)
    wanted = sum(max(len(column), len("violated")) + 3 for column in columns) + 24
    headings = columns if wanted <= width else [f"({number})" for number, _ in enumerate(columns, start=1)]
    for heading in headings:
        table.add_column(Text(heading), no_wrap=True)
    if headings is not columns:
        key = "\n".join(f"{heading} {column}" for heading, column in zip(headings, columns, strict=True))
        table.caption, table.caption_justify = Text(key, style="default"), "left"
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
        return Text("")
    return Text(SHORT.get(result.verdict, result.verdict.value), style=STYLES[result.verdict])


def _legend(report: Report, console: Console) -> None:
    for verdict in Verdict:
        if count := len(report.of(verdict)):
            sign = f" ({SHORT[verdict]})" if len(SHORT.get(verdict, "  ")) == 1 else ""
            line = Text(f"{verdict.value + sign:17}", style=STYLES[verdict])
            console.print(line.append(f"{count:4}  {LEGEND[verdict]}", style="default"))


def _violation(result: Result, console: Console) -> None:
    violation = result.violation
    assert violation
    console.print()
    title = f"{result.verdict.value.upper()}  {result.job.law} × {result.job.column}  ({violation.anomaly})"
    console.print(Text(title, style=STYLES[result.verdict]))
    console.print(Text(violation.description))
    if result.verdict is Verdict.EXPECTED:
        console.print(Text(f"expected: {result.reason}", style="yellow"))
    else:
        console.print(Text(violation.at_stake, style="italic"))
    if result.output.strip():
        console.print(Text(f"it printed: {result.output.strip()[-300:]}", style="dim"))
    # Never wrapped: what is shown must paste.
    console.print(Text(violation.snippet), soft_wrap=True)


def summary(report: Report) -> Text:
    """One line: what happened, and what it means for the exit code."""
    violated, expected = len(report.of(Verdict.VIOLATED)), len(report.of(Verdict.EXPECTED))
    examples = sum(result.examples for result in report.results)
    counts = f"{len(report.results)} verdicts from {examples} examples: {violated} violated, {expected} expected"
    if report.exit_code == 0:
        return Text(f"\n{counts}. Nothing beyond the expectations.", style="bold green")
    if report.exit_code == 1:
        return Text(f"\n{counts}, {len(report.stale)} stale expectations.", style="bold red")
    return Text(f"\n{counts}. Some could not run.", style="bold magenta")
