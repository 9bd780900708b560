"""The base of PyTorch's layers: what a solution says in tensors is what the protocol has it say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from deqverify.cells import cells  # noqa: E402
from deqverify.implementations.adapter import cap  # noqa: E402
from deqverify.implementations.loading import load  # noqa: E402
from deqverify.implementations.protocol import Solution, Status  # noqa: E402
from deqverify.implementations.torch_base import TorchLayer, batch_trace  # noqa: E402


class Saying(TorchLayer):
    """Six steps, and ``said``."""

    def __init__(self, backward: Any = None, **said: Any):
        self.backward, self.said = backward, said

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        z = z0
        for _ in range(6):
            z = step(z)
        return Solution(z, backward_status=self.backward, **self.said)


def solved(layer: TorchLayer, points: int = 3, wrong: int | None = None) -> tuple[Solution, Any]:
    x = torch.ones((points, 2), dtype=torch.float64)
    if wrong is not None:
        x[wrong] = torch.nan
    theta = {"A": torch.eye(2, dtype=torch.float64) / 2, "U": torch.eye(2, dtype=torch.float64)}
    return layer.vjp(cells()["linear"], theta, x)


def test_what_is_said_of_each_data_point_is_a_status_and_the_worst_one_the_batchs() -> None:
    solution, _ = solved(Saying(statuses=torch.tensor([True, False, True])))
    assert solution.statuses == [Status.CONVERGED, Status.CAPPED, Status.CONVERGED]
    assert solution.status is Status.CAPPED


def test_a_data_point_that_is_not_finite_diverged() -> None:
    solution, _ = solved(Saying(statuses=torch.tensor([True, False, False])), wrong=2)
    assert solution.statuses == [Status.CONVERGED, Status.CAPPED, Status.DIVERGED]
    assert solution.status is Status.DIVERGED


def test_the_largest_number_of_iterations_and_residual_are_the_batchs() -> None:
    solution, _ = solved(Saying(iterations=torch.tensor([4, 6, 5]), residual=torch.tensor([0.5, 0.25, 2.0])))
    assert (solution.iterations, solution.residual) == (6, 2.0)
    nothing, _ = solved(Saying(iterations=torch.zeros(0), residual=torch.zeros(0), statuses=torch.zeros(0)), points=0)
    assert (nothing.iterations, nothing.residual, nothing.status) == (0, 0.0, Status.CONVERGED)


@pytest.mark.parametrize(
    ("said", "status"),
    [(torch.tensor(True), Status.CONVERGED), (torch.tensor(False), Status.CAPPED), (Status.DIVERGED, Status.DIVERGED)],
)
def test_the_backward_pass_may_say_whether_it_converged(said: Any, status: Status) -> None:
    solution, pull = solved(Saying(backward=lambda: said))
    assert pull(torch.ones_like(solution.z)).status is status


def test_a_trace_is_that_of_the_data_points_that_still_move() -> None:
    residuals = torch.tensor([[4.0, 1.0, 1.0, 1.0], [8.0, 2.0, 0.5, 9.0]])
    trace = batch_trace(residuals, torch.tensor([2, 3]), torch.tensor([[0.3, 0.4], [0.0, 0.25]]))
    np.testing.assert_allclose(trace, [8.0, 2.0, 0.5, 0.5], rtol=1e-6)
    assert batch_trace(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 2)) == []


@pytest.mark.parametrize(
    ("status", "wrong", "said"),
    [
        (torch.tensor(True), None, Status.CONVERGED),
        (False, None, Status.CAPPED),
        (torch.tensor(False), 1, Status.DIVERGED),
        (Status.NOT_REPORTED, 1, Status.NOT_REPORTED),
    ],
)
def test_the_batch_may_say_whether_it_converged(status: Any, wrong: int | None, said: Status) -> None:
    assert solved(Saying(status=status), wrong=wrong)[0].status is said


def test_a_cap_is_what_was_said_and_stays_where_others_are_lowered() -> None:
    assert cap(("ift", "b_max_iter=2"), "b_max_iter", 40) == 2
    assert cap(("ift",), "b_max_iter", 40) == 40
    pytest.importorskip("torchdeq")
    for words, caps in (("ift", (40, 40)), ("ift,b_max_iter=60", (40, 60)), ("ift,b_max_iter=2", (40, 2))):
        layer = load(f"torchdeq[{words}]")
        assert (layer.module.f_max_iter, layer.module.b_max_iter) == caps
        fewer = layer.limited(5)
        assert (fewer.module.f_max_iter, fewer.module.b_max_iter) == (5, min(5, caps[1]))
        none = layer.limited(0)
        assert (none.module.f_max_iter, none.module.b_max_iter) == (0, 0)


@pytest.mark.parametrize("bad", ["x", "0", "", "-3", "2.5"])
def test_a_cap_that_is_no_number_is_told_how(bad: str) -> None:
    with pytest.raises(ValueError, match=r"b_max_iter: takes a whole number of at least 1, as in b_max_iter=2"):
        cap((f"b_max_iter={bad}",), "b_max_iter", 40)
