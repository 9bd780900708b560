"""What people use today, asked of the corpus: each baseline finds what it can find, and no more is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("jax")  # check_grads is one of the baselines

from deqverify.correct import make as sound
from deqverify.faults import make as broken
from deqverify.reporting.kills import Kills, document
from deqverify.running.killing import First, Outcome
from deqverify.running.profiles import profile
from tools import rivals
from tools.rivals_page import page


@pytest.mark.parametrize(
    ("baseline", "found", "missed"),
    [
        ("gradcheck", "missing-transpose", "gamma-twice"),
        ("gradgradcheck", "detached-weights", "row-softmax"),
        ("check_grads", "one-step-gradient", "gamma-twice"),
        ("residual 1e-3", "gamma-twice", "missing-transpose"),
        ("like jaxopt", "one-step-gradient", ""),  # what it spares, rounding decides: differences in float32
        ("like optimistix", "one-step-gradient", ""),
        ("like DEQs.jl", "gamma-twice", "one-step-gradient"),
        ("like torchopt", "one-step-gradient", ""),
    ],
)
def test_a_baseline_finds_its_own_and_spares_the_sound(baseline: str, found: str, missed: str) -> None:
    assert rivals.ask(baseline, lambda: broken(found))["verdict"] == "killed"
    if missed:
        assert rivals.ask(baseline, lambda: broken(missed))["verdict"] == "survived"
    spared = rivals.ask(baseline, lambda: sound("recorded-newton"))
    assert spared["verdict"] == "survived", spared


def test_what_cannot_be_asked_is_neither_killed_nor_spared() -> None:
    assert rivals.ask("residual 1e-3", lambda: sound("whole-model"))["verdict"] == "cannot"
    assert rivals.ask("gradcheck", lambda: sound("forward-only"))["verdict"] == "cannot"
    assert rivals.ask("gradgradcheck", lambda: sound("hook"))["verdict"] == "cannot"
    assert rivals.ask("gradcheck", lambda: sound("whole-model"))["verdict"] == "survived"
    assert rivals.ask("gradcheck", lambda: broken("decayed"))["verdict"] == "killed"


def test_the_page_counts_what_was_kept() -> None:
    def seen(verdict: str) -> dict[str, Any]:
        return {"verdict": verdict, "seconds": 0.25, "said": ""}

    asked = {
        "fault[row-softmax]": {"first": seen("killed"), "second": seen("survived")},
        "fault[gamma-twice]": {"first": seen("survived"), "second": seen("cannot")},
        "correct[qr]": {"first": seen("survived"), "second": seen("killed")},
    }
    ours = {"fault[row-softmax]": {"verdict": "survived", "seconds": 2.0, "said": "SURVIVED"}}
    text = page({"asked": asked, "ours": ours, "machine": "a machine", "date": "today"})
    assert "| parametrisation | 2 | 50 % | 0 % | 0 % of 1 |" in text
    assert "| cannot be asked |  | 0 | 1 | 0 |" in text
    assert "| false alarms | of 1 | 0 | 1 | * |" in text
    assert "| median time |  | 0.250 s | 0.250 s | 2.0 s |" in text
    assert "- `fault[row-softmax]` survived ours; killed by first." in text
    assert "1 of 2:" in text


def test_what_kills_first_is_read_from_a_report(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "KEPT", tmp_path / "kept.json")
    first = First("descent-dissipation", "float64", 7, 1.61, 2.5)
    outcomes = [
        Outcome("trapezoid", first, (), {}, 2.0, ""),
        Outcome("whole-batch", None, (), {}, 17.15, ""),
        Outcome("masked", None, (), {}, 0.0, "no disk"),
    ]
    report = tmp_path / "kills.json"
    report.write_text(
        json.dumps(document(Kills.of(outcomes, replace(profile("default"), seed=0), False))), encoding="utf-8"
    )
    rivals.ours(report)
    found = rivals.kept()["ours"]
    assert found["fault[trapezoid]"] == {"verdict": "killed", "seconds": 1.61, "said": "descent-dissipation"}
    assert found["fault[whole-batch]"]["verdict"] == "survived"
    assert "fault[masked]" not in found
