"""``deqverify bench``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("targets", nargs=-1)
@click.option("--m", "widths", type=click.IntRange(1), multiple=True, default=(64,), show_default=True,
              help="Width (repeatable).")  # fmt: skip
@click.option("--n", type=click.IntRange(1), default=256, show_default=True, help="Data points.")
@click.option("--gamma", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.9, show_default=True)
@click.option("--kind", type=click.Choice(["mixing", "sticky"]), default="mixing", show_default=True)
@click.option("--cell", default="linear-softmax", show_default=True, help="The cell of the fixed problem.")
@click.option("--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--pass", "which", type=click.Choice(["forward", "gradient", "step"]), multiple=True,
              default=("forward", "gradient"), show_default=True, help="What is timed (repeatable).")  # fmt: skip
@click.option("--accuracy", type=click.FloatRange(0, 1, min_open=True),
              help="Compare at this achieved error: each tolerance is searched for, and kept.")  # fmt: skip
@click.option("--against", metavar="COMMIT", help="Compare this checkout with a base commit; exit 1 if slower.")
@click.option("--scaling", type=click.Path(path_type=Path), metavar="PAGE.html",
              help="Draw time and memory against m, n, γ and problems, measuring what PAGE.json lacks.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(0), default=20.0, show_default=True,
              help="With --scaling: seconds of one call after which a series ends; 0 only draws.")  # fmt: skip
@click.option("--largest", type=click.FloatRange(0), default=float("inf"), help="With --scaling: up to this value.")
@click.option("--asv", metavar="REGEX", help="Run the asv benchmarks that match, in this environment, for HEAD.")
@click.option("--merge", "others", type=click.Path(path_type=Path, exists=True), multiple=True, metavar="RESULTS",
              help="Take in another machine's results of asv (repeatable).")  # fmt: skip
@click.option("--publish", type=click.Path(path_type=Path), metavar="FOLDER", help="Write asv's page, offline too.")
@click.option("--budget", type=click.FloatRange(0.01), default=0.3, show_default=True, help="Seconds for each time.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the rows as JSON.")
def bench(
    targets: tuple[str, ...],
    widths: tuple[int, ...],
    n: int,
    gamma: float,
    kind: str,
    cell: str,
    dtype: str,
    device: str,
    which: tuple[str, ...],
    accuracy: float | None,
    against: str | None,
    scaling: Path | None,
    limit: float,
    largest: float,
    asv: str | None,
    others: tuple[Path, ...],
    publish: Path | None,
    budget: float,
    json_path: Path | None,
) -> None:
    """Time TARGETS (default: all) on one fixed problem, and show what each achieved.

    \b
    With --against the named benchmarks of this checkout are compared with those of COMMIT instead.
    Exit code 0: nothing is slower.  1: something is.  2: nothing could be compared.
    """
    if against is not None:
        sys.exit(_against(against))
    if asv is not None or others or publish is not None:
        sys.exit(_track(asv, list(others), publish))
    _check(targets, device)
    if json_path and not json_path.resolve().parent.is_dir():
        raise click.UsageError(f"--json: there is no folder {json_path.resolve().parent}")
    if scaling is not None:
        _scaling(scaling, limit, largest, device)
        return
    from deqverify.benchmarking import matching, measure
    from deqverify.benchmarking.contenders import names
    from deqverify.benchmarking.floor import rates
    from deqverify.benchmarking.problems import SOFTMAX, FixedProblem
    from deqverify.benchmarking.table import console, followed, table

    out = console()
    machine = measure.machine(device)
    out.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    out.print(str(rates(dtype, device)), highlight=False)
    found = []
    for m in widths:
        try:
            problem, who = FixedProblem(m, n, gamma, kind, cell), targets or names(cell == SOFTMAX)
        except ValueError as error:
            raise click.UsageError(f"--{error}") from error
        if accuracy is None:
            rows = measure.rows(who, which, problem, dtype, device, budget)
        else:
            rows = matching.rows(who, which, problem, dtype, device, accuracy, budget)
        made = followed(rows, len(who) * len(which), str(problem), out)
        at = "each at its own tolerance" if accuracy is None else f"at equal accuracy {accuracy:g}"
        out.print(table(made, f"{problem} {dtype} {device}, {at}"))
        found += made
        if json_path:  # after every width, so that an interrupted run keeps what it has
            document = {"machine": machine, "rows": [measure.plain(row) for row in found]}
            json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


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


def _against(commit: str) -> int:
    from deqverify.benchmarking import compare
    from deqverify.benchmarking.table import comparisons, console

    out = console()
    try:
        root = compare.repository()
        with compare.checked_out(commit, root) as base:
            found = compare.compare(base, root, say=lambda text: out.print(text, style="dim"))
    except compare.CompareError as error:
        raise click.UsageError(str(error)) from error
    out.print(comparisons(found, commit))
    return compare.exit_code(found)


def _scaling(page: Path, limit: float, largest: float, device: str) -> None:
    from deqverify.benchmarking import pictures
    from deqverify.benchmarking import scaling as growing
    from deqverify.benchmarking.table import console, seconds

    out, kept = console(), page.with_suffix(".json")
    try:
        for point in growing.measured(kept, limit, largest=largest, device=device) if limit else ():
            time = seconds(point.seconds) if point.seconds else point.note
            out.print(f"{point.axis} = {point.value:g}  {point.name}  {time}", highlight=False, markup=False)
    except ValueError as error:
        raise click.UsageError(f"--scaling: {error}") from error
    if not kept.exists():
        raise click.UsageError(f"--scaling: there are no points in {kept}; measure with a --limit above 0")
    pictures.draw(growing.read(kept), json.loads(kept.read_text())["machine"], page)
    out.print(f"{page} drawn from {kept}")


def _track(benchmarks: str | None, others: list[Path], publish: Path | None) -> int:
    from deqverify.benchmarking import tracking
    from deqverify.benchmarking.compare import CompareError, repository

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
