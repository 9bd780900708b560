"""The iterative reference: its certificates against the oracle, its rates, its hand-over, its statuses and options."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from deqverify.cells import Contraction, LinearSoftmaxCell
from deqverify.claims import Accuracy
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.oracle import Oracle
from deqverify.problem import SoftmaxProblem
from deqverify.reference import reference
from deqverify.reference.iterative import HAND_OVER, MassCorrectedLayer, PicardLayer, iterate
from deqverify.reference.numpy_direct import NumpyDirect
from deqverify.reference.sweeps import MassCorrected, Picard, zero_mass_rate
from deqverify.theory.closed_form import ClosedForm, dobrushin
from tests.examples import NEAR_ONE, gaussian, refined

UNIT = 2.0**-53
TARGETS = [("picard",), ("mass",), ("numpy", "picard"), ("numpy", "mass")]


def sweeps(problem: SoftmaxProblem) -> tuple[Picard, MassCorrected, float]:
    """Both methods on the problem, and Dobrushin's own τ."""
    S = ClosedForm(problem).S
    K, gamma = problem.gamma * S, problem.gamma
    return Picard(K, gamma), MassCorrected(K, gamma, zero_mass_rate(K, gamma)), dobrushin(S)


@pytest.mark.parametrize("m", [64, 128, 256])
def test_near_one_a_dozen_products_suffice_and_are_certified(m: int) -> None:
    problem = gaussian(m, 4, NEAR_ONE, seed=m)
    solved = Subject(MassCorrectedLayer(NumpyDirect(), tolerance=1e-12)).solve(problem)
    assert solved.status is Status.CONVERGED
    assert solved.solution.iterations is not None
    assert 8 <= solved.solution.iterations <= 20

    truth = refined(problem)
    _, method, _ = sweeps(problem)
    sweep = method.forward(problem.Phi.T)
    size = np.abs(truth).sum(axis=0)
    error = np.abs(solved.z.T - truth).sum(axis=0)
    r = np.abs(Oracle(problem).residual(solved.z.T)).sum(axis=0)
    own = 4 * UNIT * size  # of the refined solution, stored in float64
    assert np.all(error <= r / (1 - sweep.rate) + sweep.doubt + own)
    # The tolerance is met in the 1-norm, but for what the a-priori rounding of the mass may add.
    assert np.all(error <= 1e-12 * size + sweep.doubt)
    # Item 3 would not have certified it: its bound at this residual is a thousand times the error.
    assert np.all(r / (1 - problem.gamma) > 1000 * error)


def test_the_adjoint_near_one_is_certified_too() -> None:
    problem = gaussian(64, 3, NEAR_ONE)
    answer = Subject(reference("numpy", "mass")).solve(problem)
    found, status = Subject(reference("numpy", "mass")).pull_status(answer, problem.x)
    rho = np.abs(Oracle(problem).adjoint_residual(found["x"].T, problem.Phi)).max(axis=0)
    exact = ClosedForm(problem, problem.Phi)
    correction = exact.solve_transposed(Oracle(problem).adjoint_residual(exact.adjoint, problem.Phi))
    error = np.abs(found["x"].T - exact.adjoint - correction).max(axis=0)
    assert status is Status.CONVERGED
    assert np.all(error <= rho / (1 - problem.gamma))
    # λ is stored in float64: its own last bit leaves a residual of 2u, which the certificate amplifies.
    assert np.all(error <= 1e-10 * np.abs(exact.adjoint).max(axis=0))


@pytest.mark.parametrize("gamma", [0.5, 0.95, NEAR_ONE])
def test_the_trace_falls_by_the_contraction_at_every_step(gamma: float) -> None:
    problem = gaussian(24, 5, gamma, seed=1)
    picard, mass, tau = sweeps(problem)
    x = problem.Phi.T
    for sweep, rate in [
        (picard.forward(x), gamma),
        (picard.adjoint(x), gamma),
        (mass.forward(x), gamma * tau),
        (mass.adjoint(x), gamma * tau),
    ]:
        trace = iterate(sweep, x, 1e-10, 60).trace
        assert trace is not None
        assert len(trace) > 3
        # Each entry is off by the rounding of f, at the size of states: ‖x‖/(1−γ) at the most.
        rounding = 2 * UNIT * (problem.m + 8) * float(np.max(sweep.norm(x))) * (1 + 1 / (1 - gamma))
        assert all(after <= rate * before + rounding for before, after in pairwise(trace))


def test_the_rate_is_an_upper_bound_on_dobrushins() -> None:
    for seed in range(40):
        m = 1 + seed % 12
        S = ClosedForm(gaussian(m, 1, 0.5, seed=seed)).S
        rate = zero_mass_rate(0.75 * S, 0.75)
        assert rate >= 0.75 * dobrushin(S) - (m + 4) * UNIT  # S and its sums are rounded
        if m <= 2:
            assert rate == pytest.approx(0.75 * dobrushin(S), abs=(m + 4) * UNIT)  # sharp for two states
    assert zero_mass_rate(0.75 * S.T, 0.75) == np.inf  # a row softmax has no mass to correct


@pytest.mark.parametrize("what", ["identity", "permutation", "blocks"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_where_nothing_is_gained_it_solves_directly(framework: str, what: str) -> None:
    m = 8
    pattern = {
        "identity": np.eye(m),
        "permutation": np.roll(np.eye(m), 1, axis=0),
        "blocks": np.kron(np.eye(2), np.ones((m // 2, m // 2))),
    }[what]
    problem = gaussian(m, 3, 0.999, shift=20.0 * pattern)
    layer = reference(framework, "mass")
    rate = zero_mass_rate(0.999 * ClosedForm(problem).S, 0.999)
    assert rate**HAND_OVER > layer.tolerance
    subject = Subject(layer)
    solved = subject.solve(problem)
    found, status = subject.pull_status(solved, problem.x)
    direct = Subject(reference(framework)).solve(problem)
    assert (solved.solution.iterations, solved.status, status) == (0, Status.CONVERGED, Status.CONVERGED)
    assert np.array_equal(solved.z, direct.z)
    assert solved.solution.residual is not None
    assert np.isfinite(found["A"]).all()


@pytest.mark.parametrize("options", TARGETS)
def test_one_state_and_no_data(options: tuple[str, ...]) -> None:
    subject = Subject(reference(*options))
    for problem in (gaussian(1, 3, 0.9), gaussian(4, 0, 0.9), gaussian(1, 0, 0.9)):
        solved = subject.solve(problem)
        found, status = subject.pull_status(solved, problem.x)
        assert (solved.status, status) == (Status.CONVERGED, Status.CONVERGED)
        assert solved.z.shape == found["x"].shape == problem.x.shape
        assert np.all(found["A"] == 0.0) or problem.m > 1
        exact = ClosedForm(problem).Z
        # The claim in the 1-norm, and rounding amplified by 1/(1−γ) = 10.
        allowed = (1e-10 + 10 * (problem.m + 8) * UNIT) * np.abs(exact).sum(axis=0) * problem.m**0.5
        assert np.all(np.abs(solved.z.T - exact).sum(axis=0) <= allowed)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_picard_is_capped_near_one_and_says_so(framework: str) -> None:
    subject = Subject(reference(framework, "picard"))
    problem = gaussian(4, 2, NEAR_ONE)
    solved = subject.solve(problem)
    _, status = subject.pull_status(solved, problem.x)
    assert (solved.status, status) == (Status.CAPPED, Status.CAPPED)
    assert solved.solution.iterations == 1000


@pytest.mark.parametrize("options", TARGETS)
def test_a_lowered_cap_stops_both_passes_and_keeps_the_layer(options: tuple[str, ...]) -> None:
    layer = reference(*options)
    subject, problem = Subject(layer), gaussian(4, 2, 0.9)
    solved = subject.solve(problem, layer=subject.limited(2))
    _, status = subject.pull_status(solved, problem.x)
    assert (solved.status, status, solved.solution.iterations) == (Status.CAPPED, Status.CAPPED, 2)
    assert subject.solve(problem).status is Status.CONVERGED
    with pytest.raises(ValueError, match="max_iterations"):
        subject.implementation.limited(0).vjp(LinearSoftmaxCell(), subject.parameters(problem), solved.solution.z)


@pytest.mark.parametrize("options", TARGETS)
def test_nan_is_diverged_and_leaves_its_neighbours_alone(options: tuple[str, ...]) -> None:
    subject, problem = Subject(reference(*options)), gaussian(4, 3, 0.9)
    poisoned = problem.x.copy()
    poisoned[1, 0] = np.nan
    clean = subject.solve(problem)
    for start in (None, clean.z):
        solved, unpoisoned = subject.solve(problem, start, x=poisoned), subject.solve(problem, start)
        assert solved.status is Status.DIVERGED
        assert np.isnan(solved.z[1]).all()
        assert np.array_equal(solved.z[[0, 2]], unpoisoned.z[[0, 2]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for the overflow that is asked for
@pytest.mark.parametrize("options", TARGETS)
def test_overflow_is_never_converged_and_large_data_are_solved(options: tuple[str, ...]) -> None:
    subject, problem = Subject(reference(*options)), gaussian(4, 2, 0.9)
    large, beyond = (problem.with_features(problem.Phi * scale) for scale in (1e200, 1e308))
    solved = subject.solve(large)
    r = np.abs(Oracle(large).residual(solved.z.T)).sum(axis=0)
    assert solved.status is Status.CONVERGED
    assert np.all(r <= (1e-10 + 12 * UNIT) * np.abs(solved.z).sum(axis=1))  # the claim, and m + 8 roundings of f
    assert subject.solve(beyond).status is Status.DIVERGED


@pytest.mark.parametrize("options", TARGETS)
def test_the_start_is_used_and_the_answer_is_the_same(options: tuple[str, ...]) -> None:
    subject, problem = Subject(reference(*options)), gaussian(6, 2, 0.9, seed=3)
    cold = subject.solve(problem)
    warm = subject.solve(problem, z0=cold.z)
    assert cold.solution.iterations is not None
    assert warm.solution.iterations is not None
    assert warm.solution.iterations < cold.solution.iterations
    # Two answers, each certified to the tolerance in the 1-norm.
    assert np.all(np.abs(warm.z - cold.z).sum(axis=1) <= 2 * 1e-10 * np.abs(cold.z).sum(axis=1))


@pytest.mark.parametrize("method", ["picard", "mass"])
def test_both_frameworks_give_one_answer(method: str) -> None:
    problem = gaussian(8, 4, 0.9, seed=5)
    subjects = [Subject(reference(framework, method)) for framework in ("numpy", "torch")]
    (z, first), (w, second) = [(s.equilibrium(problem), s.value_and_grad(problem)[1]) for s in subjects]
    # The same operations in the same order but for the sums inside: rounding, amplified by 1/(1−γ) a pass.
    rounding = 100 * (problem.m + 8) * UNIT
    assert np.all(np.abs(z - w) <= rounding * np.abs(z).sum(axis=1, keepdims=True))
    for block, gradient in first.items():
        assert np.abs(gradient - second[block]).max() <= 10 * rounding * np.abs(gradient).sum()


def test_the_trace_comes_on_request() -> None:
    problem = gaussian(5, 2, 0.9)
    quiet, told = (Subject(PicardLayer("numpy", trace=trace)).solve(problem).solution for trace in (False, True))
    assert quiet.trace is None
    assert told.trace is not None
    assert len(told.trace) == told.iterations
    assert told.trace[-1] == told.residual


def test_options() -> None:
    named = {(): "TorchDirect", ("numpy",): "NumpyDirect", ("torch",): "TorchDirect"}
    named |= {
        ("picard",): "PicardLayer",
        ("mass", "numpy"): "MassCorrectedLayer",
        ("torch", "mass"): "MassCorrectedLayer",
    }
    assert {options: type(reference(*options)).__name__ for options in named} == named
    assert reference("picard").framework == "torch"
    assert reference("mass", "numpy").framework == "numpy"
    assert reference("mass").claims.starts
    with pytest.raises(
        ValueError, match=r"^reference\[picard\] is not written for jax; use torch, numpy or reference\[newton,jax\]$"
    ):
        reference("picard", "jax")
    for both in (("picard", "mass"), ("numpy", "torch")):
        with pytest.raises(ValueError, match="not both"):
            reference(*both)


def test_a_cell_that_contracts_in_another_norm_is_refused() -> None:
    class Euclidean(LinearSoftmaxCell):
        def certificate(self, theta: Any) -> Contraction:
            return Contraction(0.5, "2")

    theta, x = {"A": np.zeros((2, 2)), "gamma": np.array(0.5)}, np.ones((1, 2))
    with pytest.raises(ValueError, match="1-norm"):
        PicardLayer("numpy").vjp(Euclidean(), theta, x)


@pytest.mark.parametrize("options", TARGETS, ids=",".join)
def test_a_layer_claims_what_laws_then_ask_of_it(options: tuple[str, ...]) -> None:
    claims = reference(*options).claims
    assert claims.iteration == ("picard" if "picard" in options else "mass-corrected")
    assert claims.threads is claims.copies is claims.pickles is claims.modes is claims.evaluation_gradient is True


def test_another_tolerance_is_claimed_and_reached_without_a_cap_in_the_way() -> None:
    theta = {"A": np.zeros((2, 2)), "gamma": np.asarray(0.99)}  # Picard's rate is γ
    layer = reference("numpy", "picard")
    loose = layer.at_tolerance(1e-3)
    assert (loose.claims.forward, loose.claims.backward) == (Accuracy(1e-3), Accuracy(1e-3))
    assert loose.claims.where == layer.claims.where
    assert (loose.max_iterations, layer.max_iterations) == (100_000, 1000)
    assert (layer.tolerance, layer.claims.forward) == (1e-10, Accuracy(1e-10))  # the layer itself stays as it was
    capped, found = (each.vjp(LinearSoftmaxCell(), theta, np.ones((1, 2)))[0] for each in (layer, loose))
    assert (capped.status, found.status) == (Status.CAPPED, Status.CONVERGED)
    assert found.iterations < 1000
    assert capped.trace is found.trace is None
    traced = loose.traced().vjp(LinearSoftmaxCell(), theta, np.ones((1, 2)))[0]
    assert len(traced.trace) == found.iterations
    assert loose.trace is False
