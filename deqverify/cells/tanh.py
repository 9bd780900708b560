"""A dense cell with a saturating nonlinearity: ``f(z) = tanh(Wz + Ux + b)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace
from hypothesis.strategies import DrawFn

from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.drawing import contraction_factors, draw_signal, one_of, size_up_to
from deqverify.dtypes import Array

REGIMES = ("gaussian", "gaussian", "triangular", "cyclic", "saturated")


@dataclass(frozen=True)
class TanhCell:
    """Parameters ``W`` (m, m), ``U`` (m, d) and ``b`` (m,). The slope of tanh is at most 1, so that the cell contracts
    in the maximum norm at ``‖W‖_∞``, the largest row sum of magnitudes (El Ghaoui et al. 2021, arXiv 1908.06315)."""

    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    name: ClassVar[str] = "tanh"

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return (theta["W"].shape[0],)

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        xp, W = array_namespace(x), theta["W"]
        offset = x @ theta["U"].T + theta["b"]
        return lambda z: xp.tanh(z @ W.T + offset)

    def certificate(self, theta: Theta) -> Contraction | None:
        rate = float(np.abs(theta["W"]).sum(axis=1).max())
        return Contraction(rate, "max") if rate < 1.0 else None

    def _slope(self, theta: Theta, x: Any, z: Any) -> Any:
        f = self.step(theta, x)(z)
        return 1 - f * f

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With ``v = c∘(1 − f²)``: ``∂W = vᵀz``, ``∂U = vᵀx``, ``∂b = Σ v``, ``∂x = vU``, ``∂z = vW``."""
        v = cotangent * self._slope(theta, x, z)
        parts = {"W": v.T @ z, "U": v.T @ x, "b": array_namespace(v).sum(v, axis=0)}
        return Parts(parts, v @ theta["U"], v @ theta["W"])

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        d = tangent.theta
        linear = z @ d["W"].T + tangent.z @ theta["W"].T + x @ d["U"].T + tangent.x @ theta["U"].T + d["b"]
        return self._slope(theta, x, z) * linear

    def draw(self, draw: DrawFn, dtype: str, n: int) -> tuple[dict[str, Array], Array]:
        """‖W‖_∞ is a drawn contraction factor; W Gaussian, strictly triangular or cyclic (far from normal), or U so
        large that tanh is saturated. Shrinks to m = d = 1, W = ½, U = 1, b = 0, x = 1."""
        m, d, regime = draw(size_up_to(1, 6)), draw(size_up_to(1, 4)), draw(one_of(REGIMES))
        W = draw_signal(draw, (m, m), 1.0)
        if regime == "triangular":
            W = np.triu(W, 1)
        elif regime == "cyclic":
            W = np.roll(np.diag(np.diag(W)), 1, axis=0)
        W = W * draw(contraction_factors(dtype)) / (np.abs(W).sum(axis=1).max() or 1.0)
        U = draw_signal(draw, (m, d), 1.0) * (8.0 if regime == "saturated" else 1.0)
        return {"W": W, "U": U, "b": draw_signal(draw, (m,))}, draw_signal(draw, (n, d), 1.0)


CELL = TanhCell()
