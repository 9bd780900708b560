"""The reference with weights of a few bits, in PyTorch, in two ways that come to the same: differentiated in the
quantised A, and in A straight through the quantiser (theory: quantised)."""

from __future__ import annotations

from typing import Any

import torch

from deqverify.cells import LinearCell
from deqverify.cells.base import Theta
from deqverify.implementations.protocol import Solution
from deqverify.reference import THROUGH
from deqverify.reference.quantised import WORD, claiming, on_grid, quantised
from deqverify.reference.torch_direct import TorchDirect


class TorchQuantised(TorchDirect):
    """The direct solve on weights that are quantised before autograd sees any: its graph begins at A_q, and the
    gradient there is what A is told."""

    def __init__(self, bits: int):
        self.bits, self.name = bits, f"reference[{WORD}{bits}]"
        self.claims = claiming(TorchDirect.claims, bits, "torch_quantised.py")

    def _solve(self, cell: Any, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None) -> Any:
        return super()._solve(cell, quantised(theta, self.bits), x, z0)

    def jvp(self, cell: LinearCell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """Along a tangent in the quantised A."""
        return super().jvp(cell, quantised(theta, self.bits), x, tangent)


class _Through(torch.autograd.Function):
    """A on the grid, differentiated as if it were A."""

    @staticmethod
    def forward(ctx: Any, A: Any, bits: int) -> Any:
        return on_grid(A, bits)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        return cotangent, None


class StraightThrough(TorchDirect):
    """The layer as it is trained: its graph begins at the real A and goes through the quantiser, whose derivative is
    taken to be the identity. ``A + (on_grid(A) − A).detach()``, as it is often written, would round."""

    def __init__(self, bits: int):
        self.bits, self.name = bits, f"reference[{THROUGH},{WORD}{bits}]"
        self.claims = claiming(TorchDirect.claims, bits, "torch_quantised.py")

    def equilibrium(self, cell: LinearCell, theta: Theta, x: Any, z0: Any) -> Solution:  # type: ignore[override]
        return super().equilibrium(cell, {**theta, "A": self.through(theta["A"])}, x, z0)

    def through(self, A: torch.Tensor) -> torch.Tensor:
        """A on its grid, with the graph of A."""
        return _Through.apply(A, self.bits)

    def jvp(self, cell: LinearCell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """Along a tangent in A, which goes straight through as well."""
        return super().jvp(cell, quantised(theta, self.bits), x, tangent)
