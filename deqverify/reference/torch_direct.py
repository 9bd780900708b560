"""The reference in PyTorch: one LU of ``U = I − K``, used again transposed, differentiable any number of times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deqverify.cells import LinearCell
from deqverify.cells.base import Parts, Theta
from deqverify.implementations.protocol import Solution, Status
from deqverify.implementations.torch_base import TorchLayer
from deqverify.reference.stateless import LINEAR, STATELESS, Stateless


class _Solve(torch.autograd.Function):
    """``U⁻¹ rhs`` or ``U⁻ᵀ rhs`` given the LU of U. Its backward pass is made of itself: all derivatives share one LU.

    With ``x = U⁻¹r``: ``∂r = U⁻ᵀc`` and ``∂U = −∂r xᵀ``; with ``x = U⁻ᵀr``: ``∂r = U⁻¹c`` and ``∂U = −x ∂rᵀ``.
    """

    @staticmethod
    def forward(ctx: Any, U: Any, rhs: Any, lu: Any, pivots: Any, transposed: bool) -> Any:
        solution = torch.linalg.lu_solve(lu, pivots, rhs, adjoint=transposed)
        ctx.save_for_backward(U, lu, pivots, solution)
        ctx.transposed = transposed
        return solution

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        U, lu, pivots, solution = ctx.saved_tensors
        adjoint = _Solve.apply(U, cotangent, lu, pivots, not ctx.transposed)
        outer = solution @ adjoint.mT if ctx.transposed else adjoint @ solution.mT
        return -outer, adjoint, None, None, None


class TorchDirect(Stateless, TorchLayer):
    """Solves a linear cell directly, in the dtype and on the device of its input; no start is used.

    float16 and bfloat16 are computed in float32 and rounded, and claimed so.
    """

    name = "reference"
    claims = replace(
        STATELESS,
        cells=LINEAR,
        dtypes=("float64", "float32", "float16", "bfloat16"),
        devices=("cpu", "cuda"),
        starts=False,
        second_order=True,
        computes_in={"float16": "float32", "bfloat16": "float32"},
        where="deqverify/reference/torch_direct.py",
    )

    def equilibrium(self, cell: LinearCell, theta: Theta, x: Any, z0: Any) -> Solution:  # type: ignore[override]
        wide = torch.promote_types(x.dtype, torch.float32)
        K = cell.matrix({name: value.to(wide) for name, value in theta.items()})
        U = torch.eye(K.shape[0], dtype=wide, device=x.device) - K
        lu, pivots = torch.linalg.lu_factor(U.detach())
        offset = cell.offset({name: value.to(wide) for name, value in theta.items()}, x.to(wide))
        z = _Solve.apply(U, offset.mT, lu, pivots, False).mT.to(x.dtype)
        return Solution(z, _finite(z))

    def jvp(self, cell: LinearCell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """``dz = U⁻¹((∂f/∂θ)dθ + dx)``, one LU for z and dz."""
        wide = torch.promote_types(x.dtype, torch.float32)
        theta, along = ({name: value.to(wide) for name, value in each.items()} for each in (theta, tangent[0]))
        K = cell.matrix(theta)
        lu, pivots = torch.linalg.lu_factor(torch.eye(K.shape[0], dtype=wide, device=x.device) - K)
        z = torch.linalg.lu_solve(lu, pivots, cell.offset(theta, x.to(wide)).mT).mT
        right = cell.push(theta, x.to(wide), z, Parts(along, tangent[1].to(wide), torch.zeros_like(z)))
        dz = torch.linalg.lu_solve(lu, pivots, right.mT).mT
        return Solution(z.to(x.dtype), _finite(z)), dz.to(x.dtype)


def _finite(z: torch.Tensor) -> Status:
    return Status.CONVERGED if bool(torch.isfinite(z).all()) else Status.DIVERGED
