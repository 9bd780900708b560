"""The implicit midpoint step of a disordered nonlinear Schrödinger lattice: ``f(z) = ψ + dt g((ψ + z)/2)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from hypothesis.strategies import DrawFn

from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.cells.norms import raised
from deqverify.drawing import draw_rate, draw_signal, draw_size, one_of
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

REGIMES = (
    "linear",
    "weak disorder",
    "weak disorder",
    "weak disorder",
    "focusing",
    "strong disorder",
    "strong nonlinearity",
    "small",
)


@dataclass(frozen=True)
class LatticeCell:
    """g is the vector field of ``i dψ_l/dt = V_l ψ_l − ψ_(l+1) − ψ_(l−1) + β (|ψ_l|² + δ)^(p/2) ψ_l`` on a ring, with a
    subquadratic power 0 < p < 2 (Milovanov & Iomin 2023, arXiv 2301.10322), made smooth at 0 by δ. Parameters
    ``V`` (sites,), ``beta`` and ``dt``; states and inputs x = ψ (n, sites, 2), real parts and imaginary parts.

    ``⟨u, g(u)⟩ = 0``, so for every candidate ẑ with residual r = f(ẑ) − ẑ: ``‖ẑ‖² − ‖ψ‖² = −2⟨(ψ + ẑ)/2, r⟩``; an
    equilibrium has the norm of ψ exactly. The Jacobian of g grows like |ψ|^p: a certificate for all z there is only for
    β = 0, ``dt/2 (max|V| + 2)`` in the 2-norm.
    """

    power: float = 1.0
    delta: float = 2.0**-8
    name: ClassVar[str] = "lattice"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = False
    code: ClassVar[str] = (
        "u = (x + z) / 2\n"
        "q = ((u * u).sum(-1)[..., None] + 2.0**-8) ** 0.5  # the power p/2 of |ψ|² + δ, p = 1\n"
        "h = (V[:, None] + beta * q) * u - xp.roll(u, 1, 1) - xp.roll(u, -1, 1)\n"
        "return x + dt * xp.stack((h[..., 1], -h[..., 0]), -1)"
    )

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return inputs

    def _nonlinearity(self, u: Any) -> tuple[Any, Any]:
        """``s = |u|² + δ`` and ``s^(p/2)``, (n, sites, 1)."""
        xp = array_namespace(u)
        s = xp.sum(u * u, axis=-1, keepdims=True) + self.delta
        return s, xp.exp(xp.log(s) * (self.power / 2))

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        def f(z: Any) -> Any:
            u = (x + z) / 2
            field = (_sites(theta["V"]) + theta["beta"] * self._nonlinearity(u)[1]) * u - _neighbours(u)
            return x + theta["dt"] * _turned(field)

        return f

    def certificate(self, theta: Theta) -> Contraction | None:
        if float(theta["beta"]) != 0.0:
            return None
        rate = raised(abs(float(theta["dt"])) / 2 * (float(np.abs(theta["V"]).max()) + 2.0), 3)
        return Contraction(rate, "2") if rate < 1.0 else None

    def nearby(self, theta: Theta, x: Array, z: Array, reach: float) -> Contraction | None:
        """In the 2-norm, ``dt/2 (max|V| + 2 + |β|(1 + p) max (|u|² + δ)^(p/2))``, the largest over the sites of all
        midpoints u with z within ``reach`` (theory: nearby)."""
        size = np.sqrt(np.sum(((x + z) / 2.0) ** 2, axis=-1)).max(initial=0.0) + reach  # √2 of its half
        bent = abs(float(theta["beta"])) * (1.0 + self.power) * (size**2 + self.delta) ** (self.power / 2)
        rate = raised(abs(float(theta["dt"])) / 2.0 * float(np.abs(theta["V"]).max() + 2.0 + bent), 24)
        return Contraction(rate, "2") if rate < 1.0 else None

    def _hessian(self, theta: Theta, u: Any, w: Any) -> Any:
        """``(V + βs^(p/2)) w + βp s^(p/2−1) u⟨u, w⟩ − neighbours``: the derivative of the field, symmetric."""
        s, q = self._nonlinearity(u)
        along = array_namespace(u).sum(u * w, axis=-1, keepdims=True)
        bent = theta["beta"] * self.power * (q / s) * along * u
        return (_sites(theta["V"]) + theta["beta"] * q) * w + bent - _neighbours(w)

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With H the derivative of the field and ``w = dt Rᵀc``, R the turn by −i: ``∂z = Hw/2``, ``∂x = c + Hw/2``,
        ``∂V = Σ w·u``, ``∂β = ⟨w, s^(p/2) u⟩``, ``∂dt = ⟨Rᵀc, field⟩``."""
        xp, u = array_namespace(z), (x + z) / 2
        back = -_turned(cotangent)
        w, q = theta["dt"] * back, self._nonlinearity(u)[1]
        field = (_sites(theta["V"]) + theta["beta"] * q) * u - _neighbours(u)
        half = self._hessian(theta, u, w) / 2
        parts = {"V": xp.sum(w * u, axis=(0, 2)), "beta": xp.sum(w * (q * u)), "dt": xp.sum(back * field)}
        return Parts(parts, cotangent + half, half)

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``dx + R(dt (H du + dV u + dβ s^(p/2) u) + d(dt) field)`` with ``du = (dx + dz)/2``."""
        d, u = tangent.theta, (x + z) / 2
        q = self._nonlinearity(u)[1]
        field = (_sites(theta["V"]) + theta["beta"] * q) * u - _neighbours(u)
        moved = self._hessian(theta, u, (tangent.x + tangent.z) / 2) + (_sites(d["V"]) + d["beta"] * q) * u
        return tangent.x + _turned(theta["dt"] * moved + d["dt"] * field)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """dt makes Picard's iteration from ψ or from 0 contract at a drawn factor: the equilibrium has the norm ‖ψ‖, so
        the iterates stay where midpoints have norms up to 2‖ψ‖, and there ``‖g′‖₂ ≤ max|V| + 2 + |β|(1 + p)(4‖ψ‖² +
        δ)^(p/2)``. Shrinks to one site, V = 0, β = 0, dt = ½, ψ = 1 + i."""
        sites, regime = draw_size(draw, 1, 8, large), draw(one_of(REGIMES))
        V, psi = draw_signal(draw, (sites,)), draw_signal(draw, (n, sites, 2), 1.0)
        V = V * (8.0 if regime == "strong disorder" else 1.0)
        psi = psi * (self.delta if regime == "small" else 1.0)
        beta = {"linear": 0.0, "focusing": -1.0, "strong nonlinearity": 16.0}.get(regime, 1.0)
        squares = float((psi**2).sum(axis=(1, 2)).max(initial=0.0))
        steepest = np.abs(V).max() + 2.0 + abs(beta) * (1 + self.power) * (4 * squares + self.delta) ** (self.power / 2)
        theta = {"V": V, "beta": np.asarray(beta), "dt": np.asarray(2.0 * draw_rate(draw, dtype, large) / steepest)}
        return theta, psi


def _sites(V: Any) -> Any:
    return V[:, None]


def _neighbours(u: Any) -> Any:
    """``u_(l+1) + u_(l−1)`` on the ring; the only site of one is both its neighbours."""
    xp = array_namespace(u)
    return xp.roll(u, 1, axis=1) + xp.roll(u, -1, axis=1)


def _turned(h: Any) -> Any:
    """−i h: (real, imaginary) becomes (imaginary, −real). Its transpose is its negative."""
    xp = array_namespace(h)
    return xp.stack((h[..., 1], -h[..., 0]), axis=-1)


CELL = LatticeCell()
