"""torchopt (PyPI): ``@custom_root(residual, argnums, solve=…)`` around a forward loop of one's own, here Picard's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchopt.diff.implicit import custom_root
from torchopt.linear_solve import solve_inv, solve_normal_cg

from deqverify.implementations.adapter import DIRECT, Accuracy, Claims, Configured, Solution, Status, chosen
from deqverify.implementations.torch_base import TorchLayer


@dataclass(eq=False)
class TorchOpt(Configured, TorchLayer):
    inv: bool = False
    tol: float = 1e-5
    most: int = 2000

    def __post_init__(self) -> None:
        rule = Accuracy(self.tol, per="batch")
        where = "docstrings of custom_root (default: normal CG) and torchopt.linalg.cg (rtol); the forward loop is ours"
        self.claims = Claims(rule, DIRECT if self.inv else rule, where=where)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        def f(z: Any, x: Any, *values: Any) -> Any:
            return cell.step(dict(zip(theta, values, strict=True)), x)(z)

        def residual(z: Any, *given: Any) -> Any:
            return f(z, *given) - z

        solve = solve_inv() if self.inv else solve_normal_cg(rtol=self.tol)

        @custom_root(residual, argnums=tuple(range(1, len(theta) + 2)), solve=solve, has_aux=True)
        def picard(z: Any, *given: Any) -> Any:
            for _ in range(self.most):
                image = f(z, *given)
                moved, allowed = (image - z).norm(), self.tol * image.norm()
                if not moved > allowed:  # NaN too
                    return z, Status.CONVERGED if moved <= allowed else Status.DIVERGED
                z = image
            return z, Status.CAPPED

        return Solution(*picard(self.start(cell, theta, x) if z0 is None else z0, x, *theta.values()))


def torchopt(*words: str) -> Any:
    """``inv`` (a dense solve backward) and ``tight``; without them normal CG at its default, 1e-5."""
    return chosen(TorchOpt(inv="inv" in words), words, ("inv",))
