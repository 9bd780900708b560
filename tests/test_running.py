"""Whatever a target does ends as a verdict."""

from __future__ import annotations

import itertools
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqverify.reference.newton import NewtonLayer
from deqverify.running.expectations import Expectation, ExpectationError, read, stale
from deqverify.running.jobs import run_job
from deqverify.running.plan import Report, make_jobs, select
from deqverify.running.profiles import Profile
from deqverify.running.results import Result, Verdict
from deqverify.running.workers import Workers

PROFILE = Profile("test", examples=5, seconds=5.0, seed=0, example_seconds=3.0)


def verdict_on(target: str, law: str = "answers", hard_seconds: float = 60.0) -> Result:
    (job,) = make_jobs([target], [law], PROFILE, ["float64"])
    with Workers(hard_seconds, 1) as workers:
        workers.ask([target])  # as a run does: what a worker imports is not the job's time
        (result,) = workers.run([job])
    return result


def test_the_example_being_tried_lies_in_the_file_for_who_finds_the_process_dead(tmp_path: Path) -> None:
    kept, same, sizes = tmp_path / "kept", list[bool](), list[int]()

    class Reading(NewtonLayer):
        def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
            stored = pickle.loads(kept.read_bytes())["problem"]
            same.append(np.array_equal(stored.x, x))
            sizes.append(x.size)
            return super().vjp(cell, theta, x, z0)

    (job,) = make_jobs(["reference"], ["answers"], replace(PROFILE, examples=30), ["float64"])
    assert run_job(job, Reading("numpy"), kept).verdict is Verdict.HOLDS
    assert all(same)
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes)), "none had to overwrite a longer one"


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("Raising", "no such equilibrium"),
        ("Exiting", "SystemExit: 3"),
        ("Skipping", "SkipTest: not today"),
        ("PytestSkipping", "Skipped: not today"),
        ("WrongShape", "shape"),
    ],
)
def test_a_crash_is_a_violation_with_its_example(name: str, seen: str) -> None:
    result = verdict_on(f"tests.targets:{name}")
    assert result.verdict is Verdict.VIOLATED
    assert result.violation is not None
    assert result.violation.kind == "crash"
    assert seen in result.violation.description
    assert "replay(" in result.violation.snippet
    named = re.findall(r"^targets\.py line \d+, in \w+: .+$", result.violation.description, flags=re.MULTILINE)
    assert len(named) == (name != "WrongShape")  # the line of one's own code; a wrong shape raises in ours


def test_a_law_that_crashes_cannot_decide_is_violated_too() -> None:
    result = verdict_on("tests.targets:Raising", "existence")
    assert result.verdict is Verdict.VIOLATED
    assert result.violation is not None
    assert result.violation.kind == "crash"


def test_a_hang_in_python_is_ended_by_the_soft_clock() -> None:
    result = verdict_on("tests.targets:Hanging")
    assert result.verdict is Verdict.VIOLATED
    assert result.violation is not None
    assert result.violation.kind == "hang"
    assert "SoftmaxProblem(" in result.violation.snippet


def test_a_hang_that_ignores_the_clock_is_killed_and_its_example_kept() -> None:
    # 30 s: enough for a worker to reach its first example on a loaded machine.
    result = verdict_on("tests.targets:HangingHard", hard_seconds=30.0)
    assert result.verdict is Verdict.VIOLATED
    assert result.violation is not None
    assert result.violation.kind == "hang"
    assert "SoftmaxProblem(" in result.violation.snippet


def test_a_segmentation_fault_costs_one_worker_and_the_run_goes_on() -> None:
    jobs = make_jobs(["tests.targets:Dying", "tests.targets:sound"], ["answers"], PROFILE, ["float64"])
    with Workers(60.0, 1) as workers:
        found = {result.job.target: result for result in workers.run(jobs)}
    dead = found["tests.targets:Dying"]
    assert dead.verdict is Verdict.VIOLATED
    assert dead.violation is not None
    assert dead.violation.kind == "death"
    assert "SIGSEGV" in dead.violation.description
    assert found["tests.targets:sound"].verdict is Verdict.HOLDS


def test_what_a_target_prints_is_kept_in_its_result(capfd: pytest.CaptureFixture[str]) -> None:
    result = verdict_on("tests.targets:Printing")
    assert result.verdict is Verdict.HOLDS
    assert "hello from the target" in result.output
    assert "hello" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nothing", "not installed"),
        ("tests.targets:absent", "absent"),
        ("no.such.module:thing", "no"),
        ("tests.targets:broken_factory", "no licence"),
        ("tests.targets:not_a_deq", "not a DEQ"),
        ("torchdeq[iift]", "iift"),
    ],
)
def test_a_target_that_cannot_be_loaded_could_not_run(target: str, said: str) -> None:
    result = verdict_on(target)
    assert result.verdict is Verdict.COULD_NOT_RUN
    assert said in result.reason


def test_failures_are_kept_for_each_law_and_target_apart(tmp_path: Path) -> None:
    fresh = Profile("test", examples=5, seconds=5.0)
    jobs = make_jobs(
        ["tests.targets:Raising", "tests.targets:sound"], ["answers"], fresh, ["float64"], database=tmp_path
    )
    with Workers(60.0, 1) as workers:
        list(workers.run(jobs))
    kept = {Path(job.database or "").relative_to(tmp_path) for job in jobs}
    assert len(kept) == 2
    assert list((tmp_path / "tests.targets_Raising_float64" / "answers").rglob("*"))


def _result(verdict: Verdict) -> Result:
    (job,) = make_jobs(["reference"], ["mass"], PROFILE, ["float64"])
    return Result(job, verdict)


@pytest.mark.parametrize(
    ("verdicts", "stale_ones", "code"),
    [
        ([], [], 2),
        ([Verdict.HOLDS, Verdict.EXPECTED, Verdict.INCONCLUSIVE, Verdict.NOT_CLAIMED], [], 0),
        ([Verdict.HOLDS, Verdict.VIOLATED], [], 1),
        ([Verdict.HOLDS], ["no such law"], 1),
        ([Verdict.COULD_NOT_RUN, Verdict.VIOLATED], [], 2),
    ],
)
def test_exit_codes(verdicts: list[Verdict], stale_ones: list[str], code: int) -> None:
    assert Report([_result(v) for v in verdicts], stale_ones).exit_code == code


def test_expectations_are_read_and_lists_spread(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text('[[expect]]\nlaw = ["mass", "euler"]\ntarget = "torchdeq"\nreason = "known"\n')
    assert read(file) == [Expectation("mass", "torchdeq", "known"), Expectation("euler", "torchdeq", "known")]


@pytest.mark.parametrize(
    "text", ["[[expect]]\nlaw = 'mass'\ntarget = 'reference'\n", "[[expect]]\nlaw='a'\ntarget='b'\nreason=' '\n", "x ="]
)
def test_an_expectation_without_a_reason_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "e.toml"
    file.write_text(text)
    with pytest.raises(ExpectationError, match="expect:"):
        read(file)


def test_expectations_of_absent_laws_and_targets_are_stale() -> None:
    expected = [Expectation("mass", "reference", "r"), Expectation("gone", "reference", "r")]
    expected.append(Expectation("mass", "vanished[x]", "r"))
    sentences = stale(expected, {"mass"})
    assert len(sentences) == 2
    assert "gone" in sentences[0]
    assert "vanished" in sentences[1]


def test_laws_are_chosen_by_id_and_by_family() -> None:
    assert select(["mass"]) == ["mass"]
    assert "gradient-theta" in select(["gradient"])
    with pytest.raises(ValueError, match="did you mean mass"):
        select(["mas"])


def test_an_expected_violation_is_neither_shrunk_nor_weighed() -> None:
    target, jobs = "fault[row-softmax]", []
    for expected in (False, True):
        (job,) = make_jobs([target], ["mass"], Profile("test", 30, 60.0, seed=0), dtypes=["float64"])
        jobs.append(run_job(replace(job, expected=expected)))
    plain, brief = jobs
    assert plain.verdict is brief.verdict is Verdict.VIOLATED
    assert plain.violation is not None
    assert brief.violation is not None
    assert plain.violation.surveyed > 0
    assert brief.violation.surveyed == 0
    assert brief.examples < plain.examples
