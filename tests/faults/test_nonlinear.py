"""Faults that show on cells that are not linear are killed, each by its law in the default profile; the sound layers
that they are made from are spared by every law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deqverify import trial
from deqverify.cells import LinearCell, LinearSoftmaxCell, cells
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
from deqverify.faults.forward import OneNewtonStep
from deqverify.faults.interface import StateShapeOfInput
from deqverify.faults.sound import SoundNewton, SoundSweeps
from deqverify.implementations.subject import Subject
from deqverify.registry import describe, laws
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
    if issubclass(each.make, SoundNewton | SoundSweeps)  # type: ignore[arg-type]
    for law in each.killers[:1]
    if laws()[law].about == "any"
}
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
