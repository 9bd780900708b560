"""Faults that show on cells that are not linear are killed, each by its law in the default profile; the sound layers
that they are made from are spared by every law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deqverify import trial
from deqverify.cells import LinearCell, LinearSoftmaxCell, cells
from deqverify.implementations.subject import Subject
from deqverify.registry import describe, laws
from deqverify.running.jobs import run_job
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import profile
from deqverify.running.results import Verdict
from deqverify.trial import Effort
from tests.faults import nonlinear

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
}
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
