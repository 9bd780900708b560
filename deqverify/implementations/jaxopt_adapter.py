"""jaxopt (PyPI), called as its documentation does: ``z, state = solver(fun).run(z0, *args)``, a batch as one state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jaxopt import AndersonAcceleration, FixedPointIteration
from jaxopt.linear_solve import solve_gmres, solve_normal_cg

from deqverify.implementations.adapter import Accuracy, Claims, Configured, Solution, chosen
from deqverify.implementations.jax_base import JaxLayer


@dataclass(eq=False)
class JaxOpt(Configured, JaxLayer):
    solver: Any = FixedPointIteration
    linear: Any = solve_normal_cg
    vmap: bool = False
    tol: float = 1e-5
    most: int = 100

    def __post_init__(self) -> None:
        rule = Accuracy(atol=self.tol, per="point" if self.vmap else "batch")
        where = "docstrings of the solver (tol: stopping criterion) and of jax.scipy.sparse.linalg (tol, relative)"
        self.claims = Claims(rule, replace(rule, rtol=self.tol, atol=0.0), compiles=True, where=where)

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        def run(x: Any, z0: Any) -> Any:
            linear, limits = partial(self.linear, tol=self.tol), {"maxiter": self.most, "tol": self.tol}
            solver = self.solver(lambda z, *args: cell.step(*args)(z), implicit_diff_solve=linear, **limits)
            return solver.run(z0, theta, x)

        if self.vmap:
            z, state = jax.vmap(run)(x[:, None], z0[:, None])
            return Solution(z[:, 0], statuses=state.error <= self.tol)
        z, state = run(x, z0)
        return Solution(z, state.error <= self.tol, iterations=state.iter_num)


def jaxopt(*words: str) -> Any:
    """``anderson``, ``gmres`` (backward), ``vmap`` (each data point by itself) and ``tight``; or the defaults."""
    solver = AndersonAcceleration if "anderson" in words else FixedPointIteration
    linear = solve_gmres if "gmres" in words else solve_normal_cg
    return chosen(JaxOpt(solver=solver, linear=linear, vmap="vmap" in words), words, ("anderson", "gmres", "vmap"))
