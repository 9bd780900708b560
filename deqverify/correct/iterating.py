"""Iterations that keep what they claim by the claim's own rule, with no margin, on any cell that contracts, in NumPy.

A claim of these holds by construction: the residual of the state that is returned is measured, and where the rule is
not met that is reported. Both passes solve ``v = step(v)``, the second one the adjoint equation at the state that the
first returned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deqverify.cells import LinearCell, cells
from deqverify.claims import Accuracy
from deqverify.correct.registry import correct
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.reference.newton import NewtonLayer
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
        """Where the iteration ends, (n, *state), and how."""
        for turn in range(self.most + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                f = step(z)
            if (status := self.ended(z, f)) is not None:
                return z, status
            if turn < self.most:
                z = self.ahead(z, f)
        return z, Status.CAPPED

    def ended(self, z: Any, f: Any) -> Status | None:
        """What the claim's own rule says of z, whose image is f; None where it is not met yet."""
        with np.errstate(over="ignore", invalid="ignore"):
            flat = (np.asarray(a, dtype=np.float64) for a in (f - z, f))
            residual, size = (self.accuracy.norms_of(a) if len(a) else np.zeros(0) for a in flat)
        if not np.isfinite(residual).all():
            return Status.DIVERGED
        return Status.CONVERGED if np.all(residual <= self.accuracy.allows(size)) else None

    def ahead(self, z: Any, f: Any) -> Any:
        """The next state."""
        return f


class Variant(HonestPicard):
    """A subclass says what differs, and is made without arguments; ``tolerance`` is relative, in the 2-norm of each
    data point."""

    tolerance = 1e-6
    cap = 2000
    solved = True
    """Whether it is claimed to solve well-conditioned problems. Picard's iteration does: its residual's 1-norm falls by
    γ ≤ .9 in each step, and is below 1e-6 of the 2-norm of m ≤ 300 states after log(1e-6/300)/log(.9) = 185."""

    def __init__(self) -> None:
        super().__init__(Accuracy(self.tolerance), self.cap, solves=self.solved)

    def limited(self, most: int) -> Variant:
        capped = type(self)()
        capped.most = min(most, self.most)
        return capped


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


@correct("picard")
def picard() -> HonestPicard:
    """Picard's iteration from x, stopped by the claim's own rule: nothing is kept beyond it."""
    return HonestPicard(Accuracy(1e-6))


@correct("picard-from-zero")
def picard_from_zero() -> HonestPicard:
    """The same from zero, at a coarse tolerance."""
    return HonestPicard(Accuracy(1e-3), start=0.0)


@correct("atol-plus-rtol")
def atol_plus_rtol() -> HonestPicard:
    """It stops at ``atol + rtol·‖f‖`` and claims that: small data are hardly solved at all."""
    return HonestPicard(Accuracy(1e-3, atol=1e-3))


@correct("rms-over-the-batch")
def rms_over_the_batch() -> HonestPicard:
    """It stops by the root mean square over the whole batch, so that one data point may be far off, and claims that."""
    return HonestPicard(Accuracy(1e-4, atol=1e-6, norm="rms", per="batch"))


@correct("often-capped")
def often_capped() -> HonestPicard:
    """Its cap of thirty steps seldom suffices, and it says so each time."""
    return HonestPicard(Accuracy(1e-6), most=30, solves=False)


@correct("forward-only")
def forward_only() -> ForwardOnly:
    """It has no backward pass, says so, and raises where one is asked for."""
    return ForwardOnly(Accuracy(1e-6))


@correct("newton-from-elsewhere")
def newton_from_elsewhere() -> OtherStart:
    """Newton's method from ±1 on the cells that may have several equilibria: it may find another one."""
    return OtherStart()


@correct("damped-picard")
class Damped(Variant):
    """Half a step at a time, ``z ← (z + f(z))/2``, which contracts at (1 + rate)/2 and ends in the same state."""

    def ahead(self, z: Any, f: Any) -> Any:
        return (z + f) / 2


@correct("to-rounding")
class ToRounding(Variant):
    """It iterates until the 2-norm of the residual is a unit in the last place, as the dtype sees it, if ever.

    Rounding alone is what it claims, so that the claim's own rule would be met by a residual of zero alone. Squares are
    summed in the dtype, and underflow.
    """

    tolerance = 0.0
    cap = 1000
    solved = False

    def ended(self, z: Any, f: Any) -> Status | None:
        inner = tuple(range(1, f.ndim))
        with np.errstate(all="ignore"):
            residual, size = (np.sqrt(np.sum(a * a, axis=inner)) for a in (f - z, f))
        if not np.isfinite(residual).all():
            return Status.DIVERGED
        return Status.CONVERGED if np.all(residual <= np.finfo(z.dtype).eps * size) else None


@correct("warm-started")
class WarmStarted(Variant):
    """It starts where its last answer for a batch of this shape ended, so that it claims to repeat itself up to its
    tolerance alone, and no threads."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = replace(self.claims, deterministic=False, threads=False)
        self.kept: dict[tuple[str, tuple[int, ...], str], Any] = {}

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        key = (cell.name, x.shape, str(x.dtype))
        begin = z0 if z0 is not None else self.kept.get(key)
        if begin is not None and begin.shape != (len(x), *cell.state(theta, x.shape[1:])):
            begin = None
        solution, pull = super().vjp(cell, theta, x, begin)
        if solution.status is Status.CONVERGED:
            self.kept[key] = solution.z.copy()
        return solution, pull
