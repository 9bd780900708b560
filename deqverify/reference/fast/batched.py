"""Many small problems at once, direct: (k, m, m) and (k, n, m) in, the same out.

U is diagonally dominant by columns (``1 − γS_jj > γΣ_{i≠j} S_ij``), so that elimination needs no pivots: its growth is
at most 2 (Higham, *Accuracy and Stability of Numerical Algorithms*, Theorem 9.9). Without pivots the same step is taken
in every problem, and the problems can lie side by side, last axis k: each operation runs over contiguous memory. They
are worked off in blocks that stay in a core's cache. Wider problems go to LAPACK, one factorisation each, where blocks
inside a matrix pay more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deqverify.reference.fast import buffers

WIDEST = 32
"""Widths up to which problems lie side by side (measured: ``python -m tools.speed batched``)."""

MOST = 8
"""Data points a problem up to which they do: with more, LAPACK's blocked solves win."""

FEWEST = 64
"""Problems from which they do: the operations have to be long."""

BLOCK = 2**18
"""Matrix entries worked on at a time: 2 MiB of float64; with fewer, calls cost more than the cache saves."""


class Solved:
    """The factorisations of k problems: A (k, m, m), n data points each, γ one number or (k,)."""

    def __init__(self, A: Tensor, n: int, gamma: Tensor):
        k, m = A.shape[:2]
        self.gamma_shape = gamma.shape
        self.one_gamma = gamma.ndim == 0 or gamma.shape != (k,)
        each = gamma.reshape(-1).expand(k)
        side_by_side = A.device.type == "cpu" and m <= WIDEST and n <= MOST and k >= FEWEST
        make, step = (_SideBySide, max(1, BLOCK // m**2)) if side_by_side else (_Library, max(k, 1))
        self.blocks = [slice(i, min(i + step, k)) for i in range(0, k, step)]
        self.parts = [make(A[block], each[block]) for block in self.blocks]

    def forward(self, x: Tensor) -> Tensor:
        """z (k, n, m)."""
        z = torch.empty_like(x, memory_format=torch.contiguous_format)
        for block, part in zip(self.blocks, self.parts, strict=True):
            part.solve(x[block], z[block])
        return z

    def pull(self, z: Tensor, c: Tensor, wanted: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``∂A``, ``∂x``, ``∂γ`` for a cotangent c (k, n, m); None where ``wanted`` is false."""
        k, m = z.shape[0], z.shape[2]
        dx = torch.empty_like(z)
        dA = z.new_empty(k, m, m) if wanted[0] else None
        dgamma = z.new_empty(k) if wanted[2] else None
        for block, part in zip(self.blocks, self.parts, strict=True):
            part.solve_transposed(c[block], dx[block])
            if dA is not None or dgamma is not None:
                part.pull(
                    z[block], dx[block], None if dA is None else dA[block], None if dgamma is None else dgamma[block]
                )
        if dgamma is not None and self.one_gamma:
            dgamma = dgamma.sum().reshape(self.gamma_shape)
        return dA, dx if wanted[1] else None, dgamma


class _Library:
    """A batch of LAPACK's factorisations."""

    def __init__(self, A: Tensor, gamma: Tensor):
        self.S, self.gamma = torch.softmax(A, 1), gamma[:, None, None]
        U = self.S * -self.gamma
        U.diagonal(dim1=1, dim2=2).add_(1.0)
        self.lu, self.pivots, _ = torch.linalg.lu_factor_ex(U)

    def solve(self, x: Tensor, z: Tensor) -> None:
        z.copy_(torch.linalg.lu_solve(self.lu, self.pivots, x.mT).mT)

    def solve_transposed(self, c: Tensor, v: Tensor) -> None:
        v.copy_(torch.linalg.lu_solve(self.lu, self.pivots, c.mT, adjoint=True).mT)

    def pull(self, z: Tensor, v: Tensor, dA: Tensor | None, dgamma: Tensor | None) -> None:
        T = torch.matmul(v.mT, z, out=dA).mul_(self.S)
        t = T.sum(1, keepdim=True)
        if dgamma is not None:
            torch.sum(t, (1, 2), out=dgamma)
        if dA is not None:
            T.addcmul_(self.S, t, value=-1).mul_(self.gamma)


class _SideBySide:
    """One block of problems: S and the LU of U, (m, m, b), unit lower triangle and upper triangle in one array."""

    def __init__(self, A: Tensor, gamma: Tensor):
        b, m = A.shape[:2]
        self.gamma = gamma
        self.matrices = [buffers.take(m * m, b, A.dtype, A.device) for _ in range(2)]
        S, U = (matrix.view(m, m, b) for matrix in self.matrices)
        self.matrices[0].copy_(A.reshape(b, m * m).t())
        S.sub_(S.amax(0)).exp_()
        S.mul_(S.sum(0).reciprocal_())
        torch.mul(S, -gamma, out=U)
        U.diagonal().add_(1.0)  # (b, m): the entries U_jj of every problem
        self.S, self.U, self.reciprocals = S, U, S.new_empty(m, b)
        for j in range(m):
            torch.reciprocal(U[j, j], out=self.reciprocals[j])
            if j + 1 < m:
                U[j + 1 :, j].mul_(self.reciprocals[j])
                U[j + 1 :, j + 1 :].addcmul_(U[j + 1 :, j, None], U[j, j + 1 :], value=-1)

    def __del__(self) -> None:
        if hasattr(self, "matrices"):
            buffers.give(*self.matrices)

    def solve(self, x: Tensor, z: Tensor) -> None:
        m, U = self.S.shape[0], self.U
        y = x.permute(2, 1, 0).clone(memory_format=torch.contiguous_format)  # (m, n, b), never x itself
        for j in range(m - 1):
            y[j + 1 :].addcmul_(U[j + 1 :, j, None], y[j], value=-1)
        for j in reversed(range(m)):
            y[j].mul_(self.reciprocals[j])
            if j:
                y[:j].addcmul_(U[:j, j, None], y[j], value=-1)
        z.copy_(y.permute(2, 1, 0))

    def solve_transposed(self, c: Tensor, v: Tensor) -> None:
        m, U = self.S.shape[0], self.U
        y = c.permute(2, 1, 0).clone(memory_format=torch.contiguous_format)
        for j in range(m):
            y[j].mul_(self.reciprocals[j])
            if j + 1 < m:
                y[j + 1 :].addcmul_(U[j, j + 1 :, None], y[j], value=-1)
        for j in reversed(range(1, m)):
            y[:j].addcmul_(U[j, :j, None], y[j], value=-1)
        v.copy_(y.permute(2, 1, 0))

    def pull(self, z: Tensor, v: Tensor, dA: Tensor | None, dgamma: Tensor | None) -> None:
        b, n, m = z.shape
        states, adjoints = z.permute(2, 1, 0).contiguous(), v.permute(2, 1, 0).contiguous()
        T = adjoints[:, None, 0] * states[None, :, 0] if n else torch.zeros_like(self.S)
        for i in range(1, n):
            T.addcmul_(adjoints[:, None, i], states[None, :, i])
        T.mul_(self.S)
        t = T.sum(0)
        if dgamma is not None:
            torch.sum(t, 0, out=dgamma)
        if dA is not None:
            T.addcmul_(self.S, t, value=-1).mul_(self.gamma)
            dA.view(b, m * m).copy_(T.view(m * m, b).t())
