"""The equilibrium of a cell that can only be called, in float64: polished, with a dense inverse of ``I − ∂f/∂z``
(theory: opaque).

Nothing here is proven. What float64 may have lost is estimated from evaluations of the cell, and is part of every bound
that is built on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np

from deqverify.cells.wrapped import WrappedCell
from deqverify.dtypes import Array, dtype, round_to
from deqverify.oracle.krawczyk import apply, growths, inverses
from deqverify.oracle.objective import Objective

SAMPLES = 12
"""Evaluations that rounding is sampled by; four times the largest deviation then serves (theory: opaque)."""

SAFETY = 4.0

STACKED = 4
"""Of these evaluations so many are asked for at once."""

_STEPS, _CHORDS = 12, 12
_LENGTHS = (1.0, 0.5, 0.25, 0.0625)
_FOUND = 2.0**-30
"""A residual above this share of the state is none of an equilibrium."""

_DIFFERENCE = 2.0**-17
"""How far central differences move what they move: their truncation is the square of it, and rounding over it."""

_SURE, _SPARE = 0.9, 2.0
"""Contraction is taken for granted up to this local rate; else what the example has, in inverses twice that."""


class Found:
    """One equilibrium at ``theta`` and ``x``, from ``start``, or from the layer's answer to the example where that
    leads nowhere. Rows are data points, (g, s): all of them one where they are coupled."""

    def __init__(self, cell: WrappedCell, theta: Mapping[str, Array], x: Array, start: Array | None):
        self.cell, self.theta, self.x, self.n = cell, theta, x, len(x)
        self.shape = (self.n, *cell.state(theta, x.shape[1:]))
        entries = int(np.prod(self.shape[1:]))
        self.rows = (1, self.n * entries) if cell.coupled and self.n else (self.n, entries)
        rows = cell.answer[np.arange(self.n) % len(cell.answer)]
        starts = [rows, np.zeros(self.shape)] if start is None else [np.asarray(start, dtype=np.float64), rows]
        self.z = np.zeros(self.shape)
        self.ok = not self.n
        for begin in starts:
            if not self.ok and np.isfinite(begin).all():
                with np.errstate(all="ignore"):
                    self.z, self.ok = self._newton(begin.copy())

    def image(self, z: Array) -> Array:
        return self.cell.functions.image(self.theta, self.x, z, "float64")

    def jacobian(self, z: Array) -> Array:
        return self.cell.functions.jacobian(self.theta, self.x, z)

    def _newton(self, z: Array) -> tuple[Array, bool]:
        """The longest of four steps that makes the residual smaller, until none does."""
        r = self.image(z) - z
        for _ in range(_STEPS):
            if not np.isfinite(r).all() or not np.any(r):
                break
            step = apply(inverses(self.jacobian(z)), r.reshape(self.rows)).reshape(z.shape)
            for length in _LENGTHS:
                trial = z + length * step
                tried = self.image(trial) - trial
                if np.abs(tried).max() < np.abs(r).max():  # false for NaN
                    z, r = trial, tried
                    break
            else:
                break
        return z, bool(np.abs(r).max(initial=0.0) <= _FOUND * (np.abs(z).max(initial=0.0) + np.abs(z + r).max()))

    def jacobians(self, states: Sequence[Array]) -> list[Array]:
        """∂f/∂z at each of them."""
        if not (self.cell.functions.stacks and self.n):
            return [self.jacobian(z) for z in states]
        x = np.concatenate([self.x] * len(states))
        found = self.cell.functions.jacobian(self.theta, x, np.concatenate(states))
        return np.split(found, len(states))

    @cached_property
    def J(self) -> Array:
        return self.jacobian(self.z)

    @cached_property
    def M(self) -> Array:
        """``(I − J)⁻¹``, (g, s, s); NaN where it has none."""
        return inverses(np.nan_to_num(self.J, nan=np.inf)) if self.n else np.zeros((0, self.rows[1], self.rows[1]))

    @cached_property
    def growth(self) -> Array:
        return growths(self.J)

    @cached_property
    def hardness(self) -> dict[str, float]:
        """The local rate of plain iteration, and the largest norm of the inverse."""
        if not self.n or not np.isfinite(self.J).all():
            return {"rate": 0.0, "inverse": 0.0} if not self.n else {"rate": np.inf, "inverse": np.inf}
        size = np.abs(np.nan_to_num(self.M, nan=np.inf))
        rate = max(float(np.abs(np.linalg.eigvals(J)).max(initial=0.0)) for J in self.J)
        return {"rate": rate, "inverse": float(max(size.sum(axis=-1).max(), size.sum(axis=-2).max()))}

    @cached_property
    def posed(self) -> bool:
        """Whether an equilibrium was found that is no harder to find than the user's own example: parameters that this
        suite moved may leave the cell without one, for which no layer is to blame."""
        if not self.ok or not np.isfinite(self.M).all():
            return False
        limits, cell = self.cell.hardness, self.cell
        if not limits:
            example = self if self.x is cell.example else Found(cell, cell.own, cell.example, cell.answer)
            limits.update(example.hardness if example.ok else {"rate": 0.0, "inverse": 0.0})
        rate, inverse = self.hardness["rate"], self.hardness["inverse"]
        easy = rate <= _SURE and inverse <= 1.0 / (1.0 - _SURE)
        return easy or (rate <= max(_SURE, limits["rate"]) and inverse <= _SPARE * max(limits["inverse"], 10.0))

    @cached_property
    def noise(self) -> Array:
        """What rounding in float64 does to one evaluation here, (g, s)."""
        return self.rounding("float64", self.z)

    def rounding(self, name: str, z: Array) -> Array:
        """``max |f(z; θ, x) − f̂(…)|`` over evaluations in the dtype ``name`` at values each moved by one unit in the
        last place, times :data:`SAFETY`, (g, s); never below the rounding of the result itself."""
        plain, off, functions = self.image(z), np.zeros(self.shape), self.cell.functions
        if functions.stacks and self.n:  # the same number of evaluations, the parameters moved a quarter as often
            many = SAMPLES // STACKED
            theta = units(name, self.theta, many)
            data = units(name, {"x": self.x, "z": z}, SAMPLES)
            for k, moved in enumerate(theta):
                some = data[k * STACKED : (k + 1) * STACKED] or data[:1]
                x, at = (np.concatenate([each[key] for each in some]) for key in ("x", "z"))
                for image in np.split(functions.image(moved, x, at, name), len(some)):
                    off = np.maximum(off, np.abs(image - plain))
        else:
            for moved in units(name, {**self.theta, "x": self.x, "z": z}, SAMPLES):
                x, at = moved.pop("x"), moved.pop("z")
                off = np.maximum(off, np.abs(functions.image(moved, x, at, name) - plain))
        off = SAFETY * np.maximum(off, dtype(name).unit_roundoff * np.abs(plain))
        return np.where(np.isnan(off), np.inf, off).reshape(self.rows)

    @property
    def own(self) -> Array:
        """What z is off by, (g, s)."""
        return apply(np.abs(self.M), self.noise)

    def derivative(self, of: Objective, direction: Mapping[str, Array]) -> tuple[float, float]:
        """The derivative of the objective along ``direction``, and about how far that is off: central differences of
        polished equilibria at h and h/2. Nothing but values of the cell decides it; a kink shows as a difference of
        both sides that does not shrink with h."""
        blocks = {**self.theta, "x": self.x, "B": of.B}
        if not (length := length_beside(direction, blocks)):
            return 0.0, 0.0
        self._speed = np.zeros(self.shape)
        h = float(2.0 ** np.round(np.log2(_DIFFERENCE / length)))
        middle, noise = self._value(of, direction, 0.0)
        ends = {k: self._value(of, direction, k * h) for k in ENDS}
        noise = 2.0 * max([noise, *(each for _, each in ends.values())]) / h
        slope, error = central({k: value for k, (value, _) in ends.items()}, middle, h)
        return slope, error + 8.0 * noise

    def _value(self, of: Objective, direction: Mapping[str, Array], step: float) -> tuple[float, float]:
        """The objective a step along, and about its rounding."""
        theta, x, B = dict(self.theta), self.x, of.B
        for name, d in direction.items():
            if name in theta:
                theta[name] = theta[name] + step * d
            elif name == "x":
                x = x + step * d
            else:
                B = B + step * d
        z, best = self.z + step * self._speed, np.inf
        for _ in range(_CHORDS):
            r = self.cell.functions.image(theta, x, z, "float64") - z
            size = float(np.abs(r).max(initial=0.0))
            if not size < best:
                break
            best, z = size, z + apply(self.M, r.reshape(self.rows)).reshape(z.shape)
        if step and not np.any(self._speed):
            self._speed = (z - self.z) / step  # where the other ends are looked for
        F = B @ z.reshape(self.n, -1).T
        off = np.abs(B) @ self.own.reshape(self.n, -1).T + 2.0**-52 * (np.abs(B) @ np.abs(z).reshape(self.n, -1).T)
        slope = np.abs(of.loss.gradient(F, of.Y))
        noise = float(np.sum((slope + off) * off) + 2.0**-48 * np.sum(of.loss.value_terms(F, of.Y)))
        return float(of.loss.value(F, of.Y)), noise if np.isfinite(noise) else np.inf


ENDS = (1.0, -1.0, 0.5, -0.5)
"""Where :func:`central` wants values, in units of h."""


def central(ends: Mapping[float, float], middle: float, h: float) -> tuple[float, float]:
    """The slope at 0 of a function whose values are ``ends`` at :data:`ENDS` times h, and ``middle`` at 0: the central
    difference at h/2; and about how far that is off, but for noise: four times what halving h changes, in the slope and
    in the difference of the slopes on both sides, which halves with h or is a kink."""
    wide, fine = (ends[1.0] - ends[-1.0]) / (2 * h), (ends[0.5] - ends[-0.5]) / h
    bend = (ends[1.0] - 2 * middle + ends[-1.0]) / h
    kink = abs((ends[0.5] - 2 * middle + ends[-0.5]) / (h / 2) - bend / 2)
    return float(fine), float(4.0 * abs(wide - fine) + 4.0 * kink)


def length_beside(direction: Mapping[str, Array], blocks: Mapping[str, Array]) -> float:
    """The largest entry of ``direction``, in each block as a share of that block's own; zero for no direction."""
    return max(
        (
            float(np.abs(d).max(initial=0.0)) / (float(np.abs(blocks[name]).max(initial=0.0)) or 1.0)
            for name, d in direction.items()
        ),
        default=0.0,
    )


def units(name: str, values: Mapping[str, Array], count: int = SAMPLES) -> list[dict[str, Array]]:
    """``values`` in the dtype ``name``, as they are and ``count`` times with each entry moved by ± one unit in
    the last place."""
    unit = 2.0 * dtype(name).unit_roundoff
    found = [{key: round_to(value, name) for key, value in values.items()}]
    for k in range(count):
        found.append(
            {key: round_to(v * (1.0 + unit * signs(f"{key} {k}", v.shape)), name) for key, v in values.items()}
        )
    return found


@lru_cache(maxsize=1 << 12)
def signs(word: str, shape: tuple[int, ...]) -> Array:
    """Plus and minus one at random, the same for the same word and shape."""
    drawn = np.random.default_rng(zlib.crc32(word.encode())).integers(0, 2, shape)
    found = np.asarray(drawn * 2.0 - 1.0, dtype=np.float64)
    found.flags.writeable = False
    return found
