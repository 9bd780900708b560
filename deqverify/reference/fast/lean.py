"""One small problem, direct, in as few operations as there are: below m = 100 a call costs more than its arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deqverify.reference.fast.answer import Answer, Gradients

WIDEST = 128
"""Widths up to which it serves (``python -m tools.speed peers``)."""

NEAREST = 1e-3
"""1 − γ from which on: nearer to 1 the slow mode is taken out (``direct.py``)."""


class Lean(Answer):
    """``z = U⁻¹x`` and ``λ = U⁻ᵀc`` with one LU of ``U = I − γS``, for A (m, m), x (n, m)."""

    used = "lu"

    def __init__(self, A: Tensor, x: Tensor, gamma: float):
        self.gamma, self.S = gamma, torch.softmax(A, 0)
        U = self.S * -gamma
        U.diagonal().add_(1.0)
        # LAPACK stores by columns: read so, the buffer is Uᵀ, and no copy is needed to factorise that.
        self.lu, self.pivots, _ = torch.linalg.lu_factor_ex(U.mT)
        self.z = torch.linalg.lu_solve(self.lu, self.pivots, x.mT, adjoint=True).mT

    def pull(self, c: Tensor, wanted: Any = (True, True, True)) -> Gradients:
        v = torch.linalg.lu_solve(self.lu, self.pivots, c.mT).mT
        if not (wanted[0] or wanted[2]):
            return Gradients(None, v, None)
        P = v.mT @ self.z
        t = torch.linalg.vecdot(self.S, P, dim=0)
        dA = P.sub_(t).mul_(self.S).mul_(self.gamma) if wanted[0] else None
        return Gradients(dA, v, t.sum() if wanted[2] else None)
