"""Derivatives of what a polished equilibrium decides, by central differences at two steps.

No implicit-differentiation formula, and nothing of the cell but its ``step``, decides the value; ``pull`` preconditions
and shows where the cell has a kink (theory: difference-quotients).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from flint import arb, ctx

from deqverify.dtypes import Array
from deqverify.oracle.balls import Balls, balls, magnitude, middle, radius
from deqverify.oracle.closed import OracleError
from deqverify.oracle.krawczyk import Jacobian, apply, dense, settled, unit_pulls
from deqverify.oracle.objective import Objective
from deqverify.oracle.polished import Polished, refined

Direction = Mapping[str, Array]
"""Some blocks of θ, "x" and, for an objective, "B", each with an array of its shape."""

_FIRST_BITS = 256
_MOST_BITS = 1 << 12
_STEP_BITS = 84  # truncation near 2⁻¹⁶⁸, rounding near 2⁻¹⁷², relatively
_NEGLIGIBLE_BITS = 100
_SHARP = 2.0**-40
"""Over a box of 2⁻⁸⁰ a smooth cell's pull-back is known better than this; one with a kink inside is not."""


def derivative(polished: Polished, of: Objective | Array, direction: Direction, accuracy: float) -> float:
    """The first of :func:`slope`."""
    return slope(polished, of, direction, accuracy)[0]


def slope(polished: Polished, of: Objective | Array, direction: Direction, accuracy: float) -> tuple[float, float]:
    """The derivative along ``direction`` of an objective, or of ``⟨c, z*⟩`` for a cotangent ``of`` (n, *state), and a
    bound on its error.

    Within ``accuracy`` (absolute), or to 2⁻⁶⁰ relative, or to 2⁻¹⁰⁰ of the objective itself over a step of size one,
    where one of these is wider: a derivative that is exactly zero needs no thousand bits. Central differences at h and
    h/2, whose truncations differ fourfold; twice their distance and the radius bound what is claimed.

    OracleError where no equilibrium is proved, where the cell has a kink within the step (its derivative is then
    one-sided), or where no precision suffices; ValueError for an unknown block or a wrong shape.
    """
    line = Line(polished, of, direction)
    exponent = line.exponent()
    if exponent is None or not polished.n:
        return 0.0, 0.0
    if polished.z is None:
        raise OracleError("no equilibrium is proved about the one that Newton's method found")
    bits = _FIRST_BITS
    while bits <= _MOST_BITS:
        with ctx.workprec(bits):
            wide, fine, size = line.quotients(exponent, bits)
            slack = 2 * float((wide - fine).abs_upper()) + float(fine.rad())
            least = float(size.abs_upper() * arb(2) ** (-_NEGLIGIBLE_BITS - _STEP_BITS - exponent))
            if slack <= max(accuracy, 2.0**-60 * float(fine.abs_lower()), least):
                return float(fine.mid()), slack
        bits *= 2
    raise OracleError(f"no derivative to within {accuracy:.1e} at {_MOST_BITS} bits")


class Line:
    """The problem moved along one direction."""

    def __init__(self, polished: Polished, of: Objective | Array, direction: Direction):
        self.polished, self.of = polished, of
        self.blocks = polished.theta | {"x": polished.x} | ({"B": of.B} if isinstance(of, Objective) else {})
        for name, along in direction.items():
            if name not in self.blocks:
                raise ValueError(f"direction: {name!r} is not one of {', '.join(self.blocks)}")
            if np.shape(along) != np.shape(self.blocks[name]):
                shape = np.shape(self.blocks[name])
                raise ValueError(f"direction: {name} has shape {np.shape(along)}, the problem's {name} {shape}")
        moves = {name: np.asarray(along, dtype=np.float64) for name, along in direction.items()}
        self.moves = {name: along for name, along in moves.items() if np.any(along)}

    def exponent(self) -> int | None:
        """k such that 2^k moves every block by less than 2⁻⁸⁴ of its scale and every entry of z by less than 2⁻⁸⁴,
        about: the scale on which cells and losses bend. None where nothing moves."""
        if not self.moves:
            return None
        lengths = [_exponent(along) - _exponent(self.blocks[name], 1.0) + 1 for name, along in self.moves.items()]
        length = max(lengths)
        flat = (self.polished.n, self.polished.s)
        with np.errstate(all="ignore"):  # how fast z moves, by a difference in float64
            ends = [self._plain(sign * 2.0 ** (-20 - length)) for sign in (1.0, -1.0)]
            moved = np.abs(ends[0] - ends[1]).reshape(flat)
            speed = apply(np.abs(self.polished.M), moved) * 2.0 ** (19 + length)
        return -_STEP_BITS - max(length, _exponent(speed[np.isfinite(speed)]))

    def _plain(self, step: float) -> Array:
        """f at the equilibrium, a step along."""
        at = {name: self.blocks[name] + step * self.moves.get(name, 0.0) for name in (*self.polished.theta, "x")}
        x = at.pop("x")
        return np.asarray(self.polished.cell.step(at, x)(self.polished.found), dtype=np.float64)

    def quotients(self, exponent: int, bits: int) -> tuple[arb, arb, arb]:
        """Central differences at 2^exponent and at half of it, and what they are differences of."""
        steps = [sign * arb(2) ** k for k in (exponent, exponent - 1) for sign in (1, -1)]
        found = [self.equilibrium(step, bits) for step in steps]
        defect = self.jacobian(steps[0], [z for z, _ in found]).defect(self.polished.M)
        inverse, values = np.abs(self.polished.M), []
        for step, (z, off) in zip(steps, found, strict=True):
            values.append(self._value(balls(z, proved(defect, apply(inverse, off)).reshape(z.shape)), step))
        wide, fine = (values[0] - values[1]) / (2 * steps[0]), (values[2] - values[3]) / (2 * steps[2])
        return wide, fine, values[0]

    def at(self, name: str, step: arb) -> Balls:
        still = balls(self.blocks[name])
        return np.asarray(still + step * balls(self.moves[name]), dtype=object) if name in self.moves else still

    def equilibrium(self, step: arb, bits: int) -> tuple[Balls, Array]:
        f = self.polished.cell.step({k: self.at(k, step) for k in self.polished.theta}, self.at("x", step))
        return refined(lambda z: f(z) - z, self.polished.candidate, self.polished.M, bits)

    def _value(self, z: Balls, step: arb) -> arb:
        if isinstance(self.of, Objective):
            return self.of.value(self.of.outputs(z, self.at("B", step)))
        return np.sum(balls(self.of) * z)

    def jacobian(self, step: arb, states: list[Balls]) -> Jacobian:
        """∂f/∂z over a box that holds every end; OracleError where the width of the pull-back shows a kink in it."""
        polished, size = self.polished, float(step.abs_upper())
        wide = {k: balls(self.blocks[k], 2.0 * size * np.abs(along)) for k, along in self.moves.items()}
        theta = {k: wide.get(k, ball) for k, ball in polished.theta_balls.items()}
        apart = np.max([magnitude(z - polished.candidate) for z in states], axis=0)
        box = balls(polished.candidate, 2.0 * apart + 2.0**-90 * np.abs(middle(polished.candidate)) + 2.0**-900)
        with ctx.workprec(128):
            pulled = unit_pulls(polished.cell, theta, wide.get("x", polished.x_balls), box)
        rows = np.concatenate([part.reshape(len(part), -1) for part in (pulled.z, pulled.x)], axis=1)
        largest = max(float(np.abs(block).max(initial=0.0)) for block in polished.theta.values())
        parts = [np.reshape(part, (1, -1)) for part in pulled.theta.values()]
        if not (_sharp(rows, largest) and all(_sharp(part, 1.0) for part in parts)):
            raise OracleError("the cell has a kink at the equilibrium: its derivative is one-sided")
        found = dense(pulled, polished.n)
        value = middle(found)
        return Jacobian(value, radius(found) + 2.0**-53 * np.abs(value))


def proved(defect: Array, right: Array) -> Array:
    """How far the equilibrium is, (n, s), from a candidate whose residual times |M| is ``right``; or OracleError."""
    e = settled(lambda e: right + apply(defect, e), right)
    if not np.isfinite(e).all():
        raise OracleError("no equilibrium is proved about the one that Newton's method found")
    return e


def _sharp(rows: Balls, scale: float) -> bool:
    """Whether every row is known well, measured by its own largest entry, and by ``scale`` where all of it cancels."""
    known = _SHARP * magnitude(rows).max(axis=-1, keepdims=True, initial=0.0) + 2.0**-60 * scale
    return bool(np.all(radius(rows) <= known))


def _exponent(array: Array, empty: float = 0.0) -> int:
    """k with every magnitude below 2^k; of ``empty`` where all are zero, and far below where that is."""
    largest = float(np.abs(array).max(initial=0.0)) or empty
    return math.frexp(largest)[1] if largest else -1000
