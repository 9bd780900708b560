"""What an implementation's second derivative may differ by, whatever the cell (theory: second-order-of-a-cell)."""

from __future__ import annotations

import numpy as np

from deqverify.bounds import Bound
from deqverify.cells import Theta
from deqverify.dtypes import Array
from deqverify.dual import Dual
from deqverify.errors import passes
from deqverify.errors.balls import CLAIMED, BallErrors
from deqverify.inexact import Inexact
from deqverify.oracle.krawczyk import ROUNDED

Parts = tuple[Array, Array]
"""A value and its error."""


def second(of: BallErrors, theta: dict[str, Array], x: Array) -> dict[str, Bound]:
    """On the derivative along (``theta``, ``x``) of the gradient that a pull of the cotangent gives, entry by entry.

    dz and its error come from :func:`deqverify.errors.passes.tangent`. With Λ held, the derivative of JᵀΛ along d is
    the cotangent of ``dΛ = (I − Jᵀ)⁻¹ρ``: the same adjoint equation, its right side off by what its error is over the
    boxes. The pull-back's derivative over the boxes of z, Λ, dz and dΛ, twice its error, is the bound.
    """
    moved, off = passes.tangent(of, theta, x)
    none = np.zeros(of.shape)
    carried = of.adjoint_error()
    boxes = of.box.error.reshape(of.shape), carried.total, off.total
    along = _right(of, theta, x, moved, (0 * none,) * 3, 2.0**-52)
    given = _right(of, theta, x, moved, boxes, 2 * of.arithmetic.unit)[1] + along[1]
    turned = of.about(along[0])
    slope, error = turned.adjoint, turned.adjoint_error(given)
    whole = _pulled(of, theta, x, moved, slope, (*boxes, error.total), 2 * of.arithmetic.unit)
    name = f"rounding in {of.dtype_name}, amplified"
    alone = whole
    if not (of.claims.forward.exact and of.backward.exact):
        rounded = [bound.terms.get(name, none) for bound in (carried, off, error)]
        narrow = (of.box.rounding.reshape(of.shape), *rounded)
        alone = _pulled(of, theta, x, moved, slope, narrow, 2 * of.arithmetic.unit)
    found = {}
    for block, (value, wide) in whole.items():
        least = alone[block][1]
        terms = {name: 2.0 * least + of.stored(value) + of.underflow}
        if least is not wide:
            terms[CLAIMED] = np.maximum(2.0 * (wide - least), 0.0)
        found[block] = Bound(terms)
    return found


def _dual(value: Array, tangent: Array, unit: float, off: Array | float = 0.0, along: Array | float = 0.0) -> Dual:
    return Dual(passes.inexact(value, off, unit), passes.inexact(tangent, along, unit))


def _parameters(of: BallErrors, theta: Theta, x: Array, unit: float) -> tuple[dict[str, Dual], Dual]:
    duals = {name: _dual(value, theta[name], unit) for name, value in of.exact.theta.items()}
    return duals, _dual(of.exact.x, x, unit)


def _right(of: BallErrors, theta: Theta, x: Array, moved: Array, boxes: tuple[Array, ...], unit: float) -> Parts:
    """``(d/dε) J(θ + εdθ, x + εdx, z + εdz)ᵀΛ``, (n, *state), over the boxes of z, Λ and dz."""
    duals, inputs = _parameters(of, theta, x, unit)
    z, adjoint = _dual(of.z, moved, unit, boxes[0], boxes[2]), _dual(of.adjoint, 0.0 * moved, unit, boxes[1])
    with np.errstate(all="ignore"):
        return _finite(of.exact.cell.pull(duals, inputs, z, adjoint).z.tangent)


def _pulled(
    of: BallErrors, theta: Theta, x: Array, moved: Array, slope: Array, boxes: tuple[Array, ...], unit: float
) -> dict[str, Parts]:
    """The derivative of the pull-back in every parameter and x, over the boxes of z, Λ, dz and dΛ."""
    duals, inputs = _parameters(of, theta, x, unit)
    z = _dual(of.z, moved, unit, boxes[0], boxes[2])
    adjoint = _dual(of.adjoint, slope, unit, boxes[1], boxes[3])
    with np.errstate(all="ignore"):
        parts = of.exact.cell.pull(duals, inputs, z, adjoint)
    return {name: _finite(value.tangent) for name, value in ({**parts.theta, "x": parts.x}).items()}


def _finite(found: Inexact) -> Parts:
    """NaN of a value counts as 0 of which nothing is known."""
    broken = ~np.isfinite(found.value) | np.isnan(found.error)
    return np.where(broken, 0.0, found.value), np.where(broken, np.inf, found.error * ROUNDED)
