"""The campaign against faults: who kills first, what is kept, what is shown, and what the exit code says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st
from rich.console import Console

from deqverify import trial as trials
from deqverify.cli import main
from deqverify.comparison import Fact
from deqverify.faults import DEFECTS, faults
from deqverify.registry import laws as every_law
from deqverify.reporting import kills
from deqverify.reporting.kills import Kills
from deqverify.running import jobs, killing
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.executors import ThisProcess
from deqverify.running.kill_shares import shares, unkept, worths
from deqverify.running.killing import Campaign, First, Outcome, Seen, chosen, outcome
from deqverify.running.profiles import profile
from deqverify.running.request import Request
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.run import Run
from deqverify.running.workers import Workers
from deqverify.trial import Effort, Trial, run_trial
from tests.synthetic import HOSTILE
from tests.test_run import Answering

EFFORT = replace(profile("quick"), seed=0)


def asked(*laws: str, fail_fast: bool = False, targets: tuple[str, ...] = ("fault[masked]",)) -> Request:
    return Request(targets, laws, seed=0, database=None, counterexamples=None, fail_fast=fail_fast)


class Costing(Answering):
    """As :class:`Answering`, where each job takes two seconds, and a violation is the fifth example."""

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for event in super().follow(jobs):
            if isinstance(event, JobFinished):
                bad = event.result.verdict is Verdict.VIOLATED
                event = JobFinished(
                    replace(event.result, busy=2.0, failed_at=5 if bad else 0, failed_after=0.5 if bad else 0.0)
                )
            yield event


def test_a_trial_says_which_example_was_the_first_to_fail() -> None:
    tried: list[int] = []

    def body(subject: Any, k: int) -> Iterator[Fact]:
        tried.append(k)
        yield Fact("small", len(set(tried)) < 3, str(k))

    trial = run_trial(
        body, st.fixed_dictionaries({"k": st.integers(0, 10**6)}), None, Effort(50, seed=0, expected=True)
    )
    assert trial.failure
    assert len(set(tried[: trial.failed_at])) == 3
    assert len(set(tried[: trial.failed_at - 1])) == 2
    both = Trial(examples=7)
    both.add(trial)
    assert both.failed_at == 7 + trial.failed_at
    assert 0.0 < trial.failed_after < trial.busy
    first = Trial(examples=7, failed_at=2)
    first.add(trial)
    assert first.failed_at == 2


def test_the_first_kill_is_told_with_all_that_was_tried_before() -> None:
    # existence has 8, 8 others, 25, then 100 examples, two seconds a round; then mass, which alone kills, has its own.
    found = outcome("masked", asked("existence", "mass"), Costing("mass"))
    assert found.first == First("mass", "float64", 8 + 8 + 25 + 100 + 5, 8.5, 10.0)
    assert {law: seen.verdict for law, seen in found.seen.items()} == {"existence": "holds", "mass": "violated"}
    assert (found.killers, found.cause) == (["mass"], "mass")
    assert outcome("masked", asked("existence", "mass"), Costing()).first is None


def test_a_run_that_fails_fast_leaves_a_target_after_its_first_violation_and_no_other() -> None:
    class OneBroken(Answering):
        def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
            for event in super().follow(jobs):
                bad = isinstance(event, JobFinished) and event.result.job.target != "fault[masked]"
                yield JobFinished(Result(event.result.job, Verdict.HOLDS)) if bad else event  # type: ignore[union-attr]

    laws, targets = ("existence", "euler", "mass"), ("fault[masked]", "fault[row-softmax]")
    executor = OneBroken("existence")
    report = Run(asked(*laws, fail_fast=True, targets=targets), executor).report()
    tried = {target: [job.law for job in executor.seen if job.target == target] for target in targets}
    assert tried["fault[masked]"] == ["existence"]
    assert {*tried["fault[row-softmax]"]} == {*laws}
    assert "2 of 6 jobs: their targets were violated already (--fail-fast)" in report.untried
    alone = Run(asked(*laws, fail_fast=True), Answering("existence")).report()
    assert f"{len(every_law()) - 3} of {len(every_law())} laws (laws= or --law)" in alone.untried, (
        "euler and mass were asked for"
    )
    (violated,) = report.of(Verdict.VIOLATED)
    again = OneBroken("existence")
    Run(asked(*laws, fail_fast=True, targets=targets), again, done={violated.job.key: violated}).report()
    assert {job.target for job in again.seen} == {"fault[row-softmax]"}, "also where its journal says so"
    whole = OneBroken("existence")
    Run(asked(*laws, targets=targets), whole).report()
    assert {job.law for job in whole.seen if job.target == "fault[masked]"} == {*laws}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Faults that a campaign began, which runs in this process."""

    class Here(ThisProcess):
        def __init__(self, hard_seconds: float, count: int):
            super().__init__()

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    begun: list[str] = []
    real = killing.outcome

    def noting(fault: str, *given: Any) -> Outcome:
        begun.append(fault)
        return real(fault, *given)

    # That it is killed is asked here, not how small the counterexample gets, nor where it begins.
    monkeypatch.setattr(trials, "SHRINKING", 40.0)
    monkeypatch.setattr(trials, "_SURVEY_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "boundary", lambda *_: [])
    monkeypatch.setattr(killing, "Workers", Here)
    monkeypatch.setattr(killing, "_warm", lambda lane: None)
    monkeypatch.setattr(killing, "outcome", noting)
    return begun


def test_the_command_kills_keeps_and_goes_on(here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["faults", "masked", "row-softmax", "--law", "mass", "--law", "permutation", "--max-examples", "8",
               "--all", "--workers", "1", "--report", "k.html", "--report", "k.json"]  # fmt: skip
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "2 of 2 faults killed." in done.output
    assert here == ["masked", "row-softmax"] or here == ["row-softmax", "masked"]
    told = json.loads(Path("k.json").read_text(encoding="utf-8"))
    by_name = {each["fault"]: each for each in told["faults"]}
    assert by_name["masked"]["laws"]["permutation"]["verdict"] in ("violated", "follows")
    assert by_name["row-softmax"]["laws"]["mass"]["id"] in Path("k.html").read_text(encoding="utf-8")
    assert all(each["first"]["seconds"] > 0.0 for each in told["faults"])
    shown = CliRunner().invoke(main, ["show", by_name["masked"]["first"]["id"]])
    assert "fault[masked]" in shown.output
    here.clear()
    (file,) = Path(".deqverify/faults").glob("*/masked.json")
    file.write_text("{ cut off")
    again = CliRunner().invoke(main, command)
    assert "1 of 2 faults stand in" in again.output
    assert here == ["masked"]
    here.clear()
    survived = CliRunner().invoke(main, ["faults", "masked", "--law", "empty-batch", "--max-examples", "5"])
    assert survived.exit_code == 1, survived.output
    assert "1 survived: masked" in survived.output


def test_what_could_not_run_is_not_kept(here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign(("masked",), ("mass",), EFFORT, folder=tmp_path / "kept", counterexamples=tmp_path)
    monkeypatch.setattr(killing, "outcome", lambda name, *_: Outcome(name, None, (), {}, 0.0, "no disk"))
    assert [each.error for each in campaign.run(campaign.names, 1)] == ["no disk"]
    assert campaign.kept() == {}
    assert Kills.of([Outcome("masked", None, (), {}, 0.0, "no disk")], EFFORT, False).exit_code == 2


def test_faults_are_chosen_by_name_class_and_part() -> None:
    every = chosen()
    assert every == tuple(faults())
    parts = [chosen(part=(k, 4)) for k in (1, 2, 3, 4)]
    assert sorted(name for part in parts for name in part) == sorted(every)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert chosen(["masked"], ["parametrisation"]) == chosen(["fault[masked]"]) == ("masked",)
    for wrong, said in (((["maskd"],), "did you mean masked"), (([], ["odd"]), "defect: 'odd' is not one of")):
        with pytest.raises(ValueError, match=said):
            chosen(*wrong)
    for arguments, said in (
        (["maskd"], "did you mean masked"),
        (["--part", "5/4"], "no part, as 1/4 is the first of four"),
        (["--report", "x.xml"], "has to end in one of"),
    ):
        done = CliRunner().invoke(main, ["faults", *arguments])
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())


def synthetic(hostile: str = "") -> list[Outcome]:
    """A survivor, one that is explained rightly, one wrongly, and one that only one law kills."""
    killed = First("existence", "float64", 3, 0.5, 1.5, "0123abcd")
    cause = faults()["row-softmax"].cause
    both = {"existence": Seen("violated", "", "0123abcd", hostile), "mass": Seen("follows", "existence", "", "")}
    return [
        Outcome("masked", killed, (("permutation", hostile, ()),), both | {"permutation": Seen("violated")}, 2.0),
        Outcome("row-softmax", killed, ((cause, hostile, ("mass",)),), both, 2.0),
        Outcome(
            "halved-value", replace(killed, seconds=4.5), (), {"mass": Seen("violated"), "euler": Seen("holds")}, 1.0
        ),
        Outcome("not-zeroed", None, (), {"mass": Seen("holds"), "euler": Seen("inconclusive")}, 9.0),
    ]


def test_the_numbers_are_those_of_the_outcomes() -> None:
    found = synthetic()
    groups = dict(shares(found))
    (whole,) = groups[""]
    assert (whole.faults, whole.killed, whole.right, whole.median, whole.told) == (4, 3, 1, 0.5, 1.5)
    assert whole.late == pytest.approx(0.9 * 4.5 + 0.1 * 0.5)  # between the second and the third of three
    assert sum(share.faults for share in groups["class of defect"]) == 4
    assert {share.name for share in groups["class of defect"]} <= {*DEFECTS}
    by_law = {worth.law: worth for worth in worths(found)}
    assert (by_law["mass"].kills, by_law["mass"].alone, by_law["mass"].first) == (3, 1, 0)
    assert (by_law["existence"].first, by_law["existence"].alone) == (3, 0)
    killer = faults()["row-softmax"].killers[0]
    missed = Outcome("row-softmax", None, (), {killer: Seen("holds")}, 0.0)
    assert unkept([missed]) == [("row-softmax", [killer])]
    assert unkept([replace(missed, seen={killer: Seen("follows")})]) == []


def test_survivors_stand_first_and_80_columns_suffice() -> None:
    long = sorted(every_law(), key=len)[-9:]
    widest = Outcome(
        max(faults(), key=len),
        First(long[-1], "float64", 12345, 1234.5, 1334.5),
        tuple((law, "", ()) for law in long),
        {law: Seen("violated") for law in long},
        1.0,
    )
    found = Kills.of([*synthetic(), widest], EFFORT, every=True)
    assert found.outcomes[0].fault == "not-zeroed"
    assert found.exit_code == 1
    with (console := Console(width=80, force_terminal=False, record=True)).capture() as captured:
        kills.show(found, console)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "nothing is cut off"
    assert "12345" in text
    assert "1234.5" in text
    assert "SURVIVED" in text
    assert "kill nothing alone" in text
    assert f"permutation, not {faults()['masked'].cause}" in " ".join(text.split())
    assert Kills.of([], EFFORT, every=False).exit_code == 2
    assert Kills.of(synthetic()[:3], EFFORT, every=False).exit_code == 0


def test_reports_are_escaped_and_whole(tmp_path: Path) -> None:
    found = Kills.of(synthetic(HOSTILE), EFFORT, every=True)
    for suffix in kills.FORMATS:
        kills.write(found, tmp_path / f"k{suffix}")
    html, text, document = (
        (tmp_path / f"k{suffix}").read_text(encoding="utf-8") for suffix in (".html", ".md", ".json")
    )
    assert "<script" not in html
    assert "default-src 'none'" in html
    for each in found.outcomes:
        assert f'id="fault-{each.fault}"' in html
        assert f"| {each.fault} |" in text
        for law in each.killers:
            assert f'href="#fault-{each.fault}-{law}"' in html
            assert f'id="fault-{each.fault}-{law}"' in html
    told = json.loads(document)
    assert [each["fault"] for each in told["faults"]] == [each.fault for each in found.outcomes]
    assert told["exit_code"] == 1


def test_outcomes_are_read_as_they_were_written() -> None:
    for each in synthetic(HOSTILE):
        assert Outcome.read(each.document()) == each


def test_a_thread_that_waits_for_a_worker_goes_on_when_workers_are_ended() -> None:
    """As when a campaign is interrupted: the thread of each fault waits for its own worker."""
    with Workers(600.0, 1) as workers:
        under_way = workers._asking("reference", time.sleep, 600.0, 300.0)
    # Without being told it would wait for ever; a minute is for a loaded machine.
    assert wait([under_way], 60.0).done
