"""The ReLU cell with scaled weights: ``f(z) = relu(γ/√m · Az + Ux + b)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from hypothesis.strategies import DrawFn

from deqverify.cells.arithmetic import root
from deqverify.cells.base import Contraction, Theta
from deqverify.cells.norms import contraction, smallest_norm
from deqverify.cells.relu import ReluCell, draw_relu
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace


@dataclass(frozen=True)
class GaoReluCell(ReluCell):
    """Gao & Gao 2022, arXiv 2205.07463. Parameters ``A`` (m, m), ``U`` (m, d), ``b`` (m,) and ``gamma``;
    with ‖A‖₂ about 2√m, as of Gaussian entries, γ < ½ makes it well-posed.

    Contracts at ``γ/√m ‖A‖`` in the maximum, the 1- and the 2-norm, where that is below 1.
    """

    name: ClassVar[str] = "relu-gao"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = (
        "v = z @ (gamma / len(A) ** 0.5 * A).T + x @ U.T + b\nreturn xp.where(v <= 0, xp.zeros_like(v), v)"
    )

    def weight(self, theta: Theta) -> Any:
        A = theta["A"]
        return theta["gamma"] / root(A.shape[0], A) * A

    def pull_weight(self, theta: Theta, cotangent: Any) -> dict[str, Any]:
        """``∂A = γ/√m ∂W``, ``∂γ = ⟨∂W, A⟩/√m``."""
        A, shrunk = theta["A"], cotangent / root(cotangent.shape[0], theta["A"])
        return {"A": theta["gamma"] * shrunk, "gamma": array_namespace(A).sum(shrunk * A)}

    def push_weight(self, theta: Theta, tangent: Theta) -> Any:
        A = theta["A"]
        return (tangent["gamma"] * A + theta["gamma"] * tangent["A"]) / root(A.shape[0], A)

    def certificate(self, theta: Theta) -> Contraction | None:
        """Each entry of W is rounded three times, hence the slope above 1."""
        return contraction(self.weight(theta), slope=1.0 + 2.0**-50)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """As the ReLU cell with ``γ/√m · A`` in place of W, γ the drawn contraction factor, so that the smallest norm
        of A is √m (or 0). Shrinks to m = d = 1, A = 1, γ = ½, U = 1, b = 0, x = 1."""
        theta, x = draw_relu(draw, dtype, n, large)
        W = theta.pop("W")
        gamma = smallest_norm(W)[0] or 0.5
        A = W * (len(W) ** 0.5 / gamma)
        return {"A": A, **theta, "gamma": np.asarray(gamma)}, x


CELL = GaoReluCell()
