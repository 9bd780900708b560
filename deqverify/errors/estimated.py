"""The judge of a cell that can only be called: every term of its bounds is estimated (theory: opaque).

The same reasons as in :mod:`deqverify.errors.balls` let a right implementation differ from the truth: rounding, sampled
by evaluating the user's function in the dtype at values moved by a unit in the last place; the claimed accuracy through
the rows of ``M = (I − ∂f/∂z)⁻¹``, dense in float64; and what the Jacobian changes within both, sampled too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from deqverify.bounds import Arithmetic, Bound
from deqverify.cells import Parts
from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.dtypes import Array, dtype, round_to
from deqverify.errors.claimed import accepted, claimed
from deqverify.errors.judge import Direction
from deqverify.oracle.estimated import SAFETY, Found, sign, units
from deqverify.oracle.krawczyk import apply, settled, transposed
from deqverify.oracle.objective import Objective
from deqverify.wrapped_problem import WrappedProblem

CORNERS = 6
"""Corners of the box of allowed answers at which the cell is looked at."""

CLAIMED = "estimated effect of the claimed solver accuracy"
CURVATURE = "estimated curvature"
COTANGENT = "estimated effect of the cotangent's error"
CARRIED = "estimated effect of the equilibrium's error"
OWN = "estimated rounding of the oracle in float64"

LAST_BIT = 2.0**-53


class EstimatedJudge:
    """Magnitudes are entries. Where no equilibrium was found, or one that is harder to find than that of the user's own
    example, bounds are infinite and nothing is in range."""

    def __init__(
        self,
        problem: WrappedProblem,
        claims: Claims,
        dtype_name: str,
        cotangent: Array | None = None,
        near: Array | None = None,
    ):
        self.problem, self.claims, self.dtype = problem, claims, dtype_name
        self.backward = claims.backward or DIRECT
        self.found = Found(problem._cell, problem.theta, problem.x, near)
        self.arithmetic = Arithmetic.of(dtype_name, claims.computes_in.get(dtype_name, dtype_name))
        self._given = cotangent
        self._of = Objective(problem.B, problem.Y, problem.loss)
        self._rounding = f"estimated rounding in {dtype_name}, amplified"
        self.shape, self.rows = self.found.shape, self.found.rows

    @property
    def z(self) -> Array:
        return self.found.z

    @cached_property
    def _inverse(self) -> Array:
        return np.abs(self.found.M)

    def _flat(self, array: Array) -> Array:
        return np.abs(array).reshape(self.rows)

    def stored(self, value: Array) -> Array:
        return (self.arithmetic.storage + 2.0 * LAST_BIT) * np.abs(value) + self._underflow

    @cached_property
    def _underflow(self) -> float:
        fmt = dtype(self.dtype)
        largest = max(1.0, float(np.abs(self.z).max(initial=0.0)), float(np.abs(self.problem.x).max(initial=0.0)))
        return (sum(self.rows) + self.problem.p) * (fmt.smallest if self.dtype == "float16" else fmt.tiny) * largest

    def _solve_rounding(self, growth: Array, solution: Array) -> Array:
        """``3su |PᵀL||U||solution|``: a direct solve with ``I − J`` in the dtype."""
        return 3 * self.rows[1] * self.arithmetic.unit * apply(growth, solution) + self._underflow

    # The equilibrium

    @cached_property
    def noise(self) -> Array:
        return self.found.rounding(self.dtype, self.z)

    @cached_property
    def _terms(self) -> tuple[Array, Array, Array, Array]:
        """Rounding, claim, curvature and the oracle's own part of the error of ẑ, (g, s)."""
        none = np.full(self.rows, np.inf)
        if not self.found.posed:
            return none, none, none, none
        M, z, J = self.found.M, self._flat(self.z), np.abs(self.found.J)
        left = self.noise + self._solve_rounding(self.found.growth, z)
        rounding = accepted(self.arithmetic, M, left) + self.stored(z)

        def claim(e: Array) -> Array:
            return claimed(self.claims.forward, self.arithmetic, M, z, apply(J, e) + self.noise)

        own = self.found.own + LAST_BIT * z
        fixed = rounding + own
        e = settled(lambda e: fixed + claim(e), fixed)
        defect = np.zeros_like(M)
        for change in self._changes(e):
            defect = np.maximum(defect, self._inverse @ np.abs(change))
        defect = 2.0 * np.where(np.isnan(defect), np.inf, defect)
        e = settled(lambda e: fixed + claim(e) + apply(defect, e), fixed)
        if not np.isfinite(e).all():
            return none, none, none, none
        return rounding, claim(e), apply(defect, e), own

    def _corners(self, e: Array) -> Iterator[Array]:
        """Signs for the corners of a box e (n, *state): all one way, all the other, and drawn ones."""
        signs = np.random.default_rng(1)
        yield np.ones(e.shape)
        yield -np.ones(e.shape)
        for _ in range(CORNERS - 2):
            yield sign(signs, e.shape)

    def _changes(self, e: Array) -> Iterator[Array]:
        """What ∂f/∂z differs by at corners of the box of e (g, s) around the equilibrium."""
        box = e.reshape(self.shape)
        if not np.isfinite(box).all():
            yield np.full_like(self.found.J, np.inf)
            return
        for corner in self._corners(box):
            yield self.found.jacobian(self.z + corner * box) - self.found.J

    @cached_property
    def z_error(self) -> Bound:
        rounding, claim, curvature, own = self._terms
        return self._bound({self._rounding: rounding, CLAIMED: claim, CURVATURE: curvature, OWN: own})

    def _bound(self, terms: Mapping[str, Array]) -> Bound:
        return Bound({name: term.reshape(self.shape) for name, term in terms.items()})

    @cached_property
    def _e(self) -> Array:
        """What ẑ may be off by, (g, s)."""
        return self._flat(self.z_error.total)

    @cached_property
    def _moves(self) -> list[Array]:
        """What ∂f/∂z changes by within that."""
        return list(self._changes(self._e))

    # The adjoint

    @cached_property
    def cotangent(self) -> Array:
        """c, (n, *state): as given, or ``Bᵀ∂L/∂F``."""
        return self._given if self._given is not None else (self.problem.B.T @ self._slopes).T.reshape(self.shape)

    @cached_property
    def adjoint(self) -> Array:
        c = np.asarray(self.cotangent).reshape(self.rows)
        return np.nan_to_num(apply(transposed(self.found.M), c), posinf=0.0).reshape(self.shape)

    @property
    def adjoint_error(self) -> Bound:
        return self._adjoint_error(0.0)

    def _adjoint_error(self, given: Array | float) -> Bound:
        rounding, claim, curvature, cotangent, own = self._adjoint_terms(given)
        terms = {self._rounding: rounding, CLAIMED: claim, CURVATURE: curvature, COTANGENT: cotangent, OWN: own}
        return self._bound(terms)

    @cached_property
    def _pulls(self) -> tuple[dict[str, Array], Array, dict[str, Array], Array]:
        """Blocks of the pull of Λ and its ``(∂f/∂z)ᵀΛ`` in float64, and what rounding in the dtype does to them."""
        exact = self._pull(self.z, self.adjoint)
        blocks, back = _blocks(exact), exact.z
        off, off_back = {k: np.zeros(np.shape(v)) for k, v in blocks.items()}, np.zeros(self.shape)
        given = {**self.problem.theta, "x": self.problem.x, "z": self.z, "adjoint": self.adjoint}
        functions, size = self.problem._cell.functions, max(1.0, float(np.abs(self.adjoint).max(initial=0.0)))
        scale = 2.0 ** np.floor(np.log2(size))  # a long adjoint must not overflow in a narrow dtype
        given["adjoint"] = given["adjoint"] / scale
        for moved in units(self.dtype, given):
            x, z, adjoint = moved.pop("x"), moved.pop("z"), moved.pop("adjoint")
            part = functions.pull(moved, x, z, adjoint, self.dtype)
            for name, value in _blocks(part).items():
                off[name] = np.maximum(off[name], np.abs(value * scale - blocks[name]))
            off_back = np.maximum(off_back, np.abs(part.z * scale - back))
        unit = dtype(self.dtype).unit_roundoff
        off = {k: _known(SAFETY * np.maximum(v, unit * np.abs(blocks[k]))) for k, v in off.items()}
        return blocks, back, off, _known(SAFETY * np.maximum(off_back, unit * np.abs(back)))

    def _pull(self, z: Array, adjoint: Array) -> Parts:
        return self.problem._cell.pull(self.problem.theta, self.problem.x, z, adjoint)

    @cached_property
    def adjoint_moved(self) -> Array:
        """What an allowed error of ẑ makes of ``(∂f/∂z)ᵀΛ``, (g, s)."""
        moved, adjoint = np.zeros(self.rows), self.adjoint.reshape(self.rows)
        for change in self._moves:
            moved = np.maximum(moved, np.abs(apply(transposed(change), adjoint)))
        return 2.0 * _known(moved)

    def _adjoint_terms(self, given: Array | float) -> tuple[Array, Array, Array, Array, Array]:
        none = np.full(self.rows, np.inf)
        if not np.isfinite(self._e).all():
            return none, none, none, none, none
        M, answer, size = self.found.M, self._flat(self.adjoint), transposed(self._inverse)
        off = self._flat(np.broadcast_to(given, self.shape))
        noise, moved = self._flat(self._pulls[3]), self.adjoint_moved
        left = noise + self._solve_rounding(transposed(self.found.growth), answer)
        rounding = accepted(self.arithmetic, transposed(M), left) + self.stored(answer)
        own = apply(size, LAST_BIT * SAFETY * self.rows[1] * apply(transposed(np.abs(self.found.J)), answer))
        curvature, cotangent = apply(size, moved), apply(size, off)

        def claim(a: Array) -> Array:
            image = apply(transposed(np.abs(self.found.J)), a) + moved + off + noise
            return claimed(self.backward, self.arithmetic, transposed(M), answer, image)

        fixed = rounding + own + curvature + cotangent
        a = settled(lambda a: fixed + claim(a), fixed)
        return rounding, claim(a), curvature, cotangent, own

    # What is pulled back

    @property
    def pulled(self) -> dict[str, Array]:
        return self._pulls[0]

    def pulled_error(self, block: str, given: Array | None = None) -> Bound:
        return (self._cached if given is None or not np.any(given) else self._spread(given))[block]

    def pulled_own(self, block: str) -> Array:
        return LAST_BIT * np.abs(self.pulled[block])

    @cached_property
    def _cached(self) -> dict[str, Bound]:
        """Of the cotangent that was given, as given; or of the objective's, with its own error."""
        return self._spread(0.0 if self._given is not None else self.cotangent_error)

    def _spread(self, given: Array | float) -> dict[str, Bound]:
        """Of every block: rounding of the pull, and what allowed errors of ẑ and Λ̂ make of it at corners of both
        boxes."""
        blocks, _, rounding, _ = self._pulls
        total = self._adjoint_error(given).total
        if not np.isfinite(total).all() or not np.isfinite(self._e).all():
            return {k: Bound({self._rounding: np.full(np.shape(v), np.inf)}) for k, v in blocks.items()}
        e, off = self._e.reshape(self.shape), {k: np.zeros(np.shape(v)) for k, v in blocks.items()}
        corners = [*self._corners(e)]
        for first, second in zip([*corners, *corners], [*corners, *corners[1:], corners[0]], strict=True):
            for name, value in _blocks(self._pull(self.z + first * e, self.adjoint + second * total)).items():
                off[name] = np.maximum(off[name], np.abs(value - blocks[name]))
        return {
            name: Bound(
                {
                    self._rounding: rounding[name] + self.stored(value),
                    CARRIED: _known(SAFETY * off[name]),
                }
            )
            for name, value in blocks.items()
        }

    def tangent(self, direction: Direction) -> tuple[Array, Bound]:
        """``dz = M(∂f/∂θ dθ + ∂f/∂x dx)``; an error e of ẑ, or of dz, counts as one of the equation for dz does."""
        found, cell = self.found, self.problem._cell
        theta = {name: direction[name] for name in self.problem.theta}
        still = cell.push(
            self.problem.theta, self.problem.x, self.z, Parts(theta, direction["x"], np.zeros(self.shape))
        )
        dz = np.nan_to_num(apply(found.M, still.reshape(self.rows))).reshape(self.shape)
        along, moved = Parts(theta, direction["x"], dz), np.zeros(self.rows)
        if not np.isfinite(self._e).all():
            return dz, self._bound({CURVATURE: np.full(self.rows, np.inf)})
        box = self._e.reshape(self.shape)
        for corner in self._corners(box):
            there = cell.push(self.problem.theta, self.problem.x, self.z + corner * box, along)
            moved = np.maximum(moved, self._flat(there - dz))
        answer = self._flat(dz)
        unit = SAFETY * self.rows[1] * dtype(self.dtype).unit_roundoff
        noise = unit * (apply(np.abs(found.J), answer) + self._flat(still)) + self._solve_rounding(found.growth, answer)
        fixed = apply(self._inverse, noise + 2.0 * moved) + self.stored(answer)

        def claim(b: Array) -> Array:
            image = apply(np.abs(found.J), b) + noise
            return claimed(self.claims.forward, self.arithmetic, found.M, answer, image)

        b = settled(lambda b: fixed + claim(b), fixed)
        return dz, self._bound({self._rounding: fixed, CLAIMED: claim(b)})

    # The objective

    @cached_property
    def _columns(self) -> tuple[Array, Array]:
        """``|Z|`` and the error of Z, (s, n)."""
        n = self.problem.n
        return np.abs(self.z).reshape(n, -1).T, self.z_error.total.reshape(n, -1).T

    @cached_property
    def F(self) -> Array:
        return self.problem.B @ self.z.reshape(self.problem.n, -1).T

    @cached_property
    def _slopes(self) -> Array:
        return self.problem.loss.gradient(self.F, self.problem.Y)

    @cached_property
    def F_error(self) -> Array:
        """``|B|e_z + 2(s + 1)u|B||Z| + t``, (p, n); twice, since F itself was rounded."""
        B, (Z, e) = np.abs(self.problem.B), self._columns
        return _product(B, e) + 2 * (len(Z) + 1) * self.arithmetic.unit * (B @ Z) + self._underflow

    @cached_property
    def dF_error(self) -> Array:
        """``spread(F, Y, e_F) + 2(p + 6)u terms(F, Y) + t``, (p, n)."""
        loss, Y = self.problem.loss, self.problem.Y
        rounding = 2 * (self.problem.p + 6) * self.arithmetic.unit * loss.terms(self.F, Y)
        return loss.spread(self.F, Y, self.F_error) + rounding + self._underflow

    @cached_property
    def cotangent_error(self) -> Array:
        """``|B|ᵀ(e_dF + 2((p + 1)u + u')|∂L/∂F|) + t``, (n, *state)."""
        B, unit = np.abs(self.problem.B), (self.problem.p + 1) * self.arithmetic.unit + self.arithmetic.storage
        off = _product(B.T, self.dF_error + 2 * unit * np.abs(self._slopes)) + self._underflow
        return off.T.reshape(self.shape)

    @cached_property
    def _gradient(self) -> dict[str, tuple[Array, Bound]]:
        (Z, e), dF, n = self._columns, np.abs(self._slopes), self.problem.n
        value = self._slopes @ self.z.reshape(n, -1)
        rounding = 2 * (n + 1) * self.arithmetic.unit * (dF @ Z.T) + self.stored(value) + self._underflow
        carried = _product(self.dF_error, (Z + e).T) + _product(dF, e.T)
        errors = self._cached
        return {name: (self.pulled[name], errors[name]) for name in errors} | {
            "B": (value, Bound({CARRIED: carried, self._rounding: rounding}))
        }

    @property
    def gradient(self) -> dict[str, Array]:
        return {name: value for name, (value, _) in self._gradient.items()}

    def gradient_error(self, block: str) -> Bound:
        return self._gradient[block][1]

    @cached_property
    def value_error(self) -> Bound:
        """``Σ(|dF| + spread(F, Y, e_F))e_F + 2(pn + 12)u Σ value_terms(F, Y) + t``."""
        loss, Y, F, e = self.problem.loss, self.problem.Y, self.F, self.F_error
        carried = np.sum((np.abs(self._slopes) + loss.spread(F, Y, e)) * e)
        rounding = 2 * (F.size + 12) * self.arithmetic.unit * np.sum(loss.value_terms(F, Y)) + self._underflow
        return Bound({CARRIED: np.asarray(carried), self._rounding: np.asarray(rounding)})

    @property
    def value_size(self) -> float:
        return float(np.sum(self.problem.loss.value_terms(self.F, self.problem.Y)))

    def objective(self) -> tuple[float, float]:
        value = float(self.problem.loss.value(self.F, self.problem.Y))
        return value, 2.0 * LAST_BIT * abs(value)

    def off_slope(self, gradient: Direction, direction: Direction, accuracy: float) -> tuple[float, float]:
        """Against central differences of polished equilibria in float64; at a kink nothing is known."""
        if not self.in_range:
            return 0.0, float("inf")
        true, error = self.found.derivative(self._of, direction)
        said = sum(float(np.sum(gradient[block] * d)) for block, d in direction.items())
        return (abs(said - true), error) if np.isfinite(error) else (0.0, float("inf"))

    # The rest of the three questions

    @cached_property
    def in_range(self) -> bool:
        """An equilibrium was found, and sums of magnitudes and their products stay below largest/64."""
        if not np.isfinite(self._e).all():
            return False
        sizes = [float((np.abs(self.z) + self.z_error.total).sum())]
        given = 0.0 if self._given is not None else self.cotangent_error
        errors = self._cached
        cotangent = float((np.abs(self.adjoint) + self._adjoint_error(given).total).sum())
        sizes += [float((np.abs(self.pulled[name]) + error.total).sum()) for name, error in errors.items()]
        with np.errstate(over="ignore", invalid="ignore"):
            return max(cotangent * max(sizes[0], 1.0), *sizes) < self.arithmetic.largest / 64  # false for NaN

    def states(self, difference: Array) -> Array:
        return np.abs(difference)

    def adjoints(self, difference: Array) -> Array:
        return np.abs(difference)

    @property
    def z_own(self) -> Array:
        return LAST_BIT * np.abs(self.z)

    @property
    def enclosure_rounding(self) -> Array:
        return LAST_BIT * np.abs(self.z)

    def stretch(self, claim: Accuracy) -> float:
        size = np.abs(self.found.J)
        return 1.0 + float(size.sum(axis=1).max() + size.sum(axis=2).max()) if size.size else 1.0

    def evaluation_floor(self, z: Array) -> Array:
        noise = self.found.rounding(self.dtype, round_to(z, self.dtype)).reshape(self.problem.n, -1)
        return np.asarray(noise.sum(axis=1))

    def error(self, z: Array) -> Array:
        return np.abs(z - self.z)

    def residual(self, z: Array) -> Array:
        return self.found.image(z) - z

    def adjoint_residual(self, adjoint: Array) -> Array:
        return self.cotangent + self._pull(self.z, adjoint).z - adjoint

    def certificate(self, z: Array) -> tuple[Array, Bound]:
        """``|M||f(ẑ) − ẑ|``, at most what the allowed residual makes of it."""
        return self._through(self._inverse, self.residual(z)), self._proved(
            self.z_error, self.claims.forward, self._inverse, self._system
        )

    def adjoint_certificate(self, adjoint: Array) -> tuple[Array, Bound]:
        inverse, system = transposed(self._inverse), transposed(self._system)
        allowed = self._proved(self.adjoint_error, self.backward, inverse, system)
        return self._through(inverse, self.adjoint_residual(adjoint)), allowed

    @cached_property
    def _system(self) -> Array:
        """About ``|I − J|`` within the allowed error, (g, s, s)."""
        changes = np.max([np.abs(change) for change in self._moves], axis=0)
        return np.abs(np.eye(self.rows[1]) - self.found.J) + 2.0 * changes

    def _proved(self, error: Bound, claim: Accuracy, inverse: Array, system: Array) -> Bound:
        if claim.of == "residual" and not self.arithmetic.storage:
            return error
        return Bound({name: self._through(inverse, self._through(system, term)) for name, term in error.terms.items()})

    def _through(self, matrix: Array, vector: Array) -> Array:
        return apply(matrix, self._flat(vector)).reshape(self.shape)

    def residual_floor(self, claim: Accuracy) -> Array:
        z = self._flat(self.z)
        stored = self.stored(z)
        left = self.noise + self._solve_rounding(self.found.growth, z) + stored + apply(np.abs(self.found.J), stored)
        return np.asarray(left.reshape(self.problem.n, -1).sum(axis=1))

    def adjoint_floor(self, claim: Accuracy) -> Array:
        answer, growth = self._flat(self.adjoint), transposed(self.found.growth)
        left = self._flat(self._pulls[3]) + self._solve_rounding(growth, answer) + 2.0 * self.adjoint_moved
        return np.asarray((left + self.stored(answer)).reshape(self.problem.n, -1).sum(axis=1))


def _blocks(parts: Parts) -> dict[str, Array]:
    return {**parts.theta, "x": parts.x}


def _known(array: Array) -> Array:
    return np.where(np.isnan(array), np.inf, array)


def _product(left: Array, right: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        found = left @ right
    return np.asarray(np.where(np.isnan(found), np.inf, found))
