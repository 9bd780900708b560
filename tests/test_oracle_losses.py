"""Losses of balls: the oracle's value of a ball holds the value at each of its points, kinks included."""

from __future__ import annotations

import numpy as np
import pytest
from flint import arb

from deqverify import losses
from deqverify.oracle import Oracle
from deqverify.oracle.losses import _positive, loss_value
from deqverify.problem import SoftmaxProblem
from tests.examples import LOSSES

BALLS = [arb(0.5, 1e-3), arb(-0.5, 1e-3), arb(0, 1e-3), arb(1e-9, 1e-3), arb(1, 1e-3), arb(-1, 1e-3), arb(30, 2)]


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.name != "cross-entropy"], ids=repr)
@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_the_loss_of_a_ball_holds_the_loss_of_each_of_its_points(loss: losses.Loss, ball: arb) -> None:
    """Balls that straddle 0, a kink of the hinge (margin 1) and a change of formula included."""
    for y in (1.0, 0.0) if loss.smooth else (1.0, -1.0):
        Y = np.array([[y]])
        image = loss_value(loss, [[ball]], Y)
        low, high = float(ball.lower()), float(ball.upper())
        for f in (low, high, *np.linspace(low, high, 11)[1:-1], 0.0, 1.0, -1.0):
            if low <= f <= high:
                assert image.overlaps(loss_value(loss, [[arb(f)]], Y))
                narrow = loss_value(loss, [[arb(f)]], Y)
                assert float(image.lower()) <= float(narrow.mid()) <= float(image.upper())


@pytest.mark.parametrize("outputs", [[1e41], [1e41, 1e41], [1e41, -1e41], [1e41, 1e41 - 1e25, 3e40]], ids=str)
def test_the_cross_entropy_of_balls_that_are_wider_than_exponentials_can_tell(outputs: list[float]) -> None:
    """exp of a ball of radius 1e25 may be zero, and log of that is no number: a false alarm in a long campaign."""
    F, Y = [[arb(f, 1e25)] for f in outputs], np.eye(len(outputs))[:, :1]
    found = loss_value(losses.CrossEntropy(0.0), F, Y)
    assert found.is_finite()
    for shift in (-1e25, 0.0, 1e25):  # the log-sum-exp is the largest, and log k where k are equal, between 0 and log p
        moved = [f + shift * (-1) ** k for k, f in enumerate(outputs)]
        assert found.contains(arb(max(moved)) - arb(moved[0]))


def test_the_positive_part_of_a_ball_about_zero_is_enclosed() -> None:
    for x in (arb(0, 1), arb(0.25, 1), arb(-0.25, 1)):
        part = _positive(x)
        assert part.contains(arb(0))
        assert part.contains(x.mid() + arb(1)) or float(part.upper()) >= float(x.upper())
    assert _positive(arb(-2, 1)) == 0
    assert float(_positive(arb(2, 1)).lower()) >= 0.99


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.smooth], ids=repr)
@pytest.mark.parametrize("exponent", [30, 100, 190])
def test_a_data_point_of_zero_among_huge_ones_is_seen_at_its_own_scale(loss: losses.Loss, exponent: int) -> None:
    """Its gradient is that at F = 0, and a step that is small for the other points only crosses the whole loss."""
    if isinstance(loss, losses.Poisson):  # its outputs are to stay in range: B takes the scale back
        B = 2.0 ** -(exponent + 4.0) * np.array([[1.0], [-1.0], [0.5]])
    else:
        B = np.array([[1.0], [-1.0], [0.5]])
    Y = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    problem = SoftmaxProblem(np.zeros((1, 1)), B, np.array([[2.0**exponent, 0.0]]), Y, 0.5, loss)
    d = np.array([[0.0, 1.0]])
    exact = 2.0 * float(B[:, 0] @ loss.gradient(np.zeros((3, 1)), Y[:, 1:])[:, 0])  # 1/(1−γ) = 2
    size = 2.0 * float(np.abs(B[:, 0]) @ loss.terms(np.zeros((3, 1)), Y[:, 1:])[:, 0])
    assert abs(Oracle(problem).derivative({"Phi": d}, 0.0) - exact) <= 16 * 2.0**-53 * size


def test_a_kink_of_the_gradient_at_the_point_itself_costs_the_derivative_nothing() -> None:
    one = np.ones((1, 1))
    problem = SoftmaxProblem(0 * one, 0.5 * one, one, one, 0.5, losses.HingeSquared(0.5))  # F = 1, margin 1
    assert abs(Oracle(problem).derivative({"B": one}, 0.0) - 2.0) <= 2.0**-50  # 2τF · z, z = 2
