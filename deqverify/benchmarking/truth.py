"""The answers that contenders are judged by, and how near each came.

Of the linear-softmax cell the reference is computed in extended precision: float64 LU of U, refined by residuals in
NumPy's longdouble until they lie within what bounds.py allows that precision. Its own error is stated by the same
bounds (:attr:`Truth.doubt`), and a test holds it against the ball-arithmetic oracle. Beyond ``WORK`` multiplications,
longdouble having no BLAS, the float64 closed form stands in, with a doubt to match. Of every other cell the reference
is Newton's method in float64 with a dense adjoint, and its doubt an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from deqverify.bounds import FLOAT64, Arithmetic, Errors
from deqverify.dtypes import Array
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.reference.newton import NewtonLayer
from deqverify.theory.closed_form import ClosedForm

WORK = 3e8
_WIDE = np.longdouble
_EXTENDED = Arithmetic(float(np.finfo(_WIDE).eps) / 2, 0.0, FLOAT64.tiny, FLOAT64.largest, FLOAT64.norm_floor)


@dataclass(frozen=True)
class Truth:
    """z* and the gradients in the parameters that are judged and in x, by name and data points first, and bounds on
    their own relative errors."""

    values: dict[str, Any]
    doubt: dict[str, float]


@dataclass(frozen=True)
class Achieved:
    """Relative residual and errors of one answer; a quantity that was not computed is None.

    ``residual`` is ``‖f(ẑ) − ẑ‖₂/‖f(ẑ)‖₂`` of the worst data point, in float64; ``z`` and ``x`` the relative 2-norm
    error of the worst data point, ``theta`` that of the worst parameter, of A in the linear-softmax cell.
    """

    residual: float | None
    z: float | None
    theta: float | None = None
    x: float | None = None
    doubt: float = 0.0

    @property
    def worst(self) -> float:
        """The largest error; NaN counts as infinite."""
        errors = [error for error in (self.z, self.theta, self.x) if error is not None]
        return max(float("inf") if np.isnan(error) else error for error in errors)


@lru_cache(maxsize=4)
def truth(problem: Problem) -> Truth:
    """The reference answers of ``problem`` (by identity: problems are immutable)."""
    return _softmax(problem) if isinstance(problem, SoftmaxProblem) else _polished(problem)


def _softmax(problem: SoftmaxProblem) -> Truth:
    exact = ClosedForm(problem)
    wide = problem.m**2 * problem.n <= WORK and _EXTENDED.unit < FLOAT64.unit
    errors = Errors(exact, _EXTENDED if wide else FLOAT64)
    values = _refined(exact, errors) if wide else {"z": exact.Z, "A": exact.gradient["A"], "x": exact.adjoint}
    gradient = errors.gradient
    doubt = {
        "z": float(np.max(errors.z / _norms(exact.Z.T))),
        "A": float(np.linalg.norm(gradient["A"]) / (np.linalg.norm(exact.gradient["A"]) or 1.0)),
        "x": float(np.max(_norms(gradient["Phi"].T) / _norms(exact.adjoint.T))),
    }
    return Truth(values | {name: values[name].T for name in ("z", "x")}, doubt)


def _polished(problem: Problem) -> Truth:
    """Newton's method until rounding stops it. Estimated: a few roundings, as a condition number of up to
    ``2/(1 − rate)`` makes of them."""
    solution, pull = NewtonLayer("numpy").vjp(problem.cell, problem.theta, problem.x)
    z = solution.z
    rows = z.reshape(len(z), -1)
    dF = problem.loss.gradient(problem.B @ rows.T, problem.Y)
    found = pull((dF.T @ problem.B).reshape(z.shape))
    values = {"z": z, **found.theta, "x": found.x}
    amplified = 2.0 / max(1.0 - problem.rate, 1e-3)  # without a certificate the rate is 1, which says nothing
    return Truth(values, dict.fromkeys(values, 64 * FLOAT64.unit * amplified))


def achieved(problem: Problem, z: Array | None, gradient: dict[str, Array] | None = None) -> Achieved:
    """How near z (n, *state) and the gradients, by name, came to the truth, each where it is given."""
    known = truth(problem)
    residual, error = (None, None) if z is None else _of_state(problem, z, known)
    if gradient is None:
        return Achieved(residual, error, doubt=known.doubt["z"])
    names = [name for name in known.values if name not in ("z", "x")]
    theta = max(_relative(gradient[name], known.values[name]) for name in names)
    return Achieved(residual, error, theta, _worst_point(gradient["x"], known.values["x"]), max(known.doubt.values()))


def _of_state(problem: Problem, z: Array, known: Truth) -> tuple[float, float]:
    f = problem.cell.step(problem.theta, problem.x)(z)
    return _worst_point(z, f), _worst_point(z, known.values["z"])


def _relative(found: Array, expected: Any) -> float:
    size = float(np.linalg.norm(np.asarray(expected, dtype=np.float64)))
    return float(np.linalg.norm((found - expected).astype(np.float64))) / (size or 1.0)


def _worst_point(found: Array, expected: Any) -> float:
    sizes = _norms(expected)
    return float(np.max(_norms(found - expected) / np.where(sizes > 0.0, sizes, 1.0)))


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
    return {"z": Z, "A": SM - S * SM.sum(axis=0), "x": adjoint}


def _solve(K: Any, rhs: Any, solve: Any, norm: Any, rounding: float) -> Any:
    x, r = np.zeros_like(rhs), rhs
    for corrections in range(8):
        x = x + solve(r.astype(np.float64))
        r = rhs + K @ x - x
        # The bound is wide enough at large m to hold for plain float64, which judges no float64 contender.
        if corrections and np.all(norm(r) <= rounding * (norm(x) + norm(rhs))):
            return x
    raise ArithmeticError("truth: iterative refinement does not reach extended precision; γ is too near one")


def _norms(states: Any) -> Array:
    """2-norms of the data points (n, *state), in float64, scaled against overflow."""
    rows = np.asarray(states).reshape(len(states), -1)
    top = np.abs(rows).max(axis=1, initial=0.0)
    top = np.where(top > 0, top, 1)
    return np.asarray(top * np.sqrt(((rows / top[:, None]) ** 2).sum(axis=1)), dtype=np.float64)
