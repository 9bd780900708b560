"""Honest implementations written differently: each keeps what it claims by the claim's own rule, with no margin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells import LinearCell, cells
from deqverify.claims import Accuracy, Claims
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.implementations.torch_base import TorchLayer
from deqverify.reference.newton import NewtonLayer, _corrected
from deqverify.reference.stateless import STATELESS, Stateless

CONTRACTING = tuple(name for name, cell in cells().items() if cell.contracts)


class HonestPicard(Stateless):
    """Plain iteration of any cell that contracts, in NumPy and in the dtype, that stops when its claim says so, at most
    ``most`` times, and reports what it did. The adjoint equation at the state that is returned is iterated likewise.

    The state that is returned is the one whose residual was measured. ``start``: from x where states have its shape, or
    from zero as libraries do.
    """

    framework = "numpy"

    def __init__(self, accuracy: Accuracy, most: int = 2000, start: float = 1.0, solves: bool = True):
        self.accuracy, self.most, self.start = accuracy, most, start
        self.name = f"honest Picard, {most} at most: {accuracy}"
        claims = replace(STATELESS, cells=CONTRACTING, forward=accuracy, backward=accuracy, where=__name__)
        self.claims = replace(claims, solves=solves, separable=accuracy.per == "point")

    def limited(self, most: int) -> HonestPicard:
        return type(self)(self.accuracy, most, self.start, self.claims.solves)

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        states = (len(x), *cell.state(theta, x.shape[1:]))
        begin = self.start * x if states == x.shape else np.zeros(states, dtype=x.dtype)
        z, status = self.iterate(cell.step(theta, x), begin if z0 is None else z0)

        def pull(cotangent: Any) -> Cotangents:
            adjoint, status = self.iterate(self.back(cell, theta, x, z, cotangent), self.start * cotangent)
            found = cell.pull(theta, x, z, adjoint)
            return Cotangents(found.theta, found.x, status)

        return Solution(z, status), pull

    def back(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> Any:
        """``Λ ↦ c + (∂f/∂z)ᵀΛ``."""
        if isinstance(cell, LinearCell):
            K = cell.matrix(theta)
            return lambda adjoint: adjoint @ K + cotangent
        return lambda adjoint: cell.pull(theta, x, z, adjoint).z + cotangent

    def iterate(self, step: Any, z: Any) -> tuple[Any, Status]:
        for turn in range(self.most + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                f = step(z)
                flat = (np.asarray(a, dtype=np.float64) for a in (f - z, f))
                residual, size = (self.accuracy.norms_of(a) if len(a) else np.zeros(0) for a in flat)
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


class OtherStart(NewtonLayer):
    """Newton's method in NumPy from states of ±1 in place of zero: of several equilibria it may find another one."""

    def __init__(self) -> None:
        super().__init__("numpy")
        self.name = "Newton from ±1"
        self.claims = replace(self.claims, cells=tuple(name for name in cells() if name not in CONTRACTING))

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        states = (len(x), *cell.state(theta, x.shape[1:]))
        signs = np.where(np.arange(np.prod(states[1:], dtype=int)) % 2, -1.0, 1.0).reshape(states[1:])
        return super().vjp(cell, theta, x, np.broadcast_to(signs, states).astype(x.dtype) if z0 is None else z0)


class TwiceNewton(TorchLayer):
    """Newton's method without a graph, then two steps of it that autograd records: a step squares the error, so that
    two of them have the first three derivatives of the equilibrium."""

    name = "Newton, recorded"
    claims = Claims(cells=tuple(cells()), second_order=True, copies=True, pickles=True, threads=True, where=__name__)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        plain = {name: value.detach() for name, value in theta.items()}
        solution, _ = NewtonLayer("torch").vjp(cell, plain, x.detach(), None if z0 is None else z0.detach())
        z = solution.z
        for _ in range(2 if torch.is_grad_enabled() else 0):
            z = z + _corrected(cell, theta, x, z)
        return replace(solution, z=z)
