"""Sketches: what a sound target shows lies where theory says, and what goes wrong there is a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.faults.backward import OneStepGradient
from deqverify.faults.sound import Sound
from deqverify.running import sketches as module
from deqverify.running.sketches import MEASURED, Sketch, newton_path, sketches_of
from tests.targets import Hanging, Raising


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen is asked here, not how soon on a loaded machine."""
    monkeypatch.setattr(module, "SECONDS", 120.0)
    monkeypatch.setattr(module, "WARMING", 120.0)


def of(deq: Any) -> dict[str, Sketch]:
    return {sketch.about: sketch for sketch in sketches_of("mine", "float64", "cpu", deq)}


def measured(sketch: Sketch) -> Any:
    (curve,) = (curve for curve in sketch.curves if curve.role == MEASURED)
    return np.array(curve.points)


def apart(sketch: Sketch) -> float:
    """The largest distance of W from Newton's path at the same time."""
    newton, seen = sketch.curves
    there = [np.interp(seen.times, newton.times, np.array(newton.points)[:, k]) for k in (0, 1)]
    return float(np.abs(np.array(seen.points).T - there).max())


def test_a_sound_target_stays_within_what_is_allowed_and_on_newtons_path() -> None:
    found = of(Sound())
    assert not any(sketch.note for sketch in found.values())
    for about in ("conditioning", "adjoint"):
        seen, allowed = (np.array(curve.points) for curve in found[about].curves)
        assert len(seen) == len(module.NEAR_ONE)
        assert (seen[:, 1] <= allowed[:, 1]).all()
    loss, envelope = (np.array(curve.points) for curve in found["decay"].curves)
    assert loss[-1, 1] == module.FALL
    assert (loss[:, 1] <= envelope[:, 1] * (1 + 10 * module._TOLERANCE)).all(), "theory: rate"
    # Two integrations with this tolerance a step, over fewer than ten steps, of states of size 5.
    assert apart(found["path"]) < 10 * 5 * module._TOLERANCE
    assert np.abs(np.array(newton_path().points[-1]) - found["path"].minimum).max() < 1.0, "it goes to the optimum"


def test_a_gradient_of_one_step_leaves_newtons_path() -> None:
    found = of(OneStepGradient())
    assert apart(found["path"]) > 0.1
    assert measured(found["adjoint"])[:, 1].min() > 0.1


def test_a_trace_lies_beside_the_rate_of_plain_iteration() -> None:
    found = {sketch.about: sketch for sketch in sketches_of("torchdeq[ift]", "float64", "cpu")}
    for gamma, seen, promised in zip(
        module.RATES, found["trace"].curves[::2], found["trace"].curves[1::2], strict=True
    ):
        assert seen.name == f"γ = {gamma:g}"
        # γᵏ in the 1-norm, residuals in the 2-norm: √m = 2 lies between (theory: picard).
        assert all(y <= 2 * (1 + 1e-6) * p for (_, y), (_, p) in zip(seen.points, promised.points, strict=True))
    assert "reports that it stopped before it converged" in found["conditioning"].note
    assert len(measured(found["conditioning"])) >= 1


def test_what_is_not_claimed_is_not_drawn_and_what_cannot_be_loaded_is_nothing() -> None:
    assert list(of(Sound())) == ["conditioning", "adjoint", "decay", "path"]
    assert sketches_of("scipy", "float64", "cpu")[0].about == "conditioning"
    assert len(sketches_of("scipy", "float64", "cpu")) == 1, "it has no gradient"
    assert sketches_of("not-there", None, "cpu") == []


def test_a_crash_and_a_hang_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of(Raising())
    assert {sketch.note for sketch in found.values()} == {"vjp raised ArithmeticError: no such equilibrium"}
    monkeypatch.setattr(module, "SECONDS", 0.3)
    monkeypatch.setattr(module, "WARMING", 0.3)
    assert {sketch.note for sketch in of(Hanging()).values()} == {"ends after 0.3 s"}


def test_a_target_that_dies_takes_its_worker_alone() -> None:
    from deqverify.running.workers import Workers

    with Workers(60.0, 1) as workers:
        (gone,) = workers.sketches([("tests.targets:Dying", "float64", "cpu")])
    assert gone.note == "no pictures: the process died: SIGSEGV"
