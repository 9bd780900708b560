"""A correct implementation whose rounding no BLAS decides: elimination by elementwise operations of IEEE arithmetic.

What a library's matrix product rounds to depends on the processor: on one make a column alone gets the same bits as
beside another, on the next it does not. A calibration that must hold everywhere measures these.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deqverify.cells import LinearCell
from deqverify.cells.base import Theta
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.reference.stateless import STATELESS, Stateless


class Eliminating(Stateless):
    """NumPy; U = I − K eliminated with partial pivoting, each data point by itself, gradients summed one by one.

    ``shuffled``: states are renamed by an order that the batch size decides, so that one data point alone is rounded
    otherwise than beside others.
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
