"""Faults that show on cells that are not linear are killed, each by its law in the default profile; the sound layers
that they are made from are spared by every law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deqverify import trial
from deqverify.cells import LinearCell, LinearSoftmaxCell, cells
from deqverify.implementations.subject import Subject
from deqverify.law import describe, laws
from deqverify.running.jobs import run_job
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import profile
from deqverify.running.results import Verdict
from deqverify.trial import Effort
from tests.faults import nonlinear
from tests.honest import TwiceNewton

LINEAR = tuple(name for name, cell in cells().items() if isinstance(cell, LinearCell))
ONE = (LinearSoftmaxCell.name,)
KILLERS = {
    nonlinear.JacobianAtStart: "adjoint-certificate",
    nonlinear.PreviousIterate: "adjoint-certificate",
    nonlinear.AveragedJacobian: "adjoint-certificate",
    nonlinear.NeighboursJacobian: "adjoint-certificate",
    nonlinear.FlattenedByColumns: "adjoint-certificate",
    nonlinear.SymmetricJacobian: "adjoint-certificate",
    nonlinear.ClippedJacobian: "adjoint-certificate",
    nonlinear.OneStepOfAnyCell: "adjoint-certificate",
    nonlinear.InputDetached: "gradient-x",
    nonlinear.InputWeightsDetached: "gradient-theta",
    nonlinear.BiasDetached: "gradient-theta",
    nonlinear.OneNewtonStep: "existence",
    nonlinear.NarrowInside: "enclosure",
    nonlinear.TestsTheStep: "status-forward",
    nonlinear.BuffersByCount: "history",
    nonlinear.StateShapeOfInput: "answers",
    nonlinear.OneRecordedStep: "second-order",
    nonlinear.AdjointHeld: "second-order",
    nonlinear.UnrolledSweeps: "start-gradient",
    nonlinear.DampedSweeps: "solver-rate",
    nonlinear.PenalisedLoss: "taylor",
}
LARGE = [  # killed where states are large, and nowhere else
    (nonlinear.HoldsSoMany, "existence", "relu"),
    (nonlinear.HoldsSoMany, "node-order", "graph"),
    (nonlinear.HoldsSoMany, "shift", "conv"),
    (nonlinear.HoldsSoMany, "token-order", "attention"),
    (nonlinear.AdjointOfSoMany, "adjoint-certificate", "tanh"),
    (nonlinear.AloneBeyond, "batch", "sigmoid"),
]
UNSEEN = {  # the cells on which the fault changes nothing, or only rounding
    nonlinear.JacobianAtStart: LINEAR,
    nonlinear.PreviousIterate: LINEAR,
    nonlinear.AveragedJacobian: LINEAR,
    nonlinear.NeighboursJacobian: LINEAR,
    nonlinear.FlattenedByColumns: LINEAR,
    nonlinear.OneNewtonStep: LINEAR,
    nonlinear.InputDetached: ONE,
    nonlinear.InputWeightsDetached: ONE,
    nonlinear.BiasDetached: LINEAR,
    nonlinear.StateShapeOfInput: ONE,
    nonlinear.OneRecordedStep: ("linear",),
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
    for control, law_id in ((nonlinear.TracedSweeps, "solver-rate"), (TwiceNewton, "second-order")):
        subject = Subject(control(), only=[name for name in control.claims.cells if name not in ONE])
        found = laws()[law_id].trial(subject, Effort(examples=20, seconds=60, seed=1))
        assert (found.error, found.failure) == (None, None)
        assert found.decisive, found.undecided


@pytest.mark.parametrize("control", [nonlinear.SoundNewton, nonlinear.SoundSweeps], ids=named)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_sound_are_spared(control: Any, dtype: str) -> None:
    implementation = control()
    subject = Subject(implementation, dtype, only=[name for name in implementation.claims.cells if name not in ONE])
    for law in laws().values():
        if law.missing(subject) is None:
            found = law.trial(subject, Effort(examples=3, seconds=60, seed=1))
            assert found.error is None, found.error
            assert found.failure is None, describe(found.failure)
