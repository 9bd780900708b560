"""A dense cell whose slope is small: ``f(z) = σ(Wz + Ux + b)``, σ the logistic function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis.strategies import DrawFn

from deqverify.cells.base import Contraction, Theta
from deqverify.cells.dense import DenseCell, draw_dense
from deqverify.cells.norms import contraction
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace


@dataclass(frozen=True)
class SigmoidCell(DenseCell):
    """Parameters ``W`` (m, m), ``U`` (m, d) and ``b`` (m,). The slope of σ is at most ¼: the cell contracts at
    ‖W‖/4."""

    name: ClassVar[str] = "sigmoid"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = "return (1 + xp.tanh((z @ W.T + x @ U.T + b) / 2)) / 2"

    def activation(self, v: Any) -> Any:
        """``(1 + tanh(v/2))/2``, which neither overflows nor needs to know the sign of v."""
        return (1 + array_namespace(v).tanh(v / 2)) / 2

    def slope(self, v: Any) -> Any:
        """``(1 − tanh²(v/2))/4``."""
        t = array_namespace(v).tanh(v / 2)
        return (1 - t * t) / 4

    def certificate(self, theta: Theta) -> Contraction | None:
        return contraction(theta["W"], slope=0.25)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """Gaussian, or so large that σ is saturated; shrinks to m = d = 1, W = 2, U = 1, b = 0, x = 1."""
        return draw_dense(draw, dtype, n, large, ("gaussian", "gaussian", "no bias", "saturated"), steepest=0.25)


CELL = SigmoidCell()
