"""What a verdict says of its evidence: how often, how bad, in how many of the examples, in which dtypes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from deqverify import check_deq
from deqverify.describing import describe
from deqverify.faults.parametrisation import GammaTwice
from deqverify.faults.sound import Sound, SoundPicard
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.registry import laws
from deqverify.reporting.terminal import matrices
from deqverify.reporting.wording import remarks
from deqverify.running.plan import FIRST, Report, in_order, make_jobs, untried
from deqverify.running.profiles import Profile
from deqverify.running.results import Result, Verdict, result_of
from deqverify.trial import Effort, Trial

PROFILE = Profile("test", examples=100, seconds=20.0, seed=0)


def trial_of(law: str, layer: Any, examples: int = 40, dtype: str | None = None) -> Trial:
    return laws()[law].trial(Subject(layer, dtype), Effort(examples, seed=0))


class NowAndThen(Sound):
    """Every third answer is doubled."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0) * (1 + (next(self.calls) % 3 == 0))


def test_a_counterexample_that_fails_now_and_then_says_so() -> None:
    failure = trial_of("enclosure", NowAndThen()).failure
    assert failure is not None, "what Hypothesis calls flaky is a violation all the same"
    assert "of 5: not deterministic" in describe(failure)


def test_one_that_fails_each_time_says_nothing_of_it() -> None:
    failure = trial_of("enclosure", GammaTwice()).failure
    assert failure is not None
    assert "deterministic" not in describe(failure)


def test_the_worst_stands_beside_the_smallest() -> None:
    trial = trial_of("enclosure", GammaTwice())
    assert trial.failure is not None
    severity = trial.failure.severity
    assert severity is not None
    assert 0 < severity.failing <= severity.examples
    assert severity.relative_error > 0.1, "γ squared is far from γ somewhere"
    assert severity.relative_error >= trial.failure.seen.relative_error  # type: ignore[union-attr]
    (job,) = make_jobs(["mine"], ["enclosure"], PROFILE, ["float64"])
    violation = result_of(job, laws()["enclosure"], trial).violation
    assert violation is not None
    assert violation.worst_error == severity.relative_error
    assert "γ = " in violation.worst_at
    assert "fresh examples fail too" in violation.description


def test_a_crash_has_no_worst_error() -> None:
    class Raises(Sound):
        def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
            raise RuntimeError("no such equilibrium")

    failure = trial_of("answers", Raises()).failure
    assert failure is not None
    assert failure.severity is not None
    assert math.isnan(failure.severity.relative_error)
    assert "the worst seen" not in describe(failure)


class Timid(SoundPicard):
    """Four sweeps are made, and the failure is reported."""

    most = 4


def test_where_most_easy_problems_are_reported_nothing_is_said_to_hold() -> None:
    trial = trial_of("enclosure", Timid())
    assert trial.failure is None
    assert 2 * trial.easy_reported > trial.easy > 0
    assert not trial.decisive
    assert "with γ ≤ 0.9 reported as not converged" in trial.undecided


class CappedWithNan(SoundPicard):
    """Where the sweeps do not suffice NaN is returned, and reported."""

    most = 30

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        found, status = super().iterate(f, z)
        return (found, status) if status is Status.CONVERGED else (found * math.nan, status)


def test_nan_that_is_reported_on_a_finite_problem_is_worth_a_line() -> None:
    trial = trial_of("existence", CappedWithNan())
    assert trial.not_finite == trial.reported > 0
    (job,) = make_jobs(["mine"], ["existence"], PROFILE, ["float64"])
    (line,) = remarks(Report([result_of(job, laws()["existence"], trial)]))
    assert line.startswith(f"mine float64: {trial.not_finite} answers to finite problems hold NaN")


def test_the_share_stands_in_the_matrix() -> None:
    (job,) = make_jobs(["mine"], ["existence"], PROFILE, ["float64"])
    found = []
    for informative in (62, 99):
        (table,) = matrices([Result(job, Verdict.HOLDS, examples=100, informative=informative)])
        found.append(str(next(iter(table.columns[1].cells))))
    assert found == ["holds 62 %", "holds"]


def test_more_implementations_than_fit_make_more_tables() -> None:
    jobs = make_jobs([f"mine:deq{k}" for k in range(9)], ["existence"], PROFILE, ["float64"])
    tables = matrices([Result(job, Verdict.HOLDS) for job in jobs], width=80)
    assert len(tables) > 1
    assert sum(len(table.columns) - 1 for table in tables) == 9


class Float32IsWrong(Sound):
    """In float32 the equilibrium is a tenth too large."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z if "64" in str(x.dtype) else 1.1 * z


def test_every_claimed_dtype_is_tried_by_default() -> None:
    report = check_deq(Float32IsWrong(), laws=["existence"], progress=False, seed=0)
    assert [(r.job.dtype, r.verdict) for r in report.results] == [
        ("float64", Verdict.HOLDS),
        ("float32", Verdict.VIOLATED),
    ]


def test_dtypes_share_the_examples() -> None:
    jobs = make_jobs(["reference"], ["mass", "dissipation"], PROFILE, ["float64", "float32"])
    shares = {(job.law, job.dtype): job.examples for job in jobs}
    assert shares["mass", "float64"] == shares["mass", "float32"] == 50
    few = make_jobs(["reference"], ["mass"], replace(PROFILE, examples=10), ["float64", "float32"])
    assert [job.examples for job in few] == [10, 10]


def test_what_was_not_tried_is_said() -> None:
    report = check_deq(Sound(), laws=["existence"], dtype="float64", progress=False, seed=0)
    assert any("in float32, which it claims" in line for line in report.untried)
    assert f"{len(laws()) - 1} of {len(laws())} laws (laws= or --law)" in report.untried
    assert "not tried:" in str(report)
    jobs = make_jobs(["reference"], list(laws()), PROFILE)
    assert all("cuda" in line for line in untried(jobs, list(laws())))


def test_jobs_run_in_the_order_that_kills_soonest_and_are_shown_in_the_order_of_laws() -> None:
    jobs = make_jobs(["reference"], list(laws()), PROFILE, ["float64"])
    assert tuple(job.law for job in jobs[: len(FIRST)]) == FIRST
    shown = in_order([Result(job, Verdict.HOLDS) for job in jobs], jobs)
    assert [result.job.law for result in shown] == list(laws())


@pytest.mark.parametrize("law", FIRST)
def test_the_first_laws_exist(law: str) -> None:
    assert law in laws()
