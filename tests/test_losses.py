"""Losses: values and derivatives against ball arithmetic and autograd, curvature and spread as bounds, extremes."""

from __future__ import annotations

from fractions import Fraction
from math import exp, log

import numpy as np
import pytest
import torch
from flint import arb, ctx

from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Loss, Poisson, PseudoHuber, Squared
from deqverify.losses.base import nearest
from deqverify.oracle.losses import loss_value
from tests.examples import LOSSES, targets_of

STEP = 2.0**-60  # truncation of a central difference: STEP²·L‴/6 ≈ 1e-36·L‴
UNIT = 2.0**-53
EACH = pytest.mark.parametrize("loss", [*LOSSES, PseudoHuber(8.0)], ids=repr)


def outputs(loss: Loss, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p, n = rng.integers(1, 5, size=2)
    Y = (np.arange(p)[:, None] == rng.integers(0, p, size=n)).astype(float)
    Y = Y * rng.integers(1, 5, size=n) if isinstance(loss, Poisson) else targets_of(loss, Y)
    return scale * rng.normal(size=(p, n)), Y


def exact_value(loss: Loss, F: np.ndarray, Y: np.ndarray, direction: np.ndarray, step: float) -> arb:
    rows = zip(F.tolist(), direction.tolist(), strict=True)
    moved = [[arb(f) + arb(step) * arb(d) for f, d in zip(*row, strict=True)] for row in rows]
    return loss_value(loss, moved, Y)


def evaluation(loss: Loss, F: np.ndarray, Y: np.ndarray) -> float:
    """What the rounding of the value is allowed: a dozen roundings an entry, the sum's p·n, and underflow."""
    return (F.size + 12) * UNIT * float(np.sum(loss.value_terms(F, Y))) + F.size * 2.0**-1022


@EACH
@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 30.0, 600.0])
def test_the_value_is_that_of_ball_arithmetic_and_not_negative(loss: Loss, scale: float) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, scale)
        F = np.minimum(F, 700.0)  # exp overflows from 710 on
        found, allowed = float(loss.value(F, Y)), evaluation(loss, F, Y)
        with ctx.workprec(4096):
            exact = loss_value(loss, [[arb(f) for f in row] for row in F.tolist()], Y)
        assert float(exact.rad()) <= 1e-300 + UNIT * abs(float(exact))
        assert abs(found - float(exact)) <= allowed + UNIT * abs(float(exact))
        assert found >= -allowed
        assert float(exact.upper()) >= 0.0


@EACH
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_gradient_is_the_losss_derivative(loss: Loss, scale: float) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, scale)
        direction = np.random.default_rng(seed + 99).normal(size=F.shape)
        found = float(np.sum(loss.gradient(F, Y) * direction))
        with ctx.workprec(512):
            ends = [exact_value(loss, F, Y, direction, step) for step in (STEP, -STEP)]
            exact = float((ends[0] - ends[1]) / (2 * arb(STEP)))
        # (p + 6) roundings of the terms each, and the sum's own p·n.
        allowed = (F.shape[0] + 6 + F.size) * UNIT * float(np.sum(loss.terms(F, Y) * np.abs(direction)))
        assert abs(found - exact) <= allowed


@EACH
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_hessian_is_the_second_derivative(loss: Loss, scale: float) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, scale)
        direction = np.random.default_rng(seed + 99).normal(size=F.shape)
        H = loss.hessian(F, Y)
        found = float(np.einsum("ji,ijk,ki->", direction, H, direction))
        with ctx.workprec(512):
            ahead, here, behind = (exact_value(loss, F, Y, direction, step) for step in (STEP, 0.0, -STEP))
            exact = float((ahead - 2 * here + behind) / arb(STEP) ** 2)
        # A dozen roundings of each entry; that of r = F − Y is seen 2|r| times, by 1/cosh² r. Where a softmax cancels,
        # p − p², its entries are those of a one.
        size = np.abs(H) * (12 + 4 * (np.abs(F) + np.abs(Y)).max()) + (4.0 if isinstance(loss, CrossEntropy) else 0.0)
        allowed = (1 + F.size) * UNIT * float(np.einsum("ji,ijk,ki->", np.abs(direction), size, np.abs(direction)))
        assert abs(found - exact) <= allowed + 1e-30 * (1.0 + abs(exact))  # STEP² times the fourth derivative


EXTREMES = np.array([0.0, 1.0, -1.0, 0.5, 1e-8, -1e-8, 1e-300, -1e-300, 40.0, -40.0, 1e3, -1e3, 1e150, -1e150])


@EACH
def test_autograd_agrees_with_the_gradient_at_extremes(loss: Loss) -> None:
    zeros = np.zeros((1, EXTREMES.size))
    labels = [targets_of(loss, zeros), targets_of(loss, zeros + 1.0)]
    for Y in labels:
        F = EXTREMES[None, :]
        state = torch.tensor(F, requires_grad=True)
        value = loss.value(state, torch.tensor(Y))
        (found,) = torch.autograd.grad(value, state)
        assert not torch.isnan(value)
        expected, allowed = loss.gradient(F, Y), 7 * UNIT * loss.terms(F, Y) + 2.0**-1022
        finite = np.isfinite(expected)
        assert np.array_equal(found.numpy()[~finite], expected[~finite])
        assert np.all(np.abs(found.numpy()[finite] - expected[finite]) <= allowed[finite])
        assert finite.all() or (isinstance(loss, Poisson) and set(F[~finite]) == {1e3, 1e150})


@EACH
def test_curvature_bounds_the_hessian_on_the_sublevel_set(loss: Loss) -> None:
    rng = np.random.default_rng(3)
    judged = 0
    for seed in range(60):
        F, Y = outputs(loss, seed, 10.0 ** rng.uniform(-1, 1))
        level = float(loss.value(F, Y))
        rho = loss.curvature(level)
        others = [rng.normal(size=F.shape) * 10.0 ** rng.uniform(-1, 1) for _ in range(20)]
        inside = [G for G in (F, 0 * F, 0.5 * F, *others) if float(loss.value(G, Y)) <= level]
        judged += len(inside)
        for H in (block for G in inside for block in loss.hessian(G, Y)):
            slack = 8 * len(H) * UNIT * np.abs(H).max()  # rounding of eigvalsh
            # The level carries the rounding of the value, and the curvature falls with it at most by twice that.
            assert np.linalg.eigvalsh(H)[0] >= rho * (1 - 2 * evaluation(loss, F, Y) - 8 * UNIT) - slack
    assert judged >= 100


@pytest.mark.parametrize("loss", [PseudoHuber(0.25), PseudoHuber(8.0), LogCosh()], ids=repr)
def test_of_one_output_the_curvature_is_the_hessian_at_the_level(loss: Loss) -> None:
    Y = np.zeros((1, 1))
    for r in (0.0, 1e-3, 0.5, 1.0, 3.0, 10.0):
        F = np.full((1, 1), r)
        H, level = float(loss.hessian(F, Y)[0, 0, 0]), float(loss.value(F, Y))
        # Rounding of the level, seen twice by exp(−2 level) and three times by the cube.
        allowed = (16 + 64 * level) * UNIT * H
        assert abs(loss.curvature(level) - H) <= allowed


@pytest.mark.parametrize("level", [0.0, 1.0, 1e300, np.inf])
@EACH
def test_a_level_of_any_size_has_a_curvature(loss: Loss, level: float) -> None:
    assert 0.0 <= loss.curvature(level) <= loss.curvature(0.0) <= 4.0
    assert loss.curvature(-1e-17) == loss.curvature(0.0)  # a level below zero is rounding


@EACH
@pytest.mark.parametrize("error", [0.0, 1e-300, 1e-9, 0.3, 5.0, 2000.0])
def test_spread_bounds_every_change_of_the_gradient(loss: Loss, error: float) -> None:
    rng = np.random.default_rng(int(error))
    for seed in range(60):
        F, Y = outputs(loss, seed, 10.0 ** rng.uniform(-3, 3))
        errors = error * rng.choice([0.0, 0.5, 1.0], size=F.shape)
        bound = loss.spread(F, Y, errors)
        assert bound.shape == F.shape
        for _ in range(20):
            corner = rng.choice([-1.0, 1.0, 0.0, 0.37], size=(2, *F.shape))
            first = F + corner[0] * errors
            second = first + corner[1] * errors
            ends = [loss.gradient(G, Y) for G in (first, second)]
            seen = np.isfinite(ends[0]) & np.isfinite(ends[1])
            assert np.all(bound[~seen & (errors > 0)] > 1e300)
            # Both gradients are rounded, and so are the points, by a unit of F and error that spread does not know.
            rounding = UNIT * (np.abs(first) + np.abs(second) + 2 * errors)
            terms = [loss.terms(G, Y) for G in (first, second)]
            slack = 8 * UNIT * (terms[0] + terms[1] + bound) + 2 * loss.spread(second, Y, rounding)
            difference = np.abs(np.subtract(*ends, where=seen, out=np.zeros(F.shape)))
            assert np.all((difference <= bound + slack)[seen])


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, CrossEntropy)], ids=repr)
def test_spread_is_the_hessian_times_a_small_error(loss: Loss) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, 3.0)
        slope = np.einsum("ijj->ji", loss.hessian(F, Y))
        # Within 2e-9 of F no Hessian changes by more than 2·2e-9 of itself, but the hinge's at its kink.
        assert np.all(loss.spread(F, Y, np.full(F.shape, 1e-9)) <= 1e-9 * slope * (1 + 1e-7))


def test_the_spread_of_the_cross_entropy_is_small_where_it_is_saturated() -> None:
    loss, Y = CrossEntropy(0.0), np.array([[1.0], [0.0]])
    F = np.array([[40.0], [0.0]])
    assert loss.spread(F, Y, np.full((2, 1), 1e-3)).max() <= 1e-3 * np.exp(-39.0)
    assert loss.spread(F, Y, np.full((2, 1), 50.0)).max() >= 1.0 - UNIT  # two such errors turn the answer round


@pytest.mark.parametrize(
    ("loss", "f", "y", "error", "expected"),
    [
        (Logistic(0.25), 0.0, 1.0, 50.0, 1.0 + 25.0),  # no two values of σ are further apart than 1
        (LogCosh(), 3.0, 2.0, 50.0, 2.0),  # nor of tanh than 2
        (PseudoHuber(0.25), 3.0, 2.0, 50.0, 0.5),  # nor of r/h than 2δ
        (HingeSquared(0.25), 2.0, 1.0, 0.75, 2 * 0.5 + 0.375),  # a margin of 2 falls short by ½ at the most
        (HingeSquared(0.25), 2.0, 1.0, 0.5, 0.25),  # silent as far as two such errors reach
    ],
    ids=repr,
)
def test_spread_is_no_more_than_the_range_of_the_gradient(
    loss: Loss, f: float, y: float, error: float, expected: float
) -> None:
    assert loss.spread(np.array([[f]]), np.array([[y]]), np.array([[error]])).tolist() == [[expected]]


def test_the_nearest_residual_is_two_errors_away_and_not_below_zero() -> None:
    assert nearest(np.array([3.0, 1.0]), np.array([0.5, 0.75])).tolist() == [2.0, 0.0]


def test_the_spread_of_the_cross_entropy_by_hand() -> None:
    P = np.array([0.6, 0.3, 0.1])
    less = np.array([0.4, 0.3, 0.1])  # the less of P and 1 − P
    totals, error = np.array([1.0, 2.0, 3.0, 0.5]), np.array([[0.01, 1.0, 3.0, 0.25], [0.02, 0.5, 5.0, 0.0]] * 2)[:3]
    targets = totals * np.array([[0.25], [0.5], [0.25]])
    found = CrossEntropy(0.25).spread(np.log(P)[:, None] + np.arange(4.0), targets, error)
    for i, top in enumerate([0.02, 1.0, 5.0, 0.25]):
        for j in range(3):
            quarter = (error[j, i] + top) / 4
            factor = less[j] * exp(2 * top) * (exp(2 * top) - 1) if top <= 0.25 else 1.0
            expected = totals[i] * min(quarter, factor) + 0.5 * error[j, i]
            # The shift by i rounds logits below 6, so that P is good to 24 u; exp(2s) − 1 loses u/s here.
            assert abs(found[j, i] - expected) <= 128 * UNIT * expected
        assert found[:, i].max() <= totals[i] + 0.5 * top  # no probability moves by more than one


# One column is one data point: F, Y, terms, value_terms, worked out on paper.
MAGNITUDES: list[tuple[Loss, list[list[float]], list[list[float]], list[list[float]], list[list[float]]]] = [
    (Squared(), [[-3.0, 1.0]], [[2.0, 0.5]], [[10.0, 3.0]], [[25.0, 0.25]]),
    (PseudoHuber(2.0), [[3.0, 0.5]], [[-1.0, 1.0]], [[6.0, 4.5]], [[8.0, 0.25]]),
    (LogCosh(), [[2.0, 0.25, 1.0, 1.5]], [[-1.0, 0.5, 0.0, 0.0]], [[3.0, 2.25, 3.0, 3.0]], [[4.0, 1 / 32, 0.5, 2.5]]),
    (Logistic(0.25), [[-2.0, 1.0]], [[0.5, 0.0]], [[2.5, 1.5]], [[5.0, 2.25]]),
    (CrossEntropy(0.25), [[2.0]], [[3.0]], [[7.0]], [[16.0]]),
    (
        CrossEntropy(0.25),
        [[1.0, -3.0], [2.0, -1.0]],
        [[0.25, 1.0], [0.5, 3.0]],
        [[1.5, 6.5], [2.25, 7.5]],
        [[1.5, 8.25], [4.0, 12.25]],
    ),
    (
        HingeSquared(0.25),
        [[0.5, -2.0, 1.5, 1.0]],
        [[1.0, 1.0, 1.0, 1.0]],
        [[3.25, 7.0, 0.75, 0.5]],
        [[0.3125, 10.0, 0.5625, 0.25]],
    ),
    (
        Poisson(0.25),
        [[0.0, -2.0, 1.0]],
        [[2.0, 0.5, 0.0]],
        [[3.0, exp(-2) + 1.5, exp(1) + 0.5]],
        [[1 + 2 * (log(2) + 1), exp(-2) + 1.0 + 0.5 * (log(2) + 1) + 1.0, exp(1) + 0.25]],
    ),
]


@pytest.mark.parametrize(("loss", "F", "Y", "terms", "values"), MAGNITUDES, ids=lambda v: repr(v)[:24])
def test_the_magnitudes_of_rounding_by_hand(loss: Loss, F: object, Y: object, terms: object, values: object) -> None:
    outputs, targets = np.array(F), np.array(Y)
    for found, expected in ((loss.terms(outputs, targets), terms), (loss.value_terms(outputs, targets), values)):
        assert np.all(np.abs(found - np.array(expected)) <= 8 * UNIT * np.array(expected))  # a few sums of what is ≥ 0


@EACH
@pytest.mark.parametrize("scale", [1.0, 600.0])  # beyond 710 a naive exponential overflows
def test_the_value_is_the_same_in_numpy_and_torch(loss: Loss, scale: float) -> None:
    for seed in range(20):
        F, Y = outputs(loss, seed, scale)
        F = np.minimum(F, 700.0) if isinstance(loss, Poisson) else F
        ours, theirs = float(loss.value(F, Y)), float(loss.value(torch.tensor(F), torch.tensor(Y)))
        assert np.isfinite(ours)
        assert abs(ours - theirs) <= 2 * evaluation(loss, F, Y)


@pytest.mark.filterwarnings("error")
def test_beyond_the_range_the_poisson_loss_is_infinite_without_a_warning() -> None:
    loss, F, Y = Poisson(), np.array([[1e3, -1e3]]), np.array([[1.0, 0.0]])
    assert float(loss.value(F, Y)) == np.inf
    assert loss.gradient(F, Y)[0, 0] == np.inf
    assert loss.hessian(F, Y)[0, 0, 0] == np.inf
    assert np.array_equal(loss.spread(F, Y, np.array([[1.0, 1e3]])), [[np.inf, np.inf]])
    assert np.isfinite(loss.spread(F, Y, np.array([[0.0, 800.0]]))).all()


def test_the_squared_hinge_knows_where_every_margin_falls_short() -> None:
    loss = HingeSquared(0.25)
    assert loss.curvature(0.24) == 2.5  # |F| < 1: the hinge is active at both labels
    assert loss.curvature(0.25) == 0.5
    F, Y = np.array([[1.0, 0.999, 2.0]]), np.ones((1, 3))
    assert np.einsum("ijj->i", loss.hessian(F, Y)).tolist() == [0.5, 2.5, 0.5]


def test_the_constant_of_the_poisson_loss_makes_its_least_value_zero() -> None:
    loss = Poisson(0.0)
    for count in (0.0, 0.5, 1.0, 7.0):
        Y = np.full((1, 1), count)
        F = np.log(Y) if count else np.full((1, 1), -800.0)
        assert abs(float(loss.value(F, Y))) <= evaluation(loss, F, Y)


def test_cross_entropy_with_one_class_and_no_ridge_is_identically_zero() -> None:
    loss, F, Y = CrossEntropy(0.0), np.array([[3.0, -2.0]]), np.ones((1, 2))
    assert float(loss.value(F, Y)) == 0.0
    assert not loss.gradient(F, Y).any()
    assert not loss.hessian(F, Y).any()


@pytest.mark.parametrize("loss", [*LOSSES, Logistic(0.0), CrossEntropy(0.0), Poisson(0.0), HingeSquared(0.0)], ids=repr)
def test_no_data_is_no_loss(loss: Loss) -> None:
    F = np.zeros((2, 0))
    loss.check_targets(F)
    assert float(loss.value(F, F)) == 0.0
    assert loss.hessian(F, F).shape == (0, 2, 2)
    for answer in (loss.gradient(F, F), loss.spread(F, F, F), loss.terms(F, F), loss.value_terms(F, F)):
        assert answer.shape == (2, 0)


def test_without_a_ridge_nothing_is_claimed_of_the_curvature() -> None:
    assert Logistic(0.0).curvature(1.0) == 0.0
    assert CrossEntropy(0.0).curvature(1.0) == 0.0
    assert Poisson(0.0).curvature(1.0) == 0.0
    assert HingeSquared(0.0).curvature(1.0) == 0.0
    assert Squared().curvature(np.inf) == 2.0
    assert PseudoHuber().curvature(np.inf) == LogCosh().curvature(np.inf) == 0.0


def test_a_curvature_is_exact_where_it_can_be_checked_by_hand() -> None:
    assert PseudoHuber(2.0).curvature(4.0) == float(Fraction(1, 8))  # (1 + 4/2²)⁻³
    assert LogCosh().curvature(0.0) == 1.0


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: PseudoHuber(0.0), "delta: must be finite and positive"),
        (lambda: PseudoHuber(np.inf), "delta: must be finite and positive"),
        (lambda: Poisson(-1.0), "ridge: must be finite and not negative"),
        (lambda: HingeSquared(np.nan), "ridge: must be finite and not negative"),
        (lambda: Poisson().check_targets(np.array([[-1.0]])), "Y: .* counts or rates, not negative"),
        (lambda: HingeSquared().check_targets(np.array([[0.0]])), "Y: .* use 2·Y − 1 for labels 0 and 1"),
        (lambda: Logistic().check_targets(np.array([[1.0, -0.5]])), r"Y: .* lie in \[0, 1\]; use labels 0 and 1"),
        (lambda: Logistic().check_targets(np.array([[1.5, 0.0]])), r"Y: .* lie in \[0, 1\]; use labels 0 and 1"),
        (lambda: CrossEntropy().check_targets(np.array([[1.0, -0.5]])), "Y: .* not negative; use one-hot columns"),
    ],
)
def test_bad_arguments_and_targets_are_refused_by_name(build: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        build()  # type: ignore[operator]
