"""Honest implementations written differently: each keeps what it claims by the claim's own rule, with no margin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deqverify.claims import Accuracy
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.reference.stateless import STATELESS, Stateless


class HonestPicard(Stateless):
    """Plain iteration in NumPy that stops when its claim says so, at most ``most`` times, and reports what it did.

    The state that is returned is the one whose residual was measured. ``start``: from x, or from zero as libraries do.
    """

    framework = "numpy"

    def __init__(self, accuracy: Accuracy, most: int = 2000, start: float = 1.0, solves: bool = True):
        self.accuracy, self.most, self.start = accuracy, most, start
        self.name = f"honest Picard, {most} at most: {accuracy}"
        claims = replace(STATELESS, forward=accuracy, backward=accuracy, starts=True, where=__name__)
        self.claims = replace(claims, solves=solves, separable=accuracy.per == "point")

    def limited(self, most: int) -> HonestPicard:
        return type(self)(self.accuracy, most, self.start, self.claims.solves)

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        K = cell.matrix(theta)
        z, status = self.iterate(K, x, self.start * x if z0 is None else z0)

        def pull(cotangent: Any) -> Cotangents:
            adjoint, status = self.iterate(K.T, cotangent, self.start * cotangent)
            return Cotangents(cell.pullback(theta, z, adjoint), adjoint, status)

        return Solution(z, status), pull

    def iterate(self, K: Any, x: Any, z: Any) -> tuple[Any, Status]:
        for turn in range(self.most + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                f = z @ K.T + x
                residual, size = (self.accuracy.norms(np.asarray(a, dtype=np.float64).T) for a in (f - z, f))
            if not np.isfinite(residual).all():
                return z, Status.DIVERGED
            if np.all(residual <= self.accuracy.allows(size)):
                return z, Status.CONVERGED
            if turn < self.most:
                z = f
        return z, Status.CAPPED


class ForwardOnly(HonestPicard):
    """It says plainly that it has no backward pass, and raises where one is asked for."""

    def __init__(self, accuracy: Accuracy):
        super().__init__(accuracy)
        self.name, self.claims = f"forward only: {accuracy}", replace(self.claims, backward=None)

    def limited(self, most: int) -> HonestPicard:
        capped = ForwardOnly(self.accuracy)
        capped.most = most
        return capped

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, _ = super().vjp(cell, theta, x, z0)

        def refuse(cotangent: Any) -> Cotangents:
            raise NotImplementedError("this layer has no backward pass")

        return solution, refuse
