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

_Key = tuple[str, str]


def key(job: Job) -> _Key:
    """What tells the jobs of one run apart."""
    return job.law, job.column


class Watch:
    """A handler that keeps count: jobs done, running since when, and how long those left will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.jobs: dict[_Key, Job] = {}
        self.running: dict[_Key, float] = {}
        self.done: set[_Key] = set()
        self.violated = 0
        self._width = 1
        self._took: dict[str, list[float]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.jobs = {key(job): job for job in event.jobs}
        elif isinstance(event, JobStarted):
            self.running[key(event.job)] = self.clock()
            self._width = max(self._width, len(self.running))
        elif isinstance(event, JobPaused):
            self.running.pop(key(event.job), None)
        elif isinstance(event, JobFinished):
            job = event.result.job
            started = self.running.pop(key(job), None)
            self.done.add(key(job))
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
        if seconds is None:
            return "first examples"
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

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
