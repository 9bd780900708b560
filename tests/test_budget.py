"""A target's time is shared among its laws: a fast one has all its examples, a slow one some of every law."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from deqverify import clock, trial
from deqverify.claims import Claims
from deqverify.comparison import Fact
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.registry import laws
from deqverify.reporting.wording import remarks
from deqverify.running import premises
from deqverify.running.budget import COMPILING, LEAST, Budget
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.executors import Executor
from deqverify.running.plan import Report
from deqverify.running.profiles import profile
from deqverify.running.request import Request
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.run import Run
from deqverify.trial import TIME_LIMIT, Effort, run_trial

SECONDS = 200.0


class Taking(Executor):
    """Holds, and says that each example took it ``cost`` seconds, and each job ``beyond`` seconds after its share."""

    def __init__(self, cost: float, beyond: float = 0.0, compiles: bool = False):
        self.cost, self.beyond, self.took = cost, beyond, 0.0
        self.brief: list[Job] = []
        self.claims = Claims(dtypes=("float64",), compiles=compiles)

    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        return dict.fromkeys(targets, self.claims)

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for job in jobs:
            yield JobStarted(job)
            self.brief += [job] if job.brief else []
            affordable = job.examples if job.allotted is None else int(job.allotted / self.cost)
            examples = max(1, min(job.examples, affordable))
            busy = examples * self.cost + self.beyond
            self.took += busy
            reason = TIME_LIMIT if examples < job.examples else ""
            yield JobFinished(Result(job, Verdict.HOLDS, reason, examples, examples, seconds=busy, busy=busy))


def report_of(executor: Executor, seconds: float = SECONDS) -> Report:
    effort = replace(profile("default"), target_seconds=seconds)
    return Run(Request(["reference"], profile=effort, database=None, counterexamples=None), executor).report()


def test_a_fast_target_has_all_its_examples() -> None:
    report = report_of(Taking(0.01))
    assert all(result.examples == result.job.examples for result in report.results)


def test_a_slow_target_is_tried_on_a_few_examples_of_every_law_within_its_time() -> None:
    executor = Taking(0.25)
    report = report_of(executor)
    assert executor.took <= SECONDS
    assert executor.took >= 0.8 * SECONDS, "and the time is used"
    assert all(1 <= result.examples < result.job.examples for result in report.results)
    counts = sorted(result.examples for result in report.results)
    assert counts[len(counts) // 2] >= 4


def test_the_first_rounds_are_whole_and_end_where_it_shows_that_there_is_no_time_for_them() -> None:
    slow, fast = Taking(0.25), Taking(0.01)
    report_of(slow)
    report_of(fast)
    assert all(job.allotted is None for job in slow.brief)
    assert 0 < len(slow.brief) < len(fast.brief) / 3
    hardly = Taking(6.0)
    report_of(hardly)
    assert len(hardly.brief) == 1, "what is known of a tenth of the time is known"


def test_what_jobs_take_beyond_their_shares_is_reserved() -> None:
    executor = Taking(0.05, beyond=1.0)
    report_of(executor)
    assert executor.took <= 1.1 * SECONDS


def test_a_target_that_compiles_has_more_and_infinity_is_no_limit() -> None:
    executor = Taking(0.25, compiles=True)
    report_of(executor)
    assert SECONDS < executor.took <= COMPILING * SECONDS
    assert all(result.examples == result.job.examples for result in report_of(Taking(0.25), math.inf).results)


def test_a_share_is_never_nothing_and_what_is_dropped_is_left_to_the_others() -> None:
    jobs = [Job(law, "slow", "float64", "cpu", 100, 20.0, 20.0) for law in ("mass", "energy", "existence")]
    budget = Budget(1.0, jobs)
    first = budget.granted(jobs[0])
    assert first.allotted == pytest.approx(1.0 / 3.0)
    budget.dropped(jobs[1])
    budget.spent(Result(first, Verdict.HOLDS, examples=1, seconds=0.5, busy=0.5))
    second = budget.granted(jobs[2])
    assert second.allotted == pytest.approx(0.5 - (0.5 - 1.0 / 3.0))
    budget = Budget(1.0, jobs)
    budget.spent(Result(budget.granted(jobs[0]), Verdict.HOLDS, examples=1, seconds=9.0, busy=9.0))
    assert budget.granted(jobs[1]).allotted == LEAST


def test_a_trial_ends_with_its_share_and_compiling_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = 0.0

    def body(subject: object, number: int) -> Iterator[Fact]:
        nonlocal spent
        spent += 1.0  # of which the clock that forgives knows nothing
        yield Fact("it holds", True, "")

    monkeypatch.setattr(trial.time, "process_time", lambda: 4.0 * spent)  # on four threads
    monkeypatch.setattr(trial.time, "monotonic", lambda: spent)
    monkeypatch.setattr(clock, "now", lambda: 0.0)
    draws = st.fixed_dictionaries({"number": st.integers()})
    effort = Effort(100, seconds=60.0, seed=0)
    assert run_trial(body, draws, None, effort).examples == 100
    cut = run_trial(body, draws, None, replace(effort, allotted=4.5))
    assert (cut.examples, cut.stopped) == (5, TIME_LIMIT)


def test_what_a_violation_is_called_does_not_depend_on_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(load("reference"), "float64")
    efforts: list[Effort] = []

    def trying(body: object, draws: object, deq: object, effort: Effort, *more: object) -> trial.Trial:
        efforts.append(effort)
        return trial.Trial()

    monkeypatch.setattr(premises, "run_trial", trying)
    law = laws()["gradient-x"]
    assert premises._alone(law, [], [], subject, lambda: subject, Effort(5, allotted=0.0)) is None
    assert [effort.allotted for effort in efforts] == [None]


def test_a_report_says_which_examples_there_was_no_time_for() -> None:
    (remark,) = [said for said in remarks(report_of(Taking(0.25))) if "laws hold" in said]
    assert "reference float64:" in remark
    assert "--max-minutes" in remark
    assert not [said for said in remarks(report_of(Taking(0.001))) if "laws hold" in said]


def test_seconds_for_each_law_leave_no_other_limit() -> None:
    assert Request(["reference"]).effort.target_seconds == profile("default").target_seconds < math.inf
    assert Request(["reference"], seconds=5.0).effort.target_seconds == math.inf
    assert Request(["reference"], seconds=5.0, minutes=2.0).effort.target_seconds == 120.0
    with pytest.raises(ValueError, match="minutes: must be at least"):
        Request(["reference"], minutes=0.0)
