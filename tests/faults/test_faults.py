"""The laws bite: each fault is killed by its law, each law kills a fault, and the sound are spared."""

from __future__ import annotations

import pytest

from deqverify.implementations.subject import Subject
from deqverify.law import ANY_LINEAR, Law, laws
from deqverify.reference import reference
from deqverify.trial import Effort
from tests.faults import any_cell, layers, stateful

NAMED = {  # the eight faults that the laws must be proven on
    layers.MissingTranspose: "adjoint-certificate",
    layers.RowSoftmax: "mass",
    layers.GammaTwice: "enclosure",
    layers.MeanForSum: "gradient-B",
    layers.OneStepGradient: "gradient-x",
    layers.AdjointStoppedEarly: "status-backward",
    layers.StatusAlwaysTrue: "status-forward",
    layers.AbsoluteStopping: "scale",
}
ALSO = [("splitting-rate", any_cell.HalfReflections)]
"""Faults that a law must kill beside the one that proves it."""

KILLERS = {  # every law has a fault that it kills, or it is no law
    "existence": layers.GammaTwice,
    "uniqueness": layers.StatusNeverSaid,
    "restart": layers.BestOfNothing,
    "enclosure": layers.GammaTwice,
    "mass": layers.RowSoftmax,
    "positivity": layers.WrongSign,
    "permutation": layers.Masked,
    "column-shift": layers.ClippedLogits,
    "linearity": layers.Saturated,
    "scale": layers.AbsoluteStopping,
    "batch": layers.Centred,
    "gradient-B": layers.MeanForSum,
    "gradient-x": layers.OneStepGradient,
    "gradient-theta": layers.OneStepGradient,
    "energy": layers.MeanForSum,
    "euler": layers.OneStepGradient,
    "adjoint-certificate": layers.MissingTranspose,
    "gauge": layers.RowSoftmax,
    "cotangent-linearity": layers.ClippedCotangent,
    "repeated-pull": layers.ForgetfulPull,
    "adjoint-identity": layers.UntransposedTangent,
    "second-order": layers.DetachedAdjoint,
    "start-gradient": layers.UnrolledFromStart,
    "solver-rate": layers.Damped,
    "dissipation": layers.DetachedWeights,
    "dissipation-floor": layers.Vanishing,
    "projected-floor": layers.Vanishing,
    "quotient-floor": layers.Vanishing,
    "flow": layers.WrongDirection,
    "descent-dissipation": layers.MissingTranspose,
    "descent-floor": layers.Vanishing,
    "global-optimum": layers.Decayed,
    "trajectory": layers.MissingTranspose,
    "objective": layers.MeanForSum,
    "taylor": layers.Penalised,
    "descent": layers.WrongDirection,
    "column-sums": layers.RowSoftmax,
    "trust-region": layers.MissingTranspose,
    "descent-order": layers.OneStepGradient,
    "status-forward": layers.StatusAlwaysTrue,
    "status-backward": layers.AdjointStoppedEarly,
    "status-cap": layers.StatusAlwaysTrue,
    "status-nan": layers.PassedByNan,
    "solves": layers.Timid,
    "trace": layers.TracedWithoutTheBest,
    "answers": layers.Raises,
    "poisoned-point": layers.BatchScaled,
    "inputs-kept": layers.Overwrites,
    "dtype-and-device": layers.Promotes,
    "deterministic": stateful.Wanders,
    "history": stateful.WarmStart,
    "answers-kept": stateful.OutputBuffer,
    "in-place-update": stateful.CachedByIdentity,
    "no-gradient": stateful.CoarseWithoutGradient,
    "modes": stateful.DropoutInside,
    "copies": stateful.CopyForgets,
    "pickles": stateful.PickleForgets,
    "threads": stateful.SharedByThreads,
    "memory-layout": stateful.Views,
    "batch-of-one": stateful.Squeezes,
    "empty-batch": stateful.MaximumOfNothing,
    "settings-kept": stateful.SetsThreads,
    "input-balance": any_cell.GradientAtTheStart,
    "output-balance": any_cell.OneStep,
    "balance-descent": any_cell.FactorsKept,
    "balance-flow": any_cell.FactorsKept,
    "shift": any_cell.Padded,
    "shift-gradient": any_cell.PaddedGradient,
    "node-order": any_cell.RootedGraph,
    "node-order-gradient": any_cell.CausalGradient,
    "token-order": any_cell.Positions,
    "token-order-gradient": any_cell.CausalGradient,
    "relu-euler": any_cell.OneStep,
    "readout-floor": any_cell.HalvedLoss,
    "overparameterised-descent": any_cell.ReadoutFrozen,
    "scaled-descent": any_cell.ReadoutFrozen,
    "splitting-rate": any_cell.HalfSweeps,
    "norm-kept": any_cell.Trapezoid,
    "symplectic": any_cell.OneStep,
}


def failure_of(law_id: str, fault: type) -> object:
    subject = Subject(fault())
    law = laws()[law_id]
    assert law.missing(subject) is None, "the fault must claim what the law needs"
    trial = law.trial(subject, Effort(examples=200, seconds=60, seed=0))
    assert trial.error is None, trial.error
    return trial.failure


@pytest.mark.parametrize(("fault", "law_id"), NAMED.items(), ids=lambda v: getattr(v, "__name__", v))
def test_each_named_fault_is_killed_by_its_law(fault: type, law_id: str) -> None:
    assert failure_of(law_id, fault), f"{fault.__doc__} survived {law_id}"


@pytest.mark.parametrize(("law_id", "fault"), [*KILLERS.items(), *ALSO], ids=lambda v: getattr(v, "__name__", v))
def test_each_law_kills_a_fault(law_id: str, fault: type) -> None:
    assert failure_of(law_id, fault), f"{law_id} let through: {fault.__doc__}"


def test_every_law_is_proven() -> None:
    assert set(KILLERS) == set(laws())


MOST_STEPS = 200


@pytest.mark.parametrize("control", [layers.Sound, layers.SoundPicard], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_sound_are_spared(control: type, dtype: str) -> None:
    # Two thousand steps, as the control takes near γ = 1, would take as long as a third of all other tests.
    subject = Subject(control().limited(MOST_STEPS) if control is layers.SoundPicard else control(), dtype)
    for law in laws().values():
        if law.missing(subject) is None:
            few = 20 if control is layers.SoundPicard else 40
            trial = law.trial(subject, Effort(examples=few, seconds=60, seed=1))
            assert trial.error is None, trial.error
            assert trial.failure is None, (law.id, trial.failure)


OF_PARTICULAR_CELLS = [law for law in laws().values() if law.about not in ("any", ANY_LINEAR, "linear-softmax")]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", OF_PARTICULAR_CELLS, ids=lambda law: law.id)
def test_sound_solvers_of_particular_cells_are_spared(law: Law, dtype: str) -> None:
    subject = Subject(any_cell.SoundNewton(), dtype)
    subject = Subject(reference("forward-backward", "numpy"), dtype) if law.missing(subject) else subject
    trial = law.trial(subject, Effort(examples=30 * law.cost, seconds=60, seed=1))
    assert trial.error is None, trial.error
    assert trial.failure is None, trial.failure
    assert trial.decisive, trial.undecided


@pytest.mark.parametrize("law_id", ["trace", "status-cap", "status-forward"])
def test_a_sound_trace_is_spared(law_id: str) -> None:
    trial = laws()[law_id].trial(Subject(layers.Traced()), Effort(examples=100, seconds=60, seed=1))
    assert trial.decisive
    assert trial.failure is None, trial.failure
