"""Faults of behaviour beyond one a law, and what their failures shrink to."""

from __future__ import annotations

from typing import Any

import pytest
from deqverify.properties.calls import OPERATIONS, Scene, operations_on, perform

from deqverify import losses
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import arguments_code, laws
from deqverify.trial import Effort, Failure
from tests.faults import layers, stateful

MORE = [
    ("settings-kept", layers.RandomStart),
    ("gradient-theta", layers.MissingTranspose),
    ("history", stateful.CachedByShape),
    ("history", stateful.ShapeIsFixed),
    ("mass", layers.Unnormalised),
    ("status-nan", layers.ReplacesNan),
    ("status-cap", layers.ZeroIsNoCap),
    ("history", stateful.ModeOnce),
    ("answers-kept", stateful.PullInTheLayer),
    ("in-place-update", stateful.CachedByShape),
    ("no-gradient", stateful.HookWithoutGraph),
    ("modes", stateful.ModeOnce),
    ("copies", stateful.CopyShares),
    ("memory-layout", stateful.AssumesRows),
    ("empty-batch", stateful.MeanOfNothing),
    ("settings-kept", stateful.LeavesGradientOff),
    ("settings-kept", stateful.SilencesErrors),
    ("settings-kept", stateful.FlushesToZero),
    ("status-cap", layers.ZeroIsTheDefault),
    ("trace", layers.TracedNowAndThen),
]
THRESHOLDS = {  # the sizes (m, n) that what breaks beyond a size shrinks to; None where any will do
    ("existence", layers.DropsBeyondABuffer): (None, 65),
    ("existence", layers.BlocksBeyond256): (257, 1),
    ("mass", layers.BlocksBeyond): (129, 1),
    ("batch", layers.DropsBeyondABuffer): (None, 65),
    ("adjoint-certificate", layers.GradientOfTheFirst64): (None, 65),
    ("energy", layers.GradientOfTheFirst64): (None, 65),
    ("dissipation", layers.GradientOfTheFirst64): (None, 65),
}
OFTEN = 1000  # one example in twenty is large, and half of them in the states, half in the data points
SHORTEST = {  # the operations that a failing history shrinks to
    ("history", stateful.WarmStart): ["other input"],
    ("history", stateful.CachedByShape): ["other weights"],
    ("history", stateful.ModeOnce): ["evaluation mode"],
    ("answers-kept", stateful.OutputBuffer): ["other input"],
    ("settings-kept", stateful.LeavesGradientOff): ["empty batch"],
}


def failure_of(law_id: str, fault: type, examples: int = 200) -> Failure:
    trial = laws()[law_id].trial(Subject(fault()), Effort(examples=examples, seconds=60, seed=0))
    assert trial.error is None, trial.error
    assert trial.failure, f"{law_id} let through: {fault.__doc__}"
    return trial.failure


@pytest.mark.parametrize(("law_id", "fault"), MORE, ids=lambda v: getattr(v, "__name__", v))
def test_more_faults_are_killed(law_id: str, fault: type) -> None:
    failure_of(law_id, fault)


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


def test_a_snippet_with_operations_shows_the_failure_again() -> None:
    failure = failure_of("history", stateful.WarmStart)
    names: dict[str, Any] = {"np": __import__("numpy"), "losses": losses, "SoftmaxProblem": SoftmaxProblem}
    again = eval(f"dict({arguments_code(failure.arguments)})", names)
    assert again["operations"] == ["other input"]
    with pytest.raises(AssertionError, match="after the operations"):
        laws()["history"].replay(stateful.WarmStart(), **again)


def test_operations_are_those_that_are_claimed() -> None:
    assert set(operations_on(Subject(layers.SoundPicard()))) == set(OPERATIONS)
    assert "evaluation mode" not in operations_on(Subject(lambda step, z0: step(z0)))
    assert "given start" not in operations_on(Subject(layers.Sound()))


def test_an_unknown_operation_is_refused_by_name() -> None:
    subject, one = Subject(layers.Sound()), SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    with pytest.raises(ValueError, match=r"^operations: 'odd' is not one of"):
        perform(subject, ["odd"], Scene(one, one.Phi, one))
