"""``deqverify bench``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path, dir_okay=False)
_RESULT = click.Path(path_type=Path, dir_okay=False, exists=True)
_GAMMA = click.FloatRange(0, 1, min_open=True, max_open=True)
_OUTPUTS = ("json_path", "picture", "markdown")


@click.command()
@click.argument("targets", nargs=-1)
@click.option("--cell", "cells", multiple=True, default=("linear-softmax",), show_default=True, metavar="CELL",
              help="The cell of the fixed problem (repeatable), or all.")  # fmt: skip
@click.option("--m", "widths", type=click.IntRange(1), multiple=True, default=(64,), show_default=True,
              help="Width (repeatable).")  # fmt: skip
@click.option("--n", "counts", type=click.IntRange(1), multiple=True, default=(256,), show_default=True,
              help="Data points (repeatable).")  # fmt: skip
@click.option("--gamma", "gammas", type=_GAMMA, multiple=True, default=(0.9,), show_default=True,
              help="Contraction factor of the weights (repeatable).")  # fmt: skip
@click.option("--kind", type=click.Choice(["mixing", "sticky"]), default="mixing", show_default=True,
              help="Of the linear-softmax cell's logits.")  # fmt: skip
@click.option("--dtype", "dtypes", type=click.Choice(["float64", "float32"]), multiple=True, default=("float64",),
              show_default=True, help="Repeatable.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--pass", "which", type=click.Choice(["forward", "gradient", "step"]), multiple=True,
              default=("forward", "gradient"), show_default=True, help="What is timed (repeatable).")  # fmt: skip
@click.option("--accuracy", type=click.FloatRange(0, 1, min_open=True),
              help="Compare at this achieved error: each tolerance is searched for, and kept.")  # fmt: skip
@click.option("--budget", type=click.FloatRange(0.01), default=0.3, show_default=True, help="Seconds for each time.")
@click.option("--json", "json_path", type=_FILE, help="Also write the rows as JSON, with all that they depend on.")
@click.option("--picture", type=_FILE, metavar="FILE.svg", help="Also draw the times.")
@click.option("--markdown", type=_FILE, metavar="FILE.md", help="Also write compact tables, with ratios.")
@click.option("--show", "shown", type=_RESULT, multiple=True, metavar="RESULT.json",
              help="Show what was measured before (repeatable), and measure nothing.")  # fmt: skip
@click.option("--compare", "compared", type=_RESULT, nargs=2, metavar="BEFORE.json AFTER.json",
              help="Compare two results, as far as noise allows; exit 1 if slower.")  # fmt: skip
@click.option("--against", metavar="COMMIT", help="Compare this checkout with a base commit; exit 1 if slower.")
@click.option("--scaling", type=_FILE, metavar="PAGE.html",
              help="Draw time and memory against m, n, γ and problems, measuring what PAGE.json lacks.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(0), default=20.0, show_default=True,
              help="With --scaling: seconds of one call after which a series ends; 0 only draws.")  # fmt: skip
@click.option("--largest", type=click.FloatRange(0), default=float("inf"), help="With --scaling: up to this value.")
@click.option("--asv", metavar="REGEX", help="Run the asv benchmarks that match, in this environment, for HEAD.")
@click.option("--merge", "others", type=click.Path(path_type=Path, exists=True), multiple=True, metavar="RESULTS",
              help="Take in another machine's results of asv (repeatable).")  # fmt: skip
@click.option("--publish", type=click.Path(path_type=Path), metavar="FOLDER", help="Write asv's page, offline too.")
@click.pass_context
def bench(
    context: click.Context,
    targets: tuple[str, ...],
    cells: tuple[str, ...],
    widths: tuple[int, ...],
    counts: tuple[int, ...],
    gammas: tuple[float, ...],
    kind: str,
    dtypes: tuple[str, ...],
    device: str,
    which: tuple[str, ...],
    accuracy: float | None,
    budget: float,
    json_path: Path | None,
    picture: Path | None,
    markdown: Path | None,
    shown: tuple[Path, ...],
    compared: tuple[Path, Path] | None,
    against: str | None,
    scaling: Path | None,
    limit: float,
    largest: float,
    asv: str | None,
    others: tuple[Path, ...],
    publish: Path | None,
) -> None:
    """Time TARGETS (default: all) on fixed problems, and show what each achieved.

    \b
    With --show, --compare, --against, --scaling, --asv, --merge and --publish something else is done instead.
    Exit code 0: nothing is slower.  1: something is.  2: nothing could be compared, or a wrong option.
    """
    outputs = _Outputs(json_path, picture, markdown)
    if against is not None:
        _takes(context, "against")
        sys.exit(_against(against))
    if asv is not None or others or publish is not None:
        _takes(context, "asv", "others", "publish")
        sys.exit(_track(asv, list(others), publish))
    if compared:
        _takes(context, "compared")
        sys.exit(_compare(*compared))
    if shown:
        _takes(context, "shown", *_OUTPUTS)
        _show(shown, outputs)
        return
    _check(targets, device)
    if scaling is not None:
        _takes(context, "scaling", "targets", "cells", "device", "limit", "largest")
        _scaling(scaling, limit, largest, device, cells, targets)
        return
    _measure(targets, _problems(cells, widths, counts, gammas, kind), dtypes, device, which, accuracy, budget, outputs)


def _takes(context: click.Context, *names: str) -> None:
    """An option that would do nothing beside the first of ``names`` ends the command."""
    given = [
        each for each in context.command.params
        if context.get_parameter_source(each.name or "") is click.core.ParameterSource.COMMANDLINE
    ]  # fmt: skip
    mode = next(each.opts[0] for each in given if each.name in names)
    for each in given:
        if each.name not in names:
            wrong = "TARGETS" if isinstance(each, click.Argument) else each.opts[0]
            raise click.UsageError(f"{wrong} does nothing beside {mode}; leave it out")


def _check(targets: tuple[str, ...], device: str) -> None:
    """A name that is no target, or a device that is missing, ends the command before anything is timed."""
    from deqverify.implementations.devices import check_device
    from deqverify.implementations.loading import load

    try:
        check_device(device)
        for name in targets:
            load(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _problems(cells: Iterable[str], widths: Any, counts: Any, gammas: Any, kind: str) -> list[Any]:
    from deqverify.benchmarking.problems import FIXED_CELLS, FixedProblem

    chosen = FIXED_CELLS if "all" in cells else tuple(cells)
    try:
        return [
            FixedProblem(m, n, gamma, kind, cell)
            for cell, n, gamma, m in itertools.product(chosen, counts, gammas, widths)
        ]
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error


class _Outputs:
    """Files to be written beside the tables. UsageError for one in a folder that does not exist."""

    def __init__(self, json_path: Path | None, picture: Path | None, markdown: Path | None):
        self.json, self.picture, self.markdown = json_path, picture, markdown
        for option, path in (("json", json_path), ("picture", picture), ("markdown", markdown)):
            if path and not path.resolve().parent.is_dir():
                raise click.UsageError(f"--{option}: there is no folder {path.resolve().parent}")
        if picture:
            _can_draw("--picture")

    def write(self, found: Any) -> None:
        from deqverify.benchmarking import showing

        if self.json:
            found.write(self.json)
        if self.markdown:
            self.markdown.write_text(showing.page(found), encoding="utf-8")
        if self.picture:
            try:
                showing.draw(found.rows, self.picture)
            except ValueError as error:
                click.echo(f"--picture: {error}", err=True)


def _can_draw(option: str) -> None:
    """Ends the command, before anything is measured, where there is no matplotlib."""
    if find_spec("matplotlib") is None:
        raise click.UsageError(f"{option}: matplotlib is needed; pip install 'deqverify[plot]'")


def _measure(
    targets: tuple[str, ...],
    problems: list[Any],
    dtypes: tuple[str, ...],
    device: str,
    which: tuple[str, ...],
    accuracy: float | None,
    budget: float,
    outputs: _Outputs,
) -> None:
    from deqverify.benchmarking import matching, measuring
    from deqverify.benchmarking.results import begun
    from deqverify.benchmarking.showing import about, console, markdown, table
    from deqverify.benchmarking.targets import names

    out = console()
    found = begun(targets or names(), device, accuracy)
    out.print(about(found), highlight=False, markup=False)
    for problem, dtype in itertools.product(problems, dtypes):
        at = "each at its own tolerance" if accuracy is None else f"at achieved errors of at most {accuracy:g}"
        title = f"{problem} {dtype} {device}, {at}"
        who = targets or names(problem.cell)
        with out.status(title) as line:

            def say(what: str, title: str = title, line: Any = line) -> None:
                line.update(f"{title.replace('[', chr(92) + '[')}: {what.replace('[', chr(92) + '[')}")

            if accuracy is None:
                rows = measuring.rows(who, which, problem, dtype, device, budget, say)
            else:
                rows = matching.rows(who, which, problem, dtype, device, accuracy, budget, say=say)
        missing = [row for row in rows if row.missing] if not targets else []
        rows = [row for row in rows if row not in missing]
        out.print(table(rows, title, accuracy is not None))
        for reason in dict.fromkeys(_reason(row) for row in missing):
            left = ", ".join(row.name for row in missing if _reason(row) == reason)
            out.print(f"left out: {left}: {reason}", style="dim", highlight=False, markup=False)
        found.rows += rows
        outputs.write(found)  # after every problem, so that an interrupted run keeps what it has
    if accuracy is not None and len(problems) > 1:
        out.print(markdown(found.rows), highlight=False, markup=False)


def _reason(row: Any) -> str:
    """Why ``row`` is missing, in the same words for every target that is missing for it."""
    reason: str = row.note
    return reason.removeprefix(f"target {row.name!r}: ").replace(f"{row.name} ", "it ")


def _show(paths: Iterable[Path], outputs: _Outputs) -> None:
    from deqverify.benchmarking.results import read
    from deqverify.benchmarking.showing import about, console, table

    out, together = console(), None
    for path in paths:
        try:
            found = read(path)
        except ValueError as error:
            raise click.UsageError(f"--show: {error}") from error
        out.print(f"{path}: {about(found)}", highlight=False, markup=False)
        settings = dict.fromkeys((row.problem, row.dtype, row.device) for row in found.rows)
        for problem, dtype, device in settings:
            rows = [row for row in found.rows if (row.problem, row.dtype, row.device) == (problem, dtype, device)]
            out.print(table(rows, f"{problem} {dtype} {device}", found.accuracy is not None))
        if together is None:
            together = found
        else:
            together.rows += found.rows
    outputs.write(together)


def _compare(before: Path, after: Path) -> int:
    from deqverify.benchmarking.results import compared, differences, exit_code, read
    from deqverify.benchmarking.showing import console, pairs_table

    try:
        old, new = read(before), read(after)
        pairs = compared(old, new)
    except ValueError as error:
        raise click.UsageError(f"--compare: {error}") from error
    out = console()
    out.print(differences(old, new), highlight=False, markup=False)
    out.print(pairs_table(pairs))
    return exit_code(pairs)


def _against(commit: str) -> int:
    from deqverify.benchmarking import against
    from deqverify.benchmarking.showing import commits_table, console

    out = console()
    try:
        root = against.repository()
        with against.checked_out(commit, root) as base:
            found = against.compare(base, root, say=lambda text: out.print(text, style="dim"))
    except against.CompareError as error:
        raise click.UsageError(str(error)) from error
    out.print(commits_table(found, commit))
    return against.exit_code(found)


def _scaling(
    page: Path, limit: float, largest: float, device: str, cells: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    from deqverify.benchmarking import scaling
    from deqverify.benchmarking.showing import seconds

    if len(cells) != 1 or cells[0] == "all":
        raise click.UsageError("--scaling: draws one cell on a page; name one --cell")
    _can_draw("--scaling")
    _problems(cells, (1,), (1,), (0.5,), "mixing")  # an unknown cell ends the command
    kept = page.with_suffix(".json")
    asked: Any = {"largest": largest, "device": device, "cell": cells[0], "targets": targets}
    try:
        for point in scaling.measured(kept, limit, **asked) if limit else ():
            time = seconds(point.seconds) if point.seconds else point.note
            click.echo(f"{point.axis} = {point.value:g}  {point.name}  {time}")
    except ValueError as error:
        raise click.UsageError(f"--scaling: {error}") from error
    if not kept.exists():
        raise click.UsageError(f"--scaling: there are no points in {kept}; measure with a --limit above 0")
    scaling.draw(kept, page)
    click.echo(f"{page} drawn from {kept}")


def _track(benchmarks: str | None, others: list[Path], publish: Path | None) -> int:
    from deqverify.benchmarking import tracking
    from deqverify.benchmarking.against import CompareError, repository

    try:
        kept = repository() / ".deqverify" / "asv"
        if benchmarks is not None and (code := tracking.run(benchmarks)):
            return code
        if others:
            click.echo(f"merged {', '.join(tracking.merge(others, kept / 'results'))}")
        if publish is not None:
            click.echo(str(tracking.publish(kept / "results", publish, kept / "npm")))
    except CompareError as error:
        raise click.UsageError(str(error)) from error
    return 0
