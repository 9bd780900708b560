"""Iteration on what contracts at γτ, each answer with its own certificate (theory: zero-mass).

One loop serves both passes and three inner solvers: ``z ← z + d``, d an approximation to ``U⁻¹r`` and r the residual
in the working dtype. Mass-corrected Picard takes ``d = r`` and costs one product a turn. Mixed precision takes
``d = r + Kr + … + Kᴶr`` with the products in a narrower dtype, or the narrow LU of U' (``direct.py``); whatever the
inner solver does, only a residual in the working dtype ends the loop. The part that K does not contract is set exactly:
the mass of z, and in the adjoint ``λ = v + s1`` the constant s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from deqverify.reference.fast.direct import Factors
from deqverify.reference.fast.system import System

TURNS = 200
"""Turns of the loop after which it gives up in any case."""

TRIAL = 3
"""Turns before giving up is thought of: the slowest part of a random start is not the first to show."""

PATIENCE = 4
"""Looks at the residual in a row, none better than the best before, after which nothing is expected any more."""


@dataclass
class Found:
    """What an iteration ended with.

    ``z`` is the equilibrium (n, m), or v of the adjoint ``v + shift``; ``bound`` (n,) certifies the relative error, in
    the 1-norm for an equilibrium and in the maximum norm for an adjoint, rounding of the residual included; rows at
    the rounding floor keep a bound above the accuracy. ``turns`` counts products in the working dtype.
    """

    z: Tensor
    shift: Tensor
    bound: Tensor
    turns: int
    residual: float


class Plain:
    """``d = r``: Picard. Nothing narrow, and several turns may go without looking at the residual."""

    skips = True

    def __init__(self, system: System):
        self.system = system

    def start(self, z: Tensor, source: Tensor, transposed: bool) -> Tensor:
        return z

    def correction(self, r: Tensor, transposed: bool) -> Tensor:
        return r


class Series(Plain):
    """``d = r + Kr + … + Kᴶr``, K in ``dtype``: its rounding touches Kr only, which is already small."""

    skips = False

    def __init__(self, system: System, dtype: torch.dtype, terms: int):
        super().__init__(system)
        self.terms = terms
        self.E, self.weights = system.E.to(dtype), system.weights.to(dtype)

    def start(self, z: Tensor, source: Tensor, transposed: bool) -> Tensor:
        for _ in range(self.terms + 1):
            z = source + self._times(z, transposed)
        return z

    def correction(self, r: Tensor, transposed: bool) -> Tensor:
        d = r.clone()
        for _ in range(self.terms):
            r = self._times(r, transposed)
            d += r
        return d

    def _times(self, t: Tensor, transposed: bool) -> Tensor:
        """``Kt``, in the working dtype. Rows are scaled to one, lest a narrow range cut them off."""
        size = t.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(t.dtype).tiny)
        narrow = (t / size).to(self.E.dtype)
        product = (narrow @ self.E) * self.weights if transposed else (narrow * self.weights) @ self.E.mT
        return product.to(t.dtype).mul_(size)


class Narrow(Plain):
    """``d = U'⁻¹r`` with the LU of U' in a narrower dtype."""

    skips = False

    def __init__(self, system: System, dtype: torch.dtype):
        super().__init__(system)
        self.factors, self.dtype = Factors(system, dtype), dtype

    def start(self, z: Tensor, source: Tensor, transposed: bool) -> Tensor:
        if transposed:
            return self.correction(source, True)
        mass = source.sum(1, keepdim=True)
        gamma = self.system.gamma
        return self.correction(source + mass * (gamma / (1.0 - gamma) / source.shape[1]), False)

    def correction(self, r: Tensor, transposed: bool) -> Tensor:
        size = r.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(r.dtype).tiny)
        narrow = (r / size).to(self.dtype)
        solved = self.factors.solve_transposed(narrow) if transposed else self.factors.solve(narrow)
        return solved.to(r.dtype).mul_(size)


def forward(
    system: System, x: Tensor, inner: Plain, accuracy: float, gives_up: Callable[[float], bool]
) -> Found | None:
    """The equilibrium, or None to hand over; ``gives_up(turns)`` is asked whether that many more turns are too many.

    A row may stop when ``‖r‖₁/(1−rate) + doubt ≤ accuracy ‖z‖₁`` and ``‖r‖₂ ≤ accuracy ‖z‖₂``, with the rounding of r
    counted in, or when ``‖r‖₁`` is at its floor, half the rounding of one evaluation of f:
    ``½u · terms · (‖z‖₁ + ‖x‖₁)`` (:attr:`System.terms`).
    ``doubt`` is what rounding leaves of the mass of the error, twice (``sweeps.py`` has the derivation); the sums are
    taken by halves, so that they are off by ``⌈log₂ m⌉u`` and not by mu.
    """
    m, gamma, u = system.m, system.gamma, system.unit
    levels = math.ceil(math.log2(m)) + 3 if m > 1 else 3
    rates = iter([gamma] * (TRIAL - 1 if inner.skips else 0)) if 1.0 - gamma < 0.1 else repeat(gamma)
    size_x = x.abs().sum(1)
    mass = total(x) / (1.0 - gamma)
    missing = 2 * levels * u * size_x / (1.0 - gamma)

    def centre(z: Tensor) -> Tensor:
        return z.add_((mass - total(z)) / m)

    def judge(z: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rate = next(rates, None) or system.rate()  # it costs passes over S: not before it is clear that there is hope
        r = f - z
        a = r.abs()
        size, one, largest = z.abs().sum(1), a.sum(1), a.amax(1)
        rounding = u * system.terms * (size + size_x)
        doubt = missing + 2 * levels * u * size
        allowed = (1.0 - rate) * (accuracy * size - doubt) - rounding
        # ‖r‖₂² ≤ ‖r‖₁‖r‖_∞ and ‖z‖₂ ≥ ‖z‖₁/√m: no squares that overflow.
        two = (accuracy * size / largest) * (accuracy / m * size)
        allowed = torch.maximum(torch.minimum(allowed, two.nan_to_num_(nan=math.inf)), 0.5 * rounding)
        bound = ((one + rounding) / (1.0 - rate) + doubt) / size
        return r, one, allowed, bound, bound

    return _iterate(centre(x.clone()), x, False, centre, judge, inner, gives_up, system)


def adjoint(
    system: System, c: Tensor, inner: Plain, accuracy: float, gives_up: Callable[[float], bool]
) -> Found | None:
    """The adjoint ``λ = v + s1``, or None to hand over.

    ``Kᵀ1 = γ1``: with ρ the residual of v, ``s = mid ρ/(1−γ)`` leaves ``ρ − mid ρ``, mid being halfway between the
    extremes, and ``‖λ̂ − λ‖_∞ ≤ ‖ρ − mid ρ‖_∞/(1−γ)``. A row may stop when that, the rounding of ρ included, is at most
    ``accuracy ‖λ̂‖_∞``, and ``‖ρ − mid ρ‖₂ ≤ accuracy ‖λ̂‖₂``; or at the floor. v is kept centred, and small.
    """
    m, gamma, u = system.m, system.gamma, system.unit
    size_c = c.abs().amax(1)

    def centre(v: Tensor) -> Tensor:
        return v.sub_(middle(v))

    def judge(v: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        r = f - v
        constant = middle(r)
        r -= constant
        shift = constant / (1.0 - gamma)
        a = r.abs()
        largest = a.amax(1)
        lam = (v + shift).abs_()
        size = lam.amax(1)
        rounding = u * system.terms * (v.abs().amax(1) + size_c)
        allowed = (1.0 - gamma) * accuracy * size - rounding
        two = (accuracy * lam.sum(1) / a.sum(1)) * (accuracy / m * lam.sum(1))
        allowed = torch.maximum(torch.minimum(allowed, two.nan_to_num_(nan=math.inf)), 0.5 * rounding)
        return r, largest, allowed, (largest + rounding) / (1.0 - gamma) / size, shift

    return _iterate(centre(c.clone()), c, True, centre, judge, inner, gives_up, system)


def _iterate(
    z: Tensor,
    source: Tensor,
    transposed: bool,
    centre: Callable[[Tensor], Tensor],
    judge: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    inner: Plain,
    gives_up: Callable[[float], bool],
    system: System,
) -> Found | None:
    product = system.adjoint_step if transposed else system.step
    z, turns, first, least, idle = centre(inner.start(z, source, transposed)), 0, math.inf, math.inf, 0
    while turns < TURNS:
        f = product(z, source)
        turns += 1
        r, norm, allowed, bound, shift = judge(z, f)
        excess, residual = _worst(norm, allowed)
        if not math.isfinite(excess):
            return None  # NaN, overflow, no allowance at all: the direct solve treats every row for itself
        if excess <= 1.0:
            return Found(z, shift, bound.nan_to_num_(nan=0.0), turns, residual)  # 0/0: the row is zero, and exact
        idle = 0 if residual < least else idle + 1
        least = min(least, residual)
        needed = 2.0
        if first == math.inf:
            first = residual
        else:  # residuals may rise for a turn or two: the gain since the start is what counts
            shrink = (residual / first) ** (1.0 / (turns - 1))
            needed = math.log(excess) / -math.log(shrink) if shrink < 1.0 and idle < PATIENCE else math.inf
            if turns > TRIAL and gives_up(needed):
                return None
        z = z.add_(inner.correction(r, transposed))
        if inner.skips and turns >= TRIAL:  # a product is a turn: go where the residual should have arrived
            for _ in range(math.ceil(min(needed, 16.0)) - 1):
                z = product(z, source)
                turns += 1
        z = centre(z)
    return None


def _worst(norm: Tensor, allowed: Tensor) -> tuple[float, float]:
    """The largest ratio, 0/0 being 0, and the largest norm; one transfer from the device."""
    if not norm.shape[0]:
        return 0.0, 0.0
    excess = torch.where(norm <= allowed, norm.new_zeros(()), norm / allowed)
    excess, residual = torch.stack((excess.amax(), norm.amax())).tolist()
    return excess, residual


def total(z: Tensor) -> Tensor:
    """``1ᵀz`` of every row, (n, 1), by halves: off by ``⌈log₂ m⌉ u ‖z‖₁`` at the most."""
    while z.shape[1] > 1:
        half = z.shape[1] // 2
        top = z[:, : 2 * half]
        folded = top[:, :half] + top[:, half:]
        z = torch.cat((folded, z[:, 2 * half :]), 1) if z.shape[1] % 2 else folded
    return z.clone() if z.shape[1] else z.sum(1, keepdim=True)


def middle(f: Tensor) -> Tensor:
    """Halfway between the extremes of every row, (n, 1)."""
    low, high = torch.aminmax(f, dim=1, keepdim=True)
    return low.add_(high).div_(2)
