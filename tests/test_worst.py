"""The worst honest implementation: no law rejects it, whatever the claim says, and it comes near the bounds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest

from deqverify.claims import Accuracy
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.law import laws
from deqverify.losses import Squared
from deqverify.problem import Problem
from deqverify.reference.iterative import PicardLayer
from deqverify.reference.worst import SHARE, Direction, Passes, WorstHonest
from deqverify.theory.closed_form import ClosedForm
from deqverify.trial import Effort

CLAIMS: dict[str, dict[str, Any]] = {
    "relative": {},
    "with eps": {"eps": 1e-3},
    "maximum norm": {"norm": "max"},
    "1-norm": {"norm": "1"},
    "over the batch": {"per": "batch"},
    "RMS over the batch, with atol": {"atol": 1.0, "norm": "rms", "per": "batch"},
    "with atol": {"atol": 1.0},
    "absolute": {"rtol": 0.0, "atol": 1.0},
    "value": {"of": "value"},
    "absolute value": {"rtol": 0.0, "atol": 1.0, "of": "value"},
}
TOLERANCES = (1e-3, 1e-6, 1e-10)


def accuracy(kind: str, tolerance: float) -> Accuracy:
    chosen = {"rtol": tolerance} | CLAIMS[kind]
    return Accuracy(**{k: v * tolerance if k == "atol" else v for k, v in chosen.items()})


def example(gamma: float, m: int = 3) -> Problem:
    rng = np.random.default_rng(m)
    A, Phi = rng.standard_normal((m, m)), rng.standard_normal((m, 2))
    return Problem(A, np.ones((1, m)), Phi, np.zeros((1, 2)), gamma, Squared())


@pytest.mark.parametrize("kind", list(CLAIMS))
def test_it_keeps_its_claim_and_uses_all_of_it(kind: str) -> None:
    for tolerance, direction, gamma in product((1e-3, 1e-6), get_args(Direction), (0.5, 0.99)):
        claim = accuracy(kind, tolerance)
        problem = example(gamma)
        exact = ClosedForm(problem)
        z = Subject(WorstHonest(claim, direction)).equilibrium(problem)
        image = problem.gamma * exact.S @ z + problem.Phi
        wrong = z - exact.Z if claim.of == "value" else image - z
        share = claim.norms(wrong) / claim.allows(claim.norms(image))
        assert share.max() <= 1.0
        # The problem is solved in float64: what is left of the share is rounding, amplified at most a hundred times.
        assert share.max() >= SHARE - 1e-4, (tolerance, direction, gamma)


_ALIKE = "it errs alike in the two calls that are compared"
FAR = {
    "gauge": "only rounding keeps the sums from zero, however wrong the adjoint is",
    "column-sums": "only rounding keeps the sums from zero, however wrong the adjoint is",
    "batch-of-one": _ALIKE,
    "memory-layout": _ALIKE,
    "global-optimum": "an inequality, and training stops where the gradient is small, not where its error is large",
}
"""Laws to whose bounds a wrong answer of any claimed size need not come near, with the reason."""


def test_no_law_rejects_it_and_it_comes_near_the_bounds() -> None:
    """Every kind of claim and tolerance, directions and passes in turn; `reference[worst]` in a soak tries them all."""
    worst: dict[str, float] = defaultdict(float)
    turns = list(product(get_args(Direction), get_args(Passes)))
    for number, (kind, tolerance) in enumerate(product(CLAIMS, TOLERANCES)):
        direction, passes = turns[number % len(turns)]
        layer = WorstHonest(accuracy(kind, tolerance), direction, passes)
        subject = Subject(layer, ("float64", "float32")[number % 2])
        for law in laws().values():
            if law.missing(subject) is None:
                trial = law.trial(subject, Effort(examples=6, seconds=20, seed=number))
                assert trial.error is None, trial.error
                assert trial.failure is None, (law.id, layer.name, subject.dtype, trial.failure)
                worst[law.id] = max(worst[law.id], trial.worst)
    far = {id for id, ratio in worst.items() if 0.0 < ratio < 0.1 and laws()[id].loose is None}
    assert far <= set(FAR), {id: worst[id] for id in far}


def test_a_correct_picard_iteration_near_its_claim_is_no_alarm() -> None:
    """The claim is one in the 2-norm of the adjoint; its size in the maximum norm is smaller."""
    layer = PicardLayer("numpy", tolerance=1e-10)
    problem = replace(example(0.9, 2), A=np.array([[0.0, 20.0], [20.0, 0.0]]), Phi=np.ones((2, 1)), Y=np.zeros((1, 1)))
    laws()["adjoint-certificate"].replay(layer, problem=problem, cotangent=np.array([[0.0], [-1.0]]))
    bounds = ClosedForm(problem, np.array([[0.0], [-1.0]]))
    assert np.linalg.norm(bounds.adjoint) > 1.3 * np.abs(bounds.adjoint).max()


def test_a_relative_claim_is_one_on_the_answer_that_is_given() -> None:
    """Near γ = 1 that is larger than the equilibrium by rtol/(1−γ): here by one percent."""
    problem = Problem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 0.9999, Squared())
    layer = WorstHonest(Accuracy(1e-6))
    for law in ("existence", "enclosure", "mass", "status-forward"):
        laws()[law].replay(layer, problem=problem)
    error = abs(Subject(layer).equilibrium(problem)[0, 0] - 1e4)
    assert error > 100.0 * SHARE * 1.005  # more than 1e-6 · z* allows, 100


def test_a_claim_that_excludes_nothing_makes_no_bound() -> None:
    problem = Problem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 1 - 1e-6, Squared())
    for law in ("existence", "enclosure"):
        laws()[law].replay(WorstHonest(Accuracy(1e-3)), problem=problem)


def test_it_is_a_target() -> None:
    target = "reference[worst,signs,backward,rtol=1e-3,atol=1e-6,norm=rms,per=batch]"
    layer = load(target)
    assert layer.accuracy == Accuracy(1e-3, 1e-6, norm="rms", per="batch")
    assert (layer.direction, layer.passes, layer.name) == ("signs", "backward", target)
    assert load("reference[worst]").accuracy == Accuracy(1e-6)
    with pytest.raises(ValueError, match="reference\\[worst\\] has no option 'left'; use some of constant, entry"):
        load("reference[worst,left]")
