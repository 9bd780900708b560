"""Correct but odd implementations are spared, and one that is wrong everywhere is blamed for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.claims import Accuracy
from deqverify.correct.iterating import HonestPicard
from deqverify.describing import describe
from deqverify.faults.backward import OneStepGradient
from deqverify.faults.parametrisation import GammaTwice
from deqverify.faults.sound import Sound
from deqverify.implementations.subject import Subject
from deqverify.registry import laws
from deqverify.trial import Effort


class ForwardOnly(Sound):
    """It says plainly that it has no backward pass, and raises where one is asked for."""

    claims = replace(Sound.claims, backward=None)

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, _ = super().vjp(cell, theta, x, z0)
        return solution, self.refuse

    def refuse(self, cotangent: Any) -> Any:
        raise NotImplementedError("this layer has no backward pass")


class _Donated(torch.autograd.Function):
    """The identity, whose backward refuses a graph that is kept: as functions compiled with donated buffers do."""

    @staticmethod
    def forward(ctx: Any, z: Any) -> Any:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("this backward donates its buffers; the graph cannot be retained")
        return gradient


class DonatesBuffers(Sound):
    """A pull that may be called once."""

    claims = replace(Sound.claims, repeated_pulls=False)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return _Donated.apply(super().equilibrium(cell, theta, x, z0))


def tried(law: Any, subject: Subject, examples: int = 15) -> Any:
    trial = law.trial(subject, Effort(examples=examples, seconds=60, seed=2))
    assert trial.error is None, trial.error
    return trial


@pytest.mark.parametrize("odd", [ForwardOnly, DonatesBuffers], ids=lambda odd: odd.__name__)
def test_the_odd_are_spared(odd: type) -> None:
    subject = Subject(odd())
    for law in laws().values():
        # Second order keeps the graph by its nature, and refusing it is honest.
        if law.missing(subject) is None:
            assert tried(law, subject).failure is None, law.id


class RefusesNan(HonestPicard):
    """It raises on features that are NaN, and says so."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        if np.isnan(x).any():
            raise ValueError("x: holds NaN")
        return super().vjp(cell, theta, x, z0)


def test_refusing_nan_is_no_report_of_success() -> None:
    trial = tried(laws()["status-nan"], Subject(RefusesNan(Accuracy(1e-6))))
    assert trial.failure is None
    assert trial.decisive


def test_one_pull_where_two_are_claimed_is_a_violation_of_that_claim_alone() -> None:
    claiming = DonatesBuffers()
    claiming.claims = replace(claiming.claims, repeated_pulls=True)
    subject = Subject(claiming)
    assert tried(laws()["repeated-pull"], subject).failure
    assert tried(laws()["gradient-x"], subject).failure is None


@pytest.mark.parametrize("law", ["history", "in-place-update", "memory-layout", "batch-of-one", "column-shift"])
@pytest.mark.parametrize("wrong", [GammaTwice, OneStepGradient], ids=lambda wrong: wrong.__name__)
def test_a_plain_answer_that_is_wrong_is_not_blamed_on_state_or_layout(law: str, wrong: type) -> None:
    assert tried(laws()[law], Subject(wrong())).failure is None


class Detached(Sound):
    """The weights are detached: no gradient reaches A."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix({"A": theta["A"].detach(), "gamma": theta["gamma"]})


def test_that_no_gradient_reached_a_parameter_is_said_in_the_violation() -> None:
    failure = tried(laws()["gradient-theta"], Subject(Detached()), 100).failure
    assert failure
    assert "no gradient reached A: zeros stand in its place" in describe(failure)
    sound = Subject(Sound())
    sound.pull(sound.solve(failure.arguments["problem"]), np.ones(failure.arguments["problem"].states))
    assert not sound.notes
