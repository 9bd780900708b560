"""Any cell with an additive probe: ``f(z; θ, x) + e``. The gradient in e is the adjoint (theory: probe)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import DrawFn

from deqverify.cells.base import Cell, Certificate, LinearCell, Parts, Shape, Theta
from deqverify.dtypes import Array

PROBE = "probe"
"""The name of the probe among the parameters; its shape is that of all states, (n, *state)."""


@dataclass(frozen=True)
class ProbedCell:
    """``cell`` with the probe among its parameters: whatever differentiates in θ differentiates in it."""

    cell: Cell

    @property
    def name(self) -> str:
        return f"{self.cell.name} with a probe"

    @property
    def additive(self) -> bool:
        return self.cell.additive

    @property
    def contracts(self) -> bool:
        return self.cell.contracts

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return self.cell.state(_own(theta), inputs)

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        step = self.cell.step(_own(theta), x)
        return lambda z: step(z) + theta[PROBE]

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        found = self.cell.pull(_own(theta), x, z, cotangent)
        return Parts(found.theta | {PROBE: cotangent}, found.x, found.z)

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        own = Parts(_own(tangent.theta), tangent.x, tangent.z)
        return self.cell.push(_own(theta), x, z, own) + tangent.theta[PROBE]

    def certificate(self, theta: Theta) -> Certificate | None:
        return self.cell.certificate(_own(theta))

    def draw(self, draw: DrawFn, dtype: str, n: int) -> tuple[dict[str, Array], Array]:
        raise NotImplementedError("a probe is added to a problem that was drawn")


@dataclass(frozen=True)
class ProbedLinearCell(ProbedCell):
    """A linear cell with the probe: it stays one, which a direct solver relies on."""

    cell: LinearCell

    def matrix(self, theta: Theta) -> Any:
        return self.cell.matrix(_own(theta))

    def offset(self, theta: Theta, x: Any) -> Any:
        return self.cell.offset(_own(theta), x) + theta[PROBE]


def probed(cell: Cell) -> ProbedCell:
    """``cell`` with an additive probe; linear where ``cell`` is."""
    return ProbedLinearCell(cell) if isinstance(cell, LinearCell) else ProbedCell(cell)


def _own(theta: Theta) -> dict[str, Any]:
    return {name: value for name, value in theta.items() if name != PROBE}
