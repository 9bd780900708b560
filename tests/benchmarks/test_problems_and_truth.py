"""Fixed problems never change, and the truth that targets are judged by lies where the oracle says."""

from __future__ import annotations

import numpy as np
import pytest

from deqverify.benchmarking.problems import FIXED_CELLS, FixedProblem, achieved, bell, digest, truth
from deqverify.oracle import Oracle
from deqverify.problem import Problem
from deqverify.theory.closed_form import ClosedForm

PUBLISHED = {
    FixedProblem(1, 1, 0.5): "f034a9be12028dab",
    FixedProblem(16, 32, 0.9): "82c424de02fdc3a5",
    FixedProblem(64, 256, 0.99): "a208c8c6d14e13a9",
    FixedProblem(256, 256, 0.9, "sticky"): "1e3b1c7fb3059580",
    FixedProblem(16, 8, 0.9, cell="tanh"): "5b419a204b0f41ce",
    FixedProblem(16, 8, 0.9, cell="relu-gao"): "18860b44c7356c1e",
    FixedProblem(16, 8, 0.9, cell="graph"): "b2fd4879afbef641",
    FixedProblem(16, 8, 0.9, cell="conv"): "ab8ae47364ebcfdb",
    FixedProblem(16, 8, 0.9, cell="lattice"): "0267026606969623",
}


@pytest.mark.parametrize("fixed", PUBLISHED, ids=str)
def test_a_published_problem_never_changes(fixed: FixedProblem) -> None:
    assert digest(fixed.problem()) == PUBLISHED[fixed]


def test_float32_holds_the_same_problem_but_for_gamma() -> None:
    wide, narrow = FixedProblem(64, 32, 0.9).problem(), FixedProblem(64, 32, 0.9).problem("float32")
    for name in ("A", "B", "Phi", "Y"):
        np.testing.assert_array_equal(getattr(wide, name), getattr(narrow, name))
    assert wide.gamma != narrow.gamma == float(np.float32(0.9))


def test_more_data_points_extend_fewer() -> None:
    few, many = FixedProblem(16, 4, 0.9).problem(), FixedProblem(16, 9, 0.9).problem()
    np.testing.assert_array_equal(many.Phi[:, :4], few.Phi)


def test_entries_are_bell_shaped() -> None:
    entries = bell((1000, 100), 7, 7)
    # Mean 0 and standard deviation √(4/12)·2; five standard errors over 10⁵ entries.
    assert abs(entries.mean()) < 5 * 1.155 / 1e5**0.5
    assert abs(entries.std() - 2 / 3**0.5) < 5 * 1.155 / (2e5) ** 0.5
    assert np.abs(entries).max() < 4


@pytest.mark.parametrize("cell", [name for name in FIXED_CELLS if name not in ("monotone", "attention", "lattice")])
@pytest.mark.parametrize("m", [1, 3, 16])
def test_fixed_weights_contract_at_gamma(cell: str, m: int) -> None:
    rate = FixedProblem(m, 2, 0.9, cell=cell).problem().rate
    assert 0.9 <= rate <= 0.9 * (1 + 1e-12)  # certificates raise a norm by the roundings of its own sum


@pytest.mark.parametrize("cell", FIXED_CELLS)
def test_the_truth_of_any_cell_is_an_equilibrium_and_its_gradients_are_difference_quotients(cell: str) -> None:
    problem = FixedProblem(8, 3, 0.9, cell=cell).problem()
    known, rng = truth(problem), np.random.default_rng(0)
    z = known.values["z"]
    # One evaluation of f rounds sums of some tens of terms of size ten at most.
    assert np.abs(problem.cell.step(problem.theta, problem.x)(z) - z).max() <= 1e-13
    direction = rng.normal(size=problem.x.shape)
    h = 1e-5
    sides = [value(problem.with_inputs(problem.x + s * h * direction, problem.Y)) for s in (1, -1)]
    expected = np.sum(known.values["x"] * direction)
    # Central differences err by h² times a third derivative and by 1e-12/h of rounding: 1e-7 of sizes up to a hundred.
    assert abs((sides[0] - sides[1]) / (2 * h) - expected) <= 1e-5 * (1 + abs(expected))


def value(problem: Problem) -> float:
    z = truth(problem).values["z"]
    return float(problem.loss.value(problem.B @ z.reshape(len(z), -1).T.astype(float), problem.Y))


def test_what_has_no_fixed_problem_says_which_have() -> None:
    with pytest.raises(ValueError, match="cell: 'wrapped' has no fixed problem; use one of linear-softmax, linear"):
        FixedProblem(4, 2, 0.9, cell="wrapped")
    with pytest.raises(ValueError, match="kind: the cell tanh has the kind mixing alone"):
        FixedProblem(4, 2, 0.9, "sticky", "tanh")


@pytest.mark.parametrize("kind", ["mixing", "sticky"])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.999])
def test_the_truth_lies_within_its_doubt_of_the_oracle(kind: str, gamma: float) -> None:
    problem = FixedProblem(16, 8, gamma, kind).problem()
    known = truth(problem)
    star = Oracle(problem).equilibrium()
    size = np.linalg.norm(star.value, axis=0)
    off = np.linalg.norm((known.values["z"].T - star.value).astype(float), axis=0)
    # The enclosure's midpoint is stored in float64: half a unit in the last place of each entry.
    rounding = np.linalg.norm(star.radius + 2.0**-53 * np.abs(star.value), axis=0)
    assert np.all(off <= known.doubt["z"] * size + rounding)
    assert known.doubt["z"] < 1e-12, "a doubt that excludes nothing judges nobody"


def test_the_truth_is_nearer_than_any_float64_answer() -> None:
    """At this width the bound on extended precision would let an unrefined float64 solve pass."""
    problem = FixedProblem(512, 2, 0.9).problem()
    z = truth(problem).values["z"].T
    E = np.exp(problem.A.astype(np.longdouble) - problem.A.max(axis=0))
    r = problem.Phi + np.longdouble(problem.gamma) * (E / E.sum(axis=0)) @ z - z
    # Stored as float64, z alone would leave half a unit in the last place, 2⁻⁵⁴ of it on average.
    assert np.abs(r).sum(axis=0).max() < 2.0**-57 * np.abs(z).sum(axis=0).max()


def test_the_true_gradients_are_the_oracles_derivatives() -> None:
    problem = FixedProblem(16, 8, 0.9).problem()
    known, rng = truth(problem), np.random.default_rng(0)
    for block, name in (("A", "A"), ("Phi", "x")):
        value = known.values[name] if block == "A" else known.values[name].T
        direction = rng.normal(size=value.shape)
        found = np.sum(value * direction)
        allowed = np.linalg.norm(direction) * known.doubt[name] * np.linalg.norm(value.astype(float))
        accuracy = 1e-18 * float(np.abs(found))
        # derivative() rounds its answer to float64: 2⁻⁵² of it.
        expected = Oracle(problem).derivative({block: direction}, accuracy)
        assert abs(float(found - expected)) <= allowed + 2.0**-52 * abs(expected)


def test_achieved_sees_each_quantity_by_itself() -> None:
    problem = FixedProblem(16, 8, 0.9).problem()
    exact = ClosedForm(problem)
    right = {"A": exact.gradient["A"], "x": exact.adjoint.T}
    good = achieved(problem, exact.Z.T, right)
    rounding = 1e-14  # u·κ(U) = 2e-15, and a handful of roundings
    assert good.worst <= rounding
    z = exact.Z.T.copy()
    z[3] *= 1.001
    seen = achieved(problem, z, right)
    assert seen.z is not None
    assert abs(seen.z - 1e-3) <= rounding
    assert seen.theta == good.theta
    wrong_A = achieved(problem, exact.Z.T, right | {"A": 2 * right["A"]})
    wrong_x = achieved(problem, exact.Z.T, right | {"x": 0 * right["x"]})
    assert wrong_A.theta is not None
    assert abs(wrong_A.theta - 1.0) <= rounding
    assert wrong_x.x is not None
    assert abs(wrong_x.x - 1.0) <= rounding
    assert achieved(problem, exact.Z.T * np.nan, right).worst == float("inf")
