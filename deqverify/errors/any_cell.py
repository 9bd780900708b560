"""The judge of any cell: allowed errors by ball arithmetic, entry by entry (theory: balls, theory: krawczyk)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from flint import ctx

from deqverify.bounds import Bound
from deqverify.cells import Contraction
from deqverify.claims import Accuracy, Claims
from deqverify.dtypes import Array
from deqverify.errors import passes
from deqverify.errors.balls import BallErrors, Blocks
from deqverify.errors.judge import Direction, weighed
from deqverify.errors.second import second as second_errors
from deqverify.oracle.balls import balls, middle
from deqverify.oracle.closed import OracleError
from deqverify.oracle.differences import slope
from deqverify.oracle.krawczyk import apply, transposed
from deqverify.oracle.objective import Objective
from deqverify.oracle.polished import BITS
from deqverify.oracle.second import second_derivative
from deqverify.problem import Problem

LAST_BIT = 2.0**-53


class BallJudge:
    """Magnitudes are entries. Where nothing can be enclosed every bound is infinite, and nothing is in range."""

    def __init__(
        self,
        problem: Problem,
        claims: Claims,
        dtype: str,
        cotangent: Array | None = None,
        near: Array | None = None,
    ):
        self.problem, self.claims, self.dtype = problem, claims, dtype
        self._of = Objective(problem.B, problem.Y, problem.loss) if cotangent is None else None
        self._given = cotangent
        self._start = near if near is not None and problem.certificate is None and np.isfinite(near).all() else None

    @cached_property
    def errors(self) -> BallErrors:
        of = self.problem
        known = {"cotangent": self._given, "objective": self._of, "start": self._start}
        return BallErrors(of.cell, of.theta, of.x, self.claims, self.dtype, **known)  # type: ignore[arg-type]

    @property
    def z(self) -> Array:
        return self.errors.z

    @property
    def adjoint(self) -> Array:
        return self.errors.adjoint

    @cached_property
    def _pulled(self) -> Blocks:
        return self.errors.pulled()

    @cached_property
    def pulled(self) -> dict[str, Array]:
        return {name: value for name, (value, _) in self._pulled.items()}

    @cached_property
    def gradient(self) -> dict[str, Array]:
        return {name: value for name, (value, _) in self.errors.gradient.items()}

    @cached_property
    def in_range(self) -> bool:
        return self.errors.decided and self.errors.in_range

    def states(self, difference: Array) -> Array:
        return np.abs(difference)

    def adjoints(self, difference: Array) -> Array:
        return np.abs(difference)

    @property
    def z_error(self) -> Bound:
        return self.errors.z_error

    @property
    def z_own(self) -> Array:
        return LAST_BIT * np.abs(self.z)

    @cached_property
    def adjoint_error(self) -> Bound:
        return self.errors.adjoint_error()

    def pulled_error(self, block: str, given: Array | None = None) -> Bound:
        return (self._pulled if given is None else self.errors.pulled(given))[block][1]

    def pulled_own(self, block: str) -> Array:
        return LAST_BIT * np.abs(self.pulled[block])

    def tangent(self, direction: Direction) -> tuple[Array, Bound]:
        """``dz = (I − J)⁻¹(∂f/∂θ dθ + ∂f/∂x dx)``: the cell's push-forward over the box of ẑ, at the precision of the
        dtype, leaves ``|push(dz̄) − dz̄|``; through ``|M|`` and ``G`` that bounds the error (theory: tangent)."""
        theta = {name: direction[name] for name in self.problem.theta}
        return passes.tangent(self.errors, theta, direction["x"])

    @property
    def start_error(self) -> Bound:
        found = self.problem.certificate
        return passes.start_gradient(self.errors, found if isinstance(found, Contraction) else None)

    def gradient_error(self, block: str) -> Bound:
        return self.errors.gradient[block][1]

    @property
    def value_error(self) -> Bound:
        return self.errors.value[1]

    @property
    def value_size(self) -> float:
        assert self._of is not None
        return float(np.sum(self._of.loss.value_terms(middle(self.errors.outputs), self._of.Y)))

    @property
    def enclosure_rounding(self) -> Array:
        return LAST_BIT * np.abs(self.z)

    def stretch(self, claim: Accuracy) -> float:
        """``1 + ‖J‖_∞ + ‖J‖₁ ≥ ‖I − J‖`` in any of the norms, over the box."""
        size = self.errors.exact.J
        if not size.size:
            return 1.0
        return 1.0 + float(np.abs(size).sum(axis=1).max() + np.abs(size).sum(axis=2).max())

    def evaluation_floor(self, z: Array) -> Array:
        noise = self.errors.evaluation_noise(z) + 2.0 * self.errors.arithmetic.storage * np.abs(z)
        return np.asarray(noise.reshape(self.problem.n, -1).sum(axis=1))

    def error(self, z: Array) -> Array:
        return np.abs(z - self.z)

    def residual(self, z: Array) -> Array:
        return self.errors.exact.residual(z)

    def adjoint_residual(self, adjoint: Array) -> Array:
        exact = self.errors.exact
        with ctx.workprec(BITS):
            given = balls(adjoint)
            return middle(self.errors.cotangent_balls + exact.pull(exact.candidate, given).z - given)

    def certificate(self, z: Array) -> tuple[Array, Bound]:
        """``|M||f(ẑ) − ẑ|``, at most what the allowed residual makes of it (theory: krawczyk)."""
        inverse, error = np.abs(self.errors.exact.M), self.z_error
        return self._through(inverse, self.residual(z)), self._proved(error, self.claims.forward, inverse, self._system)

    def adjoint_certificate(self, adjoint: Array) -> tuple[Array, Bound]:
        """``|M|ᵀ|c + JᵀΛ̂ − Λ̂|`` (theory: allowed-adjoint)."""
        inverse, system = transposed(np.abs(self.errors.exact.M)), transposed(self._system)
        allowed = self._proved(self.adjoint_error, self.errors.backward, inverse, system)
        return self._through(inverse, self.adjoint_residual(adjoint)), allowed

    @cached_property
    def _system(self) -> Array:
        """At least ``|I − J|`` over the box, (n, s, s)."""
        J = self.errors.box.J
        return np.asarray(np.abs(np.eye(self.errors.s) - J.value) + J.radius)

    def _proved(self, error: Bound, claim: Accuracy, inverse: Array, system: Array) -> Bound:
        """A bound on ``|M||ρ|``. That on the error is one where it holds ρ itself; an error e that is claimed, or made
        by storing the answer, has ``|ρ| ≤ |I − J||e|``."""
        if claim.of == "residual" and not self.errors.arithmetic.storage:
            return error
        return Bound({name: self._through(inverse, self._through(system, term)) for name, term in error.terms.items()})

    def _through(self, inverse: Array, residual: Array) -> Array:
        flat = np.abs(residual).reshape(self.problem.n, -1)
        return apply(inverse, flat).reshape(residual.shape)

    def residual_floor(self, claim: Accuracy) -> Array:
        return passes.residual_floor(self.errors)

    def adjoint_floor(self, claim: Accuracy) -> Array:
        return passes.adjoint_floor(self.errors)

    def objective(self) -> tuple[float, float]:
        value = self.errors.value[0]
        return value, 2.0 * LAST_BIT * abs(value)

    def off_second(
        self, found: Direction, first: Direction, second: Direction
    ) -> dict[str, tuple[float, Bound, float]]:
        """Against central differences of polished gradients; at a kink nothing is known."""
        theta = {name: first[name] for name in self.problem.theta}
        bounds = second_errors(self.errors, theta, first["x"])
        try:
            true = second_derivative(self.errors.exact, self.errors.cotangent, first)
        except OracleError:
            return {}
        return {block: weighed(found[block], *true[block], bounds[block], d) for block, d in second.items()}

    def off_slope(self, gradient: Direction, direction: Direction, accuracy: float) -> tuple[float, float]:
        """Against central differences of the polished equilibrium; at a kink nothing is known, and 0 ± ∞ returned."""
        assert self._of is not None
        try:
            true, off = slope(self.errors.exact, self._of, direction, accuracy)
        except OracleError:
            return 0.0, float("inf")
        claimed = sum(float(np.sum(gradient[block] * d)) for block, d in direction.items())
        return abs(claimed - true), off + 2.0 * LAST_BIT * abs(true)
