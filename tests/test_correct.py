"""Correct implementations written differently: a registry like that of the faults, and no law rejects one.

Here each meets four laws on a few problems; ``python -m tools.quiet correct N`` tries all laws for as long as told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqverify.correct import GROUPS, correct, implementations, make
from deqverify.correct.direct import GTH
from deqverify.faults import make as make_fault
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.registry import laws
from deqverify.trial import Effort
from tools import quiet

LAWS = ("existence", "gradient-theta", "batch", "status-backward")


def rejecting(deq: Any, examples: int) -> list[str]:
    """The laws that so many problems of one cell violate: of :data:`LAWS`, or of a whole model its objective."""
    cells = deq.claims.cells or ("linear-softmax",)
    only = "linear-softmax" if "linear-softmax" in cells else cells[0]
    subject, found, asked = Subject(deq, only=[only]), [], 0
    for law in map(laws().__getitem__, LAWS if hasattr(deq, "vjp") else ("objective",)):
        if law.missing(subject) is None:
            asked += 1
            effort = Effort(examples, seconds=300.0, example_seconds=300.0, seed=0, brief=True, expected=True)
            trial = law.trial(subject, effort)
            assert trial.error is None, trial.error
            found += [law.id] if trial.failure else []
    assert asked
    return found


@pytest.mark.parametrize("name", list(implementations()))
def test_no_law_rejects_it(name: str) -> None:
    deq = make(name)
    assert rejecting(deq, 1 if deq.claims.compiles or name == "jax-eager" else 2) == []  # a shape costs it a second


def test_the_same_laws_on_as_few_problems_reject_what_is_broken() -> None:
    assert "existence" in rejecting(make_fault("gamma-twice"), 1)
    assert "gradient-theta" in rejecting(make_fault("one-step-gradient"), 1)
    assert rejecting(make_fault("mean-for-sum"), 5)


def test_there_are_enough_and_each_says_what_is_different_about_it() -> None:
    known = implementations()
    assert len(known) >= 24
    assert {each.group for each in known.values()} == set(GROUPS)
    for each in known.values():
        assert each.target == f"correct[{each.name}]"
        assert len(each.differs) > 20


def test_one_is_a_target() -> None:
    deq = load("correct[qr]")
    assert (deq.name, type(deq).__name__) == ("correct[qr]", "QR")
    for wrong, fix in (("correct[qrr]", r"correct\[qr\]"), ("correct", "none is given")):
        with pytest.raises(TargetError, match=fix):
            load(wrong)
    with pytest.raises(ValueError, match=r"^name: there is a correct implementation 'qr'"):
        correct("qr")(GTH)
    with pytest.raises(ValueError, match="give it a docstring"):
        correct("silent")(lambda: None)


def test_elimination_without_subtraction_keeps_the_mass_near_one() -> None:
    """The sum of z is that of φ over 1 − γ (theory: mass): 1 − γ = 2⁻⁵⁰ is two bits of what I − γS rounds to."""
    gamma, m = 1.0 - 2.0**-50, 4
    A = np.random.default_rng(0).standard_normal((m, m))
    problem = SoftmaxProblem(A, np.ones((1, m)), np.ones((m, 1)), np.zeros((1, 1)), gamma, Squared())
    exact = m * 2.0**50
    # m entries of one sign, each by some m² sums, products and quotients of numbers of one sign.
    assert abs(Subject(make("gth")).equilibrium(problem).sum() - exact) <= 4 * m**2 * 2.0**-53 * exact


@pytest.mark.parametrize("name", ["anderson", "broyden", "newton-krylov", "gmres", "float32-refined", "often-capped"])
def test_what_does_not_arrive_says_so(name: str) -> None:
    problem = SoftmaxProblem(
        np.array([[0.0, 20.0], [20.0, 0.0]]),
        np.ones((1, 2)),
        np.ones((2, 1)),
        np.zeros((1, 1)),
        1.0 - 2.0**-30,
        Squared(),
    )
    deq = make(name)
    answer = Subject(deq).solve(problem, layer=deq.limited(1))
    residual = np.linalg.norm(answer.problem.cell.step(problem.theta, problem.x)(answer.z) - answer.z)
    kept = residual <= deq.claims.forward.rtol * np.linalg.norm(answer.z) * 1.01  # ‖f‖ is ‖z‖ but for the residual
    assert kept or answer.status is not Status.CONVERGED


def test_the_campaign_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(quiet, "laws", lambda: {id: laws()[id] for id in ("mass", "existence")})
    monkeypatch.setattr(quiet, "correct_ones", lambda: {name: implementations()[name] for name in ("qr", "svd")})
    assert quiet.correct(1, 0, 1.0) == 0
    first = json.loads((tmp_path / "kept.json").read_text())["tried"]
    assert len(first) == 1
    assert quiet.correct(1 + sum(seen[0] for seen in first.values()), 0, 1.0) == 0
    second = json.loads((tmp_path / "kept.json").read_text())["tried"]
    assert len(second) == 2
    assert first.items() <= second.items()


def test_the_campaign_says_what_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quiet, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(quiet, "laws", lambda: {"mass": laws()["mass"]})
    broken = type(implementations()["qr"])("broken", "Wrong.", "direct", lambda: make_fault("gamma-twice"))
    monkeypatch.setattr(quiet, "correct_ones", lambda: {"broken": broken})
    assert quiet.correct(1, 0, 1.0) == 1
    assert "ALARM mass × correct[broken]" in capsys.readouterr().out
