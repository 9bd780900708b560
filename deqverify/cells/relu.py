"""A dense cell with kinks: ``f(z) = relu(Wz + Ux + b)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis.strategies import DrawFn

from deqverify.cells import arithmetic
from deqverify.cells.dense import DenseCell, draw_dense
from deqverify.dtypes import Array

REGIMES = (
    *("gaussian", "no bias") * 5,
    *("kinks", "one alive") * 3,
    *("active", "active", "gaussian", "dead"),
)
"""All dead, the equilibrium is 0, of which any answer near 0 is right: one in twenty."""


@dataclass(frozen=True)
class ReluCell(DenseCell):
    """Parameters ``W`` (m, m), ``U`` (m, d) and ``b`` (m,). With b = 0 it is the cell of Ling et al., AISTATS 2023
    (arXiv 2205.13814), which has no b and starts with ``‖W‖₂ < 1``.

    relu is 1-Lipschitz: the cell contracts at ‖W‖ in the maximum, the 1- and the 2-norm, where that is below 1. Its
    slope at a kink counts as 0, as in PyTorch.
    """

    name: ClassVar[str] = "relu"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = "v = z @ W.T + x @ U.T + b\nreturn xp.where(v <= 0, xp.zeros_like(v), v)"

    def activation(self, v: Any) -> Any:
        return arithmetic.relu(v)

    def slope(self, v: Any) -> Any:
        return arithmetic.gate(v)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """Gaussian, without b (one in four), with an equilibrium at a kink, with one unit alive, all active or (one in
        twenty) all dead; shrinks to m = d = 1, W = ½, U = 1, b = 0, x = 1."""
        return draw_relu(draw, dtype, n, large)


def draw_relu(draw: DrawFn, dtype: str, n: int, large: bool) -> tuple[dict[str, Array], Array]:
    """W, U, b and x of a ReLU cell, whatever its W is made of: :func:`draw_dense` in :data:`REGIMES`."""
    return draw_dense(draw, dtype, n, large, REGIMES, alive=True)


CELL = ReluCell()
