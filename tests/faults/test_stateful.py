"""What the failures of faults of behaviour, and of those that break beyond a size, shrink to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deqverify.properties.calls import OPERATIONS, Scene, operations_on, perform

from deqverify import losses
from deqverify.describing import arguments_code, describe
from deqverify.faults.batch import (
    BlocksBeyond,
    BlocksBeyond256,
    DropsBeyondABuffer,
    GradientOfTheFirst64,
)
from deqverify.faults.sound import Sound, SoundPicard
from deqverify.faults.state import (
    CachedByShape,
    LeavesGradientOff,
    ModeOnce,
    OutputBuffer,
    SeedsTheWorld,
    WarmStart,
)
from deqverify.faults.status import StickyStatus
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import laws
from deqverify.trial import Effort, Failure, replay

THRESHOLDS = {  # the sizes (m, n) that what breaks beyond a size shrinks to, in both passes; None where any will do
    ("existence", DropsBeyondABuffer): (None, 65),
    ("existence", BlocksBeyond256): (257, 1),
    ("mass", BlocksBeyond): (129, 1),
    ("batch", DropsBeyondABuffer): (None, 65),
    ("adjoint-certificate", GradientOfTheFirst64): (None, 65),
}
OFTEN = 1000  # one example in twenty is large, and half of them in the states, half in the data points
SHORTEST = {  # the operations that a failing history shrinks to
    ("history", WarmStart): ["other input"],
    ("history", CachedByShape): ["other weights"],
    ("history", ModeOnce): ["evaluation mode"],
    ("answers-kept", OutputBuffer): ["other input"],
    ("settings-kept", LeavesGradientOff): ["empty batch"],
}


def failure_of(law_id: str, fault: type, examples: int = 200) -> Failure:
    trial = laws()[law_id].trial(Subject(fault()), Effort(examples=examples, seconds=60, seed=0))
    assert trial.error is None, trial.error
    assert trial.failure, f"{law_id} let through: {fault.__doc__}"
    return trial.failure


@pytest.mark.parametrize(("law_id", "fault"), SHORTEST, ids=lambda v: getattr(v, "__name__", v))
def test_a_failing_history_shrinks_to_its_minimal_operations(law_id: str, fault: type) -> None:
    failure = failure_of(law_id, fault)
    assert failure.arguments["operations"] == SHORTEST[law_id, fault]
    problem = failure.arguments["problem"]
    assert (problem.n, problem.p) == (1, 1)
    assert problem.m <= 2  # at m = 1 there is one softmax, whatever the weights


@pytest.mark.parametrize(("law_id", "fault"), THRESHOLDS, ids=lambda v: getattr(v, "__name__", v))
def test_what_breaks_beyond_a_size_shrinks_to_it(law_id: str, fault: type) -> None:
    m, n = THRESHOLDS[law_id, fault]
    failure = failure_of(law_id, fault, OFTEN)
    problem = failure.arguments["problem"]
    assert problem.n == n
    assert m in (None, problem.m)
    assert len(arguments_code(failure.arguments)) < 5000, "a constant array of any size is a short piece of code"


def test_a_generator_that_every_call_seeds_is_seen_after_others_have_called() -> None:
    fault = SeedsTheWorld()
    problem = failure_of("settings-kept", SeedsTheWorld).arguments["problem"]
    Subject(fault).solve(problem)
    trial = laws()["settings-kept"].trial(Subject(fault), Effort(examples=5, seed=0))
    assert trial.failure
    assert "global state of torch" in trial.failure.seen.what  # type: ignore[union-attr]


def test_a_snippet_with_operations_shows_the_failure_again() -> None:
    failure = failure_of("history", WarmStart)
    names: dict[str, Any] = {"np": __import__("numpy"), "losses": losses, "SoftmaxProblem": SoftmaxProblem}
    again = eval(f"dict({arguments_code(failure.arguments)})", names)
    assert again["operations"] == ["other input"]
    with pytest.raises(AssertionError, match="after the operations"):
        laws()["history"].replay(WarmStart(), **again)


def test_operations_are_those_that_are_claimed() -> None:
    assert set(operations_on(Subject(SoundPicard()))) == set(OPERATIONS)
    assert "evaluation mode" not in operations_on(Subject(lambda step, z0: step(z0)))
    assert "given start" not in operations_on(Subject(Sound()))


def test_an_unknown_operation_is_refused_by_name() -> None:
    subject, one = Subject(Sound()), SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    with pytest.raises(ValueError, match=r"^operations: 'odd' is not one of"):
        perform(subject, ["odd"], Scene(one, one.Phi, one))


HARD = SoftmaxProblem([[0.0, 1.0], [2.0, 0.0]], [[1.0, 1.0]], [[1.0], [2.0]], [[0.0]], 0.99, losses.Squared())


@pytest.mark.parametrize(("layer", "holds"), [(StickyStatus, False), (SoundPicard, True)])
def test_what_a_fresh_one_reports_a_used_one_may_not_keep_to_itself(layer: type, holds: bool) -> None:
    """The status of an easy solve beside the answer of a hard one, which fifty sweeps don't reach."""
    arguments = {"problem": HARD, "cotangent": np.ones((1, 2)), "other": HARD.with_blocks(gamma=np.array(0.1))}
    capped = layer()
    capped.most = 50
    found = replay(laws()["history"].body, Subject(capped, "float64"), arguments | {"operations": ["other problem"]})
    assert found.error is None
    assert (found.failure is None) is holds
    assert bool(found.reported) is holds
    if found.failure:
        assert "nothing is reported" in describe(found.failure)
