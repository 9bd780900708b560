"""Layers as people write them, wrapped: the correct ones are spared, both broken twins of each are caught."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deqverify import check_deq, laws, losses
from deqverify.cells.wrapped import WrappedCell
from deqverify.implementations.subject import Subject
from deqverify.implementations.wrapped_torch import wrap_torch
from deqverify.running.results import Verdict
from deqverify.trial import Effort, Trial
from deqverify.wrapped_problem import WrappedProblem
from tests.wrapped import torch_layers

TORCH = [(name, twin) for name, (_, _, twins) in torch_layers.EXAMPLES.items() for twin in twins]

GRADIENT = ("gradient-theta", "gradient-x", "energy")
CATCHING: dict[str, tuple[str, ...]] = {
    "unconverged": ("existence",),
    "another probe each time": ("deterministic",),
}
"""The laws that a twin must violate, one of them at least; gradients for all others."""

SPARING = ("existence", "enclosure", "energy", "gradient-theta", "cotangent-linearity", "batch", "history")


def tried(deq: Any, law: str, dtype: str, examples: int, seed: int) -> Trial:
    trial = laws()[law].trial(Subject(deq, dtype), Effort(examples, seconds=8.0, seed=seed))
    assert trial.error is None
    return trial


def caught(deq: Any, twin: str, seed: int) -> list[str]:
    laws_of_it = CATCHING.get(twin, GRADIENT)
    return next(([law] for law in laws_of_it if tried(deq, law, "float64", 10, seed).failure), [])


@pytest.mark.parametrize("name", torch_layers.EXAMPLES)
@pytest.mark.parametrize(("seed", "dtype"), [(0, "float64"), (1, "float32")])
def test_a_correct_layer_in_torch_is_spared(name: str, seed: int, dtype: str) -> None:
    deq = torch_layers.wrapped(name, seed=seed)
    informative = 0
    for law in SPARING:
        trial = tried(deq, law, dtype, 6, seed)
        assert trial.failure is None, (law, trial.failure)
        informative += trial.informative
    assert informative > 3 * len(SPARING)  # half of the examples could have told


@pytest.mark.parametrize(("name", "twin"), TORCH)
def test_a_broken_twin_in_torch_is_caught(name: str, twin: str) -> None:
    assert caught(torch_layers.wrapped(name, twin), twin, seed=0)


def test_a_run_gives_verdicts_and_reasons() -> None:
    report = check_deq(torch_layers.wrapped("graph"), laws=["existence", "adjoint-certificate", "mass"], progress=False)
    verdicts = {result.job.law: result for result in report.results}
    assert verdicts["existence"].verdict is Verdict.HOLDS
    assert verdicts["adjoint-certificate"].verdict is Verdict.NOT_CLAIMED
    assert "gradients alone" in verdicts["adjoint-certificate"].reason
    assert verdicts["mass"].verdict is Verdict.NOT_CLAIMED


def test_bounds_say_that_they_are_estimated() -> None:
    deq = torch_layers.wrapped("relu", "one-step")
    (result,) = check_deq(deq, laws=["gradient-x"], dtype="float64", progress=False).results
    assert result.verdict is Verdict.VIOLATED
    assert result.violation
    assert any("estimated" in term for term in result.violation.terms)


def test_a_counterexample_is_data_and_shows_the_violation_again() -> None:
    deq = torch_layers.wrapped("relu", "one-step")
    (result,) = check_deq(deq, laws=["gradient-x"], dtype="float64", progress=False).results
    assert result.violation
    assert "theta={}" in result.violation.snippet  # shrunk to the user's own weights
    names: dict[str, Any] = {"deq": deq}
    with pytest.raises(AssertionError, match="gradient-x"):
        exec(result.violation.snippet, names)


def test_a_stored_problem_holds_what_differs_from_the_users_own() -> None:
    cell = torch_layers.wrapped("relu").cell
    assert isinstance(cell, WrappedCell)
    moved = {**cell.own, "inner.bias": cell.own["inner.bias"] + 1.0}
    problem = WrappedProblem(cell, moved, cell.example, np.ones((1, 5)), np.zeros((1, 4)), losses.Squared())
    stored = pickle.loads(pickle.dumps(problem.rounded_to("float32")))
    assert list(stored.theta) == ["inner.bias"]
    again = stored.bound(cell, "float32")
    assert again.states == (4, 5)
    np.testing.assert_array_equal(again.theta["inner.weight"], problem.rounded_to("float32").theta["inner.weight"])
    with pytest.raises(ValueError, match="'W' is not a parameter of cell of relu"):
        WrappedProblem(cell, {"W": np.eye(5)}, cell.example, np.ones((1, 5)), np.zeros((1, 4)), losses.Squared())


class Tied(nn.Module):
    """One weight in two places, another frozen, and a buffer that counts the calls."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        with torch.no_grad():
            for each in (self.first, self.frozen):
                each.weight.mul_(0.5 / torch.linalg.matrix_norm(each.weight, 2))

    def f(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.first(z) + self.frozen(torch.tanh(self.second(z))) + x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        z = torch.zeros_like(x)
        for _ in range(60):
            z = self.f(z, x)
        return z


def test_parameters_that_are_shared_or_frozen_and_buffers_are_respected() -> None:
    module = Tied()
    before = {name: value.clone() for name, value in module.state_dict().items() if name != "calls"}
    deq = wrap_torch(module, module.f, example=torch.randn(3, 3))
    assert deq.cell
    assert set(deq.cell.own) == {"first.weight", "first.bias", "second.bias"}
    for law in ("existence", "gradient-theta"):
        assert tried(deq, law, "float64", 6, 0).failure is None
    after = module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(isinstance(p, nn.Parameter) for p in module.parameters())
