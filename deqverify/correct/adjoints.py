"""Dense adjoints of any cell in NumPy, by other factorisations of ``I − J`` or of its transpose, after Newton's method.

Each is backward stable, so that it claims rounding alone (theory: rounding-of-a-cell).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from deqverify.correct.registry import correct
from deqverify.faults.sound import SoundNewton


class OnePointAtATime(SoundNewton):
    """Subclasses solve ``Uᵀλ = c`` of one data point, U (s, s) and c (s,): :meth:`solved`."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        systems = np.eye(cotangent.shape[1], dtype=J.dtype) - J
        each = [self.solved(U, c) for U, c in zip(systems, cotangent, strict=True)]
        return np.stack(each).astype(cotangent.dtype)

    def solved(self, U: Any, c: Any) -> Any:
        raise NotImplementedError


@correct("adjoint-by-the-same-lu")
class SameLU(OnePointAtATime):
    """The adjoint of any cell by an LU of ``I − J``, used transposed, as one who keeps the forward factors does."""

    def solved(self, U: Any, c: Any) -> Any:
        return scipy.linalg.lu_solve(scipy.linalg.lu_factor(U), c, trans=1)


@correct("adjoint-by-qr")
class ByQR(OnePointAtATime):
    """The adjoint of any cell by Householder's QR of ``(I − J)ᵀ``."""

    def solved(self, U: Any, c: Any) -> Any:
        Q, R = np.linalg.qr(U.T)
        return scipy.linalg.solve_triangular(R, Q.T @ c)


@correct("adjoint-by-least-squares")
class LeastSquares(OnePointAtATime):
    """The adjoint of any cell by ``numpy.linalg.lstsq``, a singular value decomposition that cuts nothing off."""

    def solved(self, U: Any, c: Any) -> Any:
        return np.linalg.lstsq(U.T, c, rcond=0.0)[0]
