"""What a user of PyTorch writes without a library: the baselines of benchmarks, verified like everybody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from deqverify.implementations.adapter import Accuracy, Claims, Configured, Solution, Status, chosen
from deqverify.implementations.torch_base import TorchLayer
from deqverify.reference.stateless import LINEAR

BOTH = ("cpu", "cuda")


class PlainSolve(TorchLayer):
    """``torch.linalg.solve`` and autograd through it, for a linear cell."""

    claims = Claims(cells=LINEAR, devices=BOTH, starts=False, second_order=True, status=False, where="this class")

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> torch.Tensor:
        K = cell.matrix(theta)
        U = torch.eye(K.shape[0], dtype=K.dtype, device=K.device) - K
        return torch.linalg.solve(U, cell.offset(theta, x).T).T


@dataclass(eq=False)
class Unrolled(Configured, TorchLayer):
    """Picard's iteration until a step is small, and autograd through all of it: how near that gradient comes is not
    claimed."""

    tol: float = 1e-6
    most: int = 5000

    def __post_init__(self) -> None:
        self.claims = Claims(Accuracy(self.tol, per="batch"), None, devices=BOTH, where="this class")

    def fixed_point(self, step: Any, z0: torch.Tensor) -> Solution:
        z = z0
        for count in range(self.most):
            image = step(z)
            moved, size = (torch.linalg.vector_norm(t.detach()) for t in (image - z, image))
            if not moved > self.tol * size:  # NaN too
                return Solution(z, Status.CONVERGED if moved <= self.tol * size else Status.DIVERGED, count)
            z = image
        return Solution(z, Status.CAPPED, self.most)


def plain(*words: str) -> Any:
    """``solve`` (the default), for linear cells, or ``unrolled``, at 1e-6 or ``tight``."""
    if "unrolled" in words:
        return chosen(Unrolled(), words, ("unrolled",))
    if rest := [word for word in words if word != "solve"]:
        raise ValueError(f"there is no option {rest[0]!r}; use solve, or unrolled, tight")
    return PlainSolve()
