"""A law that holds in its own examples is violated after all where another one's counterexample says so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deqverify import losses
from deqverify.faults.forward import FirstOfTheBatch
from deqverify.faults.parametrisation import RowSoftmax
from deqverify.faults.sound import Sound
from deqverify.faults.state import CachedByShape
from deqverify.implementations.subject import Question, Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import laws
from deqverify.running.convicting import convictions
from deqverify.running.counterexamples import CounterexampleError, parsed
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.executors import ThisProcess
from deqverify.running.jobs import run_job
from deqverify.running.plan import Report, make_jobs
from deqverify.running.premises import COUPLED, REMEMBERED, blame
from deqverify.running.profiles import Profile
from deqverify.running.results import Job, Result, Verdict, Violation
from deqverify.running.weighing import weigh
from deqverify.trial import Effort, Failure, replay

PROFILE = Profile("test", examples=5, seconds=5.0, seed=0)
LAWS = ("existence", "adjoint-certificate", "gradient-theta")
V, H = Verdict.VIOLATED, Verdict.HOLDS


def jobs(target: str = "reference") -> dict[str, Job]:
    return {job.law: job for job in make_jobs([target], LAWS, PROFILE, ["float64"], database=None)}


def result(job: Job, verdict: Verdict = H, follows: tuple[str, ...] = (), convicts: str = "") -> Result:
    violation = Violation("wrong", "wrong", "much", job.law, "code") if verdict is V else None
    accusing = {"law": convicts} if convicts else {}
    return Result(job, verdict, examples=7, follows=follows, violation=violation, convicts=accusing)


class Judging:
    """Says of the laws ``wrong`` that they are violated, of those in ``accusing`` that others are; remembers who was
    asked, and what with."""

    def __init__(self, *wrong: str, accusing: Mapping[str, str] | None = None):
        self.wrong, self.accusing, self.asked = wrong, accusing or {}, list[Job]()

    def __call__(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for job in jobs:
            self.asked.append(job)
            yield JobStarted(job)
            other = self.accusing.get(job.law, "")
            one = result(job, V if job.law in self.wrong else H, (other,) if other else (), other)
            yield JobFinished(replace(one, examples=1))


def finished(events: Iterable[Any]) -> list[Result]:
    return [event.result for event in events if isinstance(event, JobFinished)]


def test_what_a_violation_rests_on_is_tried_again_with_what_it_was_asked() -> None:
    known = jobs()
    found = [
        result(known["existence"]),
        result(known["gradient-theta"], V, ("existence", "adjoint-certificate"), "existence"),
    ]
    judging = Judging("existence")
    (again,) = finished(convictions(found, known.values(), judging))
    (job,) = judging.asked
    assert (job.law, job.pinned_only, json.loads(job.given[0])) == ("existence", True, {"law": "existence"})
    assert (again.job, again.verdict, again.examples, again.failed_at) == (known["existence"], V, 8, 8)
    report = Report([again, found[1]])
    assert [(cause.law, cause.followers) for cause in report.causes] == [("existence", ["gradient-theta"])]


def test_so_on_along_the_chain_and_once_each() -> None:
    known = jobs()
    found = [result(job) for job in known.values()]
    found[2] = result(known["gradient-theta"], V, ("adjoint-certificate",), "adjoint-certificate")
    judging = Judging("existence", "adjoint-certificate", accusing={"adjoint-certificate": "existence"})
    convicted = finished(convictions(found, known.values(), judging))
    assert [each.job.law for each in convicted] == ["adjoint-certificate", "existence"]
    forgetful = Judging()  # nothing is violated when it is asked again
    assert [each.verdict for each in finished(convictions(found, known.values(), forgetful))] == [H]
    assert len(forgetful.asked) == 1


@pytest.mark.parametrize(
    "found",
    [
        {"existence": H, "gradient-theta": H},
        {"existence": V, "gradient-theta": V},  # it has its cause
        {"existence": Verdict.NOT_CLAIMED, "gradient-theta": V},
        {"existence": Verdict.COULD_NOT_RUN, "gradient-theta": V},
        {"existence": H, "gradient-theta": Verdict.EXPECTED},
    ],
)
def test_nobody_else_is_tried_again(found: dict[str, Verdict]) -> None:
    known, judging = jobs(), Judging("existence")
    accusing = {"gradient-theta": "existence"}
    results = [
        result(known[law], verdict, ("existence",) if law in accusing else (), accusing.get(law, ""))
        for law, verdict in found.items()
    ]
    assert not finished(convictions(results, known.values(), judging))
    assert not judging.asked
    assert not finished(convictions(results, [known["gradient-theta"]], judging)), "a law that nobody asked for"


PROBLEM = SoftmaxProblem([[0.0, 1.0], [2.0, 0.0]], [[1.0, 1.0]], [[1.0], [2.0]], [[0.0]], 0.5, losses.Squared())


def test_a_real_violation_convicts_what_it_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The softmax along rows: the equilibrium is wrong, and here only the gradient's own examples have shown it."""
    known, law = jobs("fault[row-softmax]"), laws()["gradient-theta"]
    direction = {"A": np.ones((2, 2)), "gamma": np.array(1.0)}
    arguments = {"problem": PROBLEM, "direction": direction}
    wrong = Subject(RowSoftmax(), "float64")
    failure = replay(law.body, wrong, arguments).failure
    assert failure
    document = json.dumps(
        {
            "deqverify counterexample": 1, "law": law.id, "target": "fault[row-softmax]", "dtype": "float64",
            "device": "cpu", "kind": "wrong", "arguments": encoded(arguments),
        }
    )  # fmt: skip
    violated = run_job(replace(known[law.id], given=(document,)))
    assert violated.verdict is V
    assert violated.convicts["law"] == "existence"
    held = result(known["existence"])
    (again,) = finished(convictions([held, violated], known.values(), ThisProcess().follow))
    assert (again.job, again.verdict, again.examples) == (known["existence"], V, 8)
    assert again.violation
    assert again.violation.counterexample["law"] == "existence"
    assert [cause.law for cause in Report([again, violated]).causes] == ["existence"]


def encoded(arguments: dict[str, Any]) -> dict[str, Any]:
    from deqverify.running import counterexamples

    return {name: counterexamples.encoded(value, name) for name, value in arguments.items()}


def test_what_stands_for_itself_is_what_was_asked_of_the_implementation_alone() -> None:
    wrong = Subject(RowSoftmax(), "float64")
    for question, alone in ((Question(PROBLEM), True), (Question(PROBLEM, layer=RowSoftmax()), None)):
        weight = weigh(laws()["objective"], lambda: wrong, question)
        assert weight
        assert weight.ratio > 1.0
        assert bool(weight.arguments) is bool(alone)


def test_a_document_that_is_none_is_said_to_be_none() -> None:
    with pytest.raises(CounterexampleError, match="is not JSON"):
        parsed("{")
    broken = run_job(replace(jobs()["existence"], given=("[]",), pinned_only=True))
    assert broken.verdict is Verdict.COULD_NOT_RUN
    assert "is no counterexample" in broken.reason


def test_wrong_among_others_convicts_batch() -> None:
    """The first data point is solved at once, and the second one with it, which was not."""
    problem = SoftmaxProblem(np.zeros((1, 1)), [[1.0]], [[0.0, -0.5]], [[0.0, 0.0]], 0.5, losses.Squared())
    coupled = Subject(FirstOfTheBatch(), "float64")
    failure = replay(laws()["existence"].body, coupled, {"problem": problem}).failure
    assert failure
    blamed = blame(laws()["existence"], coupled, lambda: coupled, failure, Effort(5))
    assert blamed.follows == COUPLED
    assert blamed.convicts == ("batch", {"problem": problem, "points": [1]})
    arguments = {"problem": problem, "other": np.ones((2, 1)), "weights": (1, 1)}
    of_another = replay(laws()["linearity"].body, coupled, arguments).failure
    assert of_another
    blamed = blame(laws()["linearity"], coupled, lambda: coupled, of_another, Effort(5))
    assert blamed.follows == ("existence", *COUPLED)
    assert blamed.convicts
    assert blamed.convicts[0] == "existence"


def test_wrong_in_a_later_call_convicts_history() -> None:
    used = Subject(CachedByShape(), "float64")
    used.equilibrium(PROBLEM.with_blocks(A=np.zeros((2, 2))))
    failure = replay(laws()["existence"].body, used, {"problem": PROBLEM}).failure
    assert failure
    blamed = blame(laws()["existence"], used, lambda: Subject(CachedByShape(), "float64"), failure, Effort(5))
    assert blamed.follows == REMEMBERED
    assert blamed.convicts
    assert (blamed.convicts[0], blamed.convicts[1]["operations"]) == ("history", ["other weights"])


def test_a_crash_convicts_the_law_that_asks_for_an_answer() -> None:
    class Raising(Sound):
        def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
            raise RuntimeError("no workspace")

    deq = Subject(Raising(), "float64")
    failure = Failure("crash", None, "RuntimeError: no workspace", {"problem": PROBLEM})
    blamed = blame(laws()["existence"], deq, lambda: deq, failure, Effort(5))
    assert blamed.follows == ("answers",)
    assert blamed.convicts
    assert (blamed.convicts[0], blamed.convicts[1]["problem"]) == ("answers", PROBLEM)
