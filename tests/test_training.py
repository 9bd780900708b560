"""The global optimum is reached with m < min(p, n) for every loss, and the law that says so could have told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from deqverify import losses
from deqverify.describing import describe
from deqverify.faults.sound import Sound
from deqverify.implementations.subject import Subject
from deqverify.losses import Loss
from deqverify.problem import SoftmaxProblem
from deqverify.reference import reference
from deqverify.registry import laws
from deqverify.strategies import well_conditioned_problems
from deqverify.trial import Effort, run_trial

LOSSES: list[Loss] = [
    losses.Squared(),
    losses.PseudoHuber(0.5),
    losses.LogCosh(),
    losses.Logistic(0.125),
    losses.CrossEntropy(0.125),
    losses.Poisson(0.125),
    losses.HingeSquared(0.125),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("id", ["global-optimum", "descent-floor"])
def test_training_ends_at_the_global_optimum_whatever_the_loss(id: str, loss: Loss) -> None:
    subject = Subject(reference())
    narrow = well_conditioned_problems("float64", losses=st.just(loss)).map(lambda problem: {"problem": problem})
    seen: list[bool] = []

    def announce(arguments: dict[str, object]) -> None:
        problem = arguments["problem"]
        seen.append(problem.m < min(problem.p, problem.n))  # type: ignore[attr-defined]

    trial = run_trial(laws()[id].body, narrow, subject, Effort(20, seed=0), announce=announce)
    assert trial.error is None, trial.error
    assert trial.failure is None, trial.failure
    assert trial.share >= 0.5  # the loss bends little far from its targets, and the theorem knows the level only
    assert all(seen)


class NanGradient(Sound):
    """The gradient is NaN wherever it is asked for."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        return solution, lambda cotangent: pull(cotangent * float("nan"))


@pytest.mark.parametrize("law", ["flow", "trajectory"])
def test_a_gradient_that_is_not_finite_ends_the_integration(law: str) -> None:
    trial = laws()[law].trial(Subject(NanGradient()), Effort(examples=2, seconds=30, seed=0))
    assert trial.failure is not None
    assert trial.failure.kind == "wrong", "the integrator looks for a step for ever, and the layer is called a hang"
    assert "is finite: got" in describe(trial.failure)


def test_where_nothing_moves_there_is_no_trajectory() -> None:
    """Inputs of zero, as one data point of several may be: the time that is integrated over would be endless."""
    still = SoftmaxProblem(np.zeros((1, 1)), [[1.0], [1.0]], [[0.0]], [[0.0], [0.0]], 0.5, losses.Squared())
    laws()["trajectory"].replay("reference", problem=still)
