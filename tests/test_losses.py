"""Losses: derivatives against ball arithmetic, curvature and smoothness as bounds, one value in every framework."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flint import arb, ctx

from deqverify.losses import CrossEntropy, Logistic, Loss, Squared
from deqverify.oracle import _loss_value
from tests.examples import LOSSES

STEP = 2.0**-60  # truncation of a central difference: STEP²·L‴/6 ≈ 1e-36·L‴


def outputs(loss: Loss, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p, n = rng.integers(1, 5, size=2)
    Y = (np.arange(p)[:, None] == rng.integers(0, p, size=n)).astype(float)
    return scale * rng.normal(size=(p, n)), Y


def exact_slope(loss: Loss, F: np.ndarray, Y: np.ndarray, direction: np.ndarray) -> float:
    """``⟨∇ℓ, direction⟩`` by a central difference at 256 bits."""
    with ctx.workprec(256):
        ends = [
            _loss_value(loss, [[arb(f) + sign * arb(STEP) * arb(d) for f, d in zip(*rows, strict=True)] for rows in
                               zip(F.tolist(), direction.tolist(), strict=True)], Y)
            for sign in (1, -1)
        ]  # fmt: skip
        return float((ends[0] - ends[1]) / (2 * arb(STEP)))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_gradient_is_the_losss_derivative(loss: Loss, scale: float) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, scale)
        direction = np.random.default_rng(seed + 99).normal(size=F.shape)
        found = float(np.sum(loss.gradient(F, Y) * direction))
        # (p + 6) roundings of the terms each, and the sum's own p·n.
        allowed = (F.shape[0] + 6 + F.size) * 2.0**-53 * float(np.sum(loss.terms(F, Y) * np.abs(direction)))
        assert abs(found - exact_slope(loss, F, Y, direction)) <= allowed


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_hessian_is_the_gradients_derivative(loss: Loss) -> None:
    h = 2.0**-17  # balances truncation h² and rounding u/h, both near 2⁻³⁵
    for seed in range(20):
        F, Y = outputs(loss, seed)
        direction = np.random.default_rng(seed + 99).normal(size=F.shape)
        found = np.einsum("ijk,ki->ji", loss.hessian(F, Y), direction)
        difference = (loss.gradient(F + h * direction, Y) - loss.gradient(F - h * direction, Y)) / (2 * h)
        # |third derivatives of the gradient| ≤ 1 along a direction of size max|d|; rounding of both gradients over 2h.
        size = float(np.abs(direction).max()) ** 3
        allowed = h**2 * size + 8 * 2.0**-53 * float(loss.terms(F, Y).max()) / h
        assert np.abs(found - difference).max() <= allowed


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_curvature_and_smoothness_bound_the_hessian_on_the_sublevel_set(loss: Loss) -> None:
    rng = np.random.default_rng(3)
    for seed in range(40):
        F, Y = outputs(loss, seed, 4.0 * rng.random())
        level = float(loss.value(F, Y))
        rho, top = loss.curvature(level), loss.smoothness(Y)
        inside = [G for G in (t * F for t in (0.0, 0.3, 0.7, 1.0)) if float(loss.value(G, Y)) <= level]
        for H in (block for G in inside for block in loss.hessian(G, Y)):
            slack = 8 * len(H) * 2.0**-53 * top  # rounding of eigvalsh
            assert np.linalg.eigvalsh(H)[0] >= rho - slack
            assert np.abs(H).sum(axis=1).max() <= top + slack


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("scale", [1.0, 800.0])  # beyond 710 a naive exponential overflows
def test_the_value_is_the_same_in_numpy_and_torch_and_does_not_overflow(loss: Loss, scale: float) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, scale)
        ours, theirs = float(loss.value(F, Y)), float(loss.value(torch.tensor(F), torch.tensor(Y)))
        assert np.isfinite(ours)
        # Entries are rounded a few times each, then summed: p·n + 8 roundings of values at most of this size.
        size = float(np.sum(F**2 + Y**2 + np.abs(F) + 1.0))
        assert abs(ours - theirs) <= (F.size + 8) * 2.0**-53 * size


def test_cross_entropy_with_one_class_and_no_ridge_is_identically_zero() -> None:
    loss, F, Y = CrossEntropy(0.0), np.array([[3.0, -2.0]]), np.ones((1, 2))
    assert float(loss.value(F, Y)) == 0.0
    assert not loss.gradient(F, Y).any()
    assert not loss.hessian(F, Y).any()


@pytest.mark.parametrize("loss", [*LOSSES, Logistic(0.0), CrossEntropy(0.0)])
def test_no_data_is_no_loss(loss: Loss) -> None:
    F = np.zeros((2, 0))
    assert float(loss.value(F, F)) == 0.0
    assert loss.gradient(F, F).shape == (2, 0)
    assert loss.hessian(F, F).shape == (0, 2, 2)
    assert loss.smoothness(F) >= 0.0


def test_without_a_ridge_nothing_is_claimed_of_the_curvature() -> None:
    assert Logistic(0.0).curvature(1.0) == 0.0
    assert CrossEntropy(0.0).curvature(1.0) == 0.0
    assert Squared().curvature(np.inf) == 2.0
