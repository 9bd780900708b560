"""Ball arithmetic for any cell: arrays of balls, polished equilibria, difference quotients.

What is compared with "exact" numbers here is compared with 400 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx

from deqverify.cells import LinearSoftmaxCell
from deqverify.cells.tanh import TanhCell
from deqverify.dtypes import DTYPES, round_to
from deqverify.losses import Loss
from deqverify.oracle import Objective, Oracle, OracleError, Polished, derivative, differences
from deqverify.oracle.balls import balls, centres, magnitude, middle, precision, radius
from deqverify.oracle.krawczyk import Jacobian, jacobian_over, settled
from tests.any_cell import Given, Grid, SmallRelu
from tests.examples import LOSSES, random_problem, targets_of

LINEAR, TANH = LinearSoftmaxCell(), TanhCell()


def tanh_problem(seed: int, rate: float = 0.9, dtype: str = "float64") -> Given:
    """‖W‖_∞ is ``rate``; every third W is cyclic, every fourth tanh saturated."""
    rng = np.random.default_rng(seed)
    m, d, n = (int(k) for k in rng.integers(1, (7, 5, 4)))
    W = rng.standard_normal((m, m))
    if seed % 3 == 0:
        W = np.roll(np.diag(np.diag(W)), 1, axis=0)
    W = W * rate / np.abs(W).sum(axis=1).max()
    theta = {"W": W, "U": rng.standard_normal((m, d)) * (8.0 if seed % 4 == 0 else 1.0), "b": rng.standard_normal(m)}
    return rounded(Given(TANH, theta, rng.standard_normal((n, d)), rng.standard_normal((n, m))), dtype)


def linear_problem(seed: int, gamma: float = 0.9, dtype: str = "float64") -> Given:
    problem = random_problem(seed, gamma)
    theta = {"A": problem.A, "gamma": np.asarray(gamma)}
    c = np.random.default_rng(seed).standard_normal((problem.n, problem.m))
    return rounded(Given(LINEAR, theta, problem.Phi.T, c), dtype)


def grid_problem(seed: int, dtype: str = "float64") -> Given:
    """States of two axes; ‖V‖‖W‖ = .9 in the 2-norm."""
    rng = np.random.default_rng(seed)
    W, V = rng.standard_normal((2, 2)), rng.standard_normal((3, 3))
    theta = {"W": 0.9 * W / np.linalg.norm(W, 2), "V": V / np.linalg.norm(V, 2)}
    return rounded(Given(Grid(), theta, *rng.standard_normal((2, 2, 2, 3))), dtype)


def rounded(given: Given, dtype: str) -> Given:
    theta = {name: round_to(value, dtype) for name, value in given.theta.items()}
    return Given(given.cell, theta, round_to(given.x, dtype), round_to(given.cotangent, dtype))


def problems() -> Iterator[Given]:
    for seed in range(8):
        yield from (tanh_problem(seed), linear_problem(seed), grid_problem(seed))


def polished(given: Given) -> Polished:
    return Polished(given.cell, given.theta, given.x)


def test_numbers_become_balls_and_come_back() -> None:
    array = np.array([[0.1, -2.0], [5e-324, 1e308]])
    with ctx.workprec(8):  # no digit is lost, whatever the precision
        exact = balls(array)
        wide = balls(array, np.array([0.5, 0.0]))
    assert np.array_equal(middle(exact), array)
    assert not radius(exact).any()
    assert np.all(radius(wide) >= [0.5, 0.0])
    assert np.all(radius(wide) <= [0.5 * (1 + 2.0**-28), 0.0])  # radii have 30 bits
    assert np.all(magnitude(wide) >= np.abs(array) + np.array([0.5, 0.0]))
    assert np.array_equal(middle(centres(wide)), array)
    assert not radius(centres(wide)).any()
    assert balls(0.5).shape == ()
    assert balls(np.zeros((0, 3))).shape == (0, 3)


def test_a_ball_keeps_its_midpoint_when_it_is_widened() -> None:
    with ctx.workprec(200):
        third = balls(arb(1) / 3)
        wide = balls(third, 1e-9)
    with ctx.workprec(24):
        assert balls(third, 1e-9)[()].mid() == wide[()].mid() == third[()].mid()
    assert 1e-9 <= radius(wide) <= 1.1e-9  # the old radius is dropped


def test_radii_and_magnitudes_are_upper_bounds() -> None:
    """Of balls whose numbers no float64 holds."""
    with ctx.workprec(300):
        for k in range(1, 60):
            ball = arb(arb(1) / (3 * k), arb(1) / (7 * k))
            top = Fraction(1, 3 * k) + Fraction(1, 7 * k)
            assert Fraction(float(radius(ball))) >= Fraction(1, 7 * k)
            assert top <= Fraction(float(magnitude(ball))) <= top * (1 + Fraction(1, 2**28))
    assert math.isinf(float(radius(arb(1) / arb(0, 1))))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_cell_in_a_dtypes_precision_encloses_the_truth_and_not_much_else(dtype: str) -> None:
    for given in problems():
        given = rounded(given, dtype)
        theta, x, z = {k: balls(v) for k, v in given.theta.items()}, balls(given.x), balls(given.cotangent)
        with precision(dtype):
            assert ctx.prec == DTYPES[dtype].significand
            coarse, pulled = given.cell.step(theta, x)(z), given.cell.pull(theta, x, z, z)
        with ctx.workprec(400):
            exact, exact_pull = given.cell.step(theta, x)(z), given.cell.pull(theta, x, z, z)
        assert all(a.contains(b) for a, b in zip(coarse.ravel(), exact.ravel(), strict=True))
        assert all(a.contains(b) for a, b in zip(pulled.z.ravel(), exact_pull.z.ravel(), strict=True))
        for name, value in exact_pull.theta.items():
            pairs = zip(np.ravel(pulled.theta[name]), np.ravel(value), strict=True)
            assert all(a.contains(b) for a, b in pairs)
        if dtype in ("float64", "float32") and given.cell is not LINEAR:
            # A tanh of a sum of a dozen products at the most, none above 8·4·4: that many roundings, each of one unit
            # in the last place, and as much again.
            assert radius(coarse).max() <= 64 * 2 * DTYPES[dtype].unit_roundoff * 128


def test_the_precision_is_put_back() -> None:
    before = ctx.prec
    with pytest.raises(RuntimeError), precision("float16"):
        raise RuntimeError
    assert ctx.prec == before


def test_a_polished_equilibrium_is_one_to_a_hundred_bits() -> None:
    for given in problems():
        found = polished(given)
        assert found.z is not None
        with ctx.workprec(400):
            theta, x = {k: balls(v) for k, v in given.theta.items()}, balls(given.x)
            residual = given.cell.step(theta, x)(centres(found.z)) - centres(found.z)
        size = max(1.0, np.abs(middle(found.z)).max())
        assert magnitude(residual).max() <= 2.0**-100 * size
        assert radius(found.z).max() <= 2.0**-90 * size  # amplified by ‖(I − J)⁻¹‖, a few dozen here
        assert np.all(np.abs(middle(found.z) - found.found) <= 1e-9 * size)


def test_both_oracles_agree_on_the_linear_cell() -> None:
    for seed in range(20):
        problem, given = random_problem(seed, 0.9), linear_problem(seed)
        found = polished(given).z
        closed = Oracle(problem).equilibrium(2.0**-80)
        assert found is not None
        off = np.abs(middle(found).T - closed.value)
        assert np.all(off <= radius(found).T + closed.radius + 2.0**-52 * np.abs(closed.value))


def test_the_enclosure_is_one_by_a_start_far_away_too() -> None:
    for seed in range(6):
        given = tanh_problem(seed)
        one = polished(given).z
        other = Polished(given.cell, given.theta, given.x, 10.0 * given.cotangent).z
        assert one is not None
        assert other is not None
        assert all(a.overlaps(b) for a, b in zip(one.ravel(), other.ravel(), strict=True))


def test_the_start_decides_between_two_equilibria_and_a_fold_has_none() -> None:
    """``tanh(3z)`` has three fixed points; ``tanh(z)`` one, at which I − J vanishes."""
    theta = {"W": np.array([[3.0]]), "U": np.ones((1, 1)), "b": np.zeros(1)}
    x = np.zeros((1, 1))
    ends = [Polished(TANH, theta, x, np.array([[start]])).z for start in (2.0, -2.0)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert middle(ends[0])[0, 0] == -middle(ends[1])[0, 0] > 0.99
    assert Polished(TANH, theta | {"W": np.array([[1.0]])}, x, np.array([[0.5]])).z is None


def test_no_data_points_have_an_equilibrium() -> None:
    given = tanh_problem(1)
    found = Polished(given.cell, given.theta, given.x[:0])
    assert found.z is not None
    assert found.z.shape == (0, *found.state)
    assert derivative(found, given.cotangent[:0], {"W": given.theta["W"]}, 0.0) == 0.0


def test_the_jacobian_over_a_box_holds_that_of_every_point_in_it() -> None:
    rng = np.random.default_rng(0)
    for given in problems():
        centre, width = given.cotangent, 0.1 * np.abs(rng.standard_normal(given.cotangent.shape))
        over = jacobian_over(given.cell, given.theta, given.x, centre, width)
        for _ in range(5):
            z = centre + width * rng.uniform(-1.0, 1.0, centre.shape)
            J = given.jacobian(z)  # in float64: a few roundings of numbers below 100
            assert np.all(np.abs(J - over.value) <= over.radius + 2.0**-40)


def in_balls(given: Given) -> tuple[dict[str, object], object]:
    return {name: balls(value) for name, value in given.theta.items()}, balls(given.x)


def test_defects_bound_both_products_over_every_matrix() -> None:
    rng = np.random.default_rng(1)
    J, wide = rng.uniform(-0.3, 0.3, (2, 3, 3)), rng.uniform(0.0, 0.05, (2, 3, 3))
    inverse = np.linalg.inv(np.eye(3) - J)
    left, right = Jacobian(J, wide).defect(inverse), Jacobian(J, wide).right_defect(inverse)
    assert left.max() < 0.5
    for _ in range(200):
        system = np.eye(3) - J - wide * rng.choice([-1.0, 1.0], wide.shape)
        assert np.all(np.abs(np.eye(3) - inverse @ system) <= left)
        assert np.all(np.abs(np.eye(3) - system @ inverse) <= right)
    broken = Jacobian(J, np.full(J.shape, np.inf)).defect(inverse)
    assert np.isinf(broken).all()


def test_what_settles_bounds_every_solution_and_what_does_not_is_infinite() -> None:
    right, defect = np.array([[1.0, 0.5], [1.0, 0.0]]), np.array([[[0.5, 0.25], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.5]]])
    e = settled(lambda e: right + np.einsum("nij,nj->ni", defect, e), right)
    solution = np.linalg.solve(np.eye(2) - defect[0], right[0])
    assert np.all(solution <= e[0])
    assert np.all(e[0] <= 2.0 * solution)
    assert np.isinf(e[1]).all()  # d ≤ 1 + d bounds nothing
    nothing = settled(lambda e: e, np.zeros((1, 2)))
    assert np.isinf(nothing).all()  # nor does d ≤ d


def objective_of(loss: Loss, n: int, size: int, seed: int) -> Objective:
    rng = np.random.default_rng(seed)
    p = 2
    one_hot = (np.arange(p)[:, None] == rng.integers(0, p, n)).astype(float)
    return Objective(0.5 * rng.standard_normal((p, size)), targets_of(loss, one_hot), loss)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_gradients_of_losses_by_differences_are_the_formulas(loss: Loss) -> None:
    rng = np.random.default_rng(3)
    for scale in (1e-30, 1.0, 20.0):
        F = scale * rng.standard_normal((2, 3))
        objective = objective_of(loss, 3, 2, 0)
        found = middle(objective.gradient(balls(F)))
        size = objective.loss.terms(F, objective.Y)
        assert np.all(np.abs(found - loss.gradient(F, objective.Y)) <= (2 + 6) * 2.0**-53 * size)  # bounds: e_dF


def test_a_small_output_beside_a_huge_one_has_its_own_gradient() -> None:
    objective = Objective(np.eye(2), np.array([[1.5], [1.5]]), LOSSES[4])
    found = middle(objective.gradient(balls(np.array([[0.0], [1e55]]))))
    assert abs(found[0, 0] - np.tanh(-1.5)) <= 4 * 2.0**-53
    assert found[1, 0] == 1.0


@pytest.mark.parametrize("make", [tanh_problem, linear_problem, grid_problem])
def test_difference_quotients_are_the_pull_back_of_the_enclosed_adjoint(make) -> None:
    """Along every block, of an objective and of a cotangent: nothing of the pull-back is in the quotient."""
    for seed in range(4):
        given, rng = make(seed), np.random.default_rng(seed)
        found = polished(given)
        objective = objective_of(LOSSES[seed], found.n, found.s, seed)
        assert found.z is not None
        with ctx.workprec(128):
            slopes = objective.gradient(objective.outputs(found.z))
            readout = np.asarray((balls(objective.B).T @ slopes).T, dtype=object).reshape(found.z.shape)
        for of, cotangent in ((objective, readout), (given.cotangent, balls(given.cotangent))):
            adjoint = found.adjoint(found.z, cotangent, found.jacobian(found.z))
            assert adjoint is not None
            with ctx.workprec(128):
                parts = found.pull(found.z, adjoint)
                gradient = {**parts.theta, "x": parts.x}
                if of is objective:
                    gradient["B"] = slopes @ found.z.reshape(found.n, found.s)
                for name, value in gradient.items():
                    d = rng.standard_normal(np.shape(value))
                    exact = float(np.sum(balls(d) * np.asarray(value, dtype=object)))
                    size = float(np.sum(np.abs(d) * magnitude(value)))
                    # Truncation at 2⁻⁸⁴ is near 2⁻¹⁶⁸; both are rounded to float64.
                    assert abs(derivative(found, of, {name: d}, 0.0) - exact) <= 2.0**-52 * abs(exact) + 2.0**-90 * size


def test_directions_are_checked() -> None:
    given = tanh_problem(1)
    found, c = polished(given), given.cotangent
    with pytest.raises(ValueError, match=r"^direction: 'B' is not one of W, U, b, x$"):
        derivative(found, c, {"B": np.ones(2)}, 0.0)
    with pytest.raises(ValueError, match=r"^direction: b has shape \(99,\), the problem's b \(\d,\)$"):
        derivative(found, c, {"b": np.ones(99)}, 0.0)
    assert derivative(found, c, {"b": np.zeros_like(given.theta["b"])}, 0.0) == 0.0


def test_two_steps_that_disagree_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of ⅛, and no test for kinks, which would see its width first."""
    given = linear_problem(1)
    found = polished(given)
    objective = objective_of(LOSSES[4], found.n, found.s, 1)
    direction = {"x": np.ones_like(given.x)}
    right = derivative(found, objective, direction, 0.0)
    monkeypatch.setattr(differences.Line, "exponent", lambda self: -3)
    monkeypatch.setattr(differences, "_sharp", lambda rows, scale: True)
    with pytest.raises(OracleError, match="no derivative to within"):
        derivative(found, objective, direction, 1e-9)
    assert 1e-9 < abs(derivative(found, objective, direction, 0.1) - right) <= 0.1


RELU = SmallRelu()


def relu_problem(x: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two states: the first is ½ + ½ z₁, the second's argument is x."""
    return {"W": np.array([[0.5, 0.0], [0.0, -0.5]])}, np.array([[0.5, x]])


@pytest.mark.parametrize("x", [1.0, -1.0, 2.0**-60, -(2.0**-60)])
def test_a_relu_away_from_its_kink_has_a_derivative(x: float) -> None:
    theta, inputs = relu_problem(x)
    found = Polished(RELU, theta, inputs)
    assert found.z is not None
    assert middle(found.z)[0].tolist() == [1.0, max(x, 0.0) / 1.5]
    slope = derivative(found, np.ones((1, 2)), {"x": np.array([[0.0, 1.0]])}, 0.0)
    assert abs(slope - (1.0 / 1.5 if x > 0 else 0.0)) <= 2.0**-52


def test_at_a_kink_the_derivative_is_undecided() -> None:
    """Differences at two steps agree there, on the mean of two one-sided slopes: their distance tells nothing."""
    for W in (np.array([[0.5, 0.0], [0.0, -0.5]]), np.zeros((2, 2))):  # the kink shows in x alone
        found = Polished(RELU, {"W": W}, np.array([[0.5, 0.0]]))
        for name, d in (("x", np.ones((1, 2))), ("W", np.ones((2, 2)))):
            with pytest.raises(OracleError, match="kink"):
                derivative(found, np.ones((1, 2)), {name: d}, 1e-3)


def test_without_an_equilibrium_there_is_no_derivative() -> None:
    theta = {"W": np.array([[1.0]]), "U": np.ones((1, 1)), "b": np.zeros(1)}
    found = Polished(TANH, theta, np.zeros((1, 1)), np.array([[0.5]]))
    with pytest.raises(OracleError, match="no equilibrium is proved"):
        derivative(found, np.ones((1, 1)), {"b": np.ones(1)}, 0.0)


def test_newton_finds_what_does_not_contract() -> None:
    """‖W‖_∞ of 3 and a monotone W far from contracting, where plain sweeps diverge."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(10):
        G = rng.standard_normal((4, 4))
        theta = {"W": 0.5 * np.eye(4) - G.T @ G + 3.0 * (G - G.T)}  # sym(I − W) ⪰ ½: one equilibrium
        z = Polished(RELU, theta, rng.standard_normal((2, 4))).z
        found += z is not None
    assert found >= 8  # measured: all ten; semismooth Newton has no guarantee


def test_a_residual_is_exact_to_the_last_bit() -> None:
    given = linear_problem(3)
    found = polished(given)
    with ctx.workprec(400):
        theta, x = in_balls(given)
        z = balls(given.cotangent)
        exact = middle(given.cell.step(theta, x)(z) - z)
    assert np.all(np.abs(found.residual(given.cotangent) - exact) <= 2.0**-52 * np.abs(exact))
