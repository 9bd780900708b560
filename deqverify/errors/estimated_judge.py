"""The judge of a cell that can only be called, continued: the adjoint, gradients, and what else laws ask."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from deqverify.bounds import Bound
from deqverify.cells import Parts
from deqverify.claims import Accuracy
from deqverify.dtypes import Array, dtype, round_to
from deqverify.errors.claimed import accepted, claimed, spread
from deqverify.errors.estimated import CARRIED, CLAIMED, COTANGENT, CURVATURE, LAST_BIT, OWN, Located, known
from deqverify.errors.judge import Direction
from deqverify.errors.magnitudes import product, well_inside
from deqverify.oracle.estimated import SAFETY, signs, units
from deqverify.oracle.krawczyk import apply, settled, transposed

CORNERS = 16
"""Random corners of the boxes of ẑ and Λ̂ at which the pull-back is looked at."""


class EstimatedJudge(Located):
    """Magnitudes are entries. Where no equilibrium was found, or one that is harder to find than that of the user's own
    example, bounds are infinite and nothing is in range."""

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
        off = {k: known(SAFETY * np.maximum(v, unit * np.abs(blocks[k]))) for k, v in off.items()}
        return blocks, back, off, known(SAFETY * np.maximum(off_back, unit * np.abs(back)))

    def _pull(self, z: Array, adjoint: Array) -> Parts:
        return self.problem._cell.pull(self.problem.theta, self.problem.x, z, adjoint)

    @cached_property
    def adjoint_moved(self) -> Array:
        """What an allowed error of ẑ makes of ``(∂f/∂z)ᵀΛ``, (g, s)."""
        moved, adjoint = np.zeros(self.rows), self.adjoint.reshape(self.rows)
        for change in self._moves:
            moved = np.maximum(moved, np.abs(apply(transposed(change), adjoint)))
        return 2.0 * known(moved)

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
        """Of every block: rounding of the pull, and what allowed errors of ẑ and Λ̂ make of it, from corners of both
        boxes, those of ẑ in opposite pairs."""
        blocks, _, rounding, _ = self._pulls
        total = self._adjoint_error(given).total
        if not np.isfinite(total).all() or not np.isfinite(self._e).all():
            return {k: Bound({self._rounding: np.full(np.shape(v), np.inf)}) for k, v in blocks.items()}
        squares = {k: np.zeros(np.shape(v)) for k, v in blocks.items()}
        for k in range(CORNERS):
            way = signs(f"equilibrium {k // 2}", self.shape) * (-1.0) ** k * self._e.reshape(self.shape)
            other = signs(f"adjoint {k}", self.shape) * total
            for name, value in _blocks(self._pull(self.z + way, self.adjoint + other)).items():
                squares[name] += (value - blocks[name]) ** 2 / CORNERS
        return {
            name: Bound(
                {
                    self._rounding: rounding[name] + self.stored(value),
                    CARRIED: known(self._most(name) * np.sqrt(squares[name])),
                }
            )
            for name, value in blocks.items()
        }

    def _most(self, block: str) -> float:
        """How much more than its root mean square over random corners a sum ``Σ ±w_k`` can be: ``Σ|w_k| ≤ √K‖w‖₂`` for
        its K terms, an equilibrium's and an adjoint's entry each, and half as much again for so few corners."""
        terms = 2 * (np.prod(self.shape) if block != "x" or self.problem._cell.coupled else np.prod(self.shape[1:]))
        return max(SAFETY, 1.5 * float(np.sqrt(terms)))

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
        for z in self._corners(self.z, self._e):
            there = cell.push(self.problem.theta, self.problem.x, z, along)
            moved = np.maximum(moved, self._flat(there - dz))
        answer = self._flat(dz)
        unit = SAFETY * self.rows[1] * dtype(self.dtype).unit_roundoff
        noise = unit * (apply(np.abs(found.J), answer) + self._flat(still))
        solve = self._solve_rounding(found.growth, answer)
        fixed = apply(self._inverse, noise + 2.0 * moved) + spread(found.M, solve) + self.stored(answer)

        def claim(b: Array) -> Array:
            image = apply(np.abs(found.J), b) + noise + solve
            return claimed(self.claims.forward, self.arithmetic, found.M, answer, image)

        b = settled(lambda b: fixed + claim(b), fixed)
        return dz, self._bound({self._rounding: fixed, CLAIMED: claim(b)})

    @cached_property
    def _gradient(self) -> dict[str, tuple[Array, Bound]]:
        (Z, e), dF, n = self._columns, np.abs(self._slopes), self.problem.n
        value = self._slopes @ self.z.reshape(n, -1)
        rounding = 2 * (n + 1) * self.arithmetic.unit * (dF @ Z.T) + self.stored(value) + self._underflow
        carried = product(self.dF_error, (Z + e).T) + product(dF, e.T)
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
        state = float((np.abs(self.z) + self.z_error.total).sum())
        given = 0.0 if self._given is not None else self.cotangent_error
        errors = self._cached
        cotangent = float((np.abs(self.adjoint) + self._adjoint_error(given).total).sum())
        others = [float((np.abs(self.pulled[name]) + error.total).sum()) for name, error in errors.items()]
        return well_inside(self.arithmetic.largest, cotangent, state, others)

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
