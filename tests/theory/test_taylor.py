"""Bounds (theory: taylor, theory: projected, theory: quotient) against samples: the
Taylor remainder, every projector, the quotient by **1**."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from deqverify import SoftmaxProblem, losses
from deqverify.losses import CrossEntropy, Loss
from deqverify.theory.closed_form import ClosedForm, dobrushin
from deqverify.theory.dissipation import (
    infimum,
    projected_floors,
    quotient_curvature,
    quotient_polyak_lojasiewicz,
    rate_floor,
    shallow_gradient,
)
from deqverify.theory.taylor import remainder

SMOOTH: list[tuple[Loss, str]] = [
    (losses.Squared(), "any"),
    (losses.PseudoHuber(0.5), "any"),
    (losses.LogCosh(), "any"),
    (losses.Logistic(0.125), "label"),
    (losses.CrossEntropy(0.125), "label"),
    (losses.Poisson(0.125), "label"),
    (losses.HingeSquared(0.125), "sign"),
]


def drawn(seed: int, loss: Loss, kind: str = "any", gamma: float = 0.75) -> SoftmaxProblem:
    rng = np.random.default_rng(seed)
    m, p, n = 3, 2, 4
    Y = rng.standard_normal((p, n))
    if kind == "label":
        Y = (np.arange(p)[:, None] == rng.integers(0, p, n)).astype(float)
    if kind == "sign":
        Y = np.sign(Y)
    return SoftmaxProblem(
        rng.standard_normal((m, m)), rng.standard_normal((p, m)), rng.standard_normal((m, n)), Y, gamma, loss
    )


@pytest.mark.parametrize(("loss", "kind"), SMOOTH, ids=lambda v: getattr(v, "name", v))
def test_the_remainder_is_below_its_bound_and_falls_with_the_square(loss: Loss, kind: str) -> None:
    for seed in range(20):
        problem = drawn(seed, loss, kind)
        rng = np.random.default_rng(1000 + seed)
        exact = ClosedForm(problem)
        direction = {block: rng.standard_normal(getattr(problem, block).shape) for block in ("A", "B", "Phi")}
        bounds = []
        for h in (2.0**-3, 2.0**-8, 2.0**-9):
            step = {block: h * d for block, d in direction.items()}
            ahead = SoftmaxProblem(
                problem.A + step["A"],
                problem.B + step["B"],
                problem.Phi + step["Phi"],
                problem.Y,
                problem.gamma,
                loss,
            )
            first = sum(float(np.sum(exact.gradient[block] * d)) for block, d in step.items())
            found = abs(ClosedForm(ahead).loss - exact.loss - first)
            bounds.append(remainder(exact, step))
            noise = 1e-13 * (abs(exact.loss) + abs(ClosedForm(ahead).loss) + 1)  # 500 u: sums of a dozen terms
            assert found <= bounds[-1] + noise
        assert bounds[2] <= bounds[1] / 3  # a quarter, but for the terms of higher order


def test_the_remainder_is_attained_up_to_its_constants_where_everything_is_known() -> None:
    # m = n = p = 1, γ = ½: L = (2bφ)², along φ the remainder is 4h² exactly; the factor two is the mean value's.
    problem = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    found = remainder(ClosedForm(problem), {"Phi": np.array([[0.25]])})
    assert 4 * 0.25**2 <= found <= 8 * 0.25**2 * (1 + 2.0**-40)


def remainder_again(problem: SoftmaxProblem, step: dict[str, np.ndarray]) -> float:
    """The docstring's formula, one data point and one output at a time; a block that is not moved adds nothing."""
    m, p, n = problem.m, problem.p, problem.n
    dA, dB, dPhi = (step.get(block) for block in ("A", "B", "Phi"))
    exact, V = ClosedForm(problem), 1 / (1 - problem.gamma)
    omega = 0.0 if dA is None else max(max(dA[:, k]) - min(dA[:, k]) for k in range(m))
    moved, curved = np.zeros((p, n)), np.zeros((p, n))
    for i in range(n):
        dphi = 0.0 if dPhi is None else sum(abs(dPhi[k, i]) for k in range(m))
        z = V * (sum(abs(problem.Phi[k, i]) for k in range(m)) + dphi)
        dz = V * (problem.gamma * omega / 2 * z + dphi)
        ddz = V * (problem.gamma * omega * dz + problem.gamma * omega**2 / 2 * z)
        for j in range(p):
            db = 0.0 if dB is None else max(abs(b) for b in dB[j])
            b = max(abs(b) for b in problem.B[j]) + db
            moved[j, i], curved[j, i] = db * z + b * dz, 2 * db * dz + b * ddz
    spread = problem.loss.spread(exact.F, problem.Y, moved)
    pairs = [(moved[j, i] * spread[j, i], abs(exact.dF[j, i]) * curved[j, i] / 2) for j in range(p) for i in range(n)]
    return float(sum(first + second for first, second in pairs))


@pytest.mark.parametrize("blocks", ["A", "B", "Phi", "A B", "A Phi", "B Phi", "A B Phi"])
def test_the_remainder_is_its_formula_for_every_set_of_blocks(blocks: str) -> None:
    for loss in (losses.Squared(), losses.PseudoHuber(8.0)):
        problem = drawn(7, loss)
        rng = np.random.default_rng(8)
        step = {block: 0.3 * rng.standard_normal(getattr(problem, block).shape) for block in blocks.split()}
        expected = remainder_again(problem, step)
        assert expected > 0
        assert abs(remainder(ClosedForm(problem), step) - expected) <= 100 * 2.0**-53 * expected  # sums of what is ≥ 0


def test_no_step_leaves_no_remainder() -> None:
    exact = ClosedForm(drawn(0, losses.Squared()))
    assert remainder(exact, {}) == 0.0
    assert remainder(exact, {"A": np.ones((3, 3))}) == 0.0  # a constant in every column changes nothing


def test_projected_floors_hold_for_every_rank() -> None:
    for seed in range(60):
        problem = drawn(seed, losses.Squared())
        if seed % 3 == 1:  # rank one
            problem = problem.with_features(np.outer(problem.Phi[:, 0], np.arange(1.0, 5.0)), problem.Y)
        if seed % 3 == 2:  # collinear but for 1e-12
            problem = problem.with_features(problem.Phi[:, :1] + 1e-12 * problem.Phi, problem.Y)
        exact = ClosedForm(problem)
        floors = projected_floors(exact)
        assert len(floors) == 3
        length = float(np.sum(exact.gradient["A"] ** 2) + np.sum(exact.gradient["B"] ** 2))
        assert floors.max() <= length
        G = shallow_gradient(exact)
        assert floors.max() <= rate_floor(problem) * float(np.sum(G**2)) * (1 + 1e-9)


def test_the_projected_floor_is_exact_on_orthonormal_features() -> None:
    problem = SoftmaxProblem(np.zeros((2, 2)), np.eye(2), 3.0 * np.eye(2), np.zeros((2, 2)), 0.5, losses.Squared())
    exact = ClosedForm(problem)
    full = 4 * rate_floor(problem) * 9.0 * float(np.sum(exact.F**2))  # k = rank, all singular values 3
    # lowered by 8m u twice, 1e-14 together, and a few roundings
    assert projected_floors(exact)[-1] == pytest.approx(full, rel=1e-12)


def test_the_projected_floors_by_hand() -> None:
    Phi = np.array([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    plain = ClosedForm(SoftmaxProblem(np.zeros((2, 2)), np.eye(2), Phi, np.zeros((2, 3)), 0.5, losses.Squared()))
    R = np.array([[1.0, 0.0, -2.0], [0.0, 2.0, 0.0]])  # of length 3; 1 and then 5 are the squares that Φ reaches
    exact = ClosedForm(plain.problem.with_features(Phi, plain.F - R))
    lost = 2 * (4 * 3 * 2.0**-53 * 4.0) * 3.0  # twice 4 max(m, n) u σ₁, times ‖R‖
    expected = 4 / (2 * 1.5**2) * (np.array([4.0, 2.0 * 5**0.5]) - lost) ** 2
    # R itself is a difference, of numbers up to 6, good to 6 u; the square doubles that; ``lost`` is 72 u of them.
    assert np.all(np.abs(projected_floors(exact) - expected) <= 16 * 2.0**-53 * expected)
    unreached = np.array([[0.0, 0.0, -2.0], [0.0, 0.0, 1.0]])
    outside = ClosedForm(plain.problem.with_features(Phi, plain.F - unreached))
    assert projected_floors(outside).tolist() == [0.0, 0.0]
    assert projected_floors(ClosedForm(plain.problem.with_features(np.zeros((2, 0)), np.zeros((2, 0))))).shape == (0,)


def quotient_again(Y: np.ndarray, level: float) -> float:
    """The docstring's bound, one entry at a time."""

    def entropy(*parts: float) -> float:
        return -sum(y * log(y / sum(parts)) for y in parts if y > 0)

    columns = [[float(y) for y in column] for column in Y.T]
    excess = max(level - sum(entropy(*column) for column in columns), 0.0)
    found = []
    for column in columns:
        total = sum(column)
        found += [total * exp(-(excess + entropy(y, total - y)) / y) if y else 0.0 for y in column]
    return min(found)


@pytest.mark.parametrize("Y", [[[0.25, 0.5], [0.75, 1.5]], [[2.0]], [[0.5, 2.0], [0.25, 3.0], [0.25, 1.5]]], ids=repr)
def test_the_quotient_curvature_by_hand(Y: list[list[float]]) -> None:
    p, n = np.shape(Y)
    problem = SoftmaxProblem(
        np.eye(2), np.ones((p, 2)), np.eye(2)[:, :n] * [4.0, 2.0][:n], np.array(Y), 0.5, CrossEntropy(0.0)
    )
    least = min(np.linalg.svd(problem.Phi, compute_uv=False)) - 4 * 2 * 2.0**-53 * 4.0  # lowered by 4 max(m, n) u σ₁
    for level in (0.0, 1.0, 2.5, 20.0):  # below the entropy of the targets nothing lies: no excess
        expected = quotient_again(problem.Y, level)
        assert expected > 0
        # An exponent of size e is rounded by a dozen u of it.
        allowed = 16 * 2.0**-53 * (1 + abs(log(expected))) * expected
        assert abs(quotient_curvature(problem, level) - expected) <= allowed
        kappa = expected * least**2
        assert abs(quotient_polyak_lojasiewicz(problem, level) - kappa) <= allowed * least**2 + 4 * 2.0**-53 * kappa


@pytest.mark.filterwarnings("error")
def test_targets_at_the_edge_of_the_simplex_give_zero_without_a_warning() -> None:
    hot = drawn(0, CrossEntropy(0.0), "label")
    for level in (0.0, 1.0):  # 0/0, and what is divided by 0
        assert quotient_curvature(hot, level) == 0.0
    near = SoftmaxProblem(np.eye(2), np.eye(2), np.eye(2)[:, :1], [[1.0], [1e-300]], 0.5, CrossEntropy(0.0))
    assert quotient_curvature(near, 1e10) == 0.0  # 1e310 overflows


def soft(seed: int) -> SoftmaxProblem:
    problem = drawn(seed, CrossEntropy(0.0), "label")
    weights = np.exp(np.random.default_rng(seed).standard_normal(problem.Y.shape))
    return SoftmaxProblem(problem.A, problem.B, problem.Phi, weights / weights.sum(axis=0), problem.gamma, problem.loss)


def test_the_quotient_curvature_is_a_lower_bound_on_the_sublevel_set() -> None:
    inside = 0
    for seed in range(30):
        problem = soft(seed)
        level = ClosedForm(problem).loss
        rho = quotient_curvature(problem, level)
        assert rho > 0
        rng = np.random.default_rng(seed)
        for _ in range(200):
            F = rng.standard_normal(problem.Y.shape) * rng.choice([0.1, 1.0, 3.0])
            if float(problem.loss.value(F, problem.Y)) <= level:
                inside += 1
                for H in problem.loss.hessian(F, problem.Y):
                    quotient = np.array([1.0, -1.0]) / np.sqrt(2.0)  # p = 2: all that is orthogonal to 1
                    assert quotient @ H @ quotient >= rho * (1 - 1e-12)
    assert inside > 500


def test_the_quotient_inequality_holds_and_needs_the_quotient() -> None:
    for seed in range(30):
        problem = soft(seed)
        exact = ClosedForm(problem)
        kappa = quotient_polyak_lojasiewicz(problem, exact.loss)
        fall = exact.loss - infimum(problem).attained
        assert fall > 0
        assert 0.5 * float(np.sum(shallow_gradient(exact) ** 2)) >= kappa * fall
        assert problem.loss.curvature(exact.loss) == 0.0


def test_one_hot_targets_have_no_curvature_and_no_data_none_either() -> None:
    assert quotient_curvature(drawn(0, CrossEntropy(0.0), "label"), 1.0) == 0.0
    empty = SoftmaxProblem(np.eye(2), np.eye(2), np.zeros((2, 0)), np.zeros((2, 0)), 0.5, CrossEntropy(0.0))
    assert quotient_curvature(empty, 1.0) == 0.0


def test_the_rate_without_mass_is_gamma_tau_and_never_above_gamma() -> None:
    for seed in range(20):
        exact = ClosedForm(drawn(seed, losses.Squared()))
        gamma_tau = exact.problem.gamma * dobrushin(exact.S)
        assert gamma_tau <= exact.zero_mass_rate <= min(exact.problem.gamma, gamma_tau * (1 + 1e-14))


def test_the_rate_without_mass_is_raised_by_eight_roundings_a_state() -> None:
    exact = ClosedForm(drawn(1, losses.Squared()))
    assert exact.zero_mass_rate == 0.75 * (dobrushin(exact.S) * (1 + 8 * 3 * 2.0**-53))
    apart = SoftmaxProblem(
        800.0 * np.eye(3), np.ones((1, 3)), np.ones((3, 1)), np.zeros((1, 1)), 0.75, losses.Squared()
    )
    assert ClosedForm(apart).zero_mass_rate == 0.75  # S = I to the last bit: τ = 1, not to be raised
