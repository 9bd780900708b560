"""``deqverify faults``: which laws kill which of the implementations that are broken on purpose, how soon, and why."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from deqverify.cli_run import say_troubles, with_laws
from deqverify.running.profiles import profile

FOLDER = Path(".deqverify") / "faults"


class Part(click.ParamType):
    """K/N, as two numbers."""

    name = "k/n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r} is no part, as 1/4 is the first of four", param, ctx)
        return int(found[1]), int(found[2])


@click.command()
@click.argument("names", nargs=-1, metavar="[FAULT...]")
@click.option("--defect", "defects", multiple=True, metavar="CLASS", help="Only this class of defects (repeatable).")
@click.option("--law", "law_patterns", multiple=True, metavar="LAW", help="Only this law or family (repeatable).")
@with_laws
@click.option("--profile", "profile_name", type=click.Choice(["quick", "default"]), default="default",
              show_default=True, help="How hard to try.")  # fmt: skip
@click.option("--max-examples", type=click.IntRange(1), help="Examples for each law and fault.")
@click.option("--max-time", type=click.FloatRange(0.1), help="Seconds for each law and fault.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which problems are drawn.")
@click.option("--all/--fail-fast", "every", default=False,
              help="Every law on every fault, for the matrix and the causes; or each fault until its first violation, "
                   "as without.")  # fmt: skip
@click.option("--part", type=Part(), default=(1, 1), metavar="K/N", help="Only the K-th of N parts, as 1/4.")
@click.option("--fresh", is_flag=True, help="Run again what was run before.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True,
              help="Where what was run is kept.")  # fmt: skip
@click.option("--report", "reports", type=click.Path(path_type=Path), multiple=True, metavar="PATH",
              help="Also write the matrix of faults × laws: .html, .md or .json (repeatable).")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores",
              help="Worker processes, each with a fault of its own.")  # fmt: skip
def faults(
    names: tuple[str, ...],
    defects: tuple[str, ...],
    law_patterns: tuple[str, ...],
    profile_name: str,
    max_examples: int | None,
    max_time: float | None,
    seed: int,
    every: bool,
    part: tuple[int, int],
    fresh: bool,
    folder: Path,
    reports: tuple[Path, ...],
    workers: int,
) -> None:
    """Try the laws on FAULTs, implementations broken on purpose, each in one way; on all of them by default.

    It shows which law kills each fault first, after how many examples and seconds of one core (its target loaded, not
    shrunk yet), and with --all whether the report names the true cause, and which laws kill nothing alone. What was run
    is kept: the same command goes on where it was killed or interrupted, and adds what is missing, until the suite's
    sources change.

    \b
    Exit code 0: every fault is killed.
              1: one survived: a law or a regime is missing.
              2: something could not run.
    """
    from rich.console import Console

    from deqverify.reporting import kills
    from deqverify.reporting.progress import Counting
    from deqverify.running.killing import Campaign, chosen
    from deqverify.running.plan import select

    changes = {"examples": max_examples, "seconds": max_time, "seed": seed}
    effort = replace(profile(profile_name), **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]
    try:
        for path in reports:
            kills.check(path)
        campaign = Campaign(chosen(names, defects, part), tuple(select(law_patterns)), effort, folder, every)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except ImportError as error:
        raise click.UsageError(f"the faults need PyTorch: pip install 'deqverify[torch]' ({error})") from error
    console = Console()
    known = {} if fresh else campaign.kept()
    console.print(kills.Kills((), effort, every).how, highlight=False)
    if known:
        console.print(f"{len(known)} of {len(campaign.names)} faults stand in {campaign.place}", highlight=False)
    say_troubles(console)
    left = [name for name in campaign.names if name not in known]
    interrupted = False
    try:
        with Counting(console, len(left)) as counting, closing(campaign.run(left, workers, counting.begin)) as outcomes:
            for outcome in outcomes:
                known[outcome.fault] = outcome
                counting.end(outcome.fault, outcome.first is None)
    except KeyboardInterrupt:
        interrupted = True
    found = kills.Kills.of(list(known.values()), effort, every, len(campaign.names) - len(known))
    kills.show(found, console)
    for path in reports:
        try:
            kills.write(found, path)
        except OSError as error:
            raise click.UsageError(f"report: {path} cannot be written: {error.strerror}") from error
    if interrupted:
        click.echo("interrupted; the same command goes on", err=True)
        sys.exit(130)  # as a shell says of what Ctrl-C ended
    sys.exit(found.exit_code)
