"""The command line: ``deqverify run``, ``show``, ``replay``, ``soak``, ``list``, ``explain`` and ``bench``."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from deqverify.benchmarking.command import bench
from deqverify.running.profiles import PROFILES, profile


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deqverify")
def main() -> None:
    """Verify implementations of deep equilibrium models: laws, rigorous bounds, shrunk counterexamples."""
    sys.path.insert(0, os.getcwd())  # targets of one's own are modules beside one's work


@main.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("--profile", "profile_name", type=click.Choice(list(PROFILES)), default="default", show_default=True,
              help="How hard to try.")  # fmt: skip
@click.option("--law", "law_patterns", multiple=True, metavar="LAW", help="Only this law or family (repeatable).")
@click.option("--max-examples", type=click.IntRange(1), help="Examples for each law and target.")
@click.option("--max-time", type=click.FloatRange(0.1), help="Seconds for each law and target.")
@click.option(
    "--seed", type=click.IntRange(0), help="Draw the same problems each time; earlier failures are not replayed."
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    help="float64, float32, float16, bfloat16 (repeatable); default: all that are claimed.",
)
@click.option(
    "--cell",
    "only",
    multiple=True,
    metavar="CELL",
    help="Judge on this cell alone: linear-softmax, tanh, conv, … (repeatable); default: all that are claimed.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--expect", type=click.Path(path_type=Path), help="TOML file of expected violations.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results as JSON.")
@click.option("--full", is_flag=True, help="Also show the matrix of laws and implementations, and every violation.")
@click.option(
    "--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores", help="Worker processes."
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="NAME=PATH",
    help="Ask the target NAME in the environment of another interpreter, which has deqverify too (repeatable).",
)
def run(
    targets: tuple[str, ...],
    profile_name: str,
    law_patterns: tuple[str, ...],
    max_examples: int | None,
    max_time: float | None,
    seed: int | None,
    dtypes: tuple[str, ...],
    only: tuple[str, ...],
    device: str,
    expect: Path | None,
    json_path: Path | None,
    full: bool,
    workers: int,
    pythons: tuple[str, ...],
) -> None:
    """Verify TARGETS and print what is wrong with them: root causes, each with its smallest problem and what follows.

    A target is an installed name (reference, torchdeq), a name with options ('torchdeq[ift,broyden]'), or
    package.module:name of your own: a layer, a factory that takes the options, or a function solve(step, z0), whose
    options are its claims ('mine:solve[rtol=1e-8,backward=none]'). The option claim=relative judges any target's
    tolerances as relative.

    \b
    Exit code 0: nothing beyond the expectations.
              1: a violation, or a stale expectation.
              2: something could not run, or nothing ran.
    """
    from rich.console import Console

    from deqverify.cells import check_cells
    from deqverify.law import laws
    from deqverify.reporting import machine, terminal
    from deqverify.running import expectations as expected
    from deqverify.running import plan
    from deqverify.running.elsewhere import name_interpreters
    from deqverify.running.workers import Workers

    chosen = _configured(profile_name, max_examples, max_time, seed)
    try:
        known = expected.read(expect) if expect else []
        law_ids = plan.select(law_patterns)
        _check(targets, dtypes, device)
        check_cells(only)
        name_interpreters(pythons)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if json_path and not json_path.resolve().parent.is_dir():
        raise click.UsageError(f"--json: there is no folder {json_path.resolve().parent}")
    console = Console()
    console.print(_header(chosen, device), highlight=False)
    names = list(dict.fromkeys(targets))
    with Workers(chosen.hard_seconds, workers) as pool:
        asked = pool.ask(names)
        jobs = plan.make_jobs(names, law_ids, chosen, dtypes, device, asked=asked, only=only)
        found = terminal.follow(plan.run(pool, jobs, asked, known), jobs, console)
    report = plan.Report(plan.in_order(found, jobs), expected.stale(known, laws()), plan.untried(jobs, law_ids, asked))
    terminal.show(report, console, full)
    if json_path:
        machine.write(report, json_path)
    sys.exit(report.exit_code)


def _configured(name: str, examples: int | None, seconds: float | None, seed: int | None) -> Any:
    changes: dict[str, Any] = {"examples": examples, "seconds": seconds, "seed": seed}
    return dataclasses.replace(profile(name), **{key: value for key, value in changes.items() if value is not None})


def _check(targets: tuple[str, ...], dtypes: tuple[str, ...], device: str) -> None:
    from deqverify.dtypes import dtype
    from deqverify.implementations.devices import check_device
    from deqverify.implementations.loading import parse

    for target in targets:
        parse(target)
    for name in dtypes:
        dtype(name)
    check_device(device)


def _header(chosen: Any, device: str) -> str:
    from deqverify.reporting.machine import versions

    shown = ", ".join(f"{name} {number}" for name, number in versions().items())
    seed = "fresh" if chosen.seed is None else chosen.seed
    effort = (
        f"profile {chosen.name}: {chosen.examples} examples, {chosen.seconds:g} s a law, seed {seed}, device {device}"
    )
    return f"{shown}\n{effort}"


@main.command()
@click.argument("id_or_file", metavar="ID|FILE")
@click.option("--code", is_flag=True, help="Print a script that shows it again with deqverify, and nothing else.")
def show(id_or_file: str, code: bool) -> None:
    """Show the stored counterexample ID, or FILE: what was seen, what it means, what was installed, and the code that
    shows it again. Runs nothing that it names."""
    from deqverify.reporting.terminal import counterexample_text
    from deqverify.running import counterexamples, replaying

    try:
        known, _ = counterexamples.find(id_or_file)
    except counterexamples.CounterexampleError as error:
        raise click.UsageError(str(error)) from error
    click.echo(replaying.script(known) if code else counterexample_text(known))


@main.command()
@click.argument("id_or_file", metavar="ID|FILE")
@click.option("--target", help="Try it on this target in place of the one that it names; needed for a FILE of others.")
@click.option("--code", is_flag=True, help="Print a script that shows it with the library under test and NumPy alone.")
def replay(id_or_file: str, target: str | None, code: bool) -> None:
    """Try the stored counterexample ID, or FILE, again.

    \b
    Exit code 0: fixed.
              1: still violated.
              2: it cannot run.
    """
    from deqverify.running import counterexamples, replaying

    if code:
        try:
            click.echo(replaying.code(replaying.chosen(id_or_file, target)))
        except counterexamples.CounterexampleError as error:
            raise click.UsageError(str(error)) from error
        return
    verdict, why, result = replaying.replayed(id_or_file, target)
    click.echo(f"{verdict}: {why}" if why else verdict)
    if result and result.violation:
        click.echo(result.violation.description)
    sys.exit(replaying.EXIT_CODES[verdict])


@main.command()
@click.argument("targets", nargs=-1)
@click.option("--minutes", type=click.FloatRange(0), default=10.0, show_default=True,
              help="How long; 0 shows what was seen so far.")  # fmt: skip
@click.option("--law", "law_patterns", multiple=True, metavar="LAW", help="Only this law or family (repeatable).")
@click.option("--dtype", "dtypes", multiple=True, help="Only this dtype (repeatable); default: all that are claimed.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--examples", type=click.IntRange(10), help="Examples a round of one law.  [default: 400]")
@click.option("--seed", type=click.IntRange(0), help="Seed of a fresh soak; drawn where none is given.")
@click.option("--fresh", is_flag=True, help="Start anew; what was measured before is put aside.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".deqverify") / "soak", show_default=True,
              help="Where everything is kept.")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path),
              help="Also draw the distribution of measured/allowed (.svg, .png; needs matplotlib).")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores",
              help="Worker processes.")  # fmt: skip
def soak(
    targets: tuple[str, ...],
    minutes: float,
    law_patterns: tuple[str, ...],
    dtypes: tuple[str, ...],
    device: str,
    examples: int | None,
    seed: int | None,
    fresh: bool,
    folder: Path,
    picture: Path | None,
    workers: int,
) -> None:
    """Try all laws in all claimed dtypes on TARGETS (the reference by default) for as long as told.

    Every round draws with a fresh seed, every second one pushes measured/allowed upwards. At the end stands a table of
    how near each law came to its bound. Violations are kept as Python files in FOLDER/finds, and the other laws
    go on. Ctrl-C keeps everything; the same command goes on where it stopped.

    \b
    Exit code 0: no violation.
              1: a violation, now or earlier in this folder.
              2: something could not run, or nothing ran.
    """
    from rich.console import Console

    from deqverify.reporting import calibration
    from deqverify.running import plan, soak_state
    from deqverify.running import soak as soaking

    console = Console()
    try:
        _check(targets, dtypes, device)
        with soak_state.locked(folder):
            if picture:
                calibration.check_picture(picture)
            state, said = soak_state.resume(folder, seed, fresh)
            chosen = list(dict.fromkeys(targets)) or ["reference"]
            entries = soaking.entries_of(state, chosen, plan.select(law_patterns), dtypes)
            console.print(f"{folder}: {said}", highlight=False)
            run = soaking.Soak(state, folder, entries, 60.0 * minutes, examples or soaking.EXAMPLES, device, workers)
            calibration.follow(run, console)
    except ValueError as error:  # SoakError and TargetError are ValueErrors
        raise click.UsageError(str(error)) from error
    calibration.show(entries, folder, console)
    if picture:
        calibration.draw(entries, picture)
        console.print(f"drawn: {picture}", highlight=False)
    sys.exit(calibration.exit_code(entries))


@main.command(name="list")
def list_() -> None:
    """Show the laws (id, what they need, statement, source) and the installed implementations."""
    from rich.console import Console
    from rich.table import Table

    from deqverify.implementations.loading import installed
    from deqverify.law import laws

    console = Console()
    table = Table(title="laws", title_justify="left", header_style="bold", show_lines=False, pad_edge=False)
    for heading in ("law", "statement", "source", "needs"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "law")
    for law in laws().values():
        table.add_row(law.id, law.statement, law.source, ", ".join(law.needs))
    console.print(table)
    table = Table(title="implementations", title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("target")
    table.add_column("from")
    for name, point in sorted(installed().items()):
        table.add_row(name, point.value)
    console.print(table)


main.add_command(bench)


@main.command()
@click.argument("law_id", metavar="LAW")
@click.option("--target", default="reference", show_default=True, help="The implementation of the example.")
def explain(law_id: str, target: str) -> None:
    """Explain LAW: statement, source, bound, what a violation means, and an example with its numbers."""
    from deqverify.implementations.loading import TargetError
    from deqverify.law import laws
    from deqverify.reporting.explain import explain as text_of
    from deqverify.running.plan import select

    try:
        chosen = select([law_id])
        click.echo("\n\n".join(text_of(laws()[id], target) for id in chosen))
    except (ValueError, TargetError) as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
