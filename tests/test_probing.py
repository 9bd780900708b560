"""The adjoint by a probe: the same among the parameters and behind the inputs, where a batch is taken apart too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify import losses
from deqverify.cells import cells
from deqverify.cells.base import LinearCell, Parts
from deqverify.cells.probed import PROBE, ProbedInputsLinearCell, probed, probed_inputs
from deqverify.correct.apart import InBlocks, LeavesOut
from deqverify.dtypes import Array
from deqverify.faults.backward import OneStepOfAnyCell
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.probing import adjoint_by_probe
from deqverify.implementations.subject import Subject
from deqverify.problem import CellProblem
from deqverify.reference.newton import NewtonLayer
from deqverify.registry import laws
from deqverify.trial import replay
from tests.cell_examples import sample

NOT_ADDITIVE = [name for name, cell in cells().items() if not cell.additive]


def problem_of(name: str, n: int = 3) -> CellProblem:
    """Of ``n`` data points at least, with weights and a cotangent that are no special ones."""
    theta, x = next(
        (theta, x) for theta, x in sample(name) if len(x) >= n and np.any(x) and all(map(np.any, theta.values()))
    )
    size = int(np.prod(cells()[name].state(theta, x.shape[1:])))
    return CellProblem(cells()[name], theta, x, np.ones((1, size)), np.zeros((1, len(x))), losses.Squared())


def cotangent_of(problem: CellProblem) -> Array:
    return np.cos(np.arange(np.prod(problem.states))).reshape(problem.states)


@pytest.mark.parametrize("name", NOT_ADDITIVE)
def test_both_cells_with_a_probe_are_the_cell_plus_the_probe(name: str) -> None:
    problem = problem_of(name)
    cell, theta, x, c = problem.cell, problem.theta, problem.x, cotangent_of(problem)
    probe, z = np.sin(c), np.cos(1.0 + c)
    first = probed(cell), {**theta, PROBE: probe}, x
    behind = probed_inputs(cell, x.shape[1:], problem.state)
    second = behind, theta, behind.joined(x, probe)
    plain = cell.pull(theta, x, z, c)
    for each, parameters, inputs in (first, second):
        assert each.state(parameters, inputs.shape[1:]) == problem.state
        np.testing.assert_array_equal(each.step(parameters, inputs)(z), cell.step(theta, x)(z) + probe)
        found = each.pull(parameters, inputs, z, c)
        np.testing.assert_array_equal(found.z, plain.z)
        for block, value in plain.theta.items():
            np.testing.assert_array_equal(found.theta[block], value)
    own, moved = behind.apart(second[0].pull(theta, second[2], z, c).x)
    np.testing.assert_array_equal(own, plain.x)
    np.testing.assert_array_equal(moved, c)
    along = {block: np.ones_like(value) for block, value in theta.items()}
    pushed = first[0].push(first[1], x, z, Parts({**along, PROBE: probe}, x, z))
    np.testing.assert_array_equal(behind.push(theta, second[2], z, Parts(along, second[2], z)), pushed)
    assert isinstance(behind, ProbedInputsLinearCell) == isinstance(cell, LinearCell)
    if isinstance(behind, ProbedInputsLinearCell) and isinstance(cell, LinearCell):
        np.testing.assert_array_equal(behind.matrix(theta), cell.matrix(theta))
        np.testing.assert_array_equal(behind.offset(theta, second[2]), cell.offset(theta, x) + probe)


@pytest.mark.parametrize("name", ["tanh", "conv", "attention", "linear"])
@pytest.mark.parametrize("layer", [lambda: InBlocks(1), lambda: InBlocks(2), LeavesOut], ids=["one", "two", "left"])
def test_who_takes_a_batch_apart_has_a_right_adjoint(name: str, layer: Any) -> None:
    """A parameter of all data points is handed whole to each of them, or to two."""
    problem = problem_of(name)
    deq, exact = Subject(layer(), "float64"), Subject(NewtonLayer("numpy"), "float64")
    if name not in deq.cells:
        pytest.skip(f"{deq.name} does not claim {name}")
    wanted, _ = exact.adjoint(problem, cotangent_of(problem))
    for _ in range(2):  # found out once, and known the second time
        found, status = deq.adjoint(problem, cotangent_of(problem))
        assert not status.admits_failure
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
        assert deq.takes_apart == {name} or (layer is LeavesOut and not deq.takes_apart)  # all left at once
    assert exact.takes_apart == set()
    for law in ("adjoint-certificate", "status-backward"):
        arguments = {"problem": problem, "cotangent": cotangent_of(problem)}
        assert replay(laws()[law].body, deq, arguments).failure is None


def test_a_wrong_adjoint_stays_wrong_wherever_the_probe_stands() -> None:
    problem = problem_of("tanh")
    wrong = Subject(OneStepOfAnyCell(), "float64")
    found = replay(laws()["adjoint-certificate"].body, wrong, {"problem": problem, "cotangent": cotangent_of(problem)})
    assert found.failure


class Raising(InBlocks):
    """It solves nothing that has a probe."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        if "probe" in cell.name:
            raise ValueError("no probes here")
        return super().vjp(cell, theta, x, z0)


@pytest.mark.parametrize("points", [1, 3])
def test_what_fails_with_either_probe_fails(points: int) -> None:
    problem = problem_of("tanh").chosen(slice(points))
    with pytest.raises(TargetFailure, match="no probes here"):
        adjoint_by_probe(Subject(Raising(1), "float64"), problem, cotangent_of(problem))


@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_the_probe_behind_the_inputs_in_other_frameworks(kind: str) -> None:
    if kind == "jax":
        pytest.importorskip("jax")
    problem = problem_of("tanh")
    behind = probed_inputs(problem.cell, problem.x.shape[1:], problem.state)
    deq = Subject(NewtonLayer(kind), "float64")
    x, theta = behind.joined(problem.x, np.zeros(problem.states)), deq.parameters(problem)
    _, found, _ = deq.pull_probe(problem, theta, x, behind, cotangent_of(problem))
    wanted, _ = deq.adjoint(problem, cotangent_of(problem))
    np.testing.assert_allclose(behind.apart(deq.framework.to_numpy(found.x))[1], wanted, rtol=0, atol=1e-9)
