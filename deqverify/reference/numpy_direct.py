"""The reference in NumPy: one LU of ``U = I − K``, used again transposed for the adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg

from deqverify.cells import LinearCell
from deqverify.cells.base import Parts, Theta
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.reference.stateless import LINEAR, STATELESS, Stateless


class NumpyDirect(Stateless):
    """Solves a linear cell directly: ``z = U⁻¹f(0)`` and ``λ = U⁻ᵀc`` (theory: adjoint); no start is used."""

    framework = "numpy"
    name = "reference[numpy]"
    claims = replace(STATELESS, cells=LINEAR, starts=False, where="deqverify/reference/numpy_direct.py")

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solve = _solver(cell.matrix(theta))
        z = solve(cell.offset(theta, x), transposed=False)

        def pull(cotangent: Any) -> Cotangents:
            adjoint = solve(cotangent, transposed=True)
            found = cell.pull(theta, x, z, adjoint)
            return Cotangents(found.theta, found.x, _finite(adjoint))

        return Solution(z, _finite(z)), pull

    def jvp(self, cell: LinearCell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """``dz = U⁻¹((∂f/∂θ)dθ + dx)``."""
        solve = _solver(cell.matrix(theta))
        z = solve(cell.offset(theta, x), transposed=False)
        along = cell.push(theta, x, z, Parts(dict(tangent[0]), tangent[1], np.zeros_like(z)))
        return Solution(z, _finite(z)), solve(along, transposed=False)


def _solver(K: Any) -> Callable[..., Any]:
    factors = scipy.linalg.lu_factor(np.eye(K.shape[0], dtype=K.dtype) - K, check_finite=False)

    def solve(rhs: Any, transposed: bool) -> Any:
        if not rhs.size:
            return rhs.copy()
        return scipy.linalg.lu_solve(factors, rhs.T, trans=int(transposed), check_finite=False).T

    return solve


def _finite(array: Any) -> Status:
    return Status.CONVERGED if np.isfinite(array).all() else Status.DIVERGED
