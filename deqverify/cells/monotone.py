"""The monotone operator network: ``f(z) = relu(Wz + Ux + b)``, which has one equilibrium and need not contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from hypothesis.strategies import DrawFn

from deqverify.cells.arithmetic import identity_like
from deqverify.cells.base import Monotone, Theta
from deqverify.cells.norms import matrix_norms
from deqverify.cells.relu import ReluCell, draw_relu
from deqverify.drawing import draw_rate, draw_signal, one_of
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

OPERATORS = ("symmetric", "small", "skew", "gaussian", "contracting")


@dataclass(frozen=True)
class MonotoneCell(ReluCell):
    """Winston & Kolter, NeurIPS 2020, arXiv 2006.08591: ``W = (1 − μ)I − PᵀP + Q − Qᵀ``. Parameters
    ``P`` and ``Q`` (m, m), ``mu`` > 0, ``U`` (m, d) and ``b`` (m,).

    ``sym(I − W) = μI + PᵀP ⪰ μI`` whatever P and Q are, so there is exactly one equilibrium.
    """

    name: ClassVar[str] = "monotone"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = False
    code: ClassVar[str] = (
        "v = (1 - mu) * z + z @ (Q - Q.T - P.T @ P).T + x @ U.T + b\nreturn xp.where(v <= 0, xp.zeros_like(v), v)"
    )

    def weight(self, theta: Theta) -> Any:
        P, Q = theta["P"], theta["Q"]
        return (1 - theta["mu"]) * identity_like(Q) - P.T @ P + Q - Q.T

    def pull_weight(self, theta: Theta, cotangent: Any) -> dict[str, Any]:
        """With G the cotangent: ``∂P = −P(G + Gᵀ)``, ``∂Q = G − Gᵀ``, ``∂μ = −tr G``."""
        G = cotangent
        trace = array_namespace(G).sum(G * identity_like(G))
        return {"P": -(theta["P"] @ (G + G.T)), "Q": G - G.T, "mu": -trace}

    def push_weight(self, theta: Theta, tangent: Theta) -> Any:
        P, dP, dQ = theta["P"], tangent["P"], tangent["Q"]
        return -tangent["mu"] * identity_like(P) - dP.T @ P - P.T @ dP + dQ - dQ.T

    def certificate(self, theta: Theta) -> Monotone | None:
        """L: the computed ``‖I − W‖₂`` raised by its own rounding and by that of each entry of I − W, a sum of m + 4
        terms."""
        P, Q, mu = (np.asarray(theta[name], dtype=np.float64) for name in ("P", "Q", "mu"))
        if not mu > 0:
            return None
        m = P.shape[0]
        operator = mu * np.eye(m) + P.T @ P - Q + Q.T
        size = mu * np.eye(m) + np.abs(P).T @ np.abs(P) + np.abs(Q) + np.abs(Q).T
        rounding = (m + 4) * 2.0**-52 * float(np.linalg.norm(size))
        return Monotone(float(mu), matrix_norms(operator)["2"] + rounding)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """1 − μ is a drawn contraction factor. P and Q Gaussian, a quarter of that over m (nearly contracting), P = 0
        (rotating, far from symmetric), Q = 0, or both 0. If ``large`` P and Q are small enough for L ≤ 7μ, hence for a
        rate of at most .99. Shrinks to m = d = 1, P = Q = 0, μ = ½, U = 1, b = 0,
        x = 1."""
        theta, x = draw_relu(draw, dtype, n, large)
        m = theta.pop("W").shape[0]
        P, Q, operator = draw_signal(draw, (m, m)), draw_signal(draw, (m, m)), draw(one_of(OPERATORS))
        if operator in ("small", "contracting"):
            shrink = 0.25 / m if operator == "small" else 0.0
            P, Q = shrink * P, shrink * Q
        P = 0.0 * P if operator == "skew" else P
        Q = 0.0 * Q if operator == "symmetric" else Q
        mu = 1.0 - draw_rate(draw, dtype, large)
        if large:
            size = matrix_norms(P.T @ P - Q + Q.T)["2"]
            shrink = min(1.0, 6.0 * mu / size) if size else 1.0
            P, Q = shrink**0.5 * P, shrink * Q
        return {"P": P, "Q": Q, "mu": np.asarray(mu), **theta}, x


CELL = MonotoneCell()
