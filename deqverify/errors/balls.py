"""The allowed errors of an implementation of any cell, by ball arithmetic, entry by entry.

Three reasons let a right implementation differ from the truth, and make the terms of every bound:

* *rounding*: ``function_error`` (a claim, 2 or more) times the radius of one evaluation of the cell in balls at the
  precision of the dtype forgives another order of summation and elementary functions that are off by as many units of
  rounding, since a ball's are off by one at least (theory: rounding-of-a-cell); a direct solve is forgiven
  ``3su |PᵀL||U||z|`` besides (Higham, *Accuracy and Stability of Numerical Algorithms*, Theorem 9.4), in the 2-norm;
  where f is not linear in z, a solver stops by a norm, and all that it leaves is forgiven so;
* the *claimed* solver accuracy, in its own norm through the rows of ``M ≈ (I − J)⁻¹``;
* *curvature*: what the Jacobian changes over the box in which answers lie, by Krawczyk's test (theory: krawczyk).

States are (n, *state) outside and (n, s) inside, s entries a data point.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from flint import ctx

from deqverify.bounds import Arithmetic, Bound
from deqverify.cells import Cell, LinearCell, Parts, Theta
from deqverify.claims import DIRECT, Claims
from deqverify.dtypes import Array, dtype
from deqverify.errors.claimed import accepted, claimed, spread
from deqverify.errors.magnitudes import product, well_inside
from deqverify.oracle.balls import Balls, balls, beside, magnitude, middle, precision, radius
from deqverify.oracle.krawczyk import ROUNDED, Jacobian, above, apply, settled, transposed
from deqverify.oracle.objective import Objective
from deqverify.oracle.polished import BITS, Polished

ROUNDS = 3
"""Boxes tried before a data point is undecided; the first suffices nearly always."""

CLAIMED = "claimed solver accuracy, amplified"
CURVATURE = "curvature (Krawczyk)"
COTANGENT = "error of the cotangent, amplified"
CARRIED = "error of the equilibrium, carried along"

Blocks = dict[str, tuple[Array, Bound]]
"""What is true of every block, rounded to float64, and what an implementation may differ from that."""


@dataclass(frozen=True)
class Box:
    """Where allowed answers lie: within ``error`` (n, s) of the equilibrium, and the Jacobian over ``wide`` ≥ error."""

    rounding: Array
    claimed: Array
    curvature: Array
    wide: Array
    J: Jacobian

    @property
    def error(self) -> Array:
        return self.rounding + self.claimed + self.curvature


class BallErrors:
    """Bounds for one problem, one implementation's claims and one dtype.

    θ and x are float64 arrays that the dtype represents; ``cotangent`` (n, *state) is what is pulled back, or that of
    an ``objective``. ``start`` is where Newton's method begins: where a cell has no certificate, the implementation's
    own answer, so that the equilibrium is the one that it found.

    An implementation's ẑ is within :attr:`z_error` of :attr:`z` if it meets its claim and lies in the box of
    Krawczyk's test; with a contraction certificate, wherever it lies. Not :attr:`decided`: bounds are infinite, and
    values the best of float64.
    """

    def __init__(
        self,
        cell: Cell,
        theta: Theta,
        x: Array,
        claims: Claims,
        dtype_name: str,
        *,
        cotangent: Array | None = None,
        objective: Objective | None = None,
        start: Array | None = None,
    ):
        if (cotangent is None) == (objective is None):
            raise ValueError("cotangent: pass either a cotangent or an objective, whose readout makes one")
        self.claims, self.dtype_name, self.objective = claims, dtype_name, objective
        self.computed = claims.computes_in.get(dtype_name, dtype_name)
        self.arithmetic = Arithmetic.of(dtype_name, self.computed)
        self.backward = claims.backward or DIRECT
        self.exact = Polished(cell, theta, x, start)
        self._given = cotangent
        self.n, self.s = self.exact.n, self.exact.s
        self._rounding = f"rounding in {dtype_name}, amplified"
        self.shape = (self.n, *self.exact.state)

    def about(self, cotangent: Array) -> BallErrors:
        """The same problem, claims and box of z, with another cotangent."""
        twin = copy.copy(self)
        for name in list(vars(self)):
            if isinstance(getattr(type(self), name, None), cached_property) and name not in ("z", "box", "_star"):
                del vars(twin)[name]
        twin._given, twin.objective = cotangent, None
        return twin

    @cached_property
    def z(self) -> Array:
        """z*, (n, *state)."""
        return np.nan_to_num(middle(self.exact.candidate))

    @cached_property
    def z_error(self) -> Bound:
        """Of ẑ, (n, *state): the least e found with ``d + claim(e) + G e ≤ e``, d that of :meth:`direct`, or where f is
        not linear in z of :func:`accepted`; ``G = |I − M(I − [J])|`` over the box ``z* ± e``."""
        return self.bound(self.box.rounding, self.box.claimed, self.box.curvature)

    @cached_property
    def decided(self) -> bool:
        """Whether Krawczyk's test encloses what is allowed, and the adjoint, for every data point."""
        return self._adjoint is not None and bool(np.isfinite(self._adjoint_terms(0.0)[-1]).all())

    def evaluation_noise(self, z: Array) -> Array:
        """``function_error`` (claims) times the radius of ``f(z)`` in balls of the dtype, (n, *state)."""
        with precision(self.computed):
            image = self.exact.cell.step(self.exact.theta_balls, self.exact.x_balls)(beside(z, self.arithmetic.unit))
        return self.claims.function_error * radius(image)

    @cached_property
    def box(self) -> Box:
        exact, z, M = self.exact, np.abs(self.z).reshape(self.n, self.s), np.abs(self.exact.M)
        noise = self.evaluation_noise(self.z).reshape(z.shape)
        if isinstance(exact.cell, LinearCell):
            rounding = self.direct(exact.M, noise, exact.growth, z)
        else:
            left = noise + self.solve_rounding(exact.growth, z)
            rounding = accepted(self.arithmetic, M, left) + self.stored(z)

        def claim(e: Array, J: Jacobian) -> Array:
            return claimed(self.claims.forward, self.arithmetic, M, z, apply(J.size, e) + noise)

        def allow(J: Jacobian, defect: Array) -> Callable[[Array], Array]:
            return lambda e: rounding + claim(e, J) + apply(defect, e)

        J = Jacobian(exact.J, np.zeros_like(exact.J))
        e = above(settled(allow(J, J.value * 0.0), rounding))
        for attempt in range(ROUNDS):
            J = exact.jacobian(balls(exact.candidate, e.reshape(self.shape)))
            defect = J.defect(exact.M)
            allowed = allow(J, defect)(e) * ROUNDED
            failed = ~np.all(allowed < e, axis=-1, keepdims=True)
            if not failed.any():
                break
            # Over a larger box the defect is no smaller: what it allows now is the least that may be proved.
            more = settled(allow(J, defect), allowed)
            e = np.where(failed, above(more) if attempt < ROUNDS - 1 else np.inf, e)
        wide = e
        for _ in range(2):  # what e allows is a bound too, and smaller; where a batch shares a claim, all or none
            allowed = allow(J, defect)(e) * ROUNDED
            e = np.where(np.isfinite(allowed), np.minimum(allowed, e), np.inf)
        return Box(rounding * ROUNDED, claim(e, J) * ROUNDED, apply(defect, e) * ROUNDED, wide, J)

    def direct(self, inverse: Array, noise: Array, growth: Array, answer: Array) -> Array:
        """What the solve of a linear equation leaves in each entry, (n, s): ``|M| noise``, noise (n, s) that of the
        system and its right side, and what :meth:`solve_rounding` may leave however it is spread, since QR and SVD
        keep a norm of it alone, and iterations see no norm whose squares underflow (theory: rounding-of-a-cell)."""
        solve = spread(inverse, self.solve_rounding(growth, answer), self.arithmetic.unseen)
        return apply(np.abs(inverse), noise) + solve + self.stored(answer)

    def solve_rounding(self, growth: Array, solution: Array) -> Array:
        """``3su |PᵀL||U||solution|``, and what may underflow, (n, s)."""
        return 3 * self.s * self.arithmetic.unit * apply(growth, solution) + self.underflow

    @cached_property
    def underflow(self) -> float:
        """``(n + s + p)`` times what one operation may lose by underflow, times the largest number in reach."""
        exact = self.exact
        largest = max([1.0, *(float(np.abs(a).max(initial=0.0)) for a in (*exact.theta.values(), exact.x, self.z))])
        outputs = len(self.objective.B) if self.objective else 0
        return (self.n + self.s + outputs) * dtype(self.computed).underflow * largest

    def stored(self, value: Array) -> Array:
        """Of an answer rounded for storage in a narrower dtype, and of the truth rounded to float64."""
        underflow = dtype(self.dtype_name).underflow if self.arithmetic.storage else 0.0
        return (self.arithmetic.storage + 2.0**-53) * np.abs(value) + underflow

    def bound(self, rounding: Array, claim: Array, curvature: Array, cotangent: Array | None = None) -> Bound:
        terms = {self._rounding: rounding, CLAIMED: claim, CURVATURE: curvature, COTANGENT: cotangent}
        return Bound({name: term.reshape(self.shape) for name, term in terms.items() if term is not None})

    @cached_property
    def _star(self) -> Balls | None:
        """The equilibrium in balls, if every data point is decided."""
        if not np.isfinite(self.box.error).all():
            return None
        return self.exact.within(self.box.J, self.box.wide.reshape(self.shape))

    @cached_property
    def outputs(self) -> Balls:
        """F, (p, n), in balls; of an objective."""
        with ctx.workprec(BITS):
            return self._of.outputs(self.exact.candidate)

    @property
    def _of(self) -> Objective:
        if self.objective is None:
            raise ValueError("objective: this is asked of an objective, and a cotangent was given; pass objective=")
        return self.objective

    @cached_property
    def _slopes(self) -> Balls:
        return self._of.gradient(self.outputs)

    @cached_property
    def cotangent_balls(self) -> Balls:
        """c, (n, *state): as given, or ``Bᵀ∂L/∂F``."""
        if self._given is not None:
            return balls(self._given)
        with ctx.workprec(BITS):
            return np.asarray((balls(self._of.B).T @ self._slopes).T, dtype=object).reshape(self.shape)

    @cached_property
    def _adjoint(self) -> Balls | None:
        return None if self._star is None else self.exact.adjoint(self._star, self.cotangent_balls, self.box.J)

    @cached_property
    def adjoint(self) -> Array:
        """``Λ = (I − Jᵀ)⁻¹c``, (n, *state)."""
        if self._adjoint is not None:
            return middle(self._adjoint)
        c = middle(self.cotangent_balls).reshape(self.n, self.s)
        return np.nan_to_num(apply(transposed(self.exact.M), c), posinf=0.0).reshape(self.shape)

    def adjoint_error(self, given: Array | float = 0.0) -> Bound:
        """Of Λ̂, (n, *state), for a cotangent off by ``given``: the least a found with
        ``d + |M|ᵀ(given + b) + claim(a) + Gᵀa ≤ a``.

        b is ``|c + Jᵀ([z* ± e])Λ − Λ|``, what an error of ẑ makes of the adjoint equation; d that of :meth:`direct`,
        with :attr:`adjoint_noise`; ``G = |I − (I − [J])M|`` (theory: allowed-adjoint).
        """
        rounding, claim, curvature, cotangent, _ = self._adjoint_terms(given)
        return self.bound(rounding, claim, curvature, cotangent if np.any(given) else None)

    def _adjoint_terms(self, given: Array | float) -> tuple[Array, Array, Array, Array, Array]:
        """Rounding, claim, curvature, the given error's part, and their sum, (n, s)."""
        if self._adjoint is None:
            none = np.full((self.n, self.s), np.inf)
            return none, none, none, none, none
        exact, J, answer = self.exact, self.box.J, np.abs(self.adjoint).reshape(self.n, self.s)
        inverse, size = transposed(exact.M), np.abs(transposed(exact.M))
        defect, off = transposed(J.right_defect(exact.M)), np.broadcast_to(given, self.shape).reshape(self.n, self.s)
        noise, moved = self.adjoint_noise, self.adjoint_moved
        rounding = self.direct(inverse, noise, transposed(exact.growth), answer)
        curvature, cotangent = apply(size, moved), apply(size, off)

        def claim(a: Array) -> Array:
            image = apply(transposed(J.size), a) + moved + off + noise
            return claimed(self.backward, self.arithmetic, inverse, answer, image)

        fixed = rounding + curvature + cotangent
        a = settled(lambda a: fixed + claim(a) + apply(defect, a), fixed)
        terms = (rounding, claim(a), curvature + apply(defect, a), cotangent)
        rounding, claims, curvature, cotangent = (term * ROUNDED for term in terms)
        return rounding, claims, curvature, cotangent, rounding + claims + curvature + cotangent

    @cached_property
    def adjoint_noise(self) -> Array:
        """``function_error`` (claims) times the radius of ``JᵀΛ`` in balls of the dtype, (n, s)."""
        return self.claims.function_error * radius(self._points.z).reshape(self.n, self.s)

    @cached_property
    def _points(self) -> Parts:
        """The pull-back of the adjoint beside the equilibrium, in balls of the dtype."""
        with precision(self.computed):
            return self.exact.pull(beside(self.z, self.arithmetic.unit), beside(self.adjoint, self.arithmetic.unit))

    @cached_property
    def adjoint_moved(self) -> Array:
        """``|c + JᵀΛ − Λ|`` over the box of z, (n, s)."""
        box, adjoint = balls(self.exact.candidate, self.box.error.reshape(self.shape)), balls(self.adjoint)
        if self._adjoint is not None:
            adjoint = self._adjoint
        with ctx.workprec(BITS):
            moved = self.cotangent_balls + self.exact.pull(box, adjoint).z - adjoint
        found = magnitude(moved).reshape(self.n, self.s)
        return np.where(np.isnan(found), np.inf, found)

    def pulled(self, given: Array | float = 0.0) -> Blocks:
        """Every block of θ and "x": its gradient for the cotangent, and the bound on what an implementation's differs
        by, the cotangent being off by ``given``.

        The cell's own pull-back evaluated on the balls ``z* ± e`` and ``Λ ± a`` at the precision of the dtype: their
        radius, the distance of their midpoint from the truth, ``function_error − 1`` times the radius at ``z*`` and Λ,
        and ``u'`` times the gradient (theory: allowed-gradient).
        """
        rounding, _, _, cotangent, total = self._adjoint_terms(given)
        exact = self._exact_pull
        if not np.isfinite(total).all():
            return {k: (v, Bound({self._rounding: np.full(np.shape(v), np.inf)})) for k, v in exact.items()}
        loose = not (self.claims.forward.exact and self.backward.exact)
        everything = self._spread(exact, self.box.error, total)
        alone = self._spread(exact, self.box.rounding, rounding + cotangent) if loose else everything
        bounds = {}
        for name, value in exact.items():
            terms = {self._rounding: alone[name]}
            if loose:
                terms[CLAIMED] = np.maximum(everything[name] - alone[name], 0.0)
            bounds[name] = value, Bound(terms)
        return bounds

    def _spread(self, exact: dict[str, Array], e: Array, a: Array) -> dict[str, Array]:
        with precision(self.computed):
            z, adjoint = (balls(x, r.reshape(self.shape)) for x, r in ((self.z, e), (self.adjoint, a)))
            moved, still = _blocks(self.exact.pull(z, adjoint)), _blocks(self._points)
        found = {}
        for name, value in exact.items():
            again = (self.claims.function_error - 1.0) * radius(still[name])
            off = radius(moved[name]) + np.abs(middle(moved[name]) - value) + again
            off = off * ROUNDED + self.stored(value) + self.underflow
            found[name] = np.where(np.isnan(off), np.inf, off)
        return found

    @cached_property
    def _exact_pull(self) -> dict[str, Array]:
        if self._star is None or self._adjoint is None:
            with np.errstate(all="ignore"):
                parts = self.exact.cell.pull(self.exact.theta, self.exact.x, self.z, self.adjoint)
            return {k: np.nan_to_num(np.asarray(v, dtype=np.float64)) for k, v in _blocks(parts).items()}
        with ctx.workprec(BITS):
            return {k: middle(v) for k, v in _blocks(self.exact.pull(self._star, self._adjoint)).items()}

    @cached_property
    def _states(self) -> tuple[Array, Array]:
        """``|Z|`` and the error of Z, (s, n): data points as columns, as losses have them."""
        return np.abs(self.z).reshape(self.n, self.s).T, self.z_error.total.reshape(self.n, self.s).T

    @cached_property
    def F(self) -> Array:
        """Of the outputs, (p, n): ``e_F = |B|e_z + (s + 1) u |B||Z| + t``."""
        B, (Z, e) = np.abs(self._of.B), self._states
        return product(B, e) + (self.s + 1) * self.arithmetic.unit * (B @ Z) + self.underflow

    @cached_property
    def dF(self) -> Array:
        """Of ``∂L/∂F``, (p, n): ``e_dF = spread(F, Y, e_F) + (p + 6) u terms(F, Y) + t``."""
        of, F = self._of, middle(self.outputs)
        rounding = (len(of.B) + 6) * self.arithmetic.unit * of.loss.terms(F, of.Y)
        return of.loss.spread(F, of.Y, self.F) + rounding + self.underflow

    @cached_property
    def cotangent(self) -> Array:
        """c, (n, *state): as given, or ``Bᵀ∂L/∂F``."""
        return middle(self.cotangent_balls)

    @cached_property
    def cotangent_error(self) -> Array:
        """Of ``Bᵀ∂L/∂F``, (n, *state): ``|B|ᵀ(e_dF + ((p + 1) u + u')|∂L/∂F|) + t``."""
        B = np.abs(self._of.B)
        unit = (len(B) + 1) * self.arithmetic.unit + self.arithmetic.storage
        off = product(B.T, self.dF + unit * np.abs(middle(self._slopes))) + self.underflow
        return off.T.reshape(self.shape)

    @cached_property
    def gradient(self) -> Blocks:
        """Of an objective: :meth:`pulled` with :attr:`cotangent_error`, and "B", (p, s),
        ``e_B = e_dF (|Z| + e_z)ᵀ + |dF|e_zᵀ + (n + 1) u |dF||Z|ᵀ + t``."""
        (Z, e), dF, unit = self._states, np.abs(middle(self._slopes)), self.arithmetic.unit
        with ctx.workprec(BITS):
            value = middle(self._slopes @ self.exact.candidate.reshape(self.n, self.s))
        rounding = (self.n + 1) * unit * (dF @ Z.T) + self.stored(value) + self.underflow
        carried = product(self.dF, (Z + e).T) + product(dF, e.T)
        return self.pulled(self.cotangent_error) | {
            "B": (np.nan_to_num(value), Bound({CARRIED: carried, self._rounding: rounding}))
        }

    @cached_property
    def value(self) -> tuple[float, Bound]:
        """L and its bound, ``Σ(|dF| + spread(F, Y, e_F))e_F + (pn + 12) u Σ value_terms(F, Y) + t``; infinite where the
        balls of huge outputs are too wide for a loss."""
        of, F, dF = self._of, middle(self.outputs), np.abs(middle(self._slopes))
        with ctx.workprec(BITS):
            value = float(of.value(self.outputs))
        if not np.isfinite(value):
            return 0.0, Bound({self._rounding: np.asarray(np.inf)})
        carried = np.sum((dF + of.loss.spread(F, of.Y, self.F)) * self.F)
        rounding = (F.size + 12) * self.arithmetic.unit * np.sum(of.loss.value_terms(F, of.Y)) + self.underflow
        return value, Bound(
            {CARRIED: np.asarray(carried), self._rounding: np.asarray(rounding + 2.0**-53 * abs(value))}
        )

    @property
    def in_range(self) -> bool:
        """Whether all that a model computes stays :func:`well_inside` the dtype, with the errors that are allowed."""
        state = float((np.abs(self.z) + self.z_error.total).sum())
        blocks = self.gradient if self.objective else self.pulled()
        adjoint = self.adjoint_error(self.cotangent_error if self.objective else 0.0).total
        cotangent = float((np.abs(self.adjoint) + adjoint).sum())
        if self.objective:
            cotangent += float((np.abs(middle(self._slopes)) + self.dF).sum())
        others = [float((np.abs(value) + bound.total).sum()) for value, bound in blocks.values()]
        return well_inside(self.arithmetic.largest, cotangent, state, others)


def _blocks(parts: Parts) -> dict[str, Any]:
    return {**parts.theta, "x": parts.x}
