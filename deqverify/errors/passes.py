"""What one pass of an implementation of any cell may leave: residuals, and a derivative along a tangent."""

from __future__ import annotations

import numpy as np
from flint import ctx

from deqverify.bounds import Bound
from deqverify.cells import Parts
from deqverify.dtypes import Array
from deqverify.errors.balls import BallErrors
from deqverify.errors.claimed import claimed
from deqverify.oracle.balls import balls, beside, magnitude, precision, radius
from deqverify.oracle.krawczyk import ROUNDED, apply, settled, transposed
from deqverify.oracle.polished import BITS


def residual_floor(of: BallErrors) -> Array:
    """The 1-norm, (n,), of what rounding may leave of ``f(ẑ) − ẑ``: one evaluation's, a direct solve's, and what
    storing ẑ moves, ``(I + |J|)u'|z*|``."""
    z = np.abs(of.z).reshape(of.n, of.s)
    with precision(of.computed):
        image = of.exact.cell.step(of.exact.theta_balls, of.exact.x_balls)(beside(of.z, of.arithmetic.unit))
    stored = of.stored(z)
    left = 2.0 * radius(image).reshape(z.shape) + of.solve_rounding(of.exact.growth, z)
    return np.asarray((left + stored + apply(of.box.J.size, stored)).sum(axis=1) * ROUNDED)


def adjoint_floor(of: BallErrors) -> Array:
    """Likewise of ``c + JᵀΛ̂ − Λ̂`` with J at z*: and what an allowed error of ẑ makes of it."""
    answer = np.abs(of.adjoint).reshape(of.n, of.s)
    stored = of.stored(answer)
    left = of.adjoint_noise + of.solve_rounding(transposed(of.exact.growth), answer)
    left = left + stored + apply(transposed(of.box.J.size), stored)
    # Once more over the box: the implementation's Λ̂ is off as well, and J moves by the curvature.
    return np.asarray((left + 2.0 * of.adjoint_moved).sum(axis=1) * ROUNDED)


def tangent(of: BallErrors, theta: dict[str, Array], x: Array) -> tuple[Array, Bound]:
    """``dz = (I − J)⁻¹(∂f/∂θ dθ + ∂f/∂x dx)``, (n, *state), and what an implementation's differs by.

    The least b with ``|M|(r + m) + claim(b) + G b + u'|dz| ≤ b``: m is ``|push(dθ, dx, dz) − dz|`` over the box of
    ẑ, r twice the radius of that push in balls of the dtype and a direct solve's residual, the claim that of the
    forward pass (theory: allowed-adjoint, for J in place of its transpose).
    """
    exact, J = of.exact, of.box.J
    with np.errstate(all="ignore"):
        still = exact.cell.push(exact.theta, exact.x, of.z, Parts(theta, x, np.zeros_like(of.z)))
    dz = np.nan_to_num(apply(exact.M, np.asarray(still).reshape(of.n, of.s)))
    along = Parts({k: balls(v) for k, v in theta.items()}, balls(x), balls(dz.reshape(of.shape)))
    if not np.isfinite(of.box.error).all():
        return dz.reshape(of.shape), of.bound(*[np.full((of.n, of.s), np.inf)] * 3)
    with precision(of.computed):
        noise = 2.0 * radius(exact.cell.push(exact.theta_balls, exact.x_balls, beside(of.z, of.arithmetic.unit), along))
    box = balls(exact.candidate, of.box.error.reshape(of.shape))
    with ctx.workprec(BITS):
        moved = magnitude(exact.cell.push(exact.theta_balls, exact.x_balls, box, along) - along.z)
    size, answer, defect = np.abs(exact.M), np.abs(dz), J.defect(exact.M)
    left = noise.reshape(answer.shape) + of.solve_rounding(exact.growth, answer)
    rounding = apply(size, left) + of.stored(answer)
    curvature = apply(size, np.nan_to_num(moved, nan=np.inf).reshape(answer.shape))

    def claim(b: Array) -> Array:
        return claimed(of.claims.forward, of.arithmetic, exact.M, answer, apply(J.size, b) + left)

    fixed = rounding + curvature
    b = settled(lambda b: fixed + claim(b) + apply(defect, b), fixed)
    return dz.reshape(of.shape), of.bound(
        rounding * ROUNDED, claim(b) * ROUNDED, (curvature + apply(defect, b)) * ROUNDED
    )
