"""What a cell is: a map ``f(z; θ, x)`` on batch-first states, its derivative, a certificate, and how it is drawn.

A cell is written once, over the array API, and its text runs under NumPy, PyTorch, JAX and on NumPy arrays of balls
(theory: balls). So it calls no function that balls lack, and compares nothing that a ball leaves open:
:mod:`deqverify.cells.arithmetic` holds what needs care.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from hypothesis.strategies import DrawFn

from deqverify.dtypes import Array

Theta = Mapping[str, Any]
"""Parameters by name, arrays of one framework."""

Shape = tuple[int, ...]


class Parts(NamedTuple):
    """What belongs to θ, to x and to z: cotangents, or tangents. Shaped as they are."""

    theta: dict[str, Any]
    x: Any
    z: Any


@dataclass(frozen=True)
class Contraction:
    """``‖f(z) − f(w)‖ ≤ rate · ‖z − w‖`` in a norm of one data point's flattened state, for all z and w; rate < 1.
    "1" is the sum of magnitudes, "2" the Euclidean norm, "max" the largest entry."""

    rate: float
    norm: Literal["1", "2", "max"]


@dataclass(frozen=True)
class Monotone:
    """``sym(I − W) ⪰ μI`` and ``‖I − W‖₂ ≤ L`` for ``f(z) = relu(Wz + …)``: one equilibrium, though f need not
    contract (Winston & Kolter 2020, arXiv 2006.08591). ``rate``: forward–backward splitting with ``α = μ/L²``."""

    mu: float
    lipschitz: float

    @property
    def rate(self) -> float:
        """``√(1 − 2αμ + α²L²) = √(1 − μ²/L²)``."""
        return max(0.0, 1.0 - (self.mu / self.lipschitz) ** 2) ** 0.5


Certificate = Contraction | Monotone


@runtime_checkable
class Cell(Protocol):
    """A map whose fixed point is wanted: frozen and hashable, without state. States z are (n, *state), inputs x
    (n, *inputs), data points first; no data point sees another.

    To be drawn by the laws a cell is the ``CELL`` of a module in ``deqverify/cells``. Its ``code``, where it has one,
    is the body of ``def f(z, x, *θ)``, θ by name, as a user of NumPy, PyTorch or JAX (``xp``) would write it, for
    scripts that do without this suite.
    """

    @property
    def name(self) -> str:
        """The word for it on the command line, as "tanh"."""

    @property
    def additive(self) -> bool:
        """Whether f is some function of z and θ, plus x: then the gradient in x is the adjoint."""

    @property
    def contracts(self) -> bool:
        """Whether every drawn θ has a :class:`Contraction`, so that plain iteration converges."""

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        """The shape of one data point's state, for one data point's inputs of shape ``inputs``."""

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        """``z ↦ f(z; θ, x)``, with the work that doesn't depend on z done once."""

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """``(∂f/∂θ)ᵀ``, summed over the batch, ``(∂f/∂x)ᵀ`` and ``(∂f/∂z)ᵀ`` applied to ``cotangent``, shaped like
        z."""

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``∂f/∂θ dθ + ∂f/∂x dx + ∂f/∂z dz``, shaped like z."""

    def certificate(self, theta: Theta) -> Certificate | None:
        """Why there is exactly one equilibrium whatever x is; None where nothing is known. θ in NumPy."""

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """θ and x of n data points, float64, drawn: every regime, and shrinking to the cell's simplest instance.

        A state has at most 16 entries; if ``large``, up to 300 states, sites or nodes, mostly more than 256, up to
        128 tokens, mostly more than 64, up to 32 by 16 pixels, and a contraction rate of at most .99. A certificate
        survives rounding to ``dtype``.
        """


@runtime_checkable
class NearlyContracting(Cell, Protocol):
    """A cell without a certificate for all z, that has one about some."""

    def nearby(self, theta: Theta, x: Array, z: Array, reach: float) -> Contraction | None:
        """A contraction of every data point's f on all states whose entries are within ``reach`` of z (n, *state)."""


@runtime_checkable
class LinearCell(Cell, Protocol):
    """A cell of the form ``z ↦ Kz + (something of x)``, which a direct solver can treat."""

    def matrix(self, theta: Theta) -> Any:
        """K, (m, m), acting on a state as a column."""

    def offset(self, theta: Theta, x: Any) -> Any:
        """``f(0; θ, x)``, (n, m)."""


@runtime_checkable
class CellWithJacobian(Cell, Protocol):
    """A cell that knows its Jacobian sooner than by pulling every unit cotangent back."""

    def jacobian(self, theta: Theta, x: Any, z: Any) -> Any:
        """∂f/∂z of every data point, (n, s, s), rows and columns in the order of the flattened state."""
