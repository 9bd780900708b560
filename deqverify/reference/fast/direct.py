"""One LU a problem, for both passes, of the system without its slow mode.

With q = 1/m and the known mass ``μ = 1ᵀx/(1−γ)`` (theory: mass), ``z* = U⁻¹x`` also solves

    ``U'z = x + γμq``,  ``U' = I − γS + γq1ᵀ``,

since ``1ᵀz* = μ``. ``1ᵀU' = 1ᵀ``: the eigenvalue 1 − γ of U has become 1, and what is left is as well conditioned as
the part of zero mass, ``1/(1−γτ)`` instead of ``1/(1−γ)``. Its transpose has ``U'ᵀ1 = 1``, hence
``λ = U⁻ᵀc = v + s1`` with ``v = U'⁻ᵀc`` and ``s = γqᵀv/(1−γ)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deqverify.reference.fast import buffers
from deqverify.reference.fast.system import System


class Factors:
    """The LU of U', (m, m), in ``dtype`` (the system's own by default), in place in one buffer."""

    def __init__(self, system: System, dtype: torch.dtype | None = None):
        m, E = system.m, system.E
        self.gamma = system.gamma
        U = buffers.take(m, m, dtype or E.dtype, E.device)
        torch.addcmul(E.new_full((), system.gamma / m), E, system.weights, value=-1, out=U)
        U.diagonal().add_(1.0)
        # LAPACK stores by columns: the buffer, read so, is U'ᵀ, and no copy is needed to factorise that.
        self.buffer, self.lu = U, U.mT
        self.pivots = torch.empty(m, dtype=torch.int32, device=E.device)
        info = torch.empty((), dtype=torch.int32, device=E.device)
        torch.linalg.lu_factor_ex(self.lu, out=(self.lu, self.pivots, info))

    def __del__(self) -> None:
        if hasattr(self, "lu"):
            buffers.give(self.buffer)

    def solve(self, b: Tensor) -> Tensor:
        """``U'⁻¹b`` for every row of b (n, m)."""
        return torch.linalg.lu_solve(self.lu, self.pivots, b.mT, adjoint=True).mT

    def solve_transposed(self, c: Tensor) -> Tensor:
        """``U'⁻ᵀc`` for every row of c (n, m)."""
        return torch.linalg.lu_solve(self.lu, self.pivots, c.mT).mT


def forward(factors: Factors, x: Tensor) -> Tensor:
    """z (n, m)."""
    mass = x.sum(1, keepdim=True)
    return factors.solve(torch.add(x, mass, alpha=factors.gamma / (1.0 - factors.gamma) / x.shape[1]))


def adjoint(factors: Factors, c: Tensor) -> tuple[Tensor, Tensor]:
    """v (n, m) and s (n, 1); the adjoint is their sum."""
    v = factors.solve_transposed(c)
    return v, v.sum(1, keepdim=True) * (factors.gamma / (1.0 - factors.gamma) / c.shape[1])
