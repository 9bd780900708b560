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
from deqverify.claims import DIRECT, Claims
from deqverify.dtypes import Array, dtype
from deqverify.errors.claimed import accepted, claimed
from deqverify.errors.magnitudes import product
from deqverify.oracle.estimated import Found, signs
from deqverify.oracle.krawczyk import apply, settled
from deqverify.oracle.objective import Objective
from deqverify.wrapped_problem import WrappedProblem

CLAIMED = "estimated effect of the claimed solver accuracy"
CURVATURE = "estimated curvature"
COTANGENT = "estimated effect of the cotangent's error"
CARRIED = "estimated effect of the equilibrium's error"
OWN = "estimated rounding of the oracle in float64"

LAST_BIT = 2.0**-53


class Located:
    """The equilibrium and its error, and what of an objective depends on nothing else. Rows are (g, s), as in
    :class:`deqverify.oracle.estimated.Found`."""

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
        largest = max(1.0, float(np.abs(self.z).max(initial=0.0)), float(np.abs(self.problem.x).max(initial=0.0)))
        return (sum(self.rows) + self.problem.p) * dtype(self.dtype).underflow * largest

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
        first = e = settled(lambda e: fixed + claim(e), fixed)
        if not np.isfinite(e).all():
            return none, none, none, none
        self._changes = [J - self.found.J for J in self.found.jacobians(list(self._corners(self.z, e)))]
        defect = np.max([self._inverse @ np.abs(change) for change in self._changes], axis=0)
        defect = 2.0 * np.where(np.isnan(defect), np.inf, defect)
        e = settled(lambda e: fixed + claim(e) + apply(defect, e), fixed)
        if not np.isfinite(e).all():
            return none, none, none, none
        self._wider = float(np.max(e / np.maximum(first, self._underflow), initial=1.0))
        return rounding, claim(e), apply(defect, e), own

    def _corners(self, middle: Array, error: Array) -> Iterator[Array]:
        """Of the box of ``error`` about ``middle`` (n, *state), in opposite pairs: what passes through the middle lies
        between the two, a kink too."""
        box = error.reshape(self.shape)
        for direction in (np.ones(self.shape), signs("corner", self.shape)):
            yield middle + direction * box
            yield middle - direction * box

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
        """What ∂f/∂z changes by at corners of that box: as at those of a box before curvature was counted, in
        proportion."""
        if not np.isfinite(self._e).all():
            return [np.full_like(self.found.J, np.inf)]
        return [self._wider * change for change in self._changes]

    # The outputs

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
        return product(B, e) + 2 * (len(Z) + 1) * self.arithmetic.unit * (B @ Z) + self._underflow

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
        off = product(B.T, self.dF_error + 2 * unit * np.abs(self._slopes)) + self._underflow
        return off.T.reshape(self.shape)


def known(array: Array) -> Array:
    return np.where(np.isnan(array), np.inf, array)
