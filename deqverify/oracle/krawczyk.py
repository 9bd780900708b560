"""Krawczyk's test: where the answers lie whose residual is allowed, without a contraction (theory: krawczyk).

With M ≈ (I − J)⁻¹ and the enclosure ``[J]`` of the Jacobian over a box, ``G = |I − M(I − [J])|``: any ẑ in the box has
``|ẑ − z*| ≤ |M||f(ẑ) − ẑ| + G|ẑ − z*|``. Matrices are float64 midpoints and radii, one a data point, (n, s, s);
products are rounded, and what that loses is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from deqverify.cells import Cell, Parts, Theta
from deqverify.dtypes import Array
from deqverify.inexact import Inexact
from deqverify.namespaces import array_namespace
from deqverify.oracle.balls import balls

UNIT = 2.0**-53
ROUNDED = 1.0 + 2.0**-40
"""More than float64 loses in one of the short sums of magnitudes here."""


@dataclass(frozen=True)
class Jacobian:
    """∂f/∂z over a box: ``|J − value| ≤ radius`` for every J in it, entry by entry, (n, s, s)."""

    value: Array
    radius: Array

    @property
    def size(self) -> Array:
        """At least |J|."""
        return np.abs(self.value) + self.radius

    def defect(self, inverse: Array) -> Array:
        """``|I − M(I − J)|``, for M = ``inverse``: how far M is from inverting from the left; NaN counts as ∞."""
        return self._defect(inverse, left=True)

    def right_defect(self, inverse: Array) -> Array:
        """``|I − (I − J)M|``."""
        return self._defect(inverse, left=False)

    def _defect(self, inverse: Array, left: bool) -> Array:
        s = self.value.shape[-1]
        identity, size = np.eye(s), np.abs(inverse)
        system, wide = identity - self.value, self.radius + UNIT * (identity + np.abs(self.value))
        with np.errstate(invalid="ignore", over="ignore"):
            middle = identity - (inverse @ system if left else system @ inverse)
            spread = size @ wide if left else wide @ size
            sizes = size @ np.abs(system) if left else np.abs(system) @ size
            found = (np.abs(middle) + spread + (s + 2) * UNIT * (sizes + identity)) * ROUNDED
        return np.where(np.isnan(found), np.inf, found)


def unit_pulls(cell: Cell, theta: Theta, x: Any, z: Any) -> Parts:
    """Unit cotangents of every entry of every data point's state pulled back, (n·s) data points, the first s of the
    first; ``theta`` is summed over them."""
    s = int(np.prod(z.shape[1:], dtype=int))
    units: Any = np.tile(np.eye(s), (len(z), 1)).reshape(len(z) * s, *z.shape[1:])
    if isinstance(z, Inexact):
        units, of = _exact(units), np.repeat(np.arange(len(z)), s)
        return cell.pull(theta, x[of], z[of], units)
    if z.dtype == object:
        units = balls(units)
    return cell.pull(theta, np.repeat(x, s, axis=0), np.repeat(z, s, axis=0), units)


def dense(parts: Parts, n: int) -> Any:
    """The Jacobians (n, s, s) in what :func:`unit_pulls` gives: row k of one is the pull-back of unit k."""
    rows = parts.z
    s = int(np.prod(rows.shape[1:], dtype=int))
    return array_namespace(rows).reshape(rows, (n, s, s))


def jacobian_over(cell: Cell, theta: Theta, x: Array, centre: Array, reach: Array) -> Jacobian:
    """∂f/∂z over the box ``centre ± reach``, (n, *state), by a running error analysis in float64 (theory: inexact)."""
    parameters = {name: _exact(value) for name, value in theta.items()}
    box = Inexact(centre, reach, 2 * UNIT)
    with np.errstate(all="ignore"):
        found = dense(unit_pulls(cell, parameters, _exact(x), box), len(centre))
        wide = found.error * ROUNDED
    broken = ~np.isfinite(found.value)
    return Jacobian(np.where(broken, 0.0, found.value), np.where(broken | np.isnan(wide), np.inf, wide))


def _exact(value: Array) -> Inexact:
    return Inexact(value, np.zeros(np.shape(value)), 2 * UNIT)


def inverses(J: Array) -> Array:
    """``(I − J)⁻¹`` of each data point, about; NaN where it has none."""
    found = np.full(J.shape, np.nan)
    for i, system in enumerate(np.eye(J.shape[-1]) - J):
        try:
            found[i] = np.linalg.inv(system)
        except np.linalg.LinAlgError:
            continue
    return found


def growths(J: Array) -> Array:
    """``|PᵀL||U|`` of the LU factorisation of ``I − J``, what a direct solve's residual is proportional to, or that of
    its transpose, transposed, entry by entry whichever is larger: a pass may factorise either, and pivots differ."""
    found = np.full(J.shape, np.inf)
    for i, system in enumerate(np.eye(J.shape[-1]) - J):
        if np.isfinite(system).all():
            found[i] = np.maximum(_growth(system), _growth(system.T).T)
    return found


def _growth(system: Array) -> Array:
    lower, upper = scipy.linalg.lu(system, permute_l=True, check_finite=False)
    return np.asarray(np.abs(lower) @ np.abs(upper))


def apply(matrices: Array, vectors: Array) -> Array:
    """Each data point's matrix times its vector, (n, s); ``0 · ∞ = ∞``."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.matmul(matrices, vectors[..., None])[..., 0]
    return np.where(np.isnan(found), np.inf, found)


def transposed(matrices: Array) -> Array:
    return np.swapaxes(matrices, -1, -2)


def settled(allowed: Callable[[Array], Array], start: Array, rounds: int = 16) -> Array:
    """An e with ``allowed(e) < e`` in every entry, (n, s), made smaller where that is cheap; infinite for a data point
    where none is found.

    ``allowed`` grows with e and is at most proportional to it, up to a constant: then every ``d ≤ allowed(d)`` is at
    most e. For otherwise take the least t > 1 with ``d ≤ te``; ``d ≤ allowed(te) ≤ t allowed(e) < te`` contradicts it.
    """
    e = above(start)
    for _ in range(rounds):
        image = allowed(e) * ROUNDED
        if np.all((image < e) | np.isinf(image)):
            break
        e = np.maximum(e, above(image))
    proved = np.all(allowed(e) * ROUNDED < e, axis=-1, keepdims=True)
    e = np.where(proved, e, np.inf)  # which may tell on others, where data points share a claim
    for _ in range(2):
        image = allowed(e) * ROUNDED
        e = np.where(np.isfinite(image), np.minimum(image, e), np.inf)
    return e


def above(error: Array) -> Array:
    """A fifth more, and nowhere zero: what is to be proved must be proved with room."""
    largest = error.max(axis=-1, keepdims=True, initial=0.0)
    return 1.2 * error + 2.0**-30 * largest + 2.0**-1000
