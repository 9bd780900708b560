"""The oracle against itself: two precisions, two steps, planted errors, exact zeros, extreme conditioning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deqverify import losses
from deqverify.oracle import Oracle
from deqverify.oracle import closed as oracle
from deqverify.oracle.closed import BLOCKS
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm
from tests.examples import LOSSES, random_problem, random_problems


def direction_for(problem: SoftmaxProblem, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {block: np.asarray(rng.normal(size=np.shape(getattr(problem, block)))) for block in BLOCKS}


def test_a_derivative_is_the_same_at_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in random_problems(12):
        direction = direction_for(problem)
        fine = Oracle(problem).derivative(direction, 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(oracle, "_STEP_BITS", 70)
            coarse = Oracle(problem).derivative(direction, 0.0)
        # Each is claimed to 2⁻⁵² relative; truncation at 2⁻⁷⁰ is far below that.
        assert abs(fine - coarse) <= 2 * 2.0**-52 * abs(fine)


@pytest.mark.parametrize("gamma", [1e-300, 5e-324])
def test_the_step_may_lie_below_the_range_of_float64(gamma: float) -> None:
    problem = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], gamma, losses.Squared())
    # L = φ²/(1−γ)², so dL/dγ = 2/(1−γ)³ = 2 to the last bit.
    assert Oracle(problem).derivative({"gamma": np.asarray(1.0)}, 0.0) == 2.0
    small = problem.with_features(np.array([[1e-20]]))
    assert (
        abs(Oracle(small).derivative({"Phi": np.array([[1e300]])}, 0.0) - 2e280) <= 2.0**-50 * 2e280
    )  # 1e-20 is rounded


def test_an_enclosure_at_a_higher_precision_lies_inside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in random_problems(12, gamma=0.999):
        first = Oracle(problem).equilibrium()
        with monkeypatch.context() as patch:
            patch.setattr(oracle, "_FIRST_BITS", 1024)
            second = Oracle(problem).equilibrium()
        rounding = 2.0**-53 * np.abs(first.value)  # midpoints are rounded to float64
        assert np.all(np.abs(first.value - second.value) <= first.radius + second.radius + 2 * rounding)


def test_the_derivative_is_the_closed_form_gradient() -> None:
    for problem in random_problems(30):
        direction, gradient = direction_for(problem), ClosedForm(problem).gradient
        found = sum(float(np.sum(gradient[block] * direction[block])) for block in BLOCKS)
        size = sum(float(np.sum(np.abs(gradient[block] * direction[block]))) for block in BLOCKS)
        # A float64 gradient of a 5 × 5 problem at γ = ¾: κ(U) ≤ 7, three solves, a few hundred operations.
        assert abs(Oracle(problem).derivative(direction, 0.0) - found) <= 1000 * 7 * 2.0**-53 * size


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_every_loss_has_an_objective_and_a_derivative(loss: losses.Loss) -> None:
    for seed in range(8):
        problem = random_problem(seed, loss=loss)
        exact, direction = ClosedForm(problem), direction_for(problem, seed)
        found = Oracle(problem).objective()
        # A float64 evaluation at γ = ¾, as above: outputs of size |W||Φ|, and a dozen roundings of the loss's terms.
        error = 1000 * 7 * 2.0**-53
        size = np.sum(np.abs(exact.dF) * (np.abs(exact.W) @ np.abs(problem.Phi))) + np.sum(
            loss.value_terms(exact.F, problem.Y)
        )
        assert abs(float(found.value[0, 0]) - exact.loss) <= float(found.radius[0, 0]) + error * float(size)
        assert float(found.radius[0, 0]) <= 2.0**-52 * exact.loss + 2.0**-98 * float(np.abs(problem.Y).max())
        slope = sum(float(np.sum(exact.gradient[block] * direction[block])) for block in BLOCKS)
        reach = sum(float(np.sum(np.abs(exact.gradient[block] * direction[block]))) for block in BLOCKS)
        moved = loss.spread(exact.F, problem.Y, error * (np.abs(exact.W) @ np.abs(problem.Phi)))
        allowed = error * reach + float(moved.sum()) * reach / max(float(np.abs(exact.dF).sum()), 1e-300)
        assert abs(Oracle(problem).derivative(direction, 0.0) - slope) <= allowed


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_has_a_derivative_of_its_own(block: str) -> None:
    for problem in random_problems(10):
        direction, gradient = direction_for(problem), ClosedForm(problem).gradient
        found = float(np.sum(gradient[block] * direction[block]))
        size = sum(float(np.sum(np.abs(gradient[name] * direction[name]))) for name in BLOCKS)
        alone = Oracle(problem).derivative({block: direction[block]}, 0.0)
        assert abs(alone - found) <= 1000 * 7 * 2.0**-53 * size  # as above
        rest = {name: d for name, d in direction.items() if name != block}
        together = Oracle(problem).derivative(direction, 0.0)
        assert abs(alone + Oracle(problem).derivative(rest, 0.0) - together) <= 8 * 2.0**-52 * size


def test_error_bounds_a_planted_error_from_above_and_closely() -> None:
    problem = random_problem(4, gamma=0.9)
    star = Oracle(problem).equilibrium().value
    for planted in (1e-3, 1e-9):
        shift = planted * np.abs(star).max()
        found = Oracle(problem).error(star + shift)
        rounding = 4 * 2.0**-53 * np.abs(star).max()
        assert np.all(found >= shift - rounding)
        assert np.all(found <= shift + rounding)


def test_residuals_that_vanish_exactly_do_not_loop() -> None:
    problem = SoftmaxProblem(
        np.zeros((3, 3)), np.ones((1, 3)), np.ones((3, 2)), np.zeros((1, 2)), 0.5, losses.Squared()
    )
    tiny = 2.0**-90  # the promise: 2⁻¹⁰⁰ of the largest summand, here below 4
    assert np.abs(Oracle(problem).residual(np.full((3, 2), 2.0))).max() <= tiny
    assert np.abs(Oracle(problem).adjoint_residual(np.full((3, 2), 2.0), np.ones((3, 2)))).max() <= tiny
    fitted = problem.with_features(problem.Phi, np.full((1, 2), 6.0))
    assert float(Oracle(fitted).objective().value[0, 0]) <= tiny


def test_a_zero_derivative_does_not_loop() -> None:
    problem = random_problem(7)
    ones = np.zeros(problem.A.shape)
    ones[:, 0] = 1.0  # the gauge: L does not change
    assert abs(Oracle(problem).derivative({"A": ones}, 1e-20)) <= 1e-20  # as asked
    assert Oracle(problem).derivative({"A": np.zeros(problem.A.shape)}, 0.0) == 0.0


@pytest.mark.parametrize("gamma", [1 - 1e-6, 1 - 1e-12, 1 - 2.0**-53])
def test_precision_doubles_until_the_enclosure_suffices(gamma: float) -> None:
    problem = random_problem(5, gamma)
    enclosure = Oracle(problem).equilibrium()
    assert np.all(enclosure.radius.max(axis=0) <= 2.0**-60 * np.abs(enclosure.value).max(axis=0))
    mass = enclosure.value.sum(axis=0) * (1 - gamma)
    size = np.abs(enclosure.value).sum(axis=0) * (1 - gamma)
    assert np.all(np.abs(mass - problem.Phi.sum(axis=0)) <= 8 * 2.0**-53 * (size + np.abs(problem.Phi).sum(axis=0)))


def test_a_precision_too_low_to_prove_U_invertible_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(5, 1 - 2.0**-40)
    direction = direction_for(problem)
    expected = Oracle(problem).equilibrium(), Oracle(problem).derivative(direction, 0.0), Oracle(problem).objective()
    asked: list[int] = []
    system = Oracle._system
    monkeypatch.setattr(oracle, "_FIRST_BITS", 4)
    monkeypatch.setattr(Oracle, "_system", lambda self: asked.append(oracle.ctx.prec) or system(self))
    again = Oracle(problem).equilibrium()
    assert asked[:3] == [4, 8, 16]
    assert np.all(np.abs(again.value - expected[0].value) <= again.radius + expected[0].radius)
    asked.clear()
    assert abs(Oracle(problem).derivative(direction, 0.0) - expected[1]) <= 2 * 2.0**-52 * abs(expected[1])
    assert abs(Oracle(problem).objective().value - expected[2].value) <= 2.0**-51 * abs(expected[2].value)


def test_matrices_are_made_once_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    softmax = oracle._softmax
    monkeypatch.setattr(oracle, "_softmax", lambda A: made.append(oracle.ctx.prec) or softmax(A))
    asked = Oracle(random_problem(4))
    for _ in range(3):
        asked.equilibrium()
        asked.residual(np.ones(asked.problem.Phi.shape))
        asked.derivative({"B": np.ones(asked.problem.B.shape), "Phi": np.ones(asked.problem.Phi.shape)}, 1e-3)
    assert sorted(made) == sorted(set(made))


def test_what_cannot_be_narrowed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "_MOST_BITS", 128)
    problem = random_problem(5, 1 - 2.0**-53)
    with pytest.raises(oracle.OracleError, match=r"^no enclosure as narrow as asked at 128 bits$"):
        Oracle(problem).equilibrium(2.0**-200)
    with pytest.raises(oracle.OracleError, match=r"^no derivative to within 0\.0e\+00 at 128 bits$"):
        Oracle(problem).derivative(direction_for(problem), 0.0)


def test_no_data_is_legal() -> None:
    problem = SoftmaxProblem(np.zeros((2, 2)), np.ones((1, 2)), np.ones((2, 0)), np.ones((1, 0)), 0.5, losses.Squared())
    asked = Oracle(problem)
    empty = np.zeros((2, 0))
    assert asked.equilibrium().value.shape == (2, 0)
    assert asked.residual(empty).shape == asked.adjoint_residual(empty, empty).shape == (2, 0)
    assert float(asked.objective().value[0, 0]) == 0.0
    assert asked.derivative({"A": np.ones((2, 2))}, 0.0) == 0.0


@pytest.mark.parametrize(
    ("direction", "said"),
    [
        ({"C": np.ones((1, 1))}, r"^direction: 'C' is not one of A, B, Phi, gamma$"),
        ({"A": np.ones((9, 9))}, r"^direction: A has shape \(9, 9\), the problem's A another$"),
    ],
)
def test_a_bad_direction_is_refused(direction: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Oracle(random_problem(1)).derivative(direction, 0.0)


def test_the_softmax_is_enclosed_and_its_columns_sum_to_one() -> None:
    for problem in random_problems(5):
        S = Oracle(problem).softmax()
        sums = np.abs(S.value.sum(axis=0) - 1.0)
        assert np.all(sums <= S.radius.sum(axis=0) + problem.m * 2.0**-53)


def test_an_unknown_loss_is_refused() -> None:
    class Strange(losses.Squared):
        pass

    problem = random_problem(3, loss=Strange())
    assert Oracle(problem).objective().value.size  # a subclass is a squared loss

    class Stranger:
        name = "stranger"

        def check_targets(self, Y: np.ndarray) -> None: ...

    with pytest.raises(TypeError, match="does not know"):
        Oracle(random_problem(3, loss=Stranger())).objective()  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_objective_is_the_losss_own_value(loss: losses.Loss) -> None:
    for seed in range(10):
        problem = random_problem(seed, loss=loss)
        exact = ClosedForm(problem)
        found = Oracle(problem).objective()
        # F is good to a few hundred roundings of |B||Z| (γ = ¾), the loss moves by its slope and by its curvature ≤ 3.
        wrong = 300 * 2.0**-53 * float((np.abs(problem.B) @ np.abs(exact.Z)).max())
        slope = float(np.abs(exact.dF).sum())
        rounding = (exact.F.size + 8) * 2.0**-53 * float(np.sum(exact.F**2 + problem.Y**2 + np.abs(exact.F) + 1.0))
        assert abs(exact.loss - float(found.value[0, 0])) <= wrong * (slope + 3 * exact.F.size * wrong) + rounding
        assert found.radius[0, 0] <= 2.0**-53 * abs(float(found.value[0, 0])) + 2.0**-100


@pytest.mark.parametrize("logit", [0.0, 1.0, 300.0, -300.0])
def test_losses_of_large_outputs_are_enclosed(logit: float) -> None:
    # F = B z = logit·2 by construction: γ = ½, A = 0, one state.
    def objective(loss: losses.Loss, p: int, Y: list[list[float]]) -> float:
        B = np.array([[logit], [-logit]])[:p]
        problem = SoftmaxProblem([[0.0]], B, [[1.0]], Y, 0.5, loss)
        return float(Oracle(problem).objective().value[0, 0])

    f = 2 * logit
    softplus = max(f, 0.0) + np.log1p(np.exp(-abs(f)))
    for ridge in (0.0, 0.125):
        expected = softplus - 0.25 * f + ridge * f * f
        assert abs(objective(losses.Logistic(ridge), 1, [[0.25]]) - expected) <= 8 * 2.0**-53 * (1 + expected + abs(f))
        expected = np.logaddexp(f, -f) - f + 2 * ridge * f * f
        found = objective(losses.CrossEntropy(ridge), 2, [[1.0], [0.0]])
        assert abs(found - expected) <= 8 * 2.0**-53 * (1 + expected + abs(f))
    assert objective(losses.Squared(), 1, [[1.0]]) == (f - 1) ** 2


def test_radii_enclose_at_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(8, gamma=0.9)
    Z = np.round(ClosedForm(problem).Z, 3)
    fine = Oracle(problem)
    truth = fine.equilibrium(2.0**-200).value, fine.residual(Z), fine.adjoint_residual(Z, Z)
    monkeypatch.setattr(oracle, "_FIRST_BITS", 8)
    coarse = Oracle(problem)
    rough = coarse.equilibrium(0.5)
    assert rough.radius.max() > 0.0
    assert np.all(np.abs(rough.value - truth[0]) <= rough.radius + 2.0**-52 * np.abs(truth[0]))
    for found, expected in ((coarse.residual(Z), truth[1]), (coarse.adjoint_residual(Z, Z), truth[2])):
        assert np.all(np.abs(found - expected) <= 2.0**-52 * np.abs(expected) + 2.0**-99 * np.abs(Z).max())


def test_residuals_are_those_of_their_equations() -> None:
    for problem in random_problems(10):
        exact = ClosedForm(problem)
        rng = np.random.default_rng(0)
        Z, c = rng.normal(size=(2, *problem.Phi.shape))
        size = 4 * np.abs(np.concatenate([Z, c, problem.Phi])).sum()
        rounding = (2 * problem.m + 16 + np.ptp(problem.A)) * 2.0**-53 * size
        expected = problem.Phi + problem.gamma * exact.S @ Z - Z
        assert np.abs(Oracle(problem).residual(Z) - expected).max() <= rounding
        expected = c + problem.gamma * exact.S.T @ Z - Z
        assert np.abs(Oracle(problem).adjoint_residual(Z, c) - expected).max() <= rounding


@pytest.mark.parametrize("block", BLOCKS)
def test_a_step_is_small_against_the_scale_of_its_block(block: str) -> None:
    problem = random_problem(5, gamma=1 - 2.0**-20)
    problem = replace(problem, A=1e3 * problem.A, B=1e-3 * problem.B, Phi=1e6 * problem.Phi, loss=losses.Squared())
    scale = {"A": 1.0, "gamma": 2.0**-20}.get(block) or float(np.abs(getattr(problem, block)).max())
    for length in (2.0**-70, 1.0, 3e5):
        along = {block: length * np.ones(np.shape(getattr(problem, block)))}
        exponent = oracle._step(problem, along)
        assert exponent is not None
        moved = length / scale * 2.0**exponent
        assert 2.0**-87 < moved <= 2.0**-84
        both = {name: np.asarray(0.0 * np.asarray(getattr(problem, name))) for name in BLOCKS} | along
        assert oracle._step(problem, both) == exponent
    assert oracle._step(problem, {block: np.zeros(np.shape(getattr(problem, block)))}) is None


def test_the_speed_of_the_outputs_by_hand() -> None:
    A, Y = np.zeros((2, 2)), np.zeros((1, 2))
    problem = SoftmaxProblem(A, np.array([[-3.0, 1.0]]), np.array([[1.0, -4.0], [2.0, 2.0]]), Y, 0.75, losses.Squared())
    z = 4.0 * 6.0  # ‖φ‖₁ = 6 at the most, amplified by 1/(1−γ) = 4
    unit = {"A": np.ones((2, 2)), "B": -np.ones((1, 2)), "Phi": np.ones((2, 2)), "gamma": np.asarray(0.25)}
    expected = {"A": 2.0 * 4.0 * 3.0 * z, "B": z, "Phi": 2 * 4.0 * 3.0, "gamma": 0.25 * 4.0 * 3.0 * z}
    for block, speed in expected.items():
        assert oracle._speed(problem, {block: unit[block]}) == speed
    assert oracle._speed(problem, unit) == sum(expected.values())
    assert oracle._speed(problem.with_features(problem.Phi / 64, Y), {"B": unit["B"]}) == z / 64
    assert oracle._speed(problem.with_features(np.zeros((2, 0)), np.zeros((1, 0))), unit) == expected["Phi"]


def test_no_output_is_faster_than_the_speed() -> None:
    for problem in random_problems(40):
        direction, h = direction_for(problem), 2.0**-20
        ends = [replace(problem, **{b: getattr(problem, b) + s * h * d for b, d in direction.items()}) for s in (1, -1)]
        moved = np.abs(ClosedForm(ends[0]).F - ClosedForm(ends[1]).F) / (2 * h)
        assert np.all(moved <= oracle._speed(problem, direction) * (1 + 1e-6))  # differences are good to h² and u/h


def test_features_of_zero_have_a_step_of_their_own() -> None:
    problem = random_problem(5, loss=losses.Squared())
    nothing = problem.with_features(0 * problem.Phi, problem.Y)
    assert oracle._step(nothing, {"Phi": np.ones(problem.Phi.shape)}) == -85  # 2⁻⁸⁴ of ½


@pytest.mark.parametrize("first_bits", [4, 16, 40, 44, 48, 52, 56, 64])
def test_accuracy_is_kept_whatever_the_first_precision(first_bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(5, gamma=0.9)
    scaled = problem.with_features(problem.Phi * 2.0 ** -(60.0 + 40.0 * np.arange(problem.n)), problem.Y)
    direction = direction_for(scaled)
    star, slope = Oracle(scaled).equilibrium(2.0**-200).value, Oracle(scaled).derivative(direction, 0.0)
    monkeypatch.setattr(oracle, "_FIRST_BITS", first_bits)
    found = Oracle(scaled).equilibrium()
    largest = np.abs(found.value).max(axis=0)  # of every column: they are 2⁻⁴⁰ apart
    assert np.all(found.radius.max(axis=0) <= 2.0**-60 * largest)
    assert np.all(np.abs(found.value - star) <= found.radius + 2.0**-52 * np.abs(star))
    assert abs(Oracle(scaled).derivative(direction, 0.0) - slope) <= 2 * 2.0**-52 * abs(slope)
    error = Oracle(scaled).error(star)
    assert np.all(error >= 2.0**-53 * np.abs(star))  # star itself is rounded to float64
    assert np.all(error <= 2.0**-53 * np.abs(star) + 2.0**-52 * np.abs(star) + 2.0**-79 * np.abs(star).max(axis=0))


def test_the_error_of_the_rounded_equilibrium_is_its_rounding() -> None:
    for problem in random_problems(5):
        star = Oracle(problem).equilibrium(2.0**-80)
        assert np.all(np.abs(Oracle(problem).error(star.value) - 2.0**-53 * np.abs(star.value)) <= star.radius)


def test_a_residual_may_vanish_without_a_right_side() -> None:
    # S = 1/3 is a ball, and (1 + 5 + 0)/6 = 1: the first entry is an exact zero that no precision narrows relatively.
    problem = SoftmaxProblem(
        np.zeros((3, 3)), np.ones((1, 3)), np.ones((3, 1)), np.zeros((1, 1)), 0.5, losses.Squared()
    )
    found = Oracle(problem).adjoint_residual(np.array([[1.0], [5.0], [0.0]]), np.zeros((3, 1)))
    assert abs(found[0, 0]) <= 2.0**-97
    assert found[1:, 0].tolist() == [-4.0, 1.0]
    forward = Oracle(problem.with_features(np.zeros((3, 1)))).residual(np.array([[1.0], [5.0], [0.0]]))
    assert abs(forward[0, 0]) <= 2.0**-97
    assert forward[1:, 0].tolist() == [-4.0, 1.0]


def test_no_data_is_enclosed_exactly() -> None:
    problem = SoftmaxProblem(np.zeros((2, 2)), np.ones((1, 2)), np.ones((2, 0)), np.ones((1, 0)), 0.5, losses.Squared())
    assert Oracle(problem).equilibrium().radius.shape == (2, 0)
