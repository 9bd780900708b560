"""Violations are grouped by what they follow from: root causes, in words that a person can act on."""

from __future__ import annotations

import io
from dataclasses import replace
from graphlib import TopologicalSorter

import numpy as np
import pytest
import torch
from rich.console import Console

from deqverify import laws, losses, trial
from deqverify.faults.backward import MissingTranspose, OneStepGradient
from deqverify.faults.forward import DampedSweeps
from deqverify.faults.losses import Decayed, MeanForSum, WrongDirection
from deqverify.faults.parametrisation import GammaTwice, RowSoftmax
from deqverify.faults.sound import Sound
from deqverify.faults.status import StatusAlwaysTrue
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Question, Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import premises
from deqverify.reporting.terminal import show
from deqverify.running import diagnosis, jobs, readings
from deqverify.running import premises as running_premises
from deqverify.running.causes import Cause, causes, settled, trusted
from deqverify.running.plan import Report, in_order, make_jobs
from deqverify.running.premises import COUPLED, REMEMBERED, blame
from deqverify.running.profiles import Profile
from deqverify.running.results import Result, Verdict, Violation
from deqverify.running.weighing import APART, Weight, arguments_of, weigh, weight
from deqverify.trial import Effort, Failure, replay

PROFILE = Profile("test", examples=5, seconds=5.0, seed=0)
V, E, H, F = Verdict.VIOLATED, Verdict.EXPECTED, Verdict.HOLDS, Verdict.FOLLOWS


def test_what_laws_rest_on_exists_and_is_no_circle() -> None:
    graph = {id: law.rests_on for id, law in laws().items()}
    assert {earlier for law in graph.values() for earlier in law} <= set(graph)
    order = list(TopologicalSorter(graph).static_order())
    for law in laws().values():
        found = [premise.id for premise in premises(law)]
        assert law.id not in found
        assert len(set(found)) == len(found)
        for place, premise in enumerate(found):
            assert set(laws()[premise].rests_on) <= set(found[:place]), "each after those that it rests on itself"
    assert set(order) == set(graph)


def result(
    law: str, verdict: Verdict = V, follows: tuple[str, ...] = (), dtype: str = "float64", **crash: str
) -> Result:
    (job,) = make_jobs(["reference"], [law], PROFILE, [dtype], database=None)
    kind = crash.get("kind", "wrong")
    wrong = verdict in (V, E, F)
    violation = Violation(kind, "wrong", "much", crash.get("said", law), "code") if wrong else None
    return Result(job, verdict, follows=follows, violation=violation)


def verdicts(*results: Result) -> list[tuple[Verdict, str]]:
    return [(each.verdict, each.cause) for each in settled(results)]


def test_what_follows_needs_a_violated_law_in_the_same_report() -> None:
    follower = result("euler", follows=("existence", "gradient-x"))
    assert verdicts(follower) == [(V, "")]
    assert verdicts(result("existence", H), follower) == [(H, ""), (V, "")]
    assert verdicts(result("existence"), follower) == [(V, ""), (F, "existence")]
    other = replace(result("existence"), job=replace(result("existence").job, target="another"))
    assert verdicts(other, follower) == [(V, ""), (V, "")]


def test_the_cause_is_at_the_end_of_the_chain_and_in_any_dtype() -> None:
    chain = [result("euler", follows=("gradient-x",)), result("gradient-x", follows=("adjoint-certificate",))]
    assert verdicts(*chain) == [(F, "gradient-x"), (V, "")]
    chain.append(result("adjoint-certificate", dtype="float32"))
    assert verdicts(*chain) == [(F, "adjoint-certificate"), (F, "adjoint-certificate"), (V, "")]
    (cause,) = causes(settled(chain))
    assert (cause.law, cause.followers, cause.dtypes) == ("adjoint-certificate", ["euler", "gradient-x"], ["float32"])


def test_what_is_expected_stays_so_and_can_be_the_cause_of_what_is_not() -> None:
    report = Report(
        [result("existence", E), result("mass", follows=("existence",)), result("euler", E, ("existence",))]
    )
    assert [each.verdict for each in report.results] == [E, F, E]
    assert report.exit_code == 0
    (cause,) = report.causes
    assert cause.expected
    assert cause.followers == ["mass", "euler"]


def test_crashes_in_the_same_words_are_one_cause() -> None:
    crashes = [result(law, follows=("answers",), kind="crash", said="no graph") for law in ("mass", "energy", "euler")]
    assert verdicts(*crashes) == [(V, ""), (F, "mass"), (F, "mass")]
    other = result("gauge", follows=("answers",), kind="crash", said="another error")
    assert verdicts(*crashes[:1], other) == [(V, ""), (V, "")]
    assert verdicts(*crashes[:1], result("answers", kind="crash")) == [(F, "answers"), (V, "")]


def test_a_report_with_a_cause_exits_1_and_names_what_holds() -> None:
    found = [result("existence"), result("mass", follows=("existence",)), result("answers", H), result("trace", H)]
    report = Report([*found, result("trace", dtype="float32")])
    assert report.exit_code == 1
    assert trusted(report.results, "reference") == ["answers"]
    assert [cause.law for cause in report.causes] == ["existence", "trace"]


def test_a_premise_is_asked_what_the_law_asked() -> None:
    problem = SoftmaxProblem([[0.0, 1.0], [2.0, 0.0]], [[1.0, 1.0]], [[1.0], [2.0]], [[0.0]], 0.5, losses.Squared())
    cotangent = np.array([[1.0, 0.0]])
    sound, wrong = Subject(Sound()), Subject(OneStepGradient())
    for id in ("existence", "adjoint-certificate", "gradient-theta", "gradient-x", "gradient-B", "objective"):
        found = weigh(laws()[id], lambda: sound, Question(problem, cotangent))
        assert found is not None
        assert 0.0 <= found.ratio <= 1.0
        assert found.informative
    for id in ("adjoint-certificate", "gradient-theta", "gradient-x"):
        assert weigh(laws()[id], lambda: wrong, Question(problem, cotangent)).ratio > APART  # type: ignore[union-attr]
    assert arguments_of(laws()["history"], Question(problem)) is None


def test_an_answer_that_is_right_at_one_point_alone_is_no_premise() -> None:
    even = SoftmaxProblem(np.zeros((2, 2)), [[1.0, 1.0]], [[1.0], [2.0]], [[0.0]], 0.5, losses.Squared())
    rows = Subject(RowSoftmax())
    assert laws()["existence"].missing(rows) is None
    assert weigh(laws()["existence"], lambda: rows, Question(even)).ratio > 1.0  # type: ignore[union-attr]


def test_weights_explain_what_is_not_far_beyond_them() -> None:
    assert Weight(1.1).explains(1e9)
    assert Weight(0.5).explains(0.4 * APART)
    assert not Weight(0.5).explains(0.6 * APART)
    assert not Weight(0.0).explains(1.1)


ALONE_RIGHT = {
    "uniqueness": ([0.00390625, 0.00390625], {"start": np.array([[0.0], [1.0]])}),
    "linearity": ([0.0, -0.5], {"other": np.array([[1.0], [1.0]]), "weights": (1, 1)}),
    "status-nan": ([1.0, 1.0], {"point": 1}),
}


@pytest.mark.parametrize("law", ALONE_RIGHT)
def test_what_no_data_point_alone_shows_follows_from_their_coupling(law: str) -> None:
    """Whatever a law takes beside the problem: a start, other inputs, the place of a data point."""
    inputs, more = ALONE_RIGHT[law]
    problem = SoftmaxProblem(np.zeros((1, 1)), [[1.0]], [inputs], [[0.0, 0.0]], 0.5, losses.Squared())
    coupled = Subject(load("fault[first-of-the-batch]"), "float64")
    arguments = {"problem": problem, **more}
    failure = replay(laws()[law].body, coupled, arguments).failure
    assert failure
    follows = blame(laws()[law], coupled, lambda: coupled, failure, Effort(5)).follows
    assert follows[-2:] == COUPLED
    assert set(follows[:-2]) <= {"existence"}  # which is wrong among others likewise
    trusted_start = Subject(load("fault[start-trusted]"), "float64")  # wrong of a data point alone too
    if law == "uniqueness":
        found = replay(laws()[law].body, trusted_start, arguments).failure
        assert found
        assert blame(laws()[law], trusted_start, lambda: trusted_start, found, Effort(5)).follows[-2:] != COUPLED


def test_what_is_left_behind_is_not_what_premises_are_asked_under(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that stay off after an empty batch: no pull works any more, and that is the setting's fault."""
    one = SoftmaxProblem(np.zeros((1, 1)), [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    arguments = {"problem": one, "cotangent": np.ones((1, 1)), "operations": ["empty batch"], "other": one}
    law = laws()["history"]
    monkeypatch.setattr(jobs, "_again", lambda job, law, subject, announce: (replay(law.body, subject, arguments), []))
    (job,) = make_jobs(["fault[leaves-gradient-off]"], ["history"], PROFILE, ["float64"], database=None)
    assert jobs.run_job(job).follows == law.rests_on
    assert "settings-kept" in law.rests_on
    assert torch.is_grad_enabled()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is asked here, not how soon on a loaded machine."""
    monkeypatch.setattr(running_premises, "SECONDS", 60.0)
    monkeypatch.setattr(running_premises, "ONE", 60.0)
    monkeypatch.setattr(diagnosis, "SECONDS", 60.0)
    monkeypatch.setattr(trial, "_SURVEY_SECONDS", 5.0)
    monkeypatch.setattr(jobs, "boundary", lambda *_: [])


def found_in(target: str, *ids: str) -> list[Cause]:
    """As on the command line: made anew for each law."""
    long = Profile("test", examples=40, seconds=240.0, seed=0, example_seconds=120.0)
    chosen = make_jobs([target], ids, long, ["float64"], database=None, only=["linear-softmax"])
    return Report(in_order([jobs.run_job(job) for job in chosen], chosen)).causes


@pytest.mark.usefixtures("patient")
def test_what_only_a_used_implementation_shows_follows_from_its_memory() -> None:
    (cause,) = found_in("fault[cached-by-shape]", "existence", "mass", "history", "in-place-update")
    assert cause.law == "history"
    assert set(cause.followers) == {"existence", "mass", "in-place-update"}


@pytest.mark.usefixtures("patient")
def test_a_copy_is_not_blamed_for_what_differs_from_call_to_call() -> None:
    """One call in seven is wrong: three calls of a fresh one need not show it."""
    (cause,) = found_in("fault[every-seventh-call]", "deterministic", "copies", "threads")
    assert cause.law == "deterministic"


@pytest.mark.parametrize("wavers", [True, False])
def test_what_does_not_fail_each_time_may_follow_from_answers_that_differ(wavers: bool) -> None:
    problem = SoftmaxProblem(np.eye(2), np.ones((1, 2)), np.ones((2, 2)), np.zeros((1, 2)), 0.5, losses.Squared())
    arguments = {"problem": problem, "cotangent": np.ones((2, 2)), "operations": ["same call"], "other": problem}
    failure = Failure("wrong", None, "", arguments, wavers=wavers)
    sound = Subject(Sound())
    found = blame(laws()["answers-kept"], sound, lambda: sound, failure, Effort(5))
    assert ("deterministic" in found.follows) == wavers


def test_an_objective_of_tiny_inputs_is_right_by_accident() -> None:
    """Targets in another order give the same number where the outputs are nothing beside them."""
    problem = SoftmaxProblem(
        np.eye(2), np.ones((1, 2)), 1e-60 * np.ones((2, 2)), np.array([[1.0, 2.0]]), 0.5, losses.Squared()
    )
    objective, reversed_labels = laws()["objective"], load("fault[labels-reversed]")
    assert weight(objective, Subject(reversed_labels), {"problem": problem}).ratio <= 1.0
    found = weigh(objective, lambda: Subject(reversed_labels), Question(problem))
    assert found
    assert found.ratio > 1.0


@pytest.mark.usefixtures("patient")
def test_a_silent_cap_and_a_one_step_gradient_are_two_causes_in_words() -> None:
    chosen = ["existence", "restart", "status-forward", "adjoint-certificate", "gradient-x", "euler"]
    found = {cause.law: cause for cause in found_in("tests.two_defects:my_deq", *chosen)}
    assert set(found) == {"existence", "adjoint-certificate"}
    said = {law: cause.first.violation.diagnosis for law, cause in found.items()}  # type: ignore[union-attr]
    assert said["existence"] == "stops early (after 401 steps), without a word"
    assert said["adjoint-certificate"].startswith("gives the gradient of one step at the equilibrium")
    assert "status-forward" in found["existence"].followers
    assert set(found["adjoint-certificate"].followers) == {"gradient-x", "euler"}


@pytest.mark.parametrize(
    ("fault", "ids", "cause", "said"),
    [
        (
            RowSoftmax,
            ("existence", "mass", "gradient-theta", "gauge"),
            "existence",
            "takes the softmax along rows",
        ),
        (GammaTwice, ("existence", "enclosure"), "existence", "applies γ twice"),
        (MissingTranspose, ("adjoint-certificate", "gradient-x"), "adjoint-certificate", "in place of its"),
        (MeanForSum, ("objective", "gradient-B"), "objective", "as a mean over the data points"),
        (WrongDirection, ("objective", "gradient-B"), "objective", "-1 times the loss"),
        (StatusAlwaysTrue, ("existence", "status-cap"), "existence", "stops early (after 21 steps), and says"),
        (Decayed, ("gradient-B", "energy"), "gradient-B", "gradient in B"),
    ],
)
@pytest.mark.usefixtures("patient")
def test_one_defect_is_one_cause_and_is_named(fault: type, ids: tuple[str, ...], cause: str, said: str) -> None:
    found = found_in(f"{fault.__module__}:{fault.__name__}", *ids)
    assert [each.law for each in found] == [cause]
    assert said in found[0].first.violation.diagnosis  # type: ignore[union-attr]


def test_of_a_trace_nothing_is_said_but_what_its_law_says() -> None:
    """Every iterate of a slow iteration looks like an answer that was stopped early."""
    (found,) = found_in(f"{DampedSweeps.__module__}:{DampedSweeps.__name__}", "solver-rate", "trace")
    assert found.law == "solver-rate"
    assert found.first.violation
    assert (found.first.violation.diagnosis, found.first.violation.anomaly) == ("", laws()["solver-rate"].anomaly)


def shown(report: Report, full: bool = False) -> str:
    console = Console(record=True, file=io.StringIO(), width=80)
    show(report, console, full)
    return console.export_text()


def test_two_causes_of_every_law_are_told_in_few_lines() -> None:
    found = []
    for id, law in laws().items():
        rests = [premise.id for premise in premises(law)]
        follows = ("adjoint-certificate",) if "adjoint-certificate" in rests else ("existence",)
        alone = id in ("existence", "adjoint-certificate")
        found.append(result(id, V if alone or rests else H, () if alone else follows))
    for each in found:
        if each.violation:
            each.violation.id, each.violation.where = "0123abcd", "γ = 0.9765625, m = 1, p = 1, n = 1"
            each.violation.diagnosis = "gives the gradient of one step at the equilibrium, not that of the equilibrium"
            each.violation.boundary_said = "wrong from γ = 0.976 on at m = 4, n = 2, right at 0.975 and below"
    text = shown(Report(found, untried=["reference in float32, which it claims (leave dtype= or --dtype out)"]))
    lines = text.rstrip().splitlines()
    assert lines[0] == "2 causes of what is violated"
    assert len(lines) <= 20  # under 25 with the header and the progress of a run
    for part in (
        "(existence)",
        "(adjoint-certificate)",
        "wrong from γ = 0.976 on",
        "laws follow: ",
        "deqverify show 0123abcd",
    ):
        assert part in " ".join(text.split())
    assert "can still be trusted in" in text
    assert "┃" not in text
    assert "┃" in shown(Report(found), full=True)


def test_what_is_expected_is_one_line_a_reason() -> None:
    known = [result(id, E) for id in ("existence", "answers", "solves")]
    for each, reason in zip(known, ("a known reason, " * 20, "another", "another"), strict=True):
        each.reason = reason
    text = shown(Report(known))
    told = [line for line in text.splitlines() if line.startswith("expected")]
    assert len(told) == 2
    assert "expected  solves, answers × reference: another" in told
    assert all(len(line) <= 80 for line in told)
    assert "Nothing beyond the expectations" in " ".join(text.split())


def test_a_cause_that_another_dtype_does_not_show_is_told_so() -> None:
    wrong = result("existence")
    wrong.violation.id = "0123abcd"  # type: ignore[union-attr]
    assert "in float64, not in float32" in shown(Report([wrong, result("existence", H, dtype="float32")]))


def test_settling_twice_is_settling_once_and_a_part_is_settled_anew() -> None:
    whole = settled([result("existence"), result("mass", follows=("existence",))])
    assert settled(whole) == whole
    assert [each.verdict for each in settled(whole[1:])] == [V]


def test_what_only_a_used_implementation_shows_is_one_cause_named_by_the_most_basic_law() -> None:
    """Though it comes after another one in the report, which rests on it, and though their words differ."""
    found = [result(law, follows=REMEMBERED) for law in ("taylor", "gradient-theta", "dissipation")]
    for each, words in zip(found, ("wrong", "wrong", "wrong in A"), strict=True):
        assert each.violation
        each.violation.diagnosis = f"gives a gradient that is {words}"
    assert verdicts(*found) == [(F, "gradient-theta"), (V, ""), (F, "gradient-theta")]


def test_where_each_may_follow_from_another_one_of_them_is_the_cause() -> None:
    found = [
        result("mass", follows=REMEMBERED),
        result("batch", follows=REMEMBERED),
        result("deterministic", follows=COUPLED),
        result("existence"),
    ]
    assert verdicts(*found) == [(F, "deterministic"), (F, "deterministic"), (V, ""), (V, "")]


def test_a_crash_that_only_a_used_implementation_shows_is_one_with_its_wrong_answers() -> None:
    found = [result("answers", follows=REMEMBERED), result("gradient-theta", follows=REMEMBERED), result("answers")]
    for each in found:
        if each.job.law == "answers":
            assert each.violation
            each.violation.kind = "crash"
    assert verdicts(*found[:2]) == [(F, "gradient-theta"), (V, "")]
    assert verdicts(*found[1:]) == [(V, ""), (V, "")]  # a crash of the first call is another cause


def test_what_no_data_point_alone_shows_is_one_cause_in_both_passes() -> None:
    """One rule for stopping, that of the whole batch, serves both."""
    found = [result("existence", follows=COUPLED), result("adjoint-certificate", follows=COUPLED), result("mass")]
    assert verdicts(*found) == [(V, ""), (F, "existence"), (V, "")]


def test_an_absolute_tolerance_is_one_cause_in_both_passes() -> None:
    found = [result("adjoint-certificate"), result("existence"), result("mass")]
    where = [f", where {what} are small: {diagnosis.ABSOLUTE}" for what in ("cotangents", "inputs")]
    for each, what in zip(found, (*where, ""), strict=True):
        assert each.violation
        each.violation.diagnosis = f"stops early{what}"
    assert verdicts(*found) == [(F, "existence"), (V, ""), (V, "")]


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ("stops early, and says: the solver reports that it converged", readings.SHORT),
        ("stops early, without a word", f"{readings.ADJOINT_EARLY}, without a word"),
        (f"is {readings.NARROW}", f"gives a gradient that is {readings.NARROW}"),
    ],
)
def test_what_is_wrong_in_the_same_way_in_both_passes_is_one_cause(forward: str, backward: str) -> None:
    found = [result("adjoint-certificate"), result("existence")]
    for each, words in zip(found, (backward, forward), strict=True):
        assert each.violation
        each.violation.diagnosis = words
    assert verdicts(*found) == [(F, "existence"), (V, "")]
    assert found[0].violation
    found[0].violation.diagnosis = "gives the gradient of one step at the equilibrium"
    assert verdicts(*found) == [(V, ""), (V, "")]


def test_what_is_remembered_is_one_cause_whichever_laws_of_calls_show_it() -> None:
    found = [result(law, follows=("settings-kept", "history")) for law in ("answers-kept", "in-place-update")]
    assert verdicts(*found) == [(F, "in-place-update"), (V, "")]
    assert verdicts(*found, result("existence", follows=REMEMBERED))[-1] == (V, "")
    assert verdicts(*found, result("settings-kept")) == [(F, "settings-kept"), (F, "settings-kept"), (V, "")]


def test_a_premise_may_be_named_beside_what_no_data_point_alone_shows() -> None:
    found = [result("uniqueness", follows=("existence", *COUPLED)), result("adjoint-certificate", follows=COUPLED)]
    assert verdicts(*found) == [(V, ""), (F, "uniqueness")]
    assert diagnosis.circumstance(("existence", *COUPLED)) == diagnosis.circumstance(COUPLED) != ""
    assert diagnosis.circumstance(("existence",)) == ""


def test_what_is_pulled_back_for_a_tiny_cotangent_is_looked_at_itself() -> None:
    """An objective whose cotangent is tiny beside its states tells nothing: its rounding allows everything."""
    problem = SoftmaxProblem(
        [[0.3, -1.0], [1.0, 0.7]], [[1.0, 1.0]], [[200.0], [-80.0]], [[0.0]], 0.453125, losses.Squared()
    )
    question = Question(problem, np.array([[6.1e-8, -3.7e-8]]))
    for name, wrong in (("gradient-in-bfloat16", True), ("no-gradient-beyond-one", False)):
        subject = Subject(load(f"fault[{name}]"), "float64")
        found = weigh(laws()["gradient-theta"], lambda subject=subject: subject, question)
        assert found
        assert found.informative
        assert (found.ratio > 1.0) == wrong


def test_what_a_fresh_implementation_is_not_guilty_of_is_what_another_one_remembers() -> None:
    """The second pull of an adjoint that begins where the last one ended: other laws hold in a first call."""
    target = "fault[adjoint-warm-started]"
    one = SoftmaxProblem(np.zeros((1, 1)), [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    law, arguments = laws()["repeated-pull"], {"problem": one, "cotangent": np.ones((1, 1))}
    used = Subject(load(target), "float64")
    failure = replay(law.body, used, arguments).failure
    assert failure
    assert blame(law, used, lambda: Subject(load(target), "float64"), failure, Effort(5)).follows == REMEMBERED


@pytest.mark.parametrize(
    ("name", "root"), [("adjoint-warm-started", "history"), ("every-seventh-call", ""), ("wanders", "")]
)
def test_answers_that_differ_follow_from_memory_where_they_settle(name: str, root: str) -> None:
    law, target = laws()["deterministic"], f"fault[{name}]"
    one = SoftmaxProblem(np.zeros((1, 1)), [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    failure = Failure("wrong", None, "", {"problem": one, "cotangent": np.ones((1, 1))})
    found = blame(law, Subject(load(target)), lambda: Subject(load(target)), failure, Effort(5))
    assert found.follows == ((root,) if root else ())


def test_a_right_answer_is_read_as_nothing() -> None:
    """Where f is linear its Jacobian is the same everywhere, and that at the start would explain what is right."""
    problem = SoftmaxProblem([[0.3, -1.0], [1.0, 0.7]], [[1.0, 2.0]], [[1.0], [-0.5]], [[0.0]], 0.5, losses.Squared())
    for target in (Sound(), load("fault[jacobian-at-start]")):
        seen = readings.Seen(Subject(target), problem, np.array([[1.0, -2.0]]))
        assert not list(readings.of_equilibrium(seen))
        assert not list(readings.of_adjoint(seen))
    assert readings.AT_START in readings.of_gradient(seen, ["gamma"])


def test_zero_is_no_start_to_be_kept_where_it_is_the_equilibrium() -> None:
    none = SoftmaxProblem([[0.0]], [[1.0]], [[0.0, 0.0]], [[0.0, 0.0]], 0.5, losses.Squared())
    found = weight(laws()["inputs-kept"], Subject(load("fault[writes-into-the-start]")), {"problem": none})
    assert found.ratio > 1.0


def test_what_goes_round_is_named_by_what_is_remembered() -> None:
    """Modes differ where calls do, and calls where modes do."""
    found = [result("modes", follows=("deterministic",)), result("deterministic", follows=("history",))]
    assert verdicts(*found, result("history", follows=("deterministic", "modes"))) == [
        (F, "history"),
        (F, "history"),
        (V, ""),
    ]


def test_wrong_blocks_of_one_gradient_are_one_cause() -> None:
    """Whichever laws find them: their words name the same blocks."""
    words = "gives a wrong gradient in A, x; that in gamma is right"
    found = [result("gradient-theta"), result("gradient-x"), result("mass")]
    for each in found:
        assert each.violation
        each.violation.diagnosis = words
    assert verdicts(*found) == [(V, ""), (F, "gradient-theta"), (V, "")]
    of_the_second = result("energy", follows=("gradient-x",))
    assert verdicts(*found, of_the_second)[-1] == (F, "gradient-theta")
