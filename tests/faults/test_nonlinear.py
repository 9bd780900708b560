"""Faults that show on cells that are not linear are killed, each by its law in the default profile; the sound layers
that they are made from are spared by every law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deqverify import trial
from deqverify.cells import LinearCell, LinearSoftmaxCell, cells
from deqverify.describing import describe
from deqverify.faults import faults
from deqverify.faults.backward import (
    AveragedJacobian,
    BiasDetached,
    FlattenedByColumns,
    InputDetached,
    InputWeightsDetached,
    JacobianAtStart,
    NeighboursJacobian,
    PreviousIterate,
)
from deqverify.faults.batch import AloneBeyond
from deqverify.faults.forward import HoldsSoMany, OneNewtonStep
from deqverify.faults.gradients import AdjointOfSoMany, OneRecordedStep
from deqverify.faults.interface import StateShapeOfInput
from deqverify.faults.sound import SoundNewton, SoundSweeps, TracedSweeps, TwiceNewton
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem
from deqverify.registry import laws
from deqverify.running.jobs import run_job
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import profile
from deqverify.running.results import Verdict
from deqverify.trial import Effort

LINEAR = tuple(name for name, cell in cells().items() if isinstance(cell, LinearCell))
ONE = (LinearSoftmaxCell.name,)
KILLERS = {
    each.make: law
    for each in faults().values()
    if issubclass(each.make, SoundNewton | SoundSweeps | TwiceNewton)  # type: ignore[arg-type]
    for law in each.killers[:1]
    if laws()[law].about == "any" and each.make not in (HoldsSoMany, AdjointOfSoMany, AloneBeyond)
}
LARGE = [  # killed where states are large, and nowhere else
    (HoldsSoMany, "existence", "relu"),
    (HoldsSoMany, "node-order", "graph"),
    (HoldsSoMany, "shift", "conv"),
    (HoldsSoMany, "token-order", "attention"),
    (AdjointOfSoMany, "adjoint-certificate", "tanh"),
    (AloneBeyond, "batch", "sigmoid"),
]
UNSEEN = {  # the cells on which the fault changes nothing, or only rounding
    JacobianAtStart: LINEAR,
    PreviousIterate: LINEAR,
    AveragedJacobian: LINEAR,
    NeighboursJacobian: LINEAR,
    FlattenedByColumns: LINEAR,
    OneNewtonStep: LINEAR,
    InputDetached: ONE,
    InputWeightsDetached: ONE,
    BiasDetached: LINEAR,
    StateShapeOfInput: ONE,
    OneRecordedStep: ("linear",),
}


@pytest.fixture(autouse=True)
def _shrunk_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is killed is asked here, not how small the counterexample gets."""
    monkeypatch.setattr(trial, "SHRINKING", 40.0)
    monkeypatch.setattr(trial, "_SURVEY_SECONDS", 0.0)


def named(value: Any) -> Any:
    return getattr(value, "__name__", value)


@pytest.mark.parametrize(("fault", "law_id"), KILLERS.items(), ids=named)
def test_each_fault_is_killed_by_its_law_in_the_default_profile(fault: type, law_id: str) -> None:
    """Its jobs, float64 and float32 with half of the hundred examples each, until one is a violation."""
    chosen = replace(profile("default"), seed=0)
    target = f"{fault.__module__}:{fault.__name__}"
    for job in make_jobs([target], [law_id], chosen, database=None):
        result = run_job(job)
        assert result.verdict in (Verdict.VIOLATED, Verdict.HOLDS), result.reason
        if result.violation:
            assert fault not in UNSEEN or "CellProblem" in result.violation.snippet
            return
    raise AssertionError(f"{law_id} let through: {fault.__doc__}")


@pytest.mark.parametrize("fault", UNSEEN, ids=named)
def test_what_only_other_cells_show_is_spared_on_these(fault: Any) -> None:
    subject = Subject(fault(), only=UNSEEN[fault])
    found = laws()[KILLERS[fault]].trial(subject, Effort(examples=12, seconds=60, seed=0))
    assert (found.error, found.failure) == (None, None)


@pytest.mark.parametrize(("fault", "law_id", "cell"), LARGE, ids=named)
def test_what_breaks_at_a_size_is_killed_where_states_are_large(fault: Any, law_id: str, cell: str) -> None:
    subject, law = Subject(fault(), only=(cell,)), laws()[law_id]
    small = trial.run_trial(law.body, law.drawn(subject), subject, Effort(examples=3, seconds=60, seed=0))
    assert (small.error, small.failure) == (None, None)
    assert law.large is not None
    found = trial.run_trial(law.body, law.large(subject), subject, Effort(examples=12, seconds=60, seed=0))
    assert found.error is None, found.error
    assert found.failure, f"{law_id} let through: {fault.__doc__}"


def test_sound_ones_that_are_traced_or_derived_twice_are_spared() -> None:
    for control, law_id in ((TracedSweeps, "solver-rate"), (TwiceNewton, "second-order")):
        subject = Subject(control(), only=[name for name in control.claims.cells if name not in ONE])
        found = laws()[law_id].trial(subject, Effort(examples=20, seconds=60, seed=1))
        assert (found.error, found.failure) == (None, None)
        assert found.decisive, found.undecided


def test_a_rate_of_zero_times_a_rounding_without_a_bound_is_no_alarm() -> None:
    """Without a gain the convolution is a constant, of which evaluating the kernel is not seen to be bounded."""
    theta = {"K": np.ones((1, 1, 3, 3)), "gain": np.zeros(1)}
    problem = CellProblem("conv", theta, np.ones((1, 1, 3, 3)), np.ones((1, 9)), np.zeros((1, 1)), Squared())
    assert problem.rate == 0.0
    for dtype in ("float32", "float64"):
        found = trial.replay(laws()["solver-rate"].body, Subject(TracedSweeps(), dtype), {"problem": problem})
        assert found.failure is None, describe(found.failure)


@pytest.mark.parametrize("control", [SoundNewton, SoundSweeps], ids=named)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_sound_are_spared(control: Any, dtype: str) -> None:
    implementation = control()
    subject = Subject(implementation, dtype, only=[name for name in implementation.claims.cells if name not in ONE])
    for law in laws().values():
        if law.missing(subject) is None:
            found = law.trial(subject, Effort(examples=3, seconds=60, seed=1))
            assert found.error is None, found.error
            assert found.failure is None, describe(found.failure)
