"""Whether a violation says something of its own: what it rests on is asked the same, and what is wrong is told in
words that were checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
from deqverify.running import diagnosis, jobs, readings
from deqverify.running import premises as running_premises
from deqverify.running.causes import Cause
from deqverify.running.plan import Report, in_order, make_jobs
from deqverify.running.premises import COUPLED, REMEMBERED, blame
from deqverify.running.profiles import Profile
from deqverify.running.weighing import APART, Weight, arguments_of, weigh, weight
from deqverify.trial import Effort, Failure, replay


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
    short = Profile("test", examples=5, seconds=5.0, seed=0)
    (job,) = make_jobs(["fault[leaves-gradient-off]"], ["history"], short, ["float64"], database=None)
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
