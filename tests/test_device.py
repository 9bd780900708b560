"""What would fail on a GPU, found without one: laws, benchmarks and the fast solver on a pretended device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from deqverify.benchmarking import measuring, scaling
from deqverify.benchmarking.problems import FixedProblem
from deqverify.benchmarking.targets import VARIANTS, TimedTarget, timed_target
from deqverify.cli import main
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.reference import FAST, solve
from deqverify.reference.fast import calibrate
from deqverify.registry import laws
from deqverify.trial import Effort
from tests.pretended import Pretended, pretended_cuda

DIRECT = ("reference", "reference[fast]")
VARIED = (
    "reference[mass]",
    "reference[picard]",
    "reference[newton]",
    *(f"reference[fast,{method}]" for method in FAST),
)
PATHS = (
    "answers", "dtype-and-device", "gradient-theta", "adjoint-certificate", "memory-layout", "batch-of-one",
    "empty-batch", "no-gradient",
)  # fmt: skip
"""Laws that take every path through a layer once; each operation on the pretended device is slow."""


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with pretended_cuda():
        there = torch.ones(3, device="cuda")
        assert there.device.type == "cuda"
        assert (there + 1.0).device.type == "cuda"
        assert there.to("cpu").device.type == "cpu"
        assert float(there.sum()) == 3.0
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
    assert torch.ones(3).device.type == "cpu"


LOOSE = 1e-3
"""A tolerance that Picard's iteration reaches in MOST_STEPS up to γ = 0.8: each of its operations is slow here."""
MOST_STEPS = 30


def violations(target: str, dtype: str, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the laws found against ``target`` on the pretended device; a single crash counts for the reference."""
    found = {}
    with pretended_cuda():
        layer = load(target)
        if target == "reference[picard]":
            layer = layer.at_tolerance(LOOSE).limited(MOST_STEPS)
        subject = Subject(layer, dtype, "cuda")
        for name, law in laws().items():
            if not law.missing(subject) and (not only or name in only):
                trial = law.trial(subject, Effort(2, 60.0, example_seconds=600.0, seed=0))  # no test of speed
                if trial.failure or trial.error or (trial.crashed and target.startswith("reference")):
                    found[name] = trial.failure or trial.error or f"{trial.crashed} crashed"
    return found


@pytest.mark.parametrize(
    ("target", "dtype"), [(t, "float64" if "mixed" in t or k % 2 else "float32") for k, t in enumerate(VARIED)]
)
def test_no_law_rejects_a_variant_on_the_device(target: str, dtype: str) -> None:
    assert violations(target, dtype, PATHS) == {}


@pytest.mark.parametrize("target", DIRECT)
def test_no_law_rejects_the_reference_on_the_device(target: str) -> None:
    assert violations(target, "float64") == {}


@pytest.mark.parametrize("target", ["torchdeq", "torchdeq[ift]", "torchdeq[ift,anderson]", "torchdeq[ift,broyden]"])
def test_torchdeq_answers_on_the_device(target: str) -> None:
    assert violations(target, "float64", ("dtype-and-device", "inputs-kept")) == {}


class HostAdjoint:
    """A fault that only a GPU shows: the gradient in x is left on the host."""

    def __init__(self, layer: Any):
        self.layer, self.claims, self.name, self.framework = layer, layer.claims, "host adjoint", "torch"

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = self.layer.vjp(cell, theta, x, z0)

        def to_the_host(cotangent: Any) -> Any:
            found = pull(cotangent)
            found.x = found.x.to("cpu")
            return found

        return solution, to_the_host


def test_a_gradient_left_on_the_host_is_a_violation() -> None:
    with pretended_cuda():
        trial = laws()["dtype-and-device"].trial(Subject(HostAdjoint(load("reference")), "float64", "cuda"), Effort(5))
    assert trial.failure
    assert trial.failure.seen.seen == "float64 on cpu, expected float64 on cuda"


@pytest.mark.parametrize(
    "name", [n for who in ("reference", "plain", "torchdeq") for n in VARIANTS[who] if "jax" not in n]
)
def test_every_target_of_pytorch_is_timed_on_the_device(name: str) -> None:
    with pretended_cuda():
        if "cuda" not in timed_target(name).devices:
            assert name == "reference[numpy]"
            return
        rows = list(
            measuring.rows([name], ["forward", "gradient", "step"], FixedProblem(8, 4, 0.5), "float64", "cuda", 0)
        )
    assert [row.note for row in rows] == [""] * 3
    assert all(row.timing and row.achieved and row.achieved.worst < 0.5 for row in rows)


class SlowStreams:
    """A run whose work goes to streams of its own, as JAX's does: only its own ``synchronise`` waits for it."""

    device, iterations = "cuda", None

    def __init__(self, run: Any):
        self.forward, self.gradient, self.step, self.answer = run.forward, run.gradient, run.step, run.answer

    def synchronise(self) -> None:
        time.sleep(0.02)


def test_work_that_events_do_not_see_is_timed_by_the_clock() -> None:
    plain = timed_target("plain[solve]")

    def build(*arguments: Any) -> Any:
        return SlowStreams(plain.build(*arguments))

    who = TimedTarget("streams", build, devices=("cuda",), direct=True, tunable=False, watched=False)
    with pretended_cuda():
        row = measuring.Row("streams", "gradient", FixedProblem(8, 4, 0.9), "float64", "cuda")
        run = who.prepare(row.problem.problem(), "float64", "cuda")
        (row,) = measuring.measured([measuring.entered(row, who, run)], budget=0.05)
    assert row.timing
    assert row.timing.fastest >= 0.02
    assert row.memory is None


def test_scaling_on_the_device_and_on_no_other_than_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = dict.fromkeys(("m", "n", "gamma"), ("reference[fast]",))  # every operation here is slow
    monkeypatch.setattr(scaling, "series", lambda axis, *_: one.get(axis, scaling.BATCHED))
    page = tmp_path / "page.html"
    asked = ["bench", "--scaling", str(page), "--largest", "10", "--device"]
    with pretended_cuda():
        done = CliRunner().invoke(main, [*asked, "cuda"])
        mixed = CliRunner().invoke(main, [*asked, "cpu"])
    assert done.exit_code == 0, done.output
    measured = scaling.read(page.with_suffix(".json"))
    assert {"reference[fast]", "reference[fast], batched", "torch-solve, batched"} <= {p.name for p in measured}
    assert not [p.note for p in measured if p.note]
    assert "pretended" in page.read_text()
    assert mixed.exit_code == 2
    assert "holds times of pretended, not of cpu" in mixed.output


@pytest.mark.parametrize("shape", [(6, 6), (70, 6, 6)])
def test_solve_keeps_to_the_device(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    A, x, c = (generator.normal(size=(*shape[:-2], rows, 6)) for rows in (6, 3, 3))
    found = []
    for device in ("cpu", "cuda"):
        with pretended_cuda():
            leaves = [torch.tensor(a, device=device).requires_grad_() for a in (A, x)]
            z = solve(*leaves, 0.9)
            found.append((z, *torch.autograd.grad(z, leaves, torch.tensor(c, device=device))))
            assert all(isinstance(each, Pretended) == (device == "cuda") for each in found[-1])
    for here, there in zip(*found, strict=True):
        # Two answers of two solves, each off by 3m·u·κ(U), κ ≤ (1+γ)/(1−γ) = 19: 1.5e-13 of the largest entries, which
        # are about 10; rounding stays far below that bound, and small entries are held to 1e-14.
        np.testing.assert_allclose(there.held.detach(), here.detach(), rtol=1e-12, atol=1e-14)


def test_the_cost_model_is_calibrated_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "SIZES_ON_A_GPU", [(8, 2), (16, 2), (16, 4)])
    with pretended_cuda():
        model = calibrate.calibrate(device="cuda", seconds=0.01)
    assert model.where["device"] == "cuda"
    assert model.part("lu", 16, 4) > 0
