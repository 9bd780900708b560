"""What a report makes of a fault: one cause, the one that the fault names, in its words.

``python -m tools.causes`` asks it of all faults and all laws; here of a few, of the laws that matter for each.
"""

from __future__ import annotations

import pytest

from deqverify import clock, trial
from deqverify.faults import faults
from deqverify.registry import laws, premises
from deqverify.running import jobs
from deqverify.running import premises as running_premises
from tools import causes
from tools.causes import Expected, judged

BESIDE = ("existence", "batch", "answers", "adjoint-certificate", "gradient-theta", "gradient-x")
"""Laws that a defect is often taken for the violation of."""

SAMPLE = (
    "masked",
    "gamma-detached",
    "mean-over-the-batch",
    "cotangent-of-ones",
    "wrong-sign-of-the-adjoint",
    "shape-is-fixed",
    "sorted",
    "halved-value",
    "not-zeroed",
    "narrows",
    "overwrites",
)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tool does it, and what it changes is put back."""
    for module, name in (
        (clock, "time"),
        (trial, "_SURVEY_SECONDS"),
        (trial, "SHRINKING"),
        (running_premises, "EXAMPLES"),
        (running_premises, "BLOCKED"),
        (jobs, "boundary"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    causes.hurried()


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fault_is_one_cause_the_one_that_it_names(name: str) -> None:
    fault = faults()[name]
    named = [fault.cause, *fault.killers]
    beside = [law.id for id in named for law in premises(laws()[id])]
    found = causes.causes_of(fault.target, fault.cells, list(dict.fromkeys([*BESIDE, *beside, *named])))
    assert not judged(found, Expected(fault.cause, fault.said)), found


def test_what_differs_from_call_to_call_is_the_cause_of_what_is_wrong() -> None:
    target = "tests.wrapped.torch_layers:make[regularised,another probe each time]"
    found = causes.causes_of(target, only=["existence", "gradient-x", "deterministic", "settings-kept"])
    assert not judged(found, Expected("deterministic")), found


def test_two_causes_another_one_and_other_words_are_told() -> None:
    one = {"law": "mass", "said": "masks the weights", "followers": []}
    assert judged([one], Expected("mass", "masks")) == ""
    assert judged([one, one], Expected("mass")) == "2 causes, not mass"
    assert judged([], Expected("mass")) == "0 causes, not mass"
    assert judged([one], Expected("existence")) == "not existence"
    assert judged([one], Expected("mass", "along rows")) == "without the words: along rows"
