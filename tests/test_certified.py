"""Large states are judged by what certifies them: on small ones the same judge is compared with balls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.cells import cells
from deqverify.cells.base import NearlyContracting
from deqverify.claims import Accuracy, Claims
from deqverify.comparison import compare
from deqverify.errors.any_cell import BallJudge
from deqverify.errors.certified import CertifiedJudge
from deqverify.errors.judge import judge
from deqverify.losses import Squared
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.problem import CellProblem
from tests.cell_examples import sample

CELLS = {name: cell for name, cell in cells().items() if name != "linear-softmax"}


def problem_of(name: str, drawn: Any) -> CellProblem:
    theta, x = drawn
    entries = int(np.prod(CELLS[name].state(theta, x.shape[1:])))
    return CellProblem(CELLS[name], theta, x, np.ones((1, entries)), np.zeros((1, len(x))), Squared())


@pytest.mark.parametrize("name", CELLS)
def test_it_stands_where_balls_do_and_allows_more(name: str) -> None:
    claims = Claims(Accuracy(1e-6), Accuracy(1e-6))
    seen = 0
    for drawn in sample(name, 6):
        problem = problem_of(name, drawn)
        c = np.random.default_rng(0).standard_normal(problem.states)
        known, found = BallJudge(problem, claims, "float64", c), CertifiedJudge(problem, claims, "float64", c)
        if not (known.in_range and found.in_range and np.isfinite(found.z_error.total).all()):
            continue
        seen += 1
        assert np.all(found.states(found.z - known.z) <= found._own)
        assert np.all(found.adjoints(found.adjoint - known.adjoint) <= found._adjoint_own)
        assert np.all(found.states(known.z_error.total) >= 0.0)
        # The residual that is claimed may lie along any entry: what the inverse's rows make of it is allowed here too.
        assert np.all(known.z_error.total.reshape(problem.n, -1).max(axis=1) <= 4.0 * found.z_error.total)
    assert seen


def test_its_own_numbers_are_off_by_rounding_alone() -> None:
    theta = {"A": np.diag([0.5, 0.25]), "U": np.eye(2)}
    problem = CellProblem("linear", theta, np.array([[1.0, -2.0]]), np.ones((1, 2)), np.zeros((1, 1)), Squared())
    found = CertifiedJudge(problem, Claims(), "float64", np.array([[1.0, 3.0]]))
    assert np.all(found.adjoints(found.adjoint - np.array([[2.0, 4.0]])) <= found._adjoint_own)
    assert np.all(found._adjoint_own <= 2.0**-45)


def test_where_nothing_certifies_a_residual_of_zero_is_allowed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """∞ · 0 was NaN, and a false alarm in a long campaign."""
    name = next(name for name, cell in CELLS.items() if isinstance(cell, NearlyContracting))
    problem = problem_of(name, sample(name, 1)[0])
    monkeypatch.setattr(type(CELLS[name]), "nearby", lambda *_: None)
    monkeypatch.setattr(CertifiedJudge, "_evaluated", lambda _, z, __: (z, np.zeros_like(z)))
    found = CertifiedJudge(problem, Claims(), "float64", np.ones(problem.states))
    assert not found.in_range
    certificate, allowed = found.certificate(found.z)
    assert compare("certificate", certificate, allowed, 1.0).holds


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if isinstance(cell, NearlyContracting)])
def test_what_contracts_nearby_does_so_between_any_two_points(name: str) -> None:
    cell: Any = CELLS[name]
    rng, tried = np.random.default_rng(1), 0
    for theta, x in sample(name, 20):
        z = cell.step(theta, x)(np.zeros((len(x), *cell.state(theta, x.shape[1:]))))
        found = cell.nearby(theta, x, z, 2.0**-4)
        if found is None:
            continue
        tried += 1
        order = {"1": 1, "2": 2, "max": np.inf}[found.norm]
        f = cell.step(theta, x)
        for _ in range(20):
            ends = [z + 2.0**-4 * rng.uniform(-1, 1, z.shape) for _ in range(2)]
            apart, moved = ends[0] - ends[1], f(ends[0]) - f(ends[1])
            sizes = [np.linalg.norm(a.reshape(len(z), -1), order, axis=1) for a in (moved, apart)]
            assert np.all(sizes[0] <= found.rate * sizes[1] * (1 + 2.0**-40))
    assert tried


def test_nearby_reaches_outwards_too() -> None:
    """Of one site with a strong nonlinearity, whose derivative grows with the state: it is steepest farthest out."""
    cell: Any = CELLS["lattice"]
    theta = {"V": np.zeros(1), "beta": np.array(100.0), "dt": np.array(1e-3)}
    x = z = np.array([[[1.0, 0.0]]])
    found, f = cell.nearby(theta, x, z, 0.5), cell.step(theta, x)
    ends = [z + np.array([reach, 0.0]) for reach in (0.5, 0.5 - 2.0**-20)]
    moved, apart = np.linalg.norm(f(ends[0]) - f(ends[1])), np.linalg.norm(ends[0] - ends[1])
    assert cell.nearby(theta, x, z, 0.0).rate < 0.9 * moved / apart <= 0.9 * found.rate


def test_a_monotone_inverse_is_no_larger_than_said() -> None:
    for theta, x in sample("monotone", 12):
        cell: Any = CELLS["monotone"]
        known = cell.certificate(theta)
        assert known is not None
        z = np.random.default_rng(2).standard_normal((len(x), len(theta["b"])))
        J = dense(unit_pulls(cell, theta, x, z), len(x))
        size = np.linalg.norm(np.linalg.inv(np.eye(J.shape[-1]) - J), 2, axis=(1, 2))
        assert np.all(size <= (1.0 + known.lipschitz) / known.mu * (1 + 2.0**-40))


def test_large_states_have_this_judge_and_small_ones_balls() -> None:
    small, large = sample("tanh", 1)[0], sample("tanh", 2, "float64", 1, True)[1]
    assert type(judge(problem_of("tanh", small), Claims(), "float64")) is BallJudge
    found = judge(problem_of("tanh", large), Claims(), "float64")
    assert isinstance(found, CertifiedJudge)
    assert found.states(found.z).shape == (1,)
