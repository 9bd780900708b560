"""A run as it goes, for people: what is done, what is running, and how long it will still take.

A bar that is drawn anew on a terminal; elsewhere, in a dumb terminal or the log of a machine, a line now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import fmean

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from deqverify.running.events import Event, JobFinished, JobPaused, JobStarted, RunStarted
from deqverify.running.results import Job, Verdict

EVERY = 30.0
"""Seconds between two lines where there is no bar."""


class Watch:
    """A handler that keeps count: jobs done, running since when, and how long those left will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.jobs: dict[tuple[str, str], Job] = {}
        self.running: dict[tuple[str, str], float] = {}
        self.done: set[tuple[str, str]] = set()
        self.violated = 0
        self._width = 1
        self._took: dict[str, list[float]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.jobs = {job.key: job for job in event.jobs}
        elif isinstance(event, JobStarted):
            self.running[event.job.key] = self.clock()
            self._width = max(self._width, len(self.running))
        elif isinstance(event, JobPaused):
            self.running.pop(event.job.key, None)
        elif isinstance(event, JobFinished):
            job = event.result.job
            started = self.running.pop(job.key, None)
            self.done.add(job.key)
            self.violated += event.result.verdict is Verdict.VIOLATED
            if started is not None and event.result.verdict is not Verdict.VIOLATED:  # shrinking is no law's usual time
                self._took.setdefault(job.law, []).append(self.clock() - started)

    @property
    def left(self) -> float | None:
        """Seconds until the last job ends, as long as those of its law took, or of all laws; None while none did."""
        if not self._took:
            return None
        usual = {law: fmean(seconds) for law, seconds in self._took.items()}
        any_law = fmean(usual.values())
        now, seconds = self.clock(), 0.0
        for each, job in self.jobs.items():
            if each not in self.done:
                spent = now - self.running[each] if each in self.running else 0.0
                seconds += max(0.0, usual.get(job.law, any_law) - spent)
        return seconds / self._width

    def said_left(self) -> str:
        seconds = self.left
        return "first examples" if seconds is None else said_left(seconds)

    def said_running(self) -> str:
        """The jobs that are running, the one that began first at the head."""
        now = self.clock()
        return ", ".join(f"{law} × {column} {now - since:.0f} s" for (law, column), since in self.running.items())


class Following:
    """The handler that shows a run's progress on ``console``, while the context lasts."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console, self._watch = console, Watch(clock)
        self._bar = _Bar(self._watch, console) if console.is_terminal and not console.is_dumb_terminal else None
        self._told = clock()

    def __enter__(self) -> Following:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        watch = self._watch
        watch(event)
        if self._bar:
            self._bar.show()
        elif watch.running and watch.clock() - self._told >= EVERY:
            self._told = watch.clock()
            self._console.print(_line(watch, self._console.width))


def _line(watch: Watch, width: int) -> Text:
    line = Text(f"  {len(watch.done)}/{len(watch.jobs)} done, {watch.violated} unexpected violations, ")
    line.append(f"{watch.said_left()}; now {watch.said_running()}")
    line.truncate(width, overflow="ellipsis")
    return line


class _Bar(Progress):
    """A bar, and a line below it that names what is running."""

    def __init__(self, watch: Watch, console: Console):
        self._watch = watch
        columns = (TextColumn("verifying"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
        super().__init__(*columns, console=console, transient=True, refresh_per_second=2)
        self._task = self.add_task("", total=None)

    def show(self) -> None:
        self.update(self._task, completed=len(self._watch.done), total=len(self._watch.jobs) or None)

    def get_renderables(self) -> Iterable[RenderableType]:
        watch = self._watch
        for task in self.tasks:
            bad = f"{watch.violated} violated, " if watch.violated else ""
            task.description = bad + watch.said_left()
        yield self.make_tasks_table(self.tasks)
        yield Text(watch.said_running(), style="dim", no_wrap=True, overflow="ellipsis")


class Counting:
    """Progress of a campaign on ``total`` faults, on ``console`` while the context lasts: a bar on a terminal,
    elsewhere a line now and then. :meth:`begin` may be called from any thread."""

    def __init__(self, console: Console, total: int, clock: Callable[[], float] = time.monotonic):
        self._console, self._total, self._clock = console, total, clock
        self._running: dict[str, float] = {}
        self._done = self._survived = 0
        self._since = self._told = clock()
        shown = console.is_terminal and not console.is_dumb_terminal
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, refresh_per_second=2) if shown else None
        self._task = self._bar.add_task("starting workers", total=total) if self._bar else None

    def __enter__(self) -> Counting:
        if self._bar and self._total:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar and self._total:
            self._bar.stop()

    def begin(self, name: str) -> None:
        self._running[name] = self._clock()
        self._tell()

    def end(self, name: str, survived: bool) -> None:
        self._running.pop(name, None)
        self._done, self._survived = self._done + 1, self._survived + survived
        self._tell()

    def _tell(self) -> None:
        now = self._clock()
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=self._said(now))
        elif now - self._told >= EVERY:
            self._told = now
            line = Text(f"  {self._done}/{self._total} faults, {self._said(now)}")
            line.truncate(self._console.width, overflow="ellipsis")
            self._console.print(line)

    def _said(self, now: float) -> str:
        bad = f"{self._survived} survived, " if self._survived else ""
        seconds = (now - self._since) / self._done * (self._total - self._done) if self._done else 0.0
        left = said_left(seconds) if self._done else "the first are running"
        return f"{bad}{left}; now {', '.join(list(self._running))}"


def said_left(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
