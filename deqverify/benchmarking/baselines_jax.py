"""JAX baselines under jit: the plain solve, jaxopt and optimistix, with GMRES for their adjoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from deqverify.benchmarking.contenders import LEARNING_RATE, Contender, Unavailable
from deqverify.cells import LinearSoftmaxCell
from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem

CELL = LinearSoftmaxCell()
MOST = 5000
Solver = Callable[[float], Callable[[Any, Any, Any], tuple[Any, Any]]]
"""``solver(tolerance)`` gives ``(A, gamma, x) -> z (n, m), iterations``."""


class JaxRun:
    """``solve`` under jit; forward, gradient and step are compiled apart, at their first call."""

    def __init__(self, solver: Solver, problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        try:
            where = jax.devices("cpu" if device == "cpu" else "gpu")[0]
        except RuntimeError as error:  # JAX has no plugin for the GPU that PyTorch sees
            raise Unavailable(str(error)) from error
        self.device, loss = device, problem.loss
        native = [problem.A, problem.B, problem.Phi.T, np.asarray(problem.gamma)]
        self.leaves = tuple(jax.device_put(jnp.asarray(np.array(a), dtype=dtype), where) for a in native)
        Y = jax.device_put(jnp.asarray(np.array(problem.Y), dtype=dtype), where)
        solve = solver(1e-6 if tolerance is None else tolerance)

        def objective(leaves: Any) -> Any:
            A, B, x, gamma = leaves
            z, count = solve(A, gamma, x)
            return loss.value(B @ z.T, Y), (z, count)

        gradient = jax.grad(objective, has_aux=True)

        def step(leaves: Any) -> Any:
            A, B, _, _ = leaves
            found, _ = gradient(leaves)
            return A - LEARNING_RATE * found[0], B - LEARNING_RATE * found[1]

        self._forward = jax.jit(lambda leaves: solve(leaves[0], leaves[3], leaves[2]))
        self._gradient, self._step, self._last, self._count = jax.jit(gradient), jax.jit(step), None, None

    @property
    def iterations(self) -> int | None:
        return None if self._count is None else int(self._count)

    def forward(self) -> Any:
        self._last, self._count = self._forward(self.leaves)
        return self._last

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        found, (z, self._count) = self._gradient(self.leaves)
        self._last = found
        return z, dict(zip(("A", "B", "Phi", "gamma"), found, strict=True))

    def step(self) -> Any:
        self._last = self._step(self.leaves)
        return self._last

    def synchronise(self) -> None:
        import jax

        jax.block_until_ready(self._last)

    def answer(self) -> tuple[Array, dict[str, Array]]:
        z, gradient = self.gradient()
        wide = {name: np.asarray(value, dtype=np.float64) for name, value in gradient.items()}
        return np.asarray(z, dtype=np.float64).T, {"A": wide["A"], "Phi": wide["Phi"].T}


def _step(z: Any, A: Any, gamma: Any, x: Any) -> Any:
    return CELL.step({"A": A, "gamma": gamma}, x)(z)


def _solve(tolerance: float) -> Any:
    import jax.numpy as jnp

    def solve(A: Any, gamma: Any, x: Any) -> Any:
        U = jnp.eye(A.shape[0], dtype=A.dtype) - CELL.matrix({"A": A, "gamma": gamma})
        return jnp.linalg.solve(U, x.T).T, None

    return solve


def _jaxopt(kind: str) -> Solver:
    def solver(tolerance: float) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # jaxopt says that it is no longer maintained
            import jaxopt
            from jaxopt.linear_solve import solve_gmres

        def adjoint(matvec: Any, b: Any, **options: Any) -> Any:
            return solve_gmres(matvec, b, tol=tolerance, **options)

        common = {"maxiter": MOST, "tol": tolerance, "implicit_diff_solve": adjoint}
        made = {
            "picard": lambda: jaxopt.FixedPointIteration(_step, **common),
            "anderson": lambda: jaxopt.AndersonAcceleration(_step, ridge=1e-12, **common),
        }[kind]()

        def solve(A: Any, gamma: Any, x: Any) -> Any:
            z, state = made.run(x, A, gamma, x)
            return z, state.iter_num

        return solve

    return solver


def _optimistix(tolerance: float) -> Any:
    import lineax
    import optimistix

    method: Any = optimistix.FixedPointIteration(rtol=tolerance, atol=tolerance * 1e-3)
    adjoint = optimistix.ImplicitAdjoint(linear_solver=lineax.GMRES(rtol=tolerance, atol=tolerance * 1e-3))

    def solve(A: Any, gamma: Any, x: Any) -> Any:
        found: Any = optimistix.fixed_point(
            lambda z, args: _step(z, *args), method, x, args=(A, gamma, x), max_steps=MOST, throw=False, adjoint=adjoint
        )
        return found.value, found.stats["num_steps"]

    return solve


_SOLVERS: dict[str, tuple[Solver, tuple[str, ...]]] = {
    "jax-solve": (_solve, ("jax",)),
    "jaxopt[picard]": (_jaxopt("picard"), ("jax", "jaxopt")),
    "jaxopt[anderson]": (_jaxopt("anderson"), ("jax", "jaxopt")),
    "optimistix[picard]": (_optimistix, ("jax", "optimistix", "lineax")),
}


def contender(name: str) -> Contender:
    """The JAX baseline ``name``; KeyError for another."""
    solver, needs = _SOLVERS[name]

    def build(problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None) -> JaxRun:
        return JaxRun(solver, problem, dtype, device, tolerance)

    direct = name == "jax-solve"
    return Contender(name, build, needs, devices=("cpu", "cuda"), direct=direct, tunable=not direct, watched=False)
