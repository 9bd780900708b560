"""optimistix (PyPI) with lineax's solvers: ``fixed_point(fn, solver, y0, args).value``, a batch as one state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lineax
from optimistix import RESULTS, FixedPointIteration, ImplicitAdjoint, Newton, fixed_point

from deqverify.implementations.adapter import DIRECT, Accuracy, Claims, Configured, Solution, chosen
from deqverify.implementations.jax_base import JaxLayer


@dataclass(eq=False)
class Optimistix(Configured, JaxLayer):
    solver: Any = FixedPointIteration
    gmres: bool = False
    tol: float = 1e-5
    most: int = 256
    jvp = JaxLayer.forward_mode

    def __post_init__(self) -> None:
        rule = Accuracy(self.tol, self.tol, per="batch", norm="max")
        where = "docstrings: rtol and atol of FixedPointIteration, Newton and lineax.GMRES; lineax.AutoLinearSolver"
        self.claims = Claims(rule, rule if self.gmres else DIRECT, compiles=True, where=where)

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        adjoint = ImplicitAdjoint(lineax.GMRES(self.tol, self.tol)) if self.gmres else ImplicitAdjoint()
        given: Any = {"max_steps": self.most, "throw": False, "adjoint": adjoint}
        solver = self.solver(self.tol, self.tol)
        found = fixed_point(lambda z, args: cell.step(*args)(z), solver, z0, (theta, x), **given)
        return Solution(found.value, found.result == RESULTS.successful, iterations=found.stats["num_steps"])


def optimistix(*words: str) -> Any:
    """``newton``, ``gmres`` (backward) and ``tight``; without them plain iteration with the dense adjoint, at 1e-5."""
    solver = Newton if "newton" in words else FixedPointIteration
    return chosen(Optimistix(solver=solver, gmres="gmres" in words), words, ("newton", "gmres"))
