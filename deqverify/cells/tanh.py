"""A dense cell with a saturating nonlinearity: ``f(z) = tanh(Wz + Ux + b)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis.strategies import DrawFn

from deqverify.cells.dense import DenseCell, draw_dense
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace


@dataclass(frozen=True)
class TanhCell(DenseCell):
    """Parameters ``W`` (m, m), ``U`` (m, d) and ``b`` (m,). The slope of tanh is at most 1, so that the cell contracts
    at ‖W‖ in the maximum, the 1- and the 2-norm, where that is below 1 (El Ghaoui et al. 2021, arXiv 1908.06315)."""

    name: ClassVar[str] = "tanh"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = "return xp.tanh(z @ W.T + x @ U.T + b)"

    def activation(self, v: Any) -> Any:
        return array_namespace(v).tanh(v)

    def slope(self, v: Any) -> Any:
        f = self.activation(v)
        return 1 - f * f

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """Gaussian, or so large that tanh is saturated; shrinks to m = d = 1, W = ½, U = 1, b = 0, x = 1."""
        return draw_dense(draw, dtype, n, large, ("gaussian", "gaussian", "no bias", "saturated"))


CELL = TanhCell()
