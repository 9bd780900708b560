"""The command line: ``deqverify run``, ``show``, ``replay``, ``soak``, ``faults``, ``list``, ``explain``, ``bench`` and
``scenario``."""

from __future__ import annotations

import errno
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from deqverify.benchmarking.command import bench
from deqverify.cli_faults import faults
from deqverify.cli_run import run, say_troubles, soak, with_laws
from deqverify.scenarios.command import scenario

ONE_INTERRUPT = 1.0
"""Seconds after an interrupt in which others are part of it: ``timeout`` tells a process and then its group."""


@contextmanager
def heard_once() -> Iterator[None]:
    """An interrupt is raised once: a second one at once would break what the first one is being handled by."""
    ours = threading.current_thread() is threading.main_thread()  # signals can be set there alone
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    last = -math.inf

    def heard(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last > ONE_INTERRUPT:
            last = time.monotonic()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Group(click.Group):
    """Says in one line that a disk is full or a folder read-only, whichever command found it."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with heard_once():
                return super().invoke(context)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            click.echo(f"Error: cannot write {error.filename or 'a file'}: {error.strerror}", err=True)
            sys.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deqverify")
def main() -> None:
    """Verify implementations of deep equilibrium models: laws, rigorous bounds, shrunk counterexamples."""
    here, running = Path.cwd(), Path(__file__).parent
    if (here / "deqverify" / "__init__.py").exists() and not (here / "deqverify").samefile(running):
        raise click.UsageError(
            f"this folder has a package deqverify, which its modules would be imported from, and the one that runs is "
            f"{running}: install this one (pip install -e .), or run from another folder"
        )
    sys.path.insert(0, str(here))  # targets of one's own are modules beside one's work


@main.command()
@click.argument("id_or_file", metavar="ID|FILE")
@with_laws
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
@with_laws
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


@main.command(name="list")
@with_laws
@click.option("--markdown", is_flag=True, help="Print the page of all these laws, as docs/laws.md is one of ours.")
def list_(markdown: bool) -> None:
    """Show the laws (id, what they need, statement, source) and the installed implementations."""
    from rich.console import Console
    from rich.table import Table

    from deqverify.implementations.loading import installed
    from deqverify.registry import laws
    from deqverify.reporting.explain import page

    if markdown:
        click.echo(page(laws().values()), nl=False)
        return
    console = Console()
    say_troubles(console)
    for home in dict.fromkeys("" if law.ours else law.home for law in laws().values()):
        title = f"laws of {home}" if home else "laws"
        table = Table(title=title, title_justify="left", header_style="bold", show_lines=False, pad_edge=False)
        for heading in ("law", "statement", "source", "needs"):
            table.add_column(heading, overflow="fold", no_wrap=heading == "law")
        for law in laws().values():
            if ("" if law.ours else law.home) == home:
                table.add_row(law.id, law.statement, law.source, ", ".join(law.needs))
        console.print(table)
    table = Table(title="implementations", title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("target")
    table.add_column("from")
    for name, point in sorted(installed().items()):
        table.add_row(name, point.value)
    console.print(table)


@main.command()
@click.argument("law_id", metavar="LAW")
@with_laws
@click.option("--target", help="The implementation of the example.  [default: reference]")
def explain(law_id: str, target: str | None) -> None:
    """Explain LAW: statement, source, bound, what a violation means, and an example with its numbers."""
    from deqverify.implementations.loading import TargetError
    from deqverify.registry import laws
    from deqverify.reporting.explain import explain as text_of
    from deqverify.running.plan import select

    try:
        chosen = select([law_id])
        click.echo("\n\n".join(text_of(laws()[id], target) for id in chosen))
    except (ValueError, TargetError) as error:
        raise click.UsageError(str(error)) from error


for command in (run, soak, faults, bench, scenario):
    main.add_command(command)


if __name__ == "__main__":
    main()
