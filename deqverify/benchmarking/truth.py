"""The answers that contenders are judged by, and how near each came.

The reference is computed in extended precision: float64 LU of U, refined by residuals in NumPy's longdouble until they
lie within what bounds.py allows that precision. Its own error is stated by the same bounds (:attr:`Truth.doubt`), and a
test holds it against the ball-arithmetic oracle. Beyond ``WORK`` multiplications, longdouble having no BLAS, the
float64 closed form stands in, with a doubt to match.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from deqverify.bounds import FLOAT64, Arithmetic, Errors
from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm

WORK = 3e8
QUANTITIES = ("z", "A", "Phi")
_WIDE = np.longdouble
_EXTENDED = Arithmetic(float(np.finfo(_WIDE).eps) / 2, 0.0, FLOAT64.tiny, FLOAT64.largest, FLOAT64.norm_floor)


@dataclass(frozen=True)
class Truth:
    """z* (m, n), ∂L/∂A (m, m) and ∂L/∂Φ (m, n) of one problem, and bounds on their own relative errors."""

    values: dict[str, Any]
    doubt: dict[str, float]


@dataclass(frozen=True)
class Achieved:
    """Relative residual and errors of one answer; a quantity that was not computed is None.

    ``residual`` is ``‖f(ẑ) − ẑ‖₂/‖f(ẑ)‖₂`` of the worst data point, in float64; ``z`` and ``Phi`` the relative 2-norm
    error of the worst data point, ``A`` that of the matrix.
    """

    residual: float | None
    z: float | None
    A: float | None = None
    Phi: float | None = None
    doubt: float = 0.0

    @property
    def worst(self) -> float:
        """The largest error; NaN counts as infinite."""
        errors = [error for error in (self.z, self.A, self.Phi) if error is not None]
        return max(float("inf") if np.isnan(error) else error for error in errors)


@lru_cache(maxsize=4)
def truth(problem: SoftmaxProblem) -> Truth:
    """The reference answers of ``problem`` (by identity: problems are immutable)."""
    exact = ClosedForm(problem)
    wide = problem.m**2 * problem.n <= WORK and _EXTENDED.unit < FLOAT64.unit
    errors = Errors(exact, _EXTENDED if wide else FLOAT64)
    values = _refined(exact, errors) if wide else {"z": exact.Z, "A": exact.gradient["A"], "Phi": exact.adjoint}
    gradient = errors.gradient
    doubt = {
        "z": float(np.max(errors.z / _norms(exact.Z))),
        "A": float(np.linalg.norm(gradient["A"]) / (np.linalg.norm(exact.gradient["A"]) or 1.0)),
        "Phi": float(np.max(_norms(gradient["Phi"]) / _norms(exact.adjoint))),
    }
    return Truth(values, doubt)


def achieved(problem: SoftmaxProblem, z: Array | None, gradient: dict[str, Array] | None = None) -> Achieved:
    """How near z (m, n) and the gradients in A and Phi came to the truth, each where it is given."""
    known = truth(problem)
    residual, error = (None, None) if z is None else _of_state(problem, z, known)
    if gradient is None:
        return Achieved(residual, error, doubt=known.doubt["z"])
    size = float(np.linalg.norm(known.values["A"].astype(np.float64)))
    A = float(np.linalg.norm((gradient["A"] - known.values["A"]).astype(np.float64))) / (size or 1.0)
    Phi = float(np.max(_norms(gradient["Phi"] - known.values["Phi"]) / _norms(known.values["Phi"])))
    return Achieved(residual, error, A, Phi, max(known.doubt.values()))


def _of_state(problem: SoftmaxProblem, z: Array, known: Truth) -> tuple[float, float]:
    f = problem.gamma * (ClosedForm(problem).S @ z) + problem.Phi
    error = float(np.max(_norms(z - known.values["z"]) / _norms(known.values["z"])))
    return float(np.max(_norms(f - z) / _norms(f))), error


def _refined(exact: ClosedForm, errors: Errors) -> dict[str, Any]:
    """z, ∂L/∂A and ∂L/∂Φ in extended precision. ArithmeticError where refinement does not reach its bound."""
    problem = exact.problem
    A = problem.A.astype(_WIDE)
    E = np.exp(A - A.max(axis=0))
    S = E / E.sum(axis=0)
    K = _WIDE(problem.gamma) * S
    Z = _solve(K, problem.Phi.astype(_WIDE), exact.solve, lambda r: np.abs(r).sum(axis=0), errors.solve_rounding)
    B = problem.B.astype(_WIDE)
    c = B.T @ problem.loss.gradient(B @ Z, problem.Y)
    adjoint = _solve(K.T, c, exact.solve_transposed, lambda r: np.abs(r).max(axis=0), errors.solve_rounding)
    SM = S * (_WIDE(problem.gamma) * (adjoint @ Z.T))
    return {"z": Z, "A": SM - S * SM.sum(axis=0), "Phi": adjoint}


def _solve(K: Any, rhs: Any, solve: Any, norm: Any, rounding: float) -> Any:
    x, r = np.zeros_like(rhs), rhs
    for corrections in range(8):
        x = x + solve(r.astype(np.float64))
        r = rhs + K @ x - x
        # The bound is wide enough at large m to hold for plain float64, which judges no float64 contender.
        if corrections and np.all(norm(r) <= rounding * (norm(x) + norm(rhs))):
            return x
    raise ArithmeticError("truth: iterative refinement does not reach extended precision; γ is too near one")


def _norms(columns: Any) -> Array:
    """2-norms of the columns, in float64, scaled against overflow."""
    top = np.abs(columns).max(axis=0)
    top = np.where(top > 0, top, 1)
    return np.asarray(top * np.sqrt(((columns / top) ** 2).sum(axis=0)), dtype=np.float64)
