"""What one pass of an implementation of any cell may leave: residuals, and a derivative along a tangent."""

from __future__ import annotations

import numpy as np
from flint import ctx

from deqverify.bounds import Bound
from deqverify.cells import Cell, Contraction, Parts, Theta
from deqverify.dtypes import Array
from deqverify.errors.balls import BallErrors
from deqverify.errors.claimed import claimed, spread
from deqverify.inexact import Inexact
from deqverify.oracle.balls import balls, beside, magnitude, precision, radius
from deqverify.oracle.krawczyk import ROUNDED, apply, settled, transposed
from deqverify.oracle.polished import BITS

COARSE = 2.0**-20
DUAL = {"1": "max", "2": "2", "max": "1"}
"""The norm in which Jᵀ contracts where J does in the first."""


def residual_floor(of: BallErrors) -> Array:
    """The 1-norm, (n,), of what rounding may leave of ``f(ẑ) − ẑ``: one evaluation's, a direct solve's, and what
    storing ẑ moves, ``(I + |J|)u'|z*|``."""
    z = np.abs(of.z).reshape(of.n, of.s)
    stored = of.stored(z)
    left = of.evaluation_noise(of.z).reshape(z.shape) + of.solve_rounding(of.exact.growth, z)
    return np.asarray((left + stored + apply(of.box.J.size, stored)).sum(axis=1) * ROUNDED)


def adjoint_floor(of: BallErrors) -> Array:
    """Likewise of ``c + JᵀΛ̂ − Λ̂`` with J at z*: and what an allowed error of ẑ makes of it."""
    answer = np.abs(of.adjoint).reshape(of.n, of.s)
    stored = of.stored(answer)
    left = of.adjoint_noise + of.solve_rounding(transposed(of.exact.growth), answer)
    left = left + stored + apply(transposed(of.box.J.size), stored)
    # Once more over the box: the implementation's Λ̂ is off as well, and J moves by the curvature.
    return np.asarray((left + 2.0 * of.adjoint_moved).sum(axis=1) * ROUNDED)


def start_gradient(of: BallErrors, contraction: Contraction | None) -> Bound:
    """Of the gradient in a start that lies where answers do, (n, *state) (theory: start).

    ``claim + r + b + 2 [ΔJ]ᵀ ‖c‖/(1 − rate)``: the residual of an adjoint that the claim allows, entry by entry, its
    rounding r, b what the error of ẑ makes of it, and [ΔJ] what the Jacobian varies by where iterates are that began
    there. Infinite without a contraction.
    """
    if contraction is None or not np.isfinite(of.box.error).all():
        return of.bound(*[np.full((of.n, of.s), np.inf)] * 3)
    answer, J = np.abs(of.adjoint).reshape(of.n, of.s), transposed(of.box.J.size)
    stored = of.stored(answer)
    units = np.broadcast_to(np.eye(of.s), J.shape)
    solve = spread(units, of.solve_rounding(transposed(of.exact.growth), answer), of.arithmetic.unseen)
    left = of.adjoint_noise + solve + stored + apply(J, stored)
    image = apply(J, of.adjoint_error().total.reshape(of.n, of.s)) + of.adjoint_moved + left
    claim = claimed(of.backward, of.arithmetic, units, answer, image)
    if of.backward.of == "value":
        claim = claim + apply(J, claim)
    reach = length(of.box.error, contraction.norm)[:, None]
    varies = of.exact.jacobian(balls(of.exact.candidate, np.broadcast_to(reach, answer.shape).reshape(of.shape))).radius
    pulled = length(of.cotangent, DUAL[contraction.norm]) / (1.0 - contraction.rate)
    curvature = of.adjoint_moved + 2.0 * varies.sum(axis=1) * pulled[:, None]
    return of.bound(left * ROUNDED, claim * ROUNDED, curvature * ROUNDED)


def sweep_rounding(cell: Cell, theta: Theta, x: Array, z: Array, reach: float, unit: float) -> Array:
    """What rounding may do to one evaluation of f anywhere within ``reach`` of z, (n, *state), in twice its model.

    The error over the box grows with the unit at least as fast as proportionally: what a unit of 2⁻²⁰ adds to it, times
    2²⁰u, bounds what u adds, and does not drown in the box (theory: sweeps).
    """

    def error(coarse: float) -> Array:
        exact = {name: inexact(value, 0.0, coarse) for name, value in theta.items()}
        image = cell.step(exact, inexact(x, 0.0, coarse))(inexact(z, reach, coarse))
        return np.asarray(image.error)

    with np.errstate(all="ignore"):
        grown = (error(COARSE) - error(0.0)) / COARSE
    return np.where(np.isnan(grown), np.inf, 4.0 * unit * grown)


def inexact(value: Array, error: Array | float, unit: float) -> Inexact:
    value = np.asarray(value, dtype=np.float64)
    return Inexact(value, np.broadcast_to(error, value.shape), unit)


def length(states: Array, norm: str) -> Array:
    """The 1-, 2- or maximum norm of each data point, (n,)."""
    flat = np.abs(states).reshape(len(states), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        if norm == "2":
            return np.asarray(np.sqrt(np.sum(flat**2, axis=1)))
        return np.asarray(flat.sum(axis=1) if norm == "1" else flat.max(axis=1, initial=0.0))


def tangent(of: BallErrors, theta: dict[str, Array], x: Array) -> tuple[Array, Bound]:
    """``dz = (I − J)⁻¹(∂f/∂θ dθ + ∂f/∂x dx)``, (n, *state), and what an implementation's differs by.

    The least b with ``d + |M|m + claim(b) + G b ≤ b``: m is ``|push(dθ, dx, dz) − dz|`` over the box of ẑ, d that of
    ``BallErrors.direct``, with ``function_error`` times the radius of that push in balls of the dtype, the claim
    that of the forward pass (theory: allowed-adjoint, for J in place of its transpose).
    """
    exact, J = of.exact, of.box.J
    with np.errstate(all="ignore"):
        still = exact.cell.push(exact.theta, exact.x, of.z, Parts(theta, x, np.zeros_like(of.z)))
    dz = np.nan_to_num(apply(exact.M, np.asarray(still).reshape(of.n, of.s)))
    along = Parts({k: balls(v) for k, v in theta.items()}, balls(x), balls(dz.reshape(of.shape)))
    if not np.isfinite(of.box.error).all():
        return dz.reshape(of.shape), of.bound(*[np.full((of.n, of.s), np.inf)] * 3)
    with precision(of.computed):
        pushed = exact.cell.push(exact.theta_balls, exact.x_balls, beside(of.z, of.arithmetic.unit), along)
    noise = of.claims.function_error * radius(pushed)
    box = balls(exact.candidate, of.box.error.reshape(of.shape))
    with ctx.workprec(BITS):
        moved = magnitude(exact.cell.push(exact.theta_balls, exact.x_balls, box, along) - along.z)
    size, answer, defect = np.abs(exact.M), np.abs(dz), J.defect(exact.M)
    noise = noise.reshape(answer.shape)
    rounding, left = of.direct(exact.M, noise, exact.growth, answer), noise + of.solve_rounding(exact.growth, answer)
    curvature = apply(size, np.nan_to_num(moved, nan=np.inf).reshape(answer.shape))

    def claim(b: Array) -> Array:
        return claimed(of.claims.forward, of.arithmetic, exact.M, answer, apply(J.size, b) + left)

    fixed = rounding + curvature
    b = settled(lambda b: fixed + claim(b) + apply(defect, b), fixed)
    return dz.reshape(of.shape), of.bound(
        rounding * ROUNDED, claim(b) * ROUNDED, (curvature + apply(defect, b)) * ROUNDED
    )
