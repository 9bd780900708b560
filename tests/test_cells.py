"""The cell in NumPy and PyTorch: the softmax of every column, the map, its certificate and its pull-back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.cells import Cell, Contraction, LinearCell, LinearSoftmaxCell, Parts
from deqverify.oracle import Oracle
from deqverify.theory.closed_form import ClosedForm
from tests.examples import random_problem, random_problems

CELL = LinearSoftmaxCell()
UNIT = 2.0**-53
FRAMEWORKS: dict[str, Callable[[Any], Any]] = {"numpy": np.asarray, "torch": torch.tensor}


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_the_softmax_is_the_oracles(framework: str) -> None:
    for problem in random_problems(20):
        S = np.asarray(CELL.softmax(FRAMEWORKS[framework](problem.A)))
        logit = problem.A.max(axis=0) - problem.A
        relative = UNIT * (problem.m + 4 + logit)  # the sum, exp, a division, and the rounding of exp's argument
        exact = Oracle(problem).softmax()
        assert np.all(np.abs(S - exact.value) <= relative * exact.value + exact.radius)


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_columns_of_any_size_have_a_softmax(framework: str) -> None:
    A = np.array([[1000.0, -1000.0, 0.0], [1000.0, -1000.0, -2000.0], [-1000.0, -1001.0, 0.0]])
    S = np.asarray(CELL.softmax(FRAMEWORKS[framework](A)))
    assert np.isfinite(S).all()
    assert np.all(np.abs(S.sum(axis=0) - 1.0) <= 4 * UNIT)
    assert S[:, 0].tolist() == [0.5, 0.5, 0.0]
    assert S[:, 2].tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_a_step_is_gamma_times_the_softmax_and_the_input(framework: str) -> None:
    native = FRAMEWORKS[framework]
    for problem in random_problems(10):
        exact = ClosedForm(problem)
        theta = {"A": native(problem.A), "gamma": native(problem.gamma)}
        step = CELL.step(theta, native(problem.Phi.T.copy()))
        z = np.random.default_rng(0).normal(size=problem.Phi.T.shape)
        expected = problem.gamma * z @ exact.S.T + problem.Phi.T
        size = problem.gamma * np.abs(z) @ exact.S.T + np.abs(problem.Phi.T)
        logits = np.ptp(problem.A, axis=0).max()
        allowed = 2 * (2 * problem.m + 8 + logits) * UNIT * size  # S, γS, the product and the sum, twice
        assert np.all(np.abs(np.asarray(step(native(z))) - expected) <= allowed)
        assert np.all(
            np.abs(np.asarray(CELL.matrix(theta)) - problem.gamma * exact.S)
            <= 2 * (problem.m + 8 + logits) * UNIT * exact.S
        )
        fixed = native(exact.Z.T.copy())
        mass = np.abs(exact.Z.T).sum(axis=1, keepdims=True)
        assert np.all(np.abs(np.asarray(step(fixed)) - exact.Z.T) <= 100 * (1 + logits) * UNIT * mass)  # κ(U) ≤ 7


def test_the_certificate_is_gamma_in_the_1_norm() -> None:
    assert CELL.certificate({"gamma": np.asarray(0.75)}) == Contraction(rate=0.75, norm="1")
    assert isinstance(CELL.certificate({"gamma": torch.tensor(0.5)}).rate, float)
    problem = random_problem(5)
    K = CELL.matrix({"A": problem.A, "gamma": problem.gamma})
    assert np.abs(K).sum(axis=0).max() <= problem.gamma * (1 + (problem.m + 8) * UNIT)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_without_a_contraction_there_is_no_certificate(gamma: float) -> None:
    with pytest.raises(ValueError, match=rf"^gamma: must lie strictly between 0 and 1, got {gamma!r}$"):
        CELL.certificate({"gamma": np.asarray(gamma)})


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_the_pullback_is_that_of_automatic_differentiation(framework: str) -> None:
    native = FRAMEWORKS[framework]
    for problem in random_problems(20):
        rng = np.random.default_rng(1)
        z, cotangent = rng.normal(size=(2, problem.n, problem.m))
        A, gamma = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (problem.A, problem.gamma))
        f = CELL.step({"A": A, "gamma": gamma}, torch.zeros(z.shape, dtype=torch.float64))(torch.tensor(z))
        expected = torch.autograd.grad((f * torch.tensor(cotangent)).sum(), (A, gamma))
        theta = {"A": native(problem.A), "gamma": native(problem.gamma)}
        found = CELL.pull(theta, native(problem.Phi.T.copy()), native(z), native(cotangent)).theta
        assert set(found) == {"A", "gamma"}
        # Sums over n data points and m states, each factor rounded a few times; |S∘(M − 1·)| ≤ Σ|c||z| everywhere.
        size = float((np.abs(cotangent).T @ np.abs(z)).sum())
        allowed = 4 * (problem.m + problem.n + 16 + np.ptp(problem.A)) * UNIT * size
        for name, gradient in zip(("A", "gamma"), expected, strict=True):
            assert np.shape(found[name]) == tuple(gradient.shape)
            assert np.all(np.abs(np.asarray(found[name]) - gradient.numpy()) <= allowed)


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_the_pushforward_is_that_of_automatic_differentiation(framework: str) -> None:
    native = FRAMEWORKS[framework]
    for problem in random_problems(20):
        rng = np.random.default_rng(1)
        z, dA, dgamma = rng.normal(size=(problem.n, problem.m)), rng.normal(size=problem.A.shape), 0.5

        def step(A: torch.Tensor, gamma: torch.Tensor, z: np.ndarray = z) -> torch.Tensor:
            return CELL.step({"A": A, "gamma": gamma}, torch.zeros(z.shape, dtype=torch.float64))(torch.tensor(z))

        given, along = (
            tuple(torch.tensor(v, dtype=torch.float64) for v in pair)
            for pair in ((problem.A, problem.gamma), (dA, dgamma))
        )
        _, expected = torch.autograd.functional.jvp(step, given, along)
        theta = {"A": native(problem.A), "gamma": native(problem.gamma)}
        still = native(np.zeros(z.shape))
        tangent = Parts({"A": native(dA), "gamma": native(dgamma)}, still, still)
        found = CELL.push(theta, still, native(z), tangent)
        # |dS| ≤ 2S max|dA|: sums over m states, each factor rounded a few times.
        size = np.abs(z).sum(axis=1, keepdims=True) * (2 * problem.gamma * np.abs(dA).max() + dgamma)
        allowed = 4 * (problem.m + 16 + np.ptp(problem.A)) * UNIT * size
        assert np.all(np.abs(np.asarray(found) - expected.numpy()) <= allowed)


def test_the_cell_is_a_linear_cell_hashable_and_without_state() -> None:
    assert isinstance(CELL, LinearCell)
    assert isinstance(CELL, Cell)
    assert hash(CELL) == hash(LinearSoftmaxCell())
    assert not isinstance(object(), Cell)
