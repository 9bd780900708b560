"""The equilibrium of any cell, its adjoint and its pull-back, enclosed in ball arithmetic (theory: polished).

Newton's method in float64 finds it, a few steps at 128 bits polish it, Krawczyk's test proves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
from flint import ctx

from deqverify.cells import Cell, Parts, Theta
from deqverify.dtypes import Array
from deqverify.oracle.balls import Balls, balls, centres, magnitude, middle, radius
from deqverify.oracle.krawczyk import (
    Jacobian,
    apply,
    dense,
    growths,
    inverses,
    jacobian_over,
    settled,
    transposed,
    unit_pulls,
)
from deqverify.oracle.newton import equilibrium

BITS = 128
_SPARE = 20
"""Bits that one evaluation may lose before a residual counts as larger than rounding."""


class Polished:
    """One equilibrium of ``cell`` at ``theta`` and ``x`` (float64, x with n data points), from ``start``, by default
    zeros.

    ``z``: balls that hold exactly one equilibrium each, or None where Krawczyk's test fails for a data point: at a
    fold, at a kink, or where Newton and the sweeps behind it found nothing. Without a contraction certificate there
    may be other equilibria elsewhere.
    """

    def __init__(self, cell: Cell, theta: Theta, x: Array, start: Array | None = None):
        self.cell, self.x = cell, np.asarray(x, dtype=np.float64)
        self.theta = {name: np.asarray(value, dtype=np.float64) for name, value in theta.items()}
        self.theta_balls, self.x_balls = {name: balls(value) for name, value in self.theta.items()}, balls(self.x)
        self.n, self.state = len(self.x), cell.state(self.theta, self.x.shape[1:])
        self.s = math.prod(self.state)
        z = np.zeros((self.n, *self.state)) if start is None else np.asarray(start, dtype=np.float64)
        self.found = equilibrium(cell, self.theta, self.x, z)
        """The equilibrium in float64, before polishing."""

    @cached_property
    def J(self) -> Array:
        """∂f/∂z in float64, (n, s, s), at the equilibrium found."""
        with np.errstate(all="ignore"):
            return np.asarray(dense(unit_pulls(self.cell, self.theta, self.x, self.found), self.n), dtype=np.float64)

    @cached_property
    def M(self) -> Array:
        """``(I − J)⁻¹``, about, (n, s, s); NaN where it has none."""
        return inverses(self.J)

    @cached_property
    def growth(self) -> Array:
        """``|PᵀL||U|`` of the LU factorisation of ``I − J`` or of its transpose, (n, s, s): :func:`growths`."""
        return growths(self.J)

    @cached_property
    def candidate(self) -> Balls:
        """(n, *state), without radii: what Krawczyk's test is about."""
        return self._candidate[0]

    @cached_property
    def _candidate(self) -> tuple[Balls, Array]:
        with ctx.workprec(BITS):
            step = self.cell.step(self.theta_balls, self.x_balls)
            return refined(lambda z: step(z) - z, balls(self.found), self.M, BITS)

    @cached_property
    def z(self) -> Balls | None:
        if not np.isfinite(self._reach).all():
            return None
        return self.within(self.jacobian(balls(self.candidate, self._reach)), self._reach)

    @cached_property
    def _reach(self) -> Array:
        """A box far larger than the candidate's error, and small for float64."""
        error = 2.0**10 * apply(np.abs(self.M), self._candidate[1])
        size = np.abs(middle(self.candidate)).reshape(error.shape)
        width = (error + 2.0**-90 * size).max(axis=-1, initial=0.0) + 2.0**-900
        return np.broadcast_to(width.reshape(-1, *[1] * len(self.state)), self.candidate.shape)

    def jacobian(self, box: Balls) -> Jacobian:
        """∂f/∂z over ``box`` (n, *state), in float64."""
        centre = middle(box)
        return jacobian_over(self.cell, self.theta, self.x, centre, radius(box) + 2.0**-53 * np.abs(centre))

    def within(self, J: Jacobian, box: Array) -> Balls | None:
        """The equilibrium enclosed, J being the Jacobian over the candidate ± ``box``; None where that proves none."""
        defect, right = J.defect(self.M), apply(np.abs(self.M), self._candidate[1])
        e = settled(lambda e: right + apply(defect, e), right).reshape(self.candidate.shape)
        return balls(self.candidate, e) if np.all(e <= box) else None

    def adjoint(self, z: Balls, cotangent: Balls, J: Jacobian) -> Balls | None:
        """``Λ = (I − Jᵀ)⁻¹c``, (n, *state), at the equilibrium in the balls z, enclosed; J the Jacobian over a box
        about it. None where that proves nothing."""
        shape = (self.n, *self.state)
        inverse, defect = transposed(self.M), transposed(J.right_defect(self.M))
        first = apply(inverse, middle(cotangent).reshape(self.n, self.s)).reshape(shape)
        with ctx.workprec(BITS):

            def residual(adjoint: Balls) -> Balls:
                return np.asarray(cotangent + self.pull(z, adjoint).z - adjoint, dtype=object)

            found, off = refined(residual, balls(first), inverse, BITS)
        right = apply(np.abs(inverse), off)
        e = settled(lambda e: right + apply(defect, e), right).reshape(shape)
        return balls(found, e) if np.isfinite(e).all() else None

    def pull(self, z: Balls, cotangent: Balls) -> Parts:
        """The cell's own pull-back on balls, at the precision in force."""
        return self.cell.pull(self.theta_balls, self.x_balls, z, cotangent)

    def residual(self, z: Array) -> Array:
        """``f(z) − z`` for finite z (n, *state), at 128 bits, then rounded to float64."""
        with ctx.workprec(BITS):
            point = balls(z)
            return middle(self.cell.step(self.theta_balls, self.x_balls)(point) - point)


def refined(residual: Callable[[Balls], Balls], start: Balls, inverse: Array, bits: int) -> tuple[Balls, Array]:
    """A point whose residual is about as small as rounding at ``bits`` leaves it, and at least |residual|, (n, s).

    Each step, ``z ← z + M r`` with M in float64, gains a dozen digits. For linear r, ``residual`` of the adjoint, as
    for any other.
    """
    z, flat = centres(start), (len(start), math.prod(start.shape[1:]))
    for _ in range(bits // 8):
        r = residual(z)
        value, wide, size = (part(r).reshape(flat) for part in (middle, radius, magnitude))
        noise = wide + 2.0 ** (_SPARE - bits) * np.abs(middle(z)).reshape(flat).max(axis=-1, keepdims=True, initial=0.0)
        if np.all((np.abs(value) <= noise) | ~np.isfinite(size)):
            break
        z = centres(z + balls(apply(inverse, value).reshape(z.shape)))
    return z, np.where(np.isnan(size), np.inf, size)
