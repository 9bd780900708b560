"""An equilibrium in float64, to start polishing from: Newton's method, damped, with Picard sweeps where it stalls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deqverify.cells import Cell, Theta
from deqverify.dtypes import Array
from deqverify.oracle.krawczyk import apply, dense, inverses, unit_pulls

_ROUNDS = 40
_SWEEPS = 12
_STEPS = (1.0, 0.5, 0.25, 0.0625)
_CLOSE = 2.0**-40  # of the state: from here each step in ball arithmetic gains a dozen digits


def equilibrium(cell: Cell, theta: Theta, x: Array, start: Array) -> Array:
    """z with ``f(z) ≈ z``, (n, *state), from ``start``; where nothing is found the last iterate, perhaps not finite.

    Where f has kinks an element of the generalised Jacobian is taken (semismooth Newton). Each data point takes the
    longest of four steps that makes its residual smaller; those that none helps are swept, ``z ← (z + f(z))/2``.
    """
    step, n, s = cell.step(theta, x), len(x), math.prod(start.shape[1:])

    def residual(z: Array) -> Array:
        return np.asarray(step(z), dtype=np.float64).reshape(n, s) - z.reshape(n, s)

    z = start.copy()
    if not z.size:
        return z
    with np.errstate(all="ignore"):
        r = residual(z)
        for _ in range(_ROUNDS):
            if np.all(_norm(r) <= _CLOSE * _norm(z.reshape(n, s))):
                break
            J = np.asarray(dense(unit_pulls(cell, theta, x, z), n), dtype=np.float64)
            z, r, stalled = _shortened(z, r, apply(inverses(J), r), residual)
            if stalled.all() and np.all(_norm(r) <= 2.0**-20 * _norm(z.reshape(n, s))):
                break  # as near as float64 comes
            for _ in range(_SWEEPS if stalled.any() else 0):
                swept = z + 0.5 * r.reshape(z.shape)
                z = np.where(stalled.reshape(n, *[1] * (z.ndim - 1)), swept, z)
                r = residual(z)
    return z


def _norm(vectors: Array) -> Array:
    return np.abs(vectors).max(axis=-1)


def _shortened(z: Array, r: Array, step: Array, residual: Any) -> tuple[Array, Array, Array]:
    """z and its residual after the step of each data point, and which (n,) found none that helps."""
    open_, start, found = np.ones(len(z), dtype=bool), z, r
    column = (len(z), *[1] * (z.ndim - 1))
    for length in _STEPS:
        trial = start + length * step.reshape(z.shape)
        tried = residual(trial)
        better = open_ & (_norm(tried) < _norm(r))  # false for NaN
        z = np.where(better.reshape(column), trial, z)
        found = np.where(better[:, None], tried, found)
        open_ = open_ & ~better
        if not open_.any():
            break
    return z, found, open_
