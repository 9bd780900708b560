"""The worst honest implementation: no law rejects it, whatever the claim says, and it comes near the bounds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest

from deqverify.cells import LinearCell, Monotone, cells
from deqverify.claims import Accuracy
from deqverify.describing import describe
from deqverify.implementations.loading import load
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem, SoftmaxProblem
from deqverify.reference.iterative import PicardLayer
from deqverify.reference.worst import SHARE, Direction, Passes, WorstHonest
from deqverify.registry import laws
from deqverify.theory.closed_form import ClosedForm
from deqverify.trial import Effort
from tests.cell_examples import sample

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


def example(gamma: float, m: int = 3) -> SoftmaxProblem:
    rng = np.random.default_rng(m)
    A, Phi = rng.standard_normal((m, m)), rng.standard_normal((m, 2))
    return SoftmaxProblem(A, np.ones((1, m)), Phi, np.zeros((1, 2)), gamma, Squared())


@pytest.mark.parametrize("kind", list(CLAIMS))
def test_it_keeps_its_claim_and_uses_all_of_it(kind: str) -> None:
    for tolerance, direction, gamma in product((1e-3, 1e-6), get_args(Direction), (0.5, 0.99)):
        claim = accuracy(kind, tolerance)
        problem = example(gamma)
        exact = ClosedForm(problem)
        z = Subject(WorstHonest(claim, direction)).equilibrium(problem).T
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
    """Every kind of claim and tolerance, directions and passes in turn, by half of the laws each, then by those that it
    did not come near yet; `reference[worst]` in a soak tries them all."""
    worst: dict[str, float] = defaultdict(float)
    turns = list(product(get_args(Direction), get_args(Passes)))
    far = set(laws())
    for half in (0, 1):
        for number, (kind, tolerance) in enumerate(product(CLAIMS, TOLERANCES)):
            layer = WorstHonest(accuracy(kind, tolerance), *turns[number % len(turns)])
            subject = Subject(layer, ("float64", "float32")[number % 2], only=["linear-softmax"])
            for place, law in enumerate(laws().values()):
                # Two after each other have either dtype, so that a law sees both.
                if law.id in far and (number // 2 + place) % 2 == half and law.missing(subject) is None:
                    trial = law.trial(subject, Effort(examples=6, seconds=20, seed=number))
                    assert trial.error is None, trial.error
                    assert trial.failure is None, (law.id, layer.name, subject.dtype, trial.failure)
                    worst[law.id] = max(worst[law.id], trial.worst)
        far = {id for id, ratio in worst.items() if 0.0 < ratio < 0.1 and laws()[id].loose is None} - set(FAR)
    assert not far, {id: worst[id] for id in far}


NONLINEAR = tuple(name for name, cell in cells().items() if not isinstance(cell, LinearCell))


@pytest.mark.parametrize("name", ["linear", *NONLINEAR])
def test_on_any_cell_it_keeps_its_claim_and_uses_all_of_it(name: str) -> None:
    """Of what is drawn of a cell, f evaluated in float64: its residual is the claim but for SHARE. Near a rate of 1 and
    beyond, or of 1 − μ, where a claim of 1e-6 excludes little, it may be less."""
    cell, directions = cells()[name], get_args(Direction)
    for number, (theta, x) in enumerate(sample(name, 8)):
        step, states = cell.step(theta, x), (len(x), *cell.state(theta, x.shape[1:]))
        certificate = cell.certificate(theta)
        rate = 1.0 - certificate.mu if isinstance(certificate, Monotone) else certificate.rate if certificate else 1.0
        near_one = rate > 0.99
        for kind in ("relative", "maximum norm", "RMS over the batch, with atol", "value"):
            claim = accuracy(kind, 1e-6)
            exact, _ = WorstHonest(Accuracy()).vjp(cell, theta, x)
            found, pull = WorstHonest(claim, directions[number % len(directions)]).vjp(cell, theta, x)
            assert found.status is exact.status is Status.CONVERGED
            image, c = step(found.z), np.ones(states)
            wrong = found.z - exact.z if claim.of == "value" else image - found.z
            adjoint = pull(c)
            shares = [claim.norms_of(wrong) / np.maximum(claim.allows(claim.norms_of(image)), 2.0**-1022)]
            if cell.additive:
                back = c + cell.pull(theta, x, found.z, adjoint.x).z
                shares.append(claim.norms_of(back - adjoint.x) / claim.allows(claim.norms_of(back)))
            for share in shares:
                # Rounding of f, a few dozen units of states of size one, beside 1e-6 of a state or an absolute 1e-6.
                assert share.max() <= 1.0 + 1e-6
                assert share.max() >= SHARE - 1e-3 or near_one or not found.z.any()


def test_no_law_rejects_it_on_other_cells() -> None:
    """Every kind of claim on three cells each, by the laws on what an answer is."""
    chosen = (
        "existence", "enclosure", "restart", "batch", "gradient-theta", "gradient-x", "energy", "objective",
        "adjoint-certificate", "cotangent-linearity", "status-forward", "status-backward", "batch-of-one",
    )  # fmt: skip
    turns = list(product(get_args(Direction), get_args(Passes)))
    for number, kind in enumerate(CLAIMS):
        layer = WorstHonest(accuracy(kind, TOLERANCES[number % 3]), *turns[number % len(turns)])
        only = [NONLINEAR[(3 * number + k) % len(NONLINEAR)] for k in range(3)]
        subject = Subject(layer, ("float64", "float32")[number % 2], only=only)
        for law in map(laws().__getitem__, chosen):
            trial = law.trial(subject, Effort(examples=4, seconds=20, seed=number))
            assert trial.error is None, trial.error
            assert trial.failure is None, (law.id, layer.name, subject.dtype, describe(trial.failure))


@pytest.mark.parametrize("id", ["overparameterised-descent", "scaled-descent"])
def test_training_that_is_promised_to_converge_does_with_the_worst_gradients(id: str) -> None:
    law = laws()[id]
    for number, kind in enumerate(("relative", "maximum norm", "with atol")):
        layer = WorstHonest(accuracy(kind, TOLERANCES[number]), get_args(Direction)[number])
        subject = Subject(layer, ("float64", "float32")[number % 2], only=[law.about])
        trial = law.trial(subject, Effort(examples=4 * law.cost, seconds=20, seed=number))
        assert (trial.error, trial.failure) == (None, None)


def test_an_error_that_is_claimed_may_have_a_residual_that_certifies_less() -> None:
    """``|M||ρ|`` with ``ρ = (A − I)e`` is more than |e|: here M has entries of both signs."""
    A = np.array([[0.0, 0.9], [-0.9, 0.0]])
    problem = CellProblem(
        "linear", {"A": A, "U": np.eye(2)}, np.ones((1, 2)), np.ones((1, 2)), np.zeros((1, 1)), Squared()
    )
    layer = WorstHonest(Accuracy(1e-6, norm="max", of="value"))
    z, exact = Subject(layer).equilibrium(problem), np.linalg.solve(np.eye(2) - A, np.ones(2))
    certificate = np.abs(np.linalg.inv(np.eye(2) - A)) @ np.abs(A @ z[0] + 1.0 - z[0])
    assert certificate.max() > 1.05 * np.abs(z[0] - exact).max()  # 1.99/1.81, worked out on paper
    for law in ("existence", "enclosure"):
        laws()[law].replay(layer, problem=problem)
    laws()["adjoint-certificate"].replay(layer, problem=problem, cotangent=np.ones((1, 2)))


def test_a_correct_picard_iteration_near_its_claim_is_no_alarm() -> None:
    """The claim is one in the 2-norm of the adjoint; its size in the maximum norm is smaller."""
    layer = PicardLayer("numpy", tolerance=1e-10)
    problem = replace(example(0.9, 2), A=np.array([[0.0, 20.0], [20.0, 0.0]]), Phi=np.ones((2, 1)), Y=np.zeros((1, 1)))
    laws()["adjoint-certificate"].replay(layer, problem=problem, cotangent=np.array([[0.0, -1.0]]))
    bounds = ClosedForm(problem, np.array([[0.0], [-1.0]]))
    assert np.linalg.norm(bounds.adjoint) > 1.3 * np.abs(bounds.adjoint).max()


def test_a_relative_claim_is_one_on_the_answer_that_is_given() -> None:
    """Near γ = 1 that is larger than the equilibrium by rtol/(1−γ): here by one percent."""
    problem = SoftmaxProblem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 0.9999, Squared())
    layer = WorstHonest(Accuracy(1e-6))
    for law in ("existence", "enclosure", "mass", "status-forward"):
        laws()[law].replay(layer, problem=problem)
    error = abs(Subject(layer).equilibrium(problem)[0, 0] - 1e4)
    assert error > 100.0 * SHARE * 1.005  # more than 1e-6 · z* allows, 100


def test_a_claim_that_excludes_nothing_makes_no_bound() -> None:
    problem = SoftmaxProblem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 1 - 1e-6, Squared())
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
