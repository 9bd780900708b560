"""The linear system of one problem: ``K = γS``, never formed, its products, its rate and the derivatives in A and γ.

``S = E diag(1/Σ_i E_ij)`` with ``E = exp(A − max)``: the division is left to vectors, so that one matrix serves the
factorisation, every product and the pull-back. States, inputs and cotangents are (n, m), one data point a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deqverify.reference.fast import buffers

BLOCK = 2**16
"""Entries worked on at a time where a bound needs several passes: 512 KiB of float64 stay in a core's cache."""

PIECE = 64
"""Terms of a sum that is taken carefully: long enough for a product to run at speed."""


class System:
    """``z = γSz + x`` for A (m, m) and γ in (0, 1); holds E (m, m) and the column weights of S and of K, (m,)."""

    def __init__(self, A: Tensor, gamma: float):
        self.gamma, self.m = gamma, A.shape[0]
        self.E = buffers.take(self.m, self.m, A.dtype, A.device)
        torch.sub(A, A.amax(0), out=self.E).exp_()
        self.columns = self.E.sum(0).reciprocal_()
        self.weights = self.columns * gamma
        self.unit = torch.finfo(A.dtype).eps / 2
        self.piece = self.m
        self._rate: float | None = None

    def __del__(self) -> None:
        if hasattr(self, "E"):
            buffers.give(self.E)

    def careful(self) -> None:
        """Sums products in short pieces from now on: rounding is bounded by ``m/64 + 64`` terms instead of m."""
        self.piece = min(self.m, PIECE)

    @property
    def terms(self) -> int:
        """Evaluating ``Kz + x`` once is off by at most ``terms · u · (‖z‖ + ‖x‖)``, in the norm that contracts.

        The sums of a product in any order, of its pieces, and 8 for the division, the weights, γ and x.
        """
        return self.piece + -(-self.m // self.piece) + 8

    def step(self, z: Tensor, x: Tensor) -> Tensor:
        """``Kz + x``."""
        z = z * self.weights
        if self.piece == self.m:
            return torch.addmm(x, z, self.E.mT)
        f = x
        for part, rows in zip(z.split(self.piece, 1), self.E.mT.split(self.piece), strict=True):
            f = torch.addmm(f, part, rows) if f is x else f.addmm_(part, rows)
        return f

    def adjoint_step(self, v: Tensor, c: Tensor) -> Tensor:
        """``Kᵀv + c``."""
        if self.piece == self.m:
            return torch.addcmul(c, v @ self.E, self.weights)
        f = torch.zeros_like(c)
        for part, rows in zip(v.split(self.piece, 1), self.E.split(self.piece), strict=True):
            f.addmm_(part, rows)
        return torch.addcmul(c, f, self.weights, out=f)

    def pull(
        self, z: Tensor, v: Tensor, s: Tensor, want_A: bool, want_gamma: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """``∂A`` (m, m) and ``∂γ`` for the adjoint ``λ = v + s1``, s (n, 1); what is not wanted is None.

        With ``T = S∘(γvᵀz)`` and its column sums t: ``∂A = T − St`` and ``∂γ = (1ᵀt)/γ + Σ s·1ᵀz`` (theory: gradient).
        The softmax Jacobian annihilates s, which near γ = 1 is by far the larger part of λ (theory: slow-mode): left
        out, it rounds nothing.
        """
        if not want_A:
            return None, ((v + s) * ((z * self.columns) @ self.E.mT)).sum() if want_gamma else None
        factor = self.gamma if self.gamma > 2.0**-20 else 1.0  # γ may be so small that γvᵀz underflows
        dA = (v.mT @ (z * (self.columns * factor))).mul_(self.E)
        t = dA.sum(0)
        dA.addcmul_(self.E, t * self.columns, value=-1)
        # Once more: what is left of the column sums is the rounding of v's constant part, which S may drown dA in.
        dA.addcmul_(self.E, dA.sum(0) * self.columns, value=-1)
        if factor != self.gamma:
            dA.mul_(self.gamma)
        return dA, t.sum() / factor + (s * z.sum(1, keepdim=True)).sum() if want_gamma else None

    def spread(self) -> float:
        """A guess at ``|λ₂(S)|``: ``√(mean_j ‖S_:j‖₂² − 1/m)`` over at most 64 columns; no bound.

        Exact for the identity and permutations (1), for equal columns (0) and, for large m, for S with independent
        entries (the circular law). Block structure escapes it; the iteration itself notices then.
        """
        step = max(1, self.m // 64)
        S = self.E[:, ::step] * self.columns[::step]
        return math.sqrt(max(0.0, float(S.square_().sum(0).mean()) - 1.0 / self.m))

    def rate(self) -> float:
        """An upper bound on γτ (theory: zero-mass), rounding included, computed once; at most γ.

        ``τ ≤ 1 − Σ_i min_j S_ij`` (Doeblin), and where that says little, ``τ ≤ max_j ‖S_:j − c‖₁`` with c the mean of
        the columns (triangle inequality).
        """
        if self._rate is None:
            tau = self._doeblin()
            if tau > 0.98:
                tau = min(tau, self._deviation())
            self._rate = self.gamma * min(1.0, tau + 2 * (self.m + 4) * self.unit)
        return self._rate

    def _doeblin(self) -> float:
        return 1.0 - float(sum((rows.amin(1).sum() for rows in self._rows()), start=torch.zeros(())))

    def _deviation(self) -> float:
        total = torch.zeros_like(self.columns)
        for rows in self._rows():
            total += rows.sub_(rows.mean(1, keepdim=True)).abs_().sum(0)
        return float(total.max())

    def _rows(self) -> list[Tensor] | map:
        """S in blocks of rows."""
        return map(self.columns.mul, self.E.split(max(1, BLOCK // self.m)))
