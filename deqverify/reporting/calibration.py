"""What a soak saw, for people: progress, the table of how near each law came to its bound, and a picture of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deqverify.dtypes import dtype
from deqverify.figures import save
from deqverify.registry import laws
from deqverify.running.executors import Executor
from deqverify.running.results import Result, Verdict
from deqverify.running.soak import Soak
from deqverify.running.soak_state import FINDS, Entry
from deqverify.running.tally import BINS_PER_DECADE, LOOSE
from deqverify.trial import LEAST_SHARE

REPORT_EVERY = 60.0
"""Seconds between two lines of progress where no terminal shows a bar."""

DECADES_SHOWN = 10

HALVES_ROUND = "in half precision two answers that differ below its spacing round to the same bits"


def follow(soak: Soak, executor: Executor, console: Console) -> None:
    """Runs the soak and shows its progress; Ctrl-C ends it, and everything that was counted is kept."""
    try:
        if console.is_terminal:
            _follow_with_bar(soak, executor, console)
        else:
            _follow_in_lines(soak, executor, console)
    except KeyboardInterrupt:
        console.print("stopped; everything is kept, and the same command goes on", highlight=False)


def _follow_with_bar(soak: Soak, executor: Executor, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("soaking", total=soak.seconds)
        for result in soak.results(executor):
            _tell(result, console)
            done = f"{soak.state.examples} examples, now {result.job.law} × {result.job.column}"
            progress.update(task, completed=soak.seconds - soak.left, description=f"{done:70.70}")


def _follow_in_lines(soak: Soak, executor: Executor, console: Console) -> None:
    told = soak.seconds
    for result in soak.results(executor):
        _tell(result, console)
        if told - soak.left >= REPORT_EVERY:
            told = soak.left
            minutes = f"{(soak.seconds - soak.left) / 60:.0f} of {soak.seconds / 60:.0f} min"
            console.print(f"  {minutes}, {soak.state.examples} examples", highlight=False)


def _tell(result: Result, console: Console) -> None:
    """A line for what must not wait until the end."""
    if result.violation:
        description = result.violation.description.splitlines()[0]
        console.print(Text(f"VIOLATED  {result.job.law} × {result.job.column}: {description}", style="bold red"))
    elif result.verdict is Verdict.COULD_NOT_RUN:
        reason = (result.reason.strip().splitlines() or [""])[-1]
        console.print(Text(f"could not run  {result.job.law} × {result.job.column}: {reason}", style="bold magenta"))


def exit_code(entries: Sequence[Entry]) -> int:
    """2 if nothing ran or something could not run, else 1 for a violation, else 0."""
    ran = [entry for entry in entries if entry.all.examples or entry.finds or entry.trouble]
    if not ran or any(entry.trouble for entry in ran):
        return 2
    return 1 if any(entry.finds for entry in ran) else 0


def show(entries: Sequence[Entry], folder: Path, console: Console) -> None:
    """The calibration table, the finds, and one line of summary."""
    tried = [entry for entry in entries if entry.all.examples or entry.finds or entry.trouble]
    for target in dict.fromkeys(entry.target for entry in tried):
        console.print(table([entry for entry in tried if entry.target == target]))
    found = [folder / FINDS / name for entry in tried for name in entry.finds]
    for path in found:
        console.print(Text(f"found: {path}", style="bold red"), soft_wrap=True)
    examples = sum(entry.all.examples for entry in tried)
    loose = sum(entry.all.loose and not _reason(entry) for entry in tried)
    line = f"{examples} examples: {len(found)} violations kept; {loose} bounds loose without a reason"
    console.print(Text(line, style=("bold green", "bold red", "bold magenta")[exit_code(entries)]))


def table(entries: Sequence[Entry]) -> Table:
    """One row for each law and dtype of one target. Shares are those of the rounds that draw freely.

    "told" is the informative share. "LOOSE" is a matter of the bound where the target claims rounding only, else of the
    target's claim; "reasoned" where the law says why.
    """
    title = f"{entries[0].target}: how near the bounds it came"
    shown = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    shown.add_column("law", no_wrap=True)
    for heading in ("dtype", "examples", "told", "γ ≤ .99", "worst", "loose"):
        shown.add_column(heading, no_wrap=True, justify="left" if heading in ("dtype", "loose") else "right")
    known = list(laws())
    before = ""
    for entry in sorted(entries, key=lambda each: known.index(each.law)):
        tally = entry.all
        row = [entry.law if entry.law != before else "", entry.dtype, str(tally.examples)]
        row += [_share(entry.drawn.share), _share(entry.drawn.moderate_share)]
        shown.add_row(*row, f"{tally.worst:.1e}" if tally.bounded else "exact", _note(entry))
        before = entry.law
    return shown


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _reason(entry: Entry) -> str | None:
    return laws()[entry.law].loose or (HALVES_ROUND if dtype(entry.dtype).significand < 16 else None)


def _note(entry: Entry) -> Text:
    if entry.finds:
        return Text(f"VIOLATED, {len(entry.finds)} kept", style="bold red")
    if entry.trouble:
        return Text("could not run", style="bold magenta")
    if entry.drawn.examples and entry.drawn.share < LEAST_SHARE:
        return Text("too few informative", style="cyan")
    if not entry.all.loose:
        return Text("")
    return Text("reasoned", style="dim") if _reason(entry) else Text("LOOSE", style="bold yellow")


def check_picture(path: Path) -> None:
    """ValueError where no picture could be drawn at ``path``: no matplotlib, no folder, an unknown ending."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("picture: matplotlib is needed; pip install 'deqverify[plot]'") from error
    if path.suffix.lstrip(".") not in FigureCanvasAgg(Figure()).get_supported_filetypes():
        raise ValueError(f"picture: {path.name!r} must end in .svg, .png or .pdf")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"picture: there is no folder {path.resolve().parent}")


def draw(entries: Sequence[Entry], path: Path) -> None:
    """A strip for each law, a panel for each target and dtype: how measured/allowed is distributed, and its worst."""
    from matplotlib.figure import Figure

    tallies = {entry.key: entry.all for entry in entries if entry.all.bounded}
    names = [law for law in laws() if any(key[0] == law for key in tallies)]
    panels = list(dict.fromkeys(key[1:] for key in tallies))
    width, height = 2.2 + 2.6 * max(1, len(panels)), 1.3 + 0.24 * max(1, len(names))
    figure = Figure(figsize=(width, height), layout="constrained")
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        column = [tallies.get((law, *panel)) for law in names]
        _panel(axes, column)
        axes.set_title(" ".join(panel) if len({each[0] for each in panels}) > 1 else panel[1], fontsize=10)
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names), fontsize=8)
    shade = "Shade: share of the law's examples, at the left edge those that measured 0."
    figure.supxlabel(f"measured/allowed. {shade} Dot: the worst, red where below 1/1000.", fontsize=9)
    save(figure, path)


def _panel(axes: Any, column: Sequence[Any]) -> None:
    least = -DECADES_SHOWN * BINS_PER_DECADE
    shades = [[_shade(tally, bin_) for bin_ in range(least, 0)] for tally in column]
    extent = (-DECADES_SHOWN, 0, len(column) - 0.5, -0.5)
    axes.imshow(shades, extent=extent, aspect="auto", cmap="Blues", vmin=0, vmax=0.75, interpolation="none")
    for row, tally in enumerate(column):
        if tally:
            worst = max(math.log10(tally.worst), -DECADES_SHOWN) if tally.worst else -DECADES_SHOWN
            axes.plot(
                worst, row, ".", color="tab:red" if tally.loose else "black", markersize=5, clip_on=False, zorder=3
            )
    axes.axvline(math.log10(LOOSE), color="tab:red", linewidth=0.8, linestyle=":")
    axes.set_xticks(
        range(1 - DECADES_SHOWN, 1, 3), [f"$10^{{{k}}}$" for k in range(1 - DECADES_SHOWN, 1, 3)], fontsize=8
    )
    axes.tick_params(length=2)


def _shade(tally: Any, bin_: int) -> float:
    """The square root of the bin's share, so that rare values show; what lies further left is in the first bin."""
    if not tally:
        return 0.0
    first = -DECADES_SHOWN * BINS_PER_DECADE
    below = tally.exact + sum(count for each, count in tally.bins.items() if each < first) if bin_ == first else 0
    return math.sqrt((tally.bins.get(bin_, 0) + below) / tally.bounded)
