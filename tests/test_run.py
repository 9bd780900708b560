"""One request, one stream of events, from every face; what a person sees of it while it goes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deqverify.claims import Claims
from deqverify.registry import laws
from deqverify.reporting import progress
from deqverify.reporting.progress import Following, Watch
from deqverify.running.events import (
    Event,
    JobFinished,
    JobPaused,
    JobStarted,
    RunFinished,
    RunStarted,
    ViolationFound,
)
from deqverify.running.executors import Executor, ThisProcess
from deqverify.running.expectations import Expectation
from deqverify.running.request import Request
from deqverify.running.results import Job, Result, Verdict, Violation
from deqverify.running.run import Run

BROKEN = "fault[row-softmax]"


class Answering(Executor):
    """Answers at once: of ``violated`` laws that they are violated, of all others that they hold."""

    def __init__(self, *violated: str, claims: Claims | str | None = None):
        self.violated, self.claims = violated, claims or Claims(dtypes=("float64",))
        self.seen: list[Job] = []

    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        return dict.fromkeys(targets, self.claims)

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for job in jobs:
            self.seen.append(job)
            yield JobStarted(job)
            bad = job.law in self.violated
            violation = Violation("wrong", "a", "b", "c", "d") if bad else None
            verdict = Verdict.VIOLATED if bad else Verdict.HOLDS
            yield JobFinished(Result(job, verdict, examples=job.examples, violation=violation))


def asked(*names: str, **changes: Any) -> Request:
    plain: dict[str, Any] = {"database": None, "counterexamples": None, "seed": 0}
    return Request(["reference"], names, **plain | changes)


def kinds(events: Iterable[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_run_is_told_from_its_first_event_to_its_report() -> None:
    # mass has no turn among the laws that run first, existence has: three rounds of a few examples, then all of them.
    events = list(Run(asked("mass", "existence"), Answering()))
    assert kinds(events) == [
        "RunStarted",
        *["JobStarted", "JobPaused"] * 3,
        *["JobStarted", "JobFinished"] * 2,
        "RunFinished",
    ]
    first, last = events[0], events[-1]
    assert isinstance(first, RunStarted)
    assert [job.law for job in first.jobs] == ["existence", "mass"]
    assert isinstance(last, RunFinished)
    assert [result.job for result in last.report.results] == sorted(first.jobs, key=lambda j: list(laws()).index(j.law))
    started = [event.job for event in events if isinstance(event, JobStarted)]
    assert [(job.examples, job.brief) for job in started if job.brief] == [(8, "main"), (8, "others"), (25, "main")]


def test_what_is_violated_at_once_is_finished_at_once_and_not_tried_again() -> None:
    executor = Answering("existence")
    events = list(Run(asked("mass", "existence"), executor))
    assert kinds(events)[1:4] == ["JobStarted", "ViolationFound", "JobFinished"]
    assert [(job.law, job.brief) for job in executor.seen] == [("existence", "main"), ("mass", "")]
    finished = [event.result.job for event in events if isinstance(event, JobFinished)]
    assert isinstance(events[0], RunStarted)
    assert finished == list(events[0].jobs), "its job is the whole one"


def test_handlers_hear_every_event_in_their_order_and_one_that_raises_ends_the_run() -> None:
    heard: list[tuple[str, Event]] = []
    handlers = [lambda event: heard.append(("a", event)), lambda event: heard.append(("b", event))]
    events = list(Run(asked("mass"), Answering(), handlers))
    assert heard == [(name, event) for event in events for name in ("a", "b")]

    def raising(event: Event) -> None:
        if isinstance(event, ViolationFound):
            raise RuntimeError("stop here")

    executor = Answering("existence")
    with pytest.raises(RuntimeError, match="stop here"):
        Run(asked("existence", "mass"), executor, [raising]).report()
    assert [job.law for job in executor.seen] == ["existence"]


def test_an_expected_violation_is_none_that_was_found() -> None:
    expected = [Expectation("mass", "reference", "known"), Expectation("gone", "reference", "old")]
    executor = Answering("mass")
    events = list(Run(asked("mass", expectations=expected), executor))
    assert kinds(events) == ["RunStarted", "JobStarted", "JobFinished", "RunFinished"]
    assert executor.seen[0].expected
    report = Run(asked("mass", expectations=expected), executor).report()
    assert report.results[0].verdict is Verdict.EXPECTED
    assert report.results[0].reason == "known"
    assert len(report.stale) == 1


def test_a_target_that_cannot_be_loaded_is_not_tried() -> None:
    executor = Answering(claims="no licence")
    report = Run(asked("mass", "existence"), executor).report()
    assert not executor.seen
    assert {(r.verdict, r.reason) for r in report.results} == {(Verdict.COULD_NOT_RUN, "no licence")}


def test_counterexamples_are_kept_and_tried_first_by_the_next_run(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"database": None, "counterexamples": tmp_path}
    request = Request([BROKEN], ["mass"], dtypes=["float64"], examples=40, seconds=600.0, **kept)
    (found,) = Run(request, ThisProcess()).report().results
    assert found.violation is not None
    assert [path.stem for path in tmp_path.glob("*.json")] == [found.violation.id]
    run = Run(request, ThisProcess())
    assert [Path(file).stem for file in run.jobs[0].pinned] == [found.violation.id]
    (again,) = run.report().results
    assert again.examples == 1
    assert Run(replace(request, seed=0), ThisProcess()).jobs[0].pinned == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": []}, "targets: at least one"),
        ({"targets": "reference"}, "targets: expected a sequence"),
        ({"targets": ["reference["]}, "target: cannot read"),
        ({"laws": ["mas"]}, "did you mean mass"),
        ({"cells": ["sin"]}, "cell: 'sin'"),
        ({"dtypes": ["float8"]}, "float8"),
        ({"device": "gpu"}, "device: 'gpu'"),
        ({"profile": "hasty"}, "profile: 'hasty'"),
        ({"examples": 0}, "examples: must be at least 1"),
        ({"seconds": 0.0}, "seconds: must be at least 0.1"),
        ({"seed": -1}, "seed: must be at least 0"),
    ],
)
def test_a_request_that_cannot_be_names_the_argument(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        Request(**{"targets": ["reference"]} | changes)


def test_a_device_of_other_machines_is_not_looked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deqverify.implementations.devices.cuda_present", lambda: False)
    assert asked("mass", device="cuda", remote=True).device == "cuda"
    with pytest.raises(ValueError, match="no CUDA device is seen here"):
        asked("mass", device="cuda")
    with pytest.raises(ValueError, match="device: 'gpu'"):
        asked("mass", device="gpu", remote=True)


def test_a_request_is_a_value() -> None:
    request = Request(["reference", "reference"], ["mass"], profile="ci", examples=7)
    assert request.targets == ("reference",)
    assert (request.effort.examples, request.effort.seed) == (7, 0)
    assert pickle.loads(pickle.dumps(request)) == request
    assert hash(replace(request)) == hash(request)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def started(*names: str) -> tuple[RunStarted, list[Job]]:
    run = Run(asked(*names), Answering())
    return RunStarted(run.request, tuple(run.jobs), run.asked), run.jobs


def test_what_is_left_is_told_from_what_its_law_took() -> None:
    clock, (begun, jobs) = Clock(), started("mass", "euler", "gauge", "trace")
    watch = Watch(clock)
    watch(begun)
    assert watch.said_left() == "first examples"
    watch(JobStarted(jobs[0]))
    watch(JobStarted(jobs[1]))
    clock.now = 100.0
    watch(JobFinished(Result(jobs[0], Verdict.HOLDS)))
    # Two jobs of 100 s and one that has run for 100 of its 100 s, two at a time.
    assert watch.left == pytest.approx(100.0)  # exact: sums of whole seconds
    assert watch.said_left() == "about 2 min left"
    assert watch.said_running() == f"{jobs[1].law} × reference float64 100 s"
    watch(JobFinished(Result(jobs[1], Verdict.VIOLATED)))
    assert watch.violated == 1
    assert watch.left == pytest.approx(100.0)


def test_a_pause_and_a_verdict_end_what_is_running() -> None:
    begun, jobs = started("existence")
    watch = Watch(Clock())
    for event in (begun, JobStarted(replace(jobs[0], brief="main"))):
        watch(event)
    assert "existence" in watch.said_running()
    watch(JobPaused(replace(jobs[0], brief="main")))
    assert watch.said_running() == ""
    assert not watch.done


def shown(console: Console, seconds: float) -> str:
    """What ``console`` shows of four laws, each of which takes ``seconds``."""
    clock = Clock()

    def tick(event: Event) -> None:
        clock.now += seconds if isinstance(event, JobStarted) else 0.0

    with Following(console, clock) as following:
        Run(asked("mass", "euler", "gauge", "positivity"), Answering("gauge"), [tick, following]).report()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "terminal", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}]
)
def test_a_log_and_a_dumb_terminal_get_a_line_now_and_then(terminal: dict[str, Any]) -> None:
    for width in (80, 200):
        lines = shown(Console(file=io.StringIO(), width=width, **terminal), progress.EVERY).splitlines()
        assert 1 < len(lines) < 12
        assert all(len(line) <= width for line in lines)
        assert "0/4 done, 0 unexpected violations, first examples; now " in lines[0]
        assert any("left; now" in line for line in lines)
        assert "\x1b" not in "".join(lines)
    assert shown(Console(file=io.StringIO(), width=80, **terminal), 0.0) == "", "what is over at once needs no line"


def test_a_terminal_of_80_columns_shows_a_bar_with_what_is_running() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm"}, color_system=None)
    begun, jobs = started("mass", "euler")
    clock = Clock()
    with Following(console, clock) as following:
        for event in (begun, JobStarted(jobs[0]), JobStarted(jobs[1])):
            following(event)
        clock.now = 7.0
        following(JobFinished(Result(jobs[0], Verdict.HOLDS)))
        assert following._bar is not None
        plain = Console(file=io.StringIO(), width=80, color_system=None)
        plain.print(following._bar.get_renderable())
    assert isinstance(plain.file, io.StringIO)
    lines = plain.file.getvalue().splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert "1/2" in lines[0]
    assert "about 0 s left" in lines[0]
    assert f"{jobs[1].law} × reference float64 7 s" in lines[1]
