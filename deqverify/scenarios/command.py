"""``deqverify scenario``: runs numerical experiments, says which claims hold, and writes a picture, numbers and a
page."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deqverify.scenarios.registry import Computing, Outcome, Scenario, Work, in_turn

EVERY = 30.0
"""Seconds between two lines of progress where there is no bar."""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listed", is_flag=True, help="Show the scenarios, and run none.")
@click.option("--all", "every", is_flag=True, help="Run all of them.")
@click.option("--quick", is_flag=True, help="Small sizes: seconds instead of minutes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What the draws are made from.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".deqverify/scenarios"),
    show_default=True,
    help="The folder for NAME.svg, NAME.json and NAME.md.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Compute the parts on the workers of the Dask scheduler at ADDRESS (tcp://host:8786), or, with 'local', on "
    "--workers Dask workers of this machine; without it here, one after the other.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes of --dask local.  [default: cores]",
)
def scenario(
    names: tuple[str, ...],
    listed: bool,
    every: bool,
    quick: bool,
    seed: int,
    out: Path,
    dask: str | None,
    workers: int | None,
) -> None:
    """Run numerical experiments: what papers prove or observe, with claims that can fail, a picture and a table.

    A run that was interrupted goes on where it was: the parts that finished are kept in the folder, wherever they
    were computed.

    \b
    Exit code 0: every claim holds.
              1: a claim fails.
              2: a scenario could not run, or a wrong option.
    """
    from deqverify.scenarios.registry import scenarios

    console = Console()
    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("scenarios draw with Matplotlib; pip install 'deqverify[scenarios]'")
    known = scenarios()
    if listed:
        _list(console, known)
        return
    if every == bool(names):
        raise click.UsageError("name one or more scenarios, or give --all; --list shows them")
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"there is no scenario {unknown[0]!r}; use one of {', '.join(known)}")
    if workers and dask is None:
        raise click.UsageError("--workers: says how many processes --dask local has; give both, or neither")
    chosen = known if every else dict.fromkeys(names)
    with _computing(dask, workers or os.cpu_count() or 1, console) as computed:
        codes = [_run(console, known[name], quick, seed, out, computed) for name in chosen]
    if len(codes) > 1:
        console.print(f"{codes.count(0)} of {len(codes)} scenarios: every claim holds")
    sys.exit(max(codes))


def _list(console: Console, known: Mapping[str, Scenario]) -> None:
    table = Table(header_style="bold", pad_edge=False)
    for heading in ("scenario", "what", "source"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "scenario")
    for one in known.values():
        table.add_row(one.name, one.title, one.source)
    console.print(table)


@contextmanager
def _computing(dask: str | None, workers: int, console: Console) -> Iterator[Computing]:
    """Where parts are computed, while the context lasts."""
    if dask is None:
        yield in_turn
        return
    from deqverify.running.cluster import Cluster, ClusterError

    try:
        with Cluster(dask, math.inf, workers) as cluster:
            console.print(cluster.said, highlight=False, soft_wrap=True)
            yield cluster.each
    except ClusterError as error:
        raise click.UsageError(str(error)) from error


def _run(console: Console, of: Scenario, quick: bool, seed: int, out: Path, computed: Computing) -> int:
    from deqverify.scenarios import writing

    if missing := [module for module in of.needs if importlib.util.find_spec(module) is None]:
        console.print(f"{of.name}: cannot run without {missing[0]}; pip install 'deqverify[scenarios]'", markup=False)
        return 2
    sizes, started = of.quick if quick else of.full, time.perf_counter()
    with _progress(of.name) as told:
        work = Work(seed, out / f".{of.name}.parts.json", _key(of, sizes, seed), told, computed)
        outcome = of.compute(work, **sizes)
    files = writing.write(of, outcome, sizes, seed, time.perf_counter() - started, out)
    work.finished()
    _show(console, of, outcome)
    console.print(
        f"{', '.join(map(str, files))}, {time.perf_counter() - started:.1f} s\n", markup=False, highlight=False
    )
    return 0 if outcome.holds else 1


def _key(of: Scenario, sizes: Mapping[str, Any], seed: int) -> str:
    """All that the parts depend on: the seed, the sizes and the text of the scenario's module."""
    module = inspect.getmodule(of.compute)
    text = inspect.getsource(module) if module else ""
    return hashlib.sha256(json.dumps([seed, sizes, text], default=str).encode()).hexdigest()


@contextmanager
def _progress(name: str) -> Iterator[Any]:
    """Hears of the parts: a bar on a terminal, elsewhere a line now and then, both on the standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def said(done: int, of: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                console.print(f"{name}: {done} of {of}, {what}", markup=False, highlight=False)

        yield said
        return
    columns = (TextColumn("{task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("", name=name, total=None)
        yield lambda done, of, what: bar.update(task, completed=done, total=of, description=what)


def _show(console: Console, of: Scenario, outcome: Outcome) -> None:
    from deqverify.scenarios.writing import cell

    console.print(f"{of.name}: {of.title}", style="bold", markup=False)
    for claim in outcome.claims:
        verdict = "[green]holds[/]" if claim.holds else "[red bold]FAILS[/]"
        console.print(f"  {verdict}  ", end="")
        console.print(f"{claim.name}: {claim.measured:.4g}, {claim.bound}", markup=False, highlight=False)
        if not claim.holds:
            console.print(f"         {claim.why}", markup=False, highlight=False)
    table = Table(header_style="bold", pad_edge=False)
    for heading in outcome.columns:
        table.add_column(heading, overflow="fold")
    for row in outcome.rows:
        table.add_row(*map(cell, row))
    console.print(table)
    for note in outcome.notes:
        console.print(note, markup=False, highlight=False)
