"""An equilibrium in float64, to start polishing from: Newton's method, damped, and a homotopy where it stalls.

What is found is a candidate and no more: Krawczyk's test decides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deqverify.cells import Cell, Theta
from deqverify.dtypes import Array
from deqverify.oracle.krawczyk import apply, dense, inverses, unit_pulls

_NEWTON_STEPS = 20
_LENGTHS = (1.0, 0.5, 0.25, 0.0625)
_LEAST_STRIDE = 2.0**-16
_CLOSE = 2.0**-40  # of the state: from here each step in ball arithmetic gains a dozen digits
_STALLED = 2.0**-20  # of the state: nearer than this a stall is rounding

Flags = npt.NDArray[np.bool_]


def equilibrium(cell: Cell, theta: Theta, x: Array, start: Array) -> Array:
    """z with ``f(z) ≈ z``, (n, *state), from ``start``; where nothing is found the last iterate, perhaps not finite.

    Where f has kinks an element of the generalised Jacobian is taken (semismooth Newton).
    """
    z = start.copy()
    if not z.size:
        return z
    with np.errstate(all="ignore"):
        z = _Search(cell, theta, x).newton(z)
        for i in np.flatnonzero(~_Search(cell, theta, x).near(z, _STALLED)):
            one = slice(int(i), int(i) + 1)
            z[one] = _Search(cell, theta, x[one]).followed(start[one], z[one])
    return z


class _Search:
    """Of equilibria of some data points, or of ``f(z) − z = shift``; z is (n, *state), residuals and steps (n, s)."""

    def __init__(self, cell: Cell, theta: Theta, x: Array):
        self.cell, self.theta, self.x, self.n = cell, theta, x, len(x)
        self.step = cell.step(theta, x)

    def residual(self, z: Array, shift: Array | float = 0.0) -> Array:
        return np.asarray(self.step(z) - z, dtype=np.float64).reshape(self.n, -1) - shift

    def near(self, z: Array, share: float, shift: Array | float = 0.0) -> Flags:
        """Where the residual is at most ``share`` of the state and the shift, (n,)."""
        size = _size(z.reshape(self.n, -1)) + np.max(np.abs(shift))
        return np.asarray(_size(self.residual(z, shift)) <= share * size)

    def newton(self, z: Array, shift: Array | float = 0.0) -> Array:
        """Each data point takes the longest of four steps that makes its residual smaller, until none does."""
        r = self.residual(z, shift)
        for _ in range(_NEWTON_STEPS):
            if self.near(z, _CLOSE, shift).all():
                break
            J = np.asarray(dense(unit_pulls(self.cell, self.theta, self.x, z), self.n), dtype=np.float64)
            step, start, waits = apply(inverses(J), r), z, np.ones(self.n, dtype=bool)
            for length in _LENGTHS:
                trial = start + length * step.reshape(z.shape)
                tried = self.residual(trial, shift)
                better = waits & (_size(tried) < _size(r))  # false for NaN
                chosen = better.reshape(-1, *[1] * (z.ndim - 1))
                z, r = np.where(chosen, trial, z), np.where(better[:, None], tried, r)
                waits &= ~better
                if not waits.any():
                    break
            if waits.all():
                break
        return z

    def followed(self, start: Array, otherwise: Array) -> Array:
        """The path ``f(z) − z = (1 − t)(f(start) − start)`` from t = 0 to 1, by Newton's method at each t.

        It neither ends nor turns where I − J is nowhere singular and ``z − f(z)`` proper, as for a monotone cell
        whatever the size of J. ``otherwise`` where a fold stops it.
        """
        z, t, stride, first = start, 0.0, 0.25, self.residual(start)
        while t < 1.0:
            ahead = min(1.0, t + stride)
            shift = (1.0 - ahead) * first
            moved = self.newton(z, shift)
            if self.near(moved, _STALLED, shift).all():
                z, t, stride = moved, ahead, 2.0 * stride
            else:
                stride *= 0.5
                if stride < _LEAST_STRIDE:
                    return otherwise
        return z


def _size(vectors: Array) -> Array:
    return np.asarray(np.abs(vectors).max(axis=-1))
