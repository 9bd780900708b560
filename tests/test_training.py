"""The global optimum is reached with m < min(p, n) for every loss, and the law that says so could have told."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from deqverify import losses
from deqverify.implementations.subject import Subject
from deqverify.law import laws
from deqverify.losses import Loss
from deqverify.reference import reference
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
