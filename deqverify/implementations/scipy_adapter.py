"""SciPy's solvers, forward only: ``root``, ``fixed_point``, ``newton_krylov`` on a batch, ``gmres`` on linear cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import NoConvergence, fixed_point, newton_krylov, root
from scipy.sparse.linalg import gmres

from deqverify.implementations.adapter import Accuracy, Claims, Configured, Solution, Status, chosen, worst
from deqverify.implementations.numpy_base import NumpyLayer

DEFAULTS = {"anderson": 6e-6, "krylov": 6e-6, "newton_krylov": 6e-6, "gmres": 1e-5, "del2": 1e-8, "iteration": 1e-8}


@dataclass(eq=False)
class SciPy(Configured, NumpyLayer):
    method: str = "anderson"

    def __post_init__(self) -> None:
        linear, both = self.method == "gmres", self.method in ("del2", "iteration")  # xtol: its kind is not said
        rule = Accuracy(self.tol) if linear else Accuracy(self.tol * both, self.tol, norm="max", per="batch")
        cells = ("linear-softmax", "linear") if linear else ()
        self.claims = Claims(rule, None, cells, ("float64",), where="docstrings: fatol, f_tol, xtol, rtol")

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        f, most = cell.step(theta, x), {} if self.most is None else {"maxiter": self.most}
        if self.method == "gmres":
            U = np.eye(z0.shape[1]) - cell.matrix(theta)
            found = [gmres(U, b, z, rtol=self.tol, **most) for b, z in zip(cell.offset(theta, x), z0, strict=True)]
            statuses = [Status.CAPPED if info else Status.CONVERGED for _, info in found]
            return Solution(np.reshape([z for z, _ in found], z0.shape), worst(statuses), statuses=statuses)
        try:
            if self.method in ("del2", "iteration"):
                return Solution(fixed_point(f, z0, xtol=self.tol, method=self.method, **most), Status.CONVERGED)
            if self.method == "newton_krylov":
                return Solution(newton_krylov(lambda z: f(z) - z, z0, f_tol=self.tol, **most), Status.CONVERGED)
            answer = root(lambda z: f(z) - z, z0, method=self.method, options={"fatol": self.tol, **most})
            return Solution(answer.x, Status.CONVERGED if answer.success else Status.CAPPED)
        except (NoConvergence, RuntimeError):  # so they report
            return Solution(np.full_like(z0, np.nan), Status.CAPPED)


def scipy(*words: str) -> Any:
    """``anderson`` (the default) or another of ``DEFAULTS``; and ``tight``."""
    method = next((word for word in words if word in DEFAULTS), "anderson")
    return chosen(SciPy(method=method, tol=DEFAULTS[method]), words, (*DEFAULTS,))
