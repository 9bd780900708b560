"""``deqverify run`` and ``deqverify soak``: what starts workers, and what they have in common."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deqverify.running.profiles import PROFILES

if TYPE_CHECKING:
    from rich.console import Console

    from deqverify.running.executors import Several


_dask = click.option(
    "--dask",
    metavar="ADDRESS",
    help="Run on the workers of the Dask scheduler at ADDRESS (tcp://host:8786), or, with 'local', on --workers Dask "
    "workers of this machine.",
)


def _bring(context: click.Context, option: click.Parameter, modules: tuple[str, ...]) -> None:
    from deqverify.registry import LawsError, bring

    for module in modules:
        try:
            bring(module)
        except LawsError as error:
            raise click.UsageError(f"--laws: {error}") from error


with_laws = click.option(
    "--laws", multiple=True, metavar="MODULE", expose_value=False, callback=_bring,
    help="Also the laws of this module of your own (repeatable); those of installed packages are found by themselves.",
)  # fmt: skip


def say_troubles(console: Any) -> None:
    """A line for each package whose laws are not there."""
    from deqverify.registry import troubles

    for trouble in troubles():
        console.print(trouble, style="bold magenta", highlight=False, markup=False)


@click.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("--profile", "profile_name", type=click.Choice(list(PROFILES)), default="default", show_default=True,
              help="How hard to try.")  # fmt: skip
@click.option("--law", "law_patterns", multiple=True, metavar="LAW", help="Only this law or family (repeatable).")
@with_laws
@click.option("--max-examples", type=click.IntRange(1), help="Examples for each law and target.")
@click.option("--max-time", type=click.FloatRange(0.1), help="Seconds for each law and target.")
@click.option("--max-minutes", type=click.FloatRange(0.1), help="Minutes of the workers that the laws share for each "
              "target, half as much again if it compiles.  [default: 3.2 in the default profile, else no "
              "limit]")  # fmt: skip
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
@click.option("--expect", type=click.Path(path_type=Path), metavar="FILE",
              help="TOML file of expected violations.  [default: deqverify.toml, if it is here]")  # fmt: skip
@click.option(
    "--pin", is_flag=True, help="Add what is violated to that file, with counterexamples that have to fail from now on."
)
@click.option("--report", "reports", type=click.Path(path_type=Path), multiple=True, metavar="PATH",
              help="Also write a report: .html, .md, .json or .xml (JUnit) (repeatable).")  # fmt: skip
@click.option("--github", is_flag=True, envvar="GITHUB_ACTIONS",
              help="Also print annotations for GitHub, one for each cause; set by GITHUB_ACTIONS.")  # fmt: skip
@click.option("--full", is_flag=True, help="Also show the matrix of laws and implementations, and every violation.")
@click.option(
    "--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores", help="Worker processes."
)
@_dask
@click.option("--database", metavar="FOLDER|URL", help="Keep failing examples in FOLDER, or on the Redis server at "
              "redis://HOST:PORT/NUMBER, and try those first that others kept there.")  # fmt: skip
@click.option("--fail-fast", is_flag=True, help="Try nothing more on a target after its first violation.")
@click.option("--resume", is_flag=True, help="Go on with the same run where it was killed or interrupted.")
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
    max_minutes: float | None,
    seed: int | None,
    dtypes: tuple[str, ...],
    only: tuple[str, ...],
    device: str,
    expect: Path | None,
    pin: bool,
    reports: tuple[Path, ...],
    github: bool,
    full: bool,
    workers: int,
    dask: str | None,
    database: str | None,
    fail_fast: bool,
    resume: bool,
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

    from deqverify import database as databases
    from deqverify.reporting import terminal
    from deqverify.reporting.files import Written
    from deqverify.reporting.github import lines as annotations
    from deqverify.reporting.progress import Following
    from deqverify.running import expectations as expected
    from deqverify.running import pinning
    from deqverify.running.cluster import ClusterError
    from deqverify.running.elsewhere import name_interpreters
    from deqverify.running.journal import JournalError, journal
    from deqverify.running.plan import DATABASE
    from deqverify.running.request import Request
    from deqverify.running.run import Run

    path = expect or expected.found_by_itself()
    about_to_be_written = pin and path is not None and not path.exists()
    try:
        known = expected.read(path) if path and not about_to_be_written else []
        request = Request(
            targets,
            law_patterns,
            only,
            dtypes,
            device,
            profile_name,
            max_examples,
            max_time,
            max_minutes,
            seed,
            known,
            database=databases.check(database) if database else str(DATABASE.absolute()),
            fail_fast=fail_fast,
            remote=dask not in (None, "local"),
        )
        name_interpreters(pythons)
        written = Written(reports)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    console = Console()
    console.print(_header(request.effort, device), highlight=False)
    say_troubles(console)
    if path:
        console.print(f"expected violations: {len(known)} in {path}{'' if expect else ', found here'}", highlight=False)
    try:
        with (
            journal(request, resume) as log,
            _executor(dask, request.effort.hard_seconds, workers, console) as executor,
            Following(console) as following,
        ):
            if log.said:
                console.print(log.said, style="yellow", highlight=False)
            try:
                report = Run(request, executor, [log, following, written], dict(log.done)).report()
            except KeyboardInterrupt:
                goes_on = "; the same command with --resume goes on" if log.resumable else ""
                click.echo(f"interrupted after {len(log.done)} verdicts{goes_on}", err=True)
                sys.exit(130)  # as a shell says of what Ctrl-C ended
    except (ClusterError, JournalError) as error:
        raise click.UsageError(str(error)) from error
    terminal.show(report, console, full)
    if log.said and not log.resumable:
        console.print(log.said, style="yellow", highlight=False)
    if pin:
        file = path or expected.FILE
        try:
            sentences = pinning.said(file, *pinning.pin(report, file))
        except OSError as error:
            raise click.UsageError(f"--pin: {file}: {error.strerror}") from error
        for sentence in sentences:
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for line in annotations(report) if github else ():
        click.echo(line)
    if written.failed:
        raise click.UsageError("\n".join(written.failed))
    sys.exit(report.exit_code)


@contextmanager
def _executor(dask: str | None, hard_seconds: float, workers: int, console: Console) -> Iterator[Several]:
    """Worker processes, or the workers of a Dask scheduler, while the context lasts."""
    if dask is None:
        from deqverify.running.workers import Workers

        with Workers(hard_seconds, workers) as pool:
            yield pool
        return
    from deqverify.running.cluster import Cluster

    with Cluster(dask, hard_seconds, workers) as cluster:
        console.print(cluster.said, highlight=False, soft_wrap=True)
        yield cluster


def _header(chosen: Any, device: str) -> str:
    from deqverify.reporting.machine import versions

    shown = ", ".join(f"{name} {number}" for name, number in versions().items())
    seed = "fresh" if chosen.seed is None else chosen.seed
    most = "" if math.isinf(chosen.target_seconds) else f", {chosen.target_seconds:g} s of the workers a target"
    limits = f"{chosen.examples} examples, {chosen.seconds:g} s a law{most}"
    return f"{shown}\nprofile {chosen.name}: {limits}, seed {seed}, device {device}"


@click.command()
@click.argument("targets", nargs=-1)
@click.option("--minutes", type=click.FloatRange(0), default=10.0, show_default=True,
              help="How long; 0 shows what was seen so far.")  # fmt: skip
@click.option("--law", "law_patterns", multiple=True, metavar="LAW", help="Only this law or family (repeatable).")
@with_laws
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
@_dask
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
    dask: str | None,
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
    from deqverify.running.request import Request

    console = Console()
    chosen = list(dict.fromkeys(targets)) or ["reference"]
    try:
        Request(chosen, law_patterns, dtypes=dtypes, device=device)
        with soak_state.locked(folder):
            if picture:
                calibration.check_picture(picture)
            state, said = soak_state.resume(folder, seed, fresh)
            entries = soaking.entries_of(state, chosen, plan.select(law_patterns), dtypes)
            console.print(f"{folder}: {said}", highlight=False)
            say_troubles(console)
            run = soaking.Soak(state, folder, entries, 60.0 * minutes, examples or soaking.EXAMPLES, device)
            if minutes > 0:
                with _executor(dask, soaking.HARD_SECONDS, workers, console) as executor:
                    calibration.follow(run, executor, console)
    except ValueError as error:  # SoakError, ClusterError and TargetError are ValueErrors
        raise click.UsageError(str(error)) from error
    calibration.show(entries, folder, console)
    if picture:
        calibration.draw(entries, picture)
        console.print(f"drawn: {picture}", highlight=False)
    sys.exit(calibration.exit_code(entries))
