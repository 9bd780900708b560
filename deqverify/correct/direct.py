"""Direct solves of a linear cell in NumPy, by different factorisations of U = I − K, each used again transposed.

Each is backward stable, so that it claims rounding alone (theory: rounding).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg

from deqverify.cells import LinearCell
from deqverify.cells.base import Theta
from deqverify.correct.registry import correct
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.reference.numpy_direct import NumpyDirect
from deqverify.reference.stateless import LINEAR, STATELESS, Stateless

Solve = Callable[[Any, bool], Any]
"""``U⁻¹ right`` for right (m, n), or ``U⁻ᵀ right``."""


class Factored(Stateless):
    """One factorisation of U serves both passes. Subclasses say which: :meth:`factor`."""

    framework = "numpy"
    name = "factored"
    claims = replace(STATELESS, cells=LINEAR, starts=False, where=__name__)

    def factor(self, U: Any) -> Solve:
        raise NotImplementedError

    def solver(self, cell: LinearCell, theta: Theta) -> Solve:
        K = cell.matrix(theta)
        return self.factor(np.eye(len(K), dtype=K.dtype) - K)

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        factors = self.solver(cell, theta)

        def solve(right: Any, transposed: bool) -> Any:
            return factors(right, transposed) if right.size else right.copy()

        z = solve(cell.offset(theta, x).T, False).T

        def pull(cotangent: Any) -> Cotangents:
            adjoint = solve(cotangent.T, True).T
            found = cell.pull(theta, x, z, adjoint)
            return Cotangents(found.theta, found.x, _status(adjoint))

        return Solution(z, _status(z)), pull


@correct("qr")
class QR(Factored):
    """U = QR by Householder reflections: ``z = R⁻¹Qᵀf(0)`` and ``λ = QR⁻ᵀc``."""

    def factor(self, U: Any) -> Solve:
        Q, R = np.linalg.qr(U)

        def solve(right: Any, transposed: bool) -> Any:
            if transposed:
                return Q @ scipy.linalg.solve_triangular(R, right, trans=1, check_finite=False)
            return scipy.linalg.solve_triangular(R, Q.T @ right, check_finite=False)

        return solve


@correct("svd")
class SVD(Factored):
    """U = WΣVᵀ, and nothing is truncated: ``z = VΣ⁻¹Wᵀf(0)`` and ``λ = WΣ⁻¹Vᵀc``."""

    def factor(self, U: Any) -> Solve:
        W, sigma, V = np.linalg.svd(U)

        def solve(right: Any, transposed: bool) -> Any:
            left, other = (V, W.T) if transposed else (W.T, V)
            return other.T @ ((left @ right) / sigma[:, None])

        return solve


@correct("gth")
class GTH(Factored):
    """Elimination without one subtraction (Grassmann, Taksar & Heyman 1985), for the linear-softmax cell alone.

    U = I − γS has no positive entry off its diagonal, and its column sums are 1 − γ because those of S are one. So U is
    known by its off-diagonal entries and these sums, and a pivot is recomputed from them as a sum of numbers of one
    sign, where U itself would subtract (Alfa, Xue & Ye 2002, Math. Comp. 71, by rows there). Each entry of the factors
    has a small relative error, which is backward stable and more.
    """

    claims = replace(Factored.claims, cells=STATELESS.cells)

    def solver(self, cell: LinearCell, theta: Theta) -> Solve:
        off = np.array(cell.matrix(theta))  # −U off its diagonal; its diagonal is not looked at
        excess = np.full(len(off), 1.0 - theta["gamma"], dtype=off.dtype)  # what each column sums to
        m, pivots = len(off), np.empty(len(off), dtype=off.dtype)
        for k in range(m):
            pivots[k] = excess[k] + off[k + 1 :, k].sum()
            off[k + 1 :, k] /= pivots[k]  # multipliers of row k, which add to the rows below
            excess[k + 1 :] += excess[k] / pivots[k] * off[k, k + 1 :]
            off[k + 1 :, k + 1 :] += np.outer(off[k + 1 :, k], off[k, k + 1 :])
        lower = np.eye(m, dtype=off.dtype) - np.tril(off, -1)
        upper = np.diag(pivots) - np.triu(off, 1)

        def solve(right: Any, transposed: bool) -> Any:
            first, second = (upper, lower) if transposed else (lower, upper)
            half = scipy.linalg.solve_triangular(
                first, right, lower=not transposed, trans=int(transposed), check_finite=False
            )
            return scipy.linalg.solve_triangular(
                second, half, lower=transposed, trans=int(transposed), check_finite=False
            )

        return solve


@correct("refuses-empty")
class RefusesEmpty(NumpyDirect):
    """It claims that a batch of no data points is not a legal one, and raises at one; else it is one LU."""

    claims = replace(NumpyDirect.claims, empty=False)

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        if not len(x):
            raise ValueError("x: there are no data points")
        return super().vjp(cell, theta, x, z0)


class Eliminating(Stateless):
    """Elimination with partial pivoting by elementwise operations of IEEE arithmetic, which no BLAS rounds.

    What a library's matrix product rounds to depends on the processor: on one make a column alone gets the same bits
    as beside another, on the next it does not. A calibration that must hold everywhere measures these. Each data point
    is solved by itself, gradients are summed one by one. ``shuffled``: states are renamed by an order that the batch
    size decides, so that one data point alone is rounded otherwise than beside others.
    """

    framework = "numpy"
    claims = replace(STATELESS, starts=False, where=__name__)

    def __init__(self, shuffled: bool = False):
        self.shuffled = shuffled
        self.name = "eliminating, shuffled" if shuffled else "eliminating"

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        K = cell.matrix(theta)
        U = np.eye(len(K), dtype=K.dtype) - K
        z = self._solve(U, x)

        def pull(cotangent: Any) -> Cotangents:
            adjoint = self._solve(U.T, cotangent)
            parts = [cell.pull(theta, x[i : i + 1], z[i : i + 1], adjoint[i : i + 1]).theta for i in range(len(z))]
            none = cell.pull(theta, x[:0], z[:0], adjoint[:0]).theta
            total = {name: sum((part[name] for part in parts), start) for name, start in none.items()}
            return Cotangents(total, adjoint, _status(adjoint))

        return Solution(z, _status(z), statuses=[_status(row) for row in z]), pull

    def _solve(self, U: Any, rows: Any) -> Any:
        order = np.random.default_rng(len(rows)).permutation(len(U)) if self.shuffled else np.arange(len(U))
        found = np.empty_like(rows)
        found[:, order] = eliminate(U[np.ix_(order, order)], rows.T[order]).T
        return found


@correct("elimination")
def elimination() -> Eliminating:
    """Elimination written out row by row, with partial pivoting, which no BLAS rounds."""
    return Eliminating()


@correct("shuffled-elimination")
def shuffled_elimination() -> Eliminating:
    """The same in an order of the states that depends on the size of the batch, so that no two sizes round alike."""
    return Eliminating(shuffled=True)


def eliminate(U: Any, right: Any) -> Any:
    """``U⁻¹ right`` for U (m, m) and right (m, n): products, sums and quotients of rows, one after another."""
    m = len(U)
    rows = np.concatenate([U, right], axis=1)
    for k in range(m):
        pivot = k + int(np.abs(rows[k:, k]).argmax())
        rows[[k, pivot]] = rows[[pivot, k]]
        for i in range(k + 1, m):
            rows[i] = rows[i] - (rows[i, k] / rows[k, k]) * rows[k]
    for k in reversed(range(m)):
        for j in range(k + 1, m):
            rows[k, m:] = rows[k, m:] - rows[k, j] * rows[j, m:]
        rows[k, m:] = rows[k, m:] / rows[k, k]
    return rows[:, m:]


def _status(array: Any) -> Status:
    return Status.CONVERGED if np.isfinite(array).all() else Status.DIVERGED
