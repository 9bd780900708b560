"""What stands elsewhere and is correct: the controls that faults are made from, and the worst honest implementation in
every kind of claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deqverify.claims import Accuracy
from deqverify.correct.registry import correct
from deqverify.faults.accelerated import SoundAnderson
from deqverify.faults.sound import (
    Sound,
    SoundModel,
    SoundNewton,
    SoundPicard,
    SoundSweeps,
    Traced,
    TracedSweeps,
    TwiceNewton,
)
from deqverify.reference.worst import Direction, Passes, WorstHonest

for _name, _control in {
    "lu": Sound,
    "hook": SoundPicard,
    "hook-on-any-cell": SoundSweeps,
    "torch-anderson": SoundAnderson,
    "traced": Traced,
    "traced-on-any-cell": TracedSweeps,
    "dense-newton": SoundNewton,
    "recorded-newton": TwiceNewton,
    "whole-model": SoundModel,
}.items():
    correct(_name)(_control)


WORST: dict[str, tuple[Accuracy, Direction, Passes]] = {
    "relative": (Accuracy(1e-6), "signs", "both"),
    "absolute": (Accuracy(atol=1e-6), "constant", "both"),
    "atol-and-rtol": (Accuracy(1e-3, atol=1e-3), "entry", "forward"),
    "eps": (Accuracy(1e-6, eps=1e-3), "random", "backward"),
    "rms-batch": (Accuracy(1e-3, atol=1e-6, per="batch", norm="rms"), "signs", "both"),
    "maximum-norm": (Accuracy(1e-6, norm="max"), "entry", "both"),
    "one-norm": (Accuracy(1e-3, norm="1"), "signs", "backward"),
    "over-the-batch": (Accuracy(1e-6, per="batch"), "signs", "forward"),
    "value": (Accuracy(1e-6, of="value"), "random", "both"),
    "absolute-maximum-batch": (Accuracy(atol=1e-3, norm="max", per="batch"), "constant", "both"),
}
"""One of each kind of claim; directions and passes in turn."""


def _worst(claim: Accuracy, direction: Direction, passes: Passes) -> Callable[[], Any]:
    def made() -> WorstHonest:
        return WorstHonest(claim, direction, passes)

    made.__doc__ = (
        f"The worst honest implementation of the claim {claim}: it errs by all that is claimed ({direction})."
    )
    made.__module__ = __name__
    return made


for _name, _chosen in WORST.items():
    correct(f"worst-{_name}")(_worst(*_chosen))
