"""No bound is looser than 1000 × the worst that correct implementations measure, or its law says why.

A short, seeded calibration; ``make soak`` is the long one. It must end alike on every processor: what our references
measure, a BLAS decides, down to exactly 0 where two calls get the same bits. So a bound is loose only if an ensemble
that rounds without any BLAS (``Eliminating``) stays away from it too, and a reason for looseness is held against that
ensemble alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from deqverify.bounds import Errors
from deqverify.correct.direct import Eliminating
from deqverify.faults.sound import SoundPicard
from deqverify.implementations.subject import Subject
from deqverify.reference import SPLITTINGS, reference
from deqverify.reference.iterative import PicardLayer
from deqverify.reference.newton import NewtonLayer
from deqverify.registry import Law, laws
from deqverify.reporting.explain import explain
from deqverify.running.tally import LOOSE, Tally
from deqverify.trial import Effort

ROUNDS, EXAMPLES = 6, 100  # so many that no law depends on what one seed draws, which any change of a strategy changes
FEW = 25
"""Examples on each in the beginning, with which most laws come near their bound already."""
OF_LOOSE = 50
"""Examples of a law that says why it stays away from its bound."""
DTYPES = ("float64", "float32")
ALIKE = Eliminating()
REFERENCES = (
    reference(),
    PicardLayer("torch", tolerance=1e-3),
    SoundPicard(),
    Eliminating(shuffled=True),
    NewtonLayer("numpy"),
    *(reference(splitting, "numpy") for splitting in SPLITTINGS),
    reference("bits=8", "numpy"),
)
"""The second for what a direct solve does not claim: starts, and a cap on iterations. Its tolerance is one that six
sweeps may reach, so that its answers come near what it claims. The third shows what a pull says of the start, the
fourth rounds a data point alone otherwise than in a batch, on every processor; the rest are for laws about other
cells, and about weights of a few bits."""


def calibrated(law: Law, dtype: str, layers: Sequence[Any] = REFERENCES) -> Tally | None:
    """What ``law`` measured on ``layers``, in as few pushed rounds as it takes to come near the bound; None where none
    of them claims what it needs."""
    tally = Tally()
    subjects = [subject for layer in layers if not law.missing(subject := Subject(layer, dtype))]
    rounds = 1 if law.loose else ROUNDS * law.cost  # a costly law has fewer examples a round
    begun = [] if law.loose else [(subject, rounds, FEW) for subject in subjects]
    many = OF_LOOSE if law.loose else EXAMPLES
    for subject, seed, examples in (*begun, *((each, seed, many) for each in subjects for seed in range(rounds))):
        trial = law.trial(subject, Effort(examples, seed=seed, push=True), observe=tally.add)
        assert trial.failure is None, trial.failure
        assert trial.error is None, trial.error
        if not tally.loose:
            return tally
    return tally if subjects else None


def layers_for(law: Law) -> tuple[Any, ...]:
    """A reason for looseness is held against what rounds alike everywhere, where that claims what the law needs."""
    return (ALIKE,) if law.loose and law.missing(Subject(ALIKE)) is None else REFERENCES


@pytest.mark.parametrize("law", laws().values(), ids=laws())
def test_a_bound_is_near_what_is_measured_or_the_law_says_why_not(law: Law) -> None:
    tallies = dict[str, Tally]()
    for dtype in DTYPES:
        if (tally := calibrated(law, dtype, layers_for(law))) is not None:
            tallies[dtype] = tally
            if law.loose and tally.loose and tally.bounded:
                break  # the reason holds: one dtype is enough
    assert tallies, f"{law.id}: no reference claims what it needs"
    loose = {dtype: tally.worst for dtype, tally in tallies.items() if tally.loose}
    if law.loose:
        assert any(tally.bounded for tally in tallies.values()), f"{law.id} bounds nothing: why give a reason?"
        assert loose, f"{law.id} comes near its bound in every dtype: its reason is stale"
    else:
        assert not loose, f"{law.id} stays below {loose} of its bound: sharpen it, or give law(loose=…)"


def test_a_processor_that_gives_one_column_and_two_the_same_bits_makes_no_bound_loose() -> None:
    law = laws()["batch-of-one"]
    for dtype in DTYPES:
        alike, ensemble = calibrated(law, dtype, (ALIKE,)), calibrated(law, dtype, (ALIKE, REFERENCES[3]))
        assert alike
        assert ensemble
        assert alike.worst == 0.0
        assert not ensemble.loose


def test_a_loose_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Errors.z.func
    monkeypatch.setattr(Errors, "z", property(lambda self: np.asarray(sound(self)) / LOOSE))
    tally = calibrated(laws()["mass"], "float64", REFERENCES[:1])
    assert tally
    assert tally.loose


def test_the_reason_is_shown() -> None:
    law = next(law for law in laws().values() if law.loose)
    assert str(law.loose) in explain(law)
