"""xitorch (PyPI): ``equilibrium(fcn, y0, params)``, a batch as one state; its ConvergenceWarning is the only status."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

from xitorch._utils.exceptions import ConvergenceWarning
from xitorch.optimize import equilibrium

from deqverify.implementations.adapter import Accuracy, Claims, Configured, Solution, Status, chosen
from deqverify.implementations.torch_base import TorchLayer

METHODS = {"broyden1": "broyden1", "broyden2": "broyden2", "linearmixing": "linearmixing", "anderson": "anderson_acc"}


@dataclass(eq=False)
class XiTorch(Configured, TorchLayer):
    method: str | None = None
    MOST = None  # its own cap grows with the state, and so does what Broyden's method keeps

    def __post_init__(self) -> None:
        forward = Accuracy(atol=self.tol or 1e-6, per="batch")
        backward = Accuracy(self.tol or 1e-6, 0.0 if self.tol else 1e-8, per="batch")
        self.claims = Claims(forward, backward, where="docstrings: f_tol of equilibrium; rtol, atol of linalg.solve")

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        def f(z: Any, x: Any, *values: Any) -> Any:
            return cell.step(dict(zip(theta, values, strict=True)), x)(z)

        start = self.start(cell, theta, x) if z0 is None else z0
        limits: Any = {"f_tol": self.tol, "x_tol": self.tol, "maxiter": self.most, "feat_ndims": start.ndim - 1}
        backward = {"max_niter": self.most} | ({"rtol": self.tol, "atol": 0.0} if self.tol else {})
        return Solution(*_heard(equilibrium, f, start, (x, *theta.values()), backward, self.method, **limits))

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)

        def heard(cotangent: Any) -> Any:
            found, status = _heard(pull, cotangent)
            return replace(found, status=status)

        return solution, heard


def _heard(call: Any, *arguments: Any, **options: Any) -> tuple[Any, Status]:
    with warnings.catch_warnings(record=True, action="always") as caught:
        found = call(*arguments, **options)
    capped = any(issubclass(each.category, ConvergenceWarning) for each in caught)
    return found, Status.CAPPED if capped else Status.CONVERGED


def xitorch(*words: str) -> Any:
    """One of ``broyden1`` (the default), ``broyden2``, ``linearmixing`` and ``anderson``; and ``tight``."""
    return chosen(XiTorch(method=next((METHODS[word] for word in words if word in METHODS), None)), words, (*METHODS,))
