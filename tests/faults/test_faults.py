"""The laws bite: each fault is killed by its laws, each law kills a fault, and the sound are spared."""

from __future__ import annotations

import pytest

from deqverify.faults import DEFECTS, PLAUSIBLE, Fault, fault, faults, make
from deqverify.faults.sound import Sound, SoundNewton, SoundPicard, Traced
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.subject import Subject
from deqverify.reference import reference
from deqverify.registry import ANY_LINEAR, Law, laws
from deqverify.trial import Effort
from tests.faults.test_stateful import SHORTEST, THRESHOLDS

KILLED = [(each, law) for each in faults().values() for law in each.killers]
SHRUNK = {(law, broken.__name__) for law, broken in (*THRESHOLDS, *SHORTEST)}
"""Killed and shrunk by tests/faults/test_stateful.py already."""
HERE = [(each, law) for each, law in KILLED if (law, type(each.make()).__name__) not in SHRUNK]

ROUNDS = 10
"""Of a few large examples each, half of them in the states and half in the data points."""

LARGE = (
    "drops-beyond-a-buffer",
    "blocks-beyond",
    "blocks-beyond-256",
    "gradient-of-the-first-64",
    "holds-so-many",
    "adjoint-of-so-many",
    "alone-beyond",
)
"""What breaks beyond a size."""


@pytest.mark.parametrize(("broken", "law_id"), HERE, ids=lambda v: getattr(v, "name", v))
def test_each_fault_is_killed_by_its_laws(broken: Fault, law_id: str) -> None:
    subject, law = Subject(broken.make()), laws()[law_id]
    assert law.missing(subject) is None, "the fault must claim what the law needs"
    # Expected: that it is killed is asked here, not how small or how bad the counterexample is.
    efforts = [Effort(200, seconds=60, seed=0, expected=True)]
    if broken.name in LARGE:
        efforts = [Effort(10, seconds=60, seed=seed, expected=True, brief="others") for seed in range(ROUNDS)]
    for effort in efforts:
        trial = law.trial(subject, effort)
        assert trial.error is None, trial.error
        if trial.failure:
            return
    pytest.fail(f"{law_id} let through: {broken.wrong}")


def test_every_law_is_proven() -> None:
    assert {law for _, law in KILLED} == set(laws())


def test_what_a_fault_says_of_itself_is_there() -> None:
    for each in faults().values():
        assert each.cause in laws()
        assert each.wrong.endswith(".")
        assert each.defect in DEFECTS
        assert each.origin == PLAUSIBLE or "/" in each.origin


def test_a_fault_is_a_target() -> None:
    deq = load("fault[row-softmax]")
    assert (deq.name, type(deq).__name__) == ("fault[row-softmax]", "RowSoftmax")
    for wrong, fix in (("fault[row-softmx]", r"fault\[row-softmax\]"), ("fault", "none is given")):
        with pytest.raises(TargetError, match=fix):
            load(wrong)


def test_faults_that_cannot_be_registered_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^subtlety: is one of plain"):
        fault(cause="mass", killers=("mass",), subtlety="odd")
    with pytest.raises(ValueError, match=r"^killers: "):
        fault(cause="mass", killers=())

    class RowSoftmax(Sound):
        """Another of that name."""

    with pytest.raises(ValueError, match=r"^name: there is a fault 'row-softmax' already"):
        fault(cause="mass", killers=("mass",))(RowSoftmax)
    assert type(make("row-softmax")) is not RowSoftmax


MOST_STEPS = 200


@pytest.mark.parametrize("control", [Sound, SoundPicard], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_sound_are_spared(control: type, dtype: str) -> None:
    # Two thousand steps, as the control takes near γ = 1, would take as long as a third of all other tests.
    subject = Subject(control().limited(MOST_STEPS) if control is SoundPicard else control(), dtype)
    for law in laws().values():
        if law.missing(subject) is None:
            few = 3 if control is SoundPicard else 6  # tools/quiet.py is the long campaign
            trial = law.trial(subject, Effort(examples=few, seconds=60, seed=1))
            assert trial.error is None, trial.error
            assert trial.failure is None, (law.id, trial.failure)


OF_PARTICULAR_CELLS = [law for law in laws().values() if law.about not in ("any", ANY_LINEAR, "linear-softmax")]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", OF_PARTICULAR_CELLS, ids=lambda law: law.id)
def test_sound_solvers_of_particular_cells_are_spared(law: Law, dtype: str) -> None:
    subject = Subject(SoundNewton(), dtype)
    subject = Subject(reference("forward-backward", "numpy"), dtype) if law.missing(subject) else subject
    trial = law.trial(subject, Effort(examples=30 * law.cost, seconds=60, seed=1))
    assert trial.error is None, trial.error
    assert trial.failure is None, trial.failure
    assert trial.decisive, trial.undecided


@pytest.mark.parametrize("law_id", ["trace", "status-cap", "status-forward"])
def test_a_sound_trace_is_spared(law_id: str) -> None:
    trial = laws()[law_id].trial(Subject(Traced()), Effort(examples=100, seconds=60, seed=1))
    assert trial.decisive
    assert trial.failure is None, trial.failure
