"""Layers as people write them, wrapped: the correct ones are spared, both broken twins of each are caught."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deqverify import Claims, check_deq, laws, losses
from deqverify.cells.wrapped import WrappedCell
from deqverify.implementations.subject import Subject
from deqverify.implementations.wrapped_torch import wrap_torch
from deqverify.implementations.wrapping import CLAIMS
from deqverify.running.jobs import run_job
from deqverify.running.plan import FIRST_OF_OWN, make_jobs
from deqverify.running.profiles import profile
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

SPARING = ("existence", "energy", "gradient-theta", "batch", "history")


def tried(deq: Any, law: str, dtype: str, examples: int, seed: int) -> Trial:
    trial = laws()[law].trial(Subject(deq, dtype), Effort(examples, seconds=30.0, example_seconds=300.0, seed=seed))
    assert trial.error is None
    return trial


def caught(deq: Any, twin: str, seed: int) -> bool:
    return any(tried(deq, law, "float64", 10, seed).failure for law in CATCHING.get(twin, GRADIENT))


@pytest.mark.parametrize("name", torch_layers.EXAMPLES)
@pytest.mark.parametrize(("seed", "dtype"), [(0, "float64"), (1, "float32")])
def test_a_correct_layer_in_torch_is_spared(name: str, seed: int, dtype: str) -> None:
    deq = torch_layers.wrapped(name, seed=seed)
    informative = examples = 0
    for law in SPARING:
        trial = tried(deq, law, dtype, 6, seed)
        assert trial.failure is None, (law, trial.failure)
        informative, examples = informative + trial.informative, examples + trial.examples
    assert informative > examples / 2


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
    assert "cell='cell of relu'" in result.violation.snippet
    names: dict[str, Any] = {"deq": deq}
    with pytest.raises(AssertionError, match="gradient-x"):
        exec(result.violation.snippet, names)


def test_a_target_is_tried_by_a_worker_and_found_again(tmp_path: Path) -> None:
    target = "tests.wrapped.torch_layers:make[relu,one-step]"
    chosen = replace(profile("quick"), examples=6, seed=0)
    (job,) = make_jobs([target], ["gradient-x"], chosen, ["float64"], database=None)
    scratch = tmp_path / "scratch"
    result = run_job(job, scratch=scratch)
    assert result.verdict is Verdict.VIOLATED
    assert result.violation
    assert pickle.loads(scratch.read_bytes())["problem"].where() == "cell of relu"
    with pytest.raises(AssertionError, match="gradient-x"):
        exec(result.violation.snippet, {})


def test_what_tells_most_of_a_wrapped_layer_runs_first() -> None:
    jobs = make_jobs(["tests.wrapped.torch_layers:make[relu]"], list(laws()), profile("quick"), database=None)
    assert [job.law for job in jobs[: len(FIRST_OF_OWN)]] == list(FIRST_OF_OWN)


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


class Kept(torch_layers.ReluMLP):
    """Starts where the last call ended, and iterates twice."""

    last: torch.Tensor | None = None

    def iterated(self, step: Any, z: torch.Tensor, cap: int = 2) -> torch.Tensor:
        if self.last is not None and self.last.shape == z.shape:
            z = self.last.to(z.dtype)
        self.last = super().iterated(step, z, cap=2).detach()
        return self.last


def closed(module: nn.Module, *example: torch.Tensor) -> Any:
    return wrap_torch(module, example=example)


def test_without_its_cell_a_layer_is_judged_from_outside() -> None:
    deq = closed(torch_layers.ReluMLP(), torch.randn(4, 3))
    report = check_deq(
        deq, laws=["existence", "gradient-x", "batch", "answers", "history"], progress=False, dtype="float64"
    )
    found = {result.job.law: result for result in report.results}
    assert found["existence"].verdict is Verdict.NOT_CLAIMED
    assert "pass cell=f to have this judged" in found["existence"].reason
    for law in ("gradient-x", "batch", "answers", "history"):
        assert found[law].verdict is Verdict.HOLDS, (law, found[law].reason)


@pytest.mark.parametrize("seed", [4, 5])
def test_without_its_cell_an_output_that_is_zero_but_for_rounding_is_no_alarm(seed: int) -> None:
    """What a layer normalisation without a shift gives sums to zero, which is what the simplest objective squares."""
    deq = torch_layers.wrapped("attention", seed=seed, spent="alternating", closed=True)
    answer = deq.cell.answer  # type: ignore[union-attr]
    assert np.abs(answer.sum(axis=(1, 2))).max() < 1e-5 * np.abs(answer).sum()
    trial = tried(deq, "gradient-theta", "float64", 1, seed)
    assert trial.failure is None, trial.failure


class Adding(torch.autograd.Function):
    """The identity; its gradient has one more than it should."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, cotangent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return cotangent + 1.0


class Adds(torch_layers.ReluMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(Adding.apply(x))


def test_without_its_cell_what_is_added_to_a_gradient_does_not_excuse_itself() -> None:
    """What rounding in the outputs does is what a pull changes by, and not what a pull of little gives."""
    assert tried(closed(Adds(), torch.randn(4, 3)), "gradient-x", "float64", 10, 0).failure


def test_without_its_cell_a_wrong_gradient_and_a_memory_are_caught() -> None:
    example = torch.randn(4, 3)
    assert tried(closed(torch_layers.ReluMLP("one-step"), example), "gradient-theta", "float64", 10, 0).failure
    assert tried(closed(Kept(), example), "deterministic", "float64", 10, 0).failure
    assert tried(closed(Averaging(), example), "batch", "float64", 20, 0).failure


class Averaging(torch_layers.Implicit):
    """Subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 3)
        with torch.no_grad():
            self.inner.weight.mul_(0.5 / torch.linalg.matrix_norm(self.inner.weight, 2))

    def f(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(z) + self.outer(x - 0.5 * x.mean(0)) - 0.2 * z.mean(0))


def test_data_points_that_see_each_other_are_judged_together() -> None:
    module = Averaging()
    deq = wrap_torch(module, module.f, example=torch.randn(3, 3), claims=replace(CLAIMS, separable=False))
    for law in ("existence", "gradient-theta", "gradient-x", "batch-of-one", "history"):
        trial = tried(deq, law, "float64", 8, 0)
        assert trial.failure is None, (law, trial.failure)
    module.broken = "one-step"
    assert tried(deq, "gradient-x", "float64", 10, 0).failure


class Stopping(nn.Module):
    """Without biases: small inputs have small equilibria. ``far`` says whether a step is too long to stop."""

    def __init__(self, far: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.far, self.U = far, nn.Parameter(torch.ones(3, 2))

    def f(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 0.9 * torch.sin(z.roll(1, dims=1)) + x @ self.U.T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = f = x.new_zeros(len(x), 3)
        for _ in range(1000):
            z, f = f, self.f(f, x)
            if not bool(self.far((f - z).norm(dim=1), f.norm(dim=1)).any()):
                break
        return f


@pytest.mark.parametrize(
    ("far", "right"),
    [
        (lambda steps, sizes: steps > 1e-6 * sizes, True),
        (lambda steps, _: steps > 1e-6, False),
        (lambda steps, sizes: steps.norm() > 1e-6 * sizes.norm(), False),
    ],
    ids=["of each data point", "absolute", "of the whole batch"],
)
def test_a_rule_for_stopping_that_small_inputs_do_not_meet_is_caught(far: Any, right: bool) -> None:
    module = Stopping(far)
    deq = wrap_torch(module, module.f, example=torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    assert (tried(deq, "existence", "float64", 60, 0).failure is None) is right


def test_of_a_compiled_module_repeated_pulls_are_asked_where_they_are_claimed() -> None:
    """PyTorch says so itself: its backward pass was compiled for ``retain_graph=False``."""

    def wrapped(module: nn.Module, **claims: bool) -> Claims:
        given = Claims(**claims) if claims else None  # type: ignore[arg-type]
        return wrap_torch(module, module.f, example=torch.randn(2, 2), claims=given).claims

    plain = Stopping(lambda steps, sizes: steps > 1e-6 * sizes)
    outside, inside = torch.compile(plain, backend="eager"), Stopping(plain.far)
    assert wrapped(plain).repeated_pulls
    inside.compile(backend="eager")
    for module in (outside, inside):
        assert (wrapped(module).repeated_pulls, wrapped(module).compiles) == (False, True)
        assert wrapped(module, repeated_pulls=True).repeated_pulls


class Hasty(torch_layers.ReluMLP):
    """Iterates less in evaluation mode."""

    def iterated(self, step: Any, z: torch.Tensor, cap: int = 500) -> torch.Tensor:
        return super().iterated(step, z, cap if self.training else 3)


def test_modes_are_compared_where_they_are_claimed() -> None:
    for module, wrong in ((torch_layers.ReluMLP(), False), (Hasty(), True)):
        deq = wrap_torch(module, module.f, example=torch.randn(3, 3), claims=replace(CLAIMS, modes=True))
        assert bool(tried(deq, "modes", "float64", 8, 0).failure) is wrong
    deq = wrap_torch(module, module.f, example=torch.randn(3, 3))
    assert laws()["modes"].missing(Subject(deq, "float64"))


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
