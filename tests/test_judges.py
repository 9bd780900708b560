"""Judges beside each other: closed forms and balls say the same of one problem, each in its own norms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from deqverify import SoftmaxProblem, losses
from deqverify.bounds import Bound, Budget, Errors
from deqverify.cells import cells
from deqverify.claims import NORMS, Accuracy, Claims
from deqverify.errors.any_cell import BallJudge
from deqverify.errors.judge import Judge, along, astray, gradient_astray, judge, weighed
from deqverify.errors.softmax import MOST_FOR_ORACLE, SoftmaxJudge
from deqverify.oracle.balls import beside, precision, radius
from deqverify.problem import CellProblem
from deqverify.tangent_errors import TangentErrors
from deqverify.theory.closed_form import ClosedForm

CLAIMS = Claims(Accuracy(1e-6), Accuracy(1e-5), dtypes=("float64", "float32", "bfloat16"))
STORED = Claims(Accuracy(1e-6), Accuracy(1e-5), dtypes=("bfloat16",), computes_in={"bfloat16": "float32"})
ROUNDING = 1e-12
"""Of float64, times 1/(1 − γ)² = 16 and sums of five: three digits to spare."""


def problem(m: int = 4, n: int = 3, gamma: float = 0.75) -> SoftmaxProblem:
    rng = np.random.default_rng(m)
    A, B, Phi, Y = (rng.normal(size=shape) for shape in ((m, m), (2, m), (m, n), (2, n)))
    return SoftmaxProblem(A, B, Phi, Y, gamma, losses.Squared())


def both(claims: Claims = CLAIMS, dtype: str = "float64") -> tuple[SoftmaxJudge, BallJudge]:
    of = problem().rounded_to(dtype)
    return SoftmaxJudge(of, claims, dtype), BallJudge(of, claims, dtype)


def direction(of: SoftmaxProblem, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=np.shape(of.block(name))) for name in of.blocks}


def same(found: Any, expected: Any) -> bool:
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and bool(
        np.all(np.abs(found - expected) <= ROUNDING * np.abs(expected).max(initial=1.0))
    )


def test_they_agree_on_what_is_true() -> None:
    softmax, ball = both()
    rng = np.random.default_rng(1)
    z, adjoint = ball.z + 1e-3 * rng.normal(size=ball.z.shape), ball.adjoint + 1e-3 * rng.normal(size=ball.z.shape)
    assert same(softmax.z, ball.z)
    assert same(softmax.adjoint, ball.adjoint)
    assert set(softmax.pulled) == set(ball.pulled) == {"A", "gamma", "x"}
    assert set(ball.gradient) == set(problem().blocks)
    for block, value in ball.gradient.items():
        assert same(softmax.gradient[block], value), block
        assert block == "B" or same(softmax.pulled[block], value), block
    assert same(softmax.residual(z), ball.residual(z))
    assert same(softmax.adjoint_residual(adjoint), ball.adjoint_residual(adjoint))
    assert same(softmax.error(z), ball.error(z).sum(axis=1))
    assert same(softmax.objective()[0], ball.objective()[0])
    assert same(softmax.value_size, ball.value_size)
    assert same(softmax.tangent(direction(problem()))[0], ball.tangent(direction(problem()))[0])
    for found in (softmax, ball):
        value, off = found.objective()
        assert 2.0**-53 * abs(value) <= off <= 2.0**-51 * abs(value)


@pytest.mark.parametrize("which", [0, 1])
def test_a_gradient_that_is_off_is_off_by_as_much_along_a_direction(which: int) -> None:
    found = both()[which]
    along_it = direction(problem())
    for share in (0.0, 1e-3):
        wrong = {block: found.gradient[block] + share * d for block, d in along_it.items()}
        expected = share * sum(float(np.sum(d**2)) for d in along_it.values())
        off, doubt = found.off_slope(wrong, along_it, 1e-10)
        assert doubt <= 2e-10
        assert abs(off - expected) <= doubt + ROUNDING * 100  # of a gradient of size ten, in fifty entries


def test_beyond_the_oracles_size_closed_forms_take_its_place() -> None:
    of = problem(m=MOST_FOR_ORACLE + 1)
    found, along_it = SoftmaxJudge(of, CLAIMS, "float64"), direction(of)
    wrong = {block: found.gradient[block] + 1e-3 * d for block, d in along_it.items()}
    off, doubt = found.off_slope(wrong, along_it, 1e-30)
    assert off == pytest.approx(1e-3 * sum(float(np.sum(d**2)) for d in along_it.values()), rel=1e-9)
    own = found.bounds.theory.gradient
    least = sum(
        float(np.sum(own["Phi" if k == "x" else k].T * np.abs(d if k == "x" else d.T))) for k, d in along_it.items()
    )
    assert least <= doubt <= least + 2.0**-53 * 2000 * off  # 1,255 entries


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_closed_forms_are_said_with_data_points_first(dtype: str) -> None:
    of = problem().rounded_to(dtype)
    found, budget = SoftmaxJudge(of, CLAIMS, dtype), Budget(ClosedForm(of), CLAIMS, dtype)
    for bound, ask in (
        (found.z_error, lambda e: e.z),
        (found.adjoint_error, lambda e: e.adjoint_from(0.0)),
        (found.value_error, lambda e: e.value),
        (found.start_error, Errors.adjoint_residual),
    ):
        assert bound.terms.keys() == budget.bound(ask).terms.keys()
        assert np.array_equal(bound.total, budget.bound(ask).total)
    given = np.abs(np.random.default_rng(2).normal(size=found.z.shape))
    for block, name in (("A", "A"), ("gamma", "gamma"), ("x", "Phi")):
        for bound, ask in (
            (found.pulled_error(block), lambda e, name=name: e.pulled()[name]),
            (found.pulled_error(block, given), lambda e, name=name: e.pulled(given.T)[name]),
            (found.gradient_error(block), lambda e, name=name: e.gradient[name]),
        ):
            expected = budget.bound(ask).total
            assert np.array_equal(bound.total, expected.T if block == "x" else expected)
        own = budget.theory.pulled()[name]
        assert np.array_equal(found.pulled_own(block), own.T if block == "x" else own)
    assert np.array_equal(found.gradient_error("B").total, budget.bound(lambda e: e.gradient["B"]).total)
    assert np.array_equal(found.z_own, budget.theory.z)
    assert found.in_range
    along_it = direction(of)
    turned = {"A": along_it["A"], "Phi": along_it["x"].T, "gamma": along_it["gamma"]}
    assert np.array_equal(
        found.tangent(along_it)[1].total, budget.bound(lambda e: TangentErrors(e, turned).dZ.error).total.T
    )


@pytest.mark.parametrize(("claims", "dtype"), [(CLAIMS, "float32"), (STORED, "bfloat16")])
def test_closed_forms_measure_states_and_adjoints_in_the_norms_that_contract(claims: Claims, dtype: str) -> None:
    found, _ = both(claims, dtype)
    of, errors = found.problem, found.bounds.rounding
    rng = np.random.default_rng(3)
    z, adjoint = rng.normal(size=(2, *found.z.shape))
    assert same(found.states(z), np.abs(z).sum(axis=1))
    assert same(found.adjoints(adjoint), np.abs(adjoint).max(axis=1))
    certificate, allowed = found.certificate(z)
    assert same(certificate, 4.0 * np.abs(found.residual(z)).sum(axis=1))
    assert np.array_equal(allowed.total, found.bounds.bound(lambda e: e.certificate).total)
    certificate, allowed = found.adjoint_certificate(adjoint)
    assert same(certificate, 4.0 * np.abs(found.adjoint_residual(adjoint)).max(axis=1))
    assert np.array_equal(allowed.total, found.bounds.bound(Errors.adjoint_certificate).total)
    storage = 2.0**-8 if dtype == "bfloat16" else 0.0

    def floor(answer: Any, right: Any) -> Any:
        return errors.solve_rounding * (answer + right) + errors.underflow + 2 * storage * answer

    sizes = np.abs(of.x).sum(axis=1)
    assert same(found.residual_floor(CLAIMS.forward) * 2**16, floor(np.abs(found.z).sum(axis=1), sizes) * 2**16)
    assert same(found.evaluation_floor(z) * 2**16, floor(np.abs(z).sum(axis=1), sizes) * 2**16)
    peaks = floor(np.abs(found.adjoint).max(axis=1), np.abs(found.exact.cotangent).max(axis=0))
    for norm, wider in zip(NORMS, (4.0, 2.0, 2.0, 1.0), strict=True):  # √m and m, of m = 4
        assert same(found.adjoint_floor(Accuracy(1e-6, norm=norm)) * 2**16, wider * peaks * 2**16)
    # 4m u‖z‖₁: the closed form's own.
    assert np.array_equal(found.enclosure_rounding, 2.0**-49 * np.abs(found.z).sum(axis=1))


@pytest.mark.parametrize("which", [0, 1])
def test_a_system_stretches_no_more_than_said(which: int) -> None:
    of, found = problem(), both()[which]
    U = np.eye(of.m) - of.gamma * ClosedForm(of).S
    said = found.stretch(CLAIMS.forward)
    assert max(np.linalg.norm(U, order) for order in (1, 2, np.inf)) <= said
    assert said == pytest.approx(1 + 0.75 * (4 if which == 0 else 1 + ClosedForm(of).S.sum(axis=1).max()), rel=1e-12)


def test_an_answer_is_certified_through_the_rows_of_the_inverse() -> None:
    z = np.random.default_rng(4).normal(size=(3, 4))
    U = np.eye(4) - 0.75 * ClosedForm(problem()).S
    M, value = np.abs(np.linalg.inv(U)), Claims(Accuracy(1e-6, of="value"), Accuracy(1e-5, of="value"))
    for claims, dtype in ((CLAIMS, "float64"), (value, "float64"), (STORED, "bfloat16")):
        _, ball = both(claims, dtype)
        if dtype == "bfloat16":
            U = np.eye(4) - ball.problem.theta["gamma"] * ClosedForm(cast(SoftmaxProblem, ball.problem)).S
            M = np.abs(np.linalg.inv(U))
        found, allowed = ball.certificate(z)
        assert same(found, np.abs(ball.residual(z)) @ M.T)
        adjoint, adjoint_allowed = ball.adjoint_certificate(z)
        assert same(adjoint, np.abs(ball.adjoint_residual(z)) @ M)
        if claims is CLAIMS:  # a residual that is claimed: the bound on the error holds it already
            assert allowed is ball.z_error
            assert adjoint_allowed is ball.adjoint_error
        else:
            wide = 1e-4  # of the box, over which the system is known
            expected = ball.z_error.total @ np.abs(U).T @ M.T
            assert np.all(np.abs(allowed.total - expected) <= wide * expected)
            expected = ball.adjoint_error.total @ np.abs(U) @ M
            assert np.all(np.abs(adjoint_allowed.total - expected) <= wide * expected)


@pytest.mark.parametrize(("claims", "dtype"), [(CLAIMS, "float32"), (STORED, "bfloat16")])
def test_evaluating_a_cell_once_rounds_as_balls_have_it(claims: Claims, dtype: str) -> None:
    _, ball = both(claims, dtype)
    z = np.random.default_rng(5).normal(size=(3, 4))
    with precision("float32"):
        image = ball.problem.cell.step(ball.errors.exact.theta_balls, ball.errors.exact.x_balls)(beside(z, 2.0**-24))
    expected = 2.0 * radius(image).sum(axis=1) + (2.0**-7 * np.abs(z).sum(axis=1) if dtype == "bfloat16" else 0.0)
    assert same(ball.evaluation_floor(z) * 2**16, expected * 2**16)


def test_a_last_bit_of_the_truth_is_its_own() -> None:
    _, ball = both()
    assert np.array_equal(ball.z_own, 2.0**-53 * np.abs(ball.z))
    assert np.array_equal(ball.enclosure_rounding, ball.z_own)
    assert np.array_equal(ball.pulled_own("A"), 2.0**-53 * np.abs(ball.pulled["A"]))
    given = np.full((3, 4), 1e-3)
    assert np.array_equal(ball.pulled_error("A", given).total, ball.errors.pulled(given)["A"][1].total)
    assert np.all(ball.pulled_error("A", given).total > ball.pulled_error("A").total)


def test_second_derivatives_agree_and_one_that_is_off_is_seen() -> None:
    softmax, ball = both(Claims())
    of = problem()
    d, e = ({k: v for k, v in direction(of, seed).items() if k != "B"} for seed in (0, 1))
    turned = {"A": d["A"], "Phi": d["x"].T, "gamma": d["gamma"]}
    exact = TangentErrors(softmax.bounds.theory, turned).second
    true = {"A": exact["A"].value, "gamma": exact["gamma"].value, "x": exact["Phi"].value.T}
    for found in (softmax, ball):
        for share in (0.0, 1e-2):
            wrong = {block: value + share * e[block] for block, value in true.items()}
            for block, (off, bound, size) in found.off_second(wrong, d, e).items():
                expected = share * float(np.sum(e[block] ** 2))
                assert abs(off - expected) <= 1e-9 * size  # 1/(1 − γ)³ and what balls' differences leave
                assert (off <= bound.total) == (share == 0.0), block
                assert size == pytest.approx(float(np.sum(np.abs(true[block] * e[block]))), rel=1e-9)
        assert set(found.off_second(true, d, e)) == {"A", "gamma", "x"}


def test_the_answers_own_equilibrium_is_judged_where_there_may_be_several() -> None:
    theta = {"W": np.array([[3.0]]), "U": np.ones((1, 1)), "b": np.zeros(1)}
    of = CellProblem(cells()["tanh"], theta, np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), losses.Squared())
    found = {side: judge(of, Claims(), "float64", near=np.full((1, 1), side)).z.item() for side in (1.0, -1.0, np.nan)}
    assert found[1.0] == -found[-1.0] > 0.99
    assert np.isfinite(found[np.nan])
    assert isinstance(judge(problem(), Claims(), "float64"), SoftmaxJudge)


def stub(off: float) -> Judge:
    """Of a state of 2 and a gradient of −1, each off by ``off`` at most, and by 0.25 itself."""
    made = SimpleNamespace(
        z=np.array([2.0]),
        z_error=Bound({"a": np.array([off])}),
        z_own=np.array([0.25]),
        states=np.abs,
        pulled={"W": np.array([-1.0])},
        gradient={"W": np.array([-1.0, 3.0])},
        pulled_error=lambda _: Bound({"a": np.array([off])}),
        pulled_own=lambda _: np.array([0.25]),
        gradient_error=lambda _: Bound({"a": np.array([off, 0.0]), "b": np.array([0.0, 2 * off])}),
    )
    return cast(Judge, made)


def test_what_is_astray() -> None:
    for z, expected in ((2.75, False), (1.25, False), (2.7500001, True), (1.2499999, True), (np.nan, True)):
        assert astray(stub(0.5), np.array([z])) is expected
        assert gradient_astray(stub(0.5), "W", np.array([z - 3.0])) is expected


def test_along_a_direction_errors_add_with_their_weights() -> None:
    bound = along(stub(0.5), {"W": np.array([2.0, -3.0])})
    assert bound.terms["a"] == 1.0
    assert bound.terms["b"] == 3.0
    assert bound.terms["rounding of the inner product"] == 2 * 2.0**-53 * 11.0


def test_what_counts_for_nothing_allows_nothing_even_where_nothing_is_known() -> None:
    """0 · ∞ was NaN, which no answer is below."""
    bound = along(stub(np.inf), {"W": np.array([0.0, 0.0])})
    assert float(bound.total) == 0.0


def test_an_inner_product_is_weighed() -> None:
    found, true, off = np.array([1.0, 5.0, 7.0]), np.array([2.0, 3.0, -4.0]), np.array([0.5, 0.25, 9.0])
    bound = Bound({"a": np.array([1.0, 2.0, np.inf])})
    measured, allowed, size = weighed(found, true, off, bound, np.array([2.0, -1.0, 0.0]))
    assert (measured, size) == (4.0, 7.0)
    assert allowed.terms["a"] == 4.0
    own = 1.25 + 7 * 2.0**-53 * (7.0 + 7.0)
    assert float(allowed.total) == 4.0 + own
