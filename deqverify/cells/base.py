"""What a cell is: a map ``f(z; θ, x)`` on batch-first states, with the certificate that it contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Theta = Mapping[str, Any]
"""Parameters by name, native arrays of one framework."""


@dataclass(frozen=True)
class Contraction:
    """``‖f(z) − f(w)‖ ≤ rate · ‖z − w‖`` in the ``norm``-norm of a state, for every z and w; rate < 1."""

    rate: float
    norm: int


@runtime_checkable
class Cell(Protocol):
    """A map whose fixed point is wanted. States z and inputs x are (n, m), one data point a row."""

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        """``z ↦ f(z; θ, x)``, with the work that doesn't depend on z done once."""

    def contraction(self, theta: Theta) -> Contraction:
        """The certificate of existence and uniqueness, or ValueError where there is none."""


@runtime_checkable
class LinearCell(Cell, Protocol):
    """A cell of the form ``z ↦ Kz + x``, which a direct solver can treat."""

    def matrix(self, theta: Theta) -> Any:
        """K, (m, m), acting on a state as a column."""

    def pullback(self, theta: Theta, z: Any, cotangent: Any) -> dict[str, Any]:
        """``(∂f/∂θ)ᵀ`` applied to ``cotangent`` (n, m) at states ``z`` (n, m), summed over the batch."""

    def pushforward(self, theta: Theta, z: Any, tangent: Theta) -> Any:
        """``∂f/∂θ`` applied to ``tangent``, shaped like θ, at states ``z`` (n, m); (n, m)."""
