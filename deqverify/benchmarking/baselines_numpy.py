"""SciPy's general solvers on ``z = Kz + φ``, and again on the adjoint equation ``λ = Kᵀλ + c`` (theory: adjoint)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deqverify.benchmarking.contenders import LEARNING_RATE, Contender
from deqverify.cells import LinearSoftmaxCell
from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem

CELL = LinearSoftmaxCell()
MOST = 5000
Solver = Callable[[Any, Any, float], Any]
"""``solver(K, rhs, tolerance) -> x`` with ``x = Kx + rhs``, (m, n)."""


class ScipyRun:
    """``solver`` for the equilibrium and for the adjoint; the readout written out."""

    device = "cpu"

    def __init__(self, solver: Solver, problem: SoftmaxProblem, dtype: str, tolerance: float | None):
        self.solver, self.loss = solver, problem.loss
        self.tolerance = 1e-6 if tolerance is None else tolerance
        self.A, self.B, self.Phi, self.Y = (
            np.array(a, dtype=dtype) for a in (problem.A, problem.B, problem.Phi, problem.Y)
        )
        self.gamma = np.array(problem.gamma, dtype=dtype)
        self.iterations: int | None = None

    def forward(self) -> Any:
        return self._solve(CELL.matrix({"A": self.A, "gamma": self.gamma}), self.Phi)

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        theta = {"A": self.A, "gamma": self.gamma}
        K = CELL.matrix(theta)
        z = self._solve(K, self.Phi)
        count = self.iterations
        dF = self.loss.gradient(self.B @ z, self.Y).astype(z.dtype)
        adjoint = self._solve(K.T, self.B.T @ dF)
        self.iterations = count
        return z.T, CELL.pull(theta, self.Phi.T, z.T, adjoint.T).theta | {"B": dF @ z.T, "Phi": adjoint.T}

    def step(self) -> Any:
        gradient = self.gradient()[1]
        return self.A - LEARNING_RATE * gradient["A"], self.B - LEARNING_RATE * gradient["B"]

    def synchronise(self) -> None: ...

    def answer(self) -> tuple[Array, dict[str, Array]]:
        z, gradient = self.gradient()
        return np.asarray(z.T, dtype=np.float64), {
            "A": np.asarray(gradient["A"], dtype=np.float64),
            "Phi": np.asarray(gradient["Phi"].T, dtype=np.float64),
        }

    def _solve(self, K: Any, rhs: Any) -> Any:
        calls = 0

        class Counted:
            shape, dtype = K.shape, K.dtype

            def __matmul__(self, other: Any) -> Any:
                nonlocal calls
                calls += 1
                return K @ other

        found = self.solver(Counted(), rhs, self.tolerance)
        self.iterations = calls
        return found


def _root(method: str) -> Solver:
    def solve(K: Any, rhs: Any, tolerance: float) -> Any:
        from scipy.optimize import root

        limits = {"maxiter": MOST, "fatol": tolerance * float(np.abs(rhs).max())}
        found = root(lambda x: K @ x + rhs - x, np.array(rhs), method=method, options=limits)
        return found.x.reshape(rhs.shape).astype(rhs.dtype)

    return solve


def _fixed_point(K: Any, rhs: Any, tolerance: float) -> Any:
    from scipy.optimize import fixed_point

    try:
        return fixed_point(lambda x: K @ x + rhs, np.array(rhs), xtol=tolerance, maxiter=MOST, method="iteration")
    except RuntimeError:  # it returns nothing when it has not converged
        return np.full_like(rhs, np.nan)


def _gmres(K: Any, rhs: Any, tolerance: float) -> Any:
    """One Krylov space for all data points."""
    from scipy.sparse.linalg import LinearOperator, gmres

    def product(x: Any) -> Any:
        x = x.reshape(rhs.shape)
        return (x - K @ x).ravel()

    U = LinearOperator((rhs.size, rhs.size), product, dtype=rhs.dtype)
    found, _ = gmres(U, rhs.ravel(), rtol=tolerance, atol=0.0, maxiter=MOST)
    return found.reshape(rhs.shape).astype(rhs.dtype)


_SOLVERS: dict[str, Solver] = {
    "scipy-root[anderson]": _root("anderson"),
    "scipy-root[krylov]": _root("krylov"),
    "scipy-fixed-point": _fixed_point,
    "scipy-gmres": _gmres,
}


def contender(name: str) -> Contender:
    """The SciPy baseline ``name``; KeyError for another."""
    solver = _SOLVERS[name]

    def build(problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None) -> ScipyRun:
        return ScipyRun(solver, problem, dtype, tolerance)

    return Contender(name, build, ("scipy",))
