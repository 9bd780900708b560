"""Any cell with an additive probe: ``f(z; θ, x) + e``. The gradient in e is the adjoint (theory: probe).

The probe stands among the parameters, or behind the inputs. It is of every data point, which a parameter usually is
not: who takes a batch apart, to solve each data point by itself, hands all of the first one to each, and a part of the
second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import DrawFn

from deqverify.cells.base import Cell, Certificate, LinearCell, Parts, Shape, Theta
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

PROBE = "probe"
"""The name of the probe among the parameters; its shape is that of all states, (n, *state)."""


@dataclass(frozen=True)
class _WithProbe:
    """What does not depend on where the probe stands."""

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

    def certificate(self, theta: Theta) -> Certificate | None:
        return self.cell.certificate(_own(theta))

    def draw(self, draw: DrawFn, dtype: str, n: int) -> tuple[dict[str, Array], Array]:
        raise NotImplementedError("a probe is added to a problem that was drawn")


@dataclass(frozen=True)
class ProbedCell(_WithProbe):
    """``cell`` with the probe among its parameters: whatever differentiates in θ differentiates in it."""

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


@dataclass(frozen=True)
class ProbedInputsCell(_WithProbe):
    """``cell`` with the probe behind its inputs, both flattened: x is (n, inputs + states). ``inputs`` and ``states``
    are the shapes of one data point's own."""

    inputs: Shape
    states: Shape

    def apart(self, x: Any) -> tuple[Any, Any]:
        """The cell's own inputs (n, *inputs) and the probe (n, *states)."""
        n, size = x.shape[0], math.prod(self.inputs)
        return x[:, :size].reshape((n, *self.inputs)), x[:, size:].reshape((n, *self.states))

    def joined(self, x: Any, probe: Any) -> Any:
        """What :meth:`apart` takes apart."""
        n = x.shape[0]
        parts = x.reshape((n, math.prod(self.inputs))), probe.reshape((n, math.prod(self.states)))
        return array_namespace(probe).concat(parts, axis=1)

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return self.states

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        own, probe = self.apart(x)
        step = self.cell.step(theta, own)
        return lambda z: step(z) + probe

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        found = self.cell.pull(theta, self.apart(x)[0], z, cotangent)
        return Parts(found.theta, self.joined(found.x, cotangent), found.z)

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        own, probe = self.apart(tangent.x)
        return self.cell.push(theta, self.apart(x)[0], z, Parts(tangent.theta, own, tangent.z)) + probe


@dataclass(frozen=True)
class ProbedInputsLinearCell(ProbedInputsCell):
    """A linear cell likewise."""

    cell: LinearCell

    def matrix(self, theta: Theta) -> Any:
        return self.cell.matrix(theta)

    def offset(self, theta: Theta, x: Any) -> Any:
        own, probe = self.apart(x)
        return self.cell.offset(theta, own) + probe


def probed_inputs(cell: Cell, inputs: Shape, states: Shape) -> ProbedInputsCell:
    """``cell`` with the probe behind its inputs; linear where ``cell`` is."""
    kind = ProbedInputsLinearCell if isinstance(cell, LinearCell) else ProbedInputsCell
    return kind(cell, inputs, states)  # type: ignore[arg-type]


def _own(theta: Theta) -> dict[str, Any]:
    return {name: value for name, value in theta.items() if name != PROBE}
