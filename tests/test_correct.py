"""Correct implementations written differently: a registry like that of the faults, and no law rejects one.

Here each meets nine laws on one problem; ``python -m tools.quiet correct N`` tries all laws for as long as told.
"""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.bounds import Arithmetic
from deqverify.cells import cells
from deqverify.correct import GROUPS, correct, implementations, make
from deqverify.correct.direct import GTH
from deqverify.faults import make as make_fault
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem, SoftmaxProblem
from deqverify.registry import laws
from deqverify.trial import replay
from tests.cell_examples import sample
from tools import quiet

RNG = np.random.default_rng(0)
SOFTMAX = SoftmaxProblem(
    RNG.standard_normal((3, 3)), np.ones((1, 3)), RNG.standard_normal((3, 2)), np.zeros((1, 2)), 0.75, Squared()
)


def attention() -> CellProblem:
    """For those who are judged on no cell that contracts."""
    theta, x = sample("attention", 5, largest_n=1)[-1]
    entries = math.prod(cells()["attention"].state(theta, x.shape[1:]))
    return CellProblem(cells()["attention"], dict(theta), x, np.ones((1, entries)), np.zeros((1, 1)), Squared())


@pytest.mark.parametrize("name", ["hook", "hook-on-any-cell"])
def test_a_hook_takes_none_for_a_zero_gradient_as_gradcheck_gives_it(name: str) -> None:
    """By a linear step from zero every iterate is linear in w, so that gradcheck's difference quotients, too, have the
    relative error of the claim, 1e-5; it allows 1e-3."""
    layer = make(name)

    def solved(w: torch.Tensor) -> torch.Tensor:
        solution = layer.fixed_point(lambda z: 0.25 * z + w, torch.zeros_like(w))
        return solution.z

    w = torch.tensor([[1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(solved, (w,), check_undefined_grad=True)


FEW = ("existence", "gradient-x")
"""For those who compile each shape: a second each."""


def rejecting(deq: Any, ids: tuple[str, ...] = ()) -> list[str]:
    """The laws, some or all, that it violates on one problem of a few states and data points."""
    subject = Subject(deq)
    problem = SOFTMAX if "linear-softmax" in subject.cells else attention()

    def spread(shape: tuple[int, ...]) -> Any:
        return np.linspace(-1.0, 2.0, math.prod(shape)).reshape(shape)

    cotangent = spread(problem.states)
    direction = {name: spread(np.shape(problem.block(name))) for name in (*problem.theta, "x")}
    asked: dict[str, dict[str, Any]] = {
        "existence": {},
        "enclosure": {},
        "status-forward": {},
        "status-backward": {"cotangent": cotangent},
        "adjoint-certificate": {"cotangent": cotangent},
        "gradient-theta": {"direction": {name: direction[name] for name in problem.theta}},
        "gradient-x": {"direction": direction["x"]},
        "batch": {"points": [*range(problem.n), 0]},
        "objective": {},
    }
    found, judged = [], 0
    for id, arguments in asked.items():
        law = laws()[id]
        if (not ids or id in ids) and law.missing(subject) is None:
            judged += 1
            trial = replay(law.body, subject, {"problem": problem, **arguments})
            found += [id] if trial.failure else []
            assert not trial.crashed, id
    assert judged
    return found


@pytest.mark.parametrize("name", list(implementations()))
def test_no_law_rejects_it(name: str) -> None:
    deq = make(name)
    slow = deq.claims.compiles or name == "jax-eager"
    assert rejecting(deq, FEW if slow else ()) == []


def test_the_same_laws_on_the_same_problem_reject_what_is_broken() -> None:
    assert "existence" in rejecting(make_fault("gamma-twice"))
    assert {"gradient-theta", "gradient-x", "status-backward"} <= {*rejecting(make_fault("one-step-gradient"))}
    assert "objective" in rejecting(make_fault("mean-for-sum"))


def test_there_are_enough_and_each_says_what_is_different_about_it() -> None:
    known = implementations()
    assert len(known) >= 24
    assert {each.group for each in known.values()} == {g for g in GROUPS if g != "in_jax" or find_spec("jax")}
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
    if not np.isfinite(answer.z).all():
        assert answer.status.admits_failure
        return
    residual = np.linalg.norm(problem.cell.step(problem.theta, problem.x)(answer.z) - answer.z)
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


def test_who_iterates_to_rounding_is_forgiven_what_the_squares_in_its_norm_cannot_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of linear equations too, in both passes: without that its answers to tiny questions are violations."""
    deq, K = Subject(load("correct[to-rounding]"), "float64"), np.array([[0.5, 0.1], [0.0, 0.4]])
    x, tiny = np.array([[1.0, 2.0]]), 1e-170
    linear = CellProblem("linear", {"A": K, "U": np.eye(2)}, x, np.eye(2), np.zeros((2, 1)), Squared())
    softmax = SoftmaxProblem(K, np.eye(2), x.T, np.zeros((2, 1)), 0.5, Squared())

    def holds() -> set[bool]:
        small = [problem.with_blocks(x=tiny * problem.x) for problem in (linear, softmax)]
        forward = [all(seen.holds for seen in laws()["existence"].body(deq, problem=problem)) for problem in small]
        pulled = laws()["adjoint-certificate"].body
        back = [all(seen.holds for seen in pulled(deq, problem=p, cotangent=tiny * x)) for p in (linear, softmax)]
        return {*forward, *back}

    assert holds() == {True}
    monkeypatch.setattr(Arithmetic, "unseen", 0.0)
    assert holds() == {False}
