"""The judge of large states: from what certifies the equilibrium alone, without an inverse (theory: certified).

With A the amplification, ``1/(1 − rate)`` where f contracts and ``(1 + L)/μ`` where it is monotone, a residual r proves
an error of ``A‖r‖``. f is evaluated by running error analysis, in one pass for value and rounding.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from deqverify.bounds import Arithmetic, Bound
from deqverify.cells import Contraction, LinearCell, Monotone
from deqverify.cells.base import NearlyContracting
from deqverify.claims import Accuracy
from deqverify.dtypes import Array
from deqverify.errors.any_cell import BallJudge
from deqverify.errors.balls import CLAIMED
from deqverify.errors.passes import DUAL, inexact, length
from deqverify.inexact import Inexact
from deqverify.oracle.krawczyk import ROUNDED, apply, dense, growths, transposed, unit_pulls
from deqverify.oracle.newton import equilibrium

MOST_FOR_BALLS = 32
"""Up to so many entries of a state every bound comes from balls, in less than a second."""

_SWEEPS = 300  # at a rate of .89 they leave 2⁻⁵⁰ of the first error; beyond it a few dense steps cost less
_NEAR = 2.0**-10
"""Where only the surroundings of an equilibrium contract: how far they are looked at, as a part of the state."""

_ORDER = {"1": 1.0, "2": 0.5, "rms": 0.5, "max": 0.0}
OWN = "rounding of the judge in float64, amplified"


class CertifiedJudge(BallJudge):
    """Magnitudes are norms of data points, (n,): for states the one in which f contracts, its dual for adjoints.

    What is not said here, as gradients, comes from balls, slowly. Where nothing contracts every bound is infinite.
    """

    @property
    def z(self) -> Array:
        return self._solved[0]

    @cached_property
    def _contraction(self) -> tuple[float, float, str]:
        """``A ≥ ‖(I − J)⁻¹‖``, ``‖J‖`` at most, and the norm, wherever answers lie."""
        match self.problem.certificate:
            case Contraction(rate, norm):
                return 1.0 / (1.0 - rate), rate, norm
            case Monotone(mu, lipschitz):
                return (1.0 + lipschitz) / mu, 1.0 + lipschitz, "2"
        cell = self.problem.cell
        if isinstance(cell, NearlyContracting):
            found = cell.nearby(self.problem.theta, self.problem.x, self.z, self._reach)
            if found:
                return 1.0 / (1.0 - found.rate), found.rate, found.norm
        return np.inf, np.inf, "max"

    @property
    def _reach(self) -> float:
        return _NEAR * float(np.abs(self.z).max(initial=0.0))

    @cached_property
    def _solved(self) -> tuple[Array, bool]:
        """An equilibrium in float64, by sweeps where they contract, else by Newton's method; whether it is one."""
        problem = self.problem
        theta, x = problem.theta, problem.x
        step, z = problem.cell.step(theta, x), np.zeros(problem.states) if self._start is None else self._start
        with np.errstate(all="ignore"):
            sweeps, done = 0 if isinstance(problem.certificate, Monotone) else _SWEEPS, False
            for _ in range(sweeps):
                image = step(z)
                done = bool(np.abs(image - z).max(initial=0.0) <= 2.0**-51 * np.abs(image).max(initial=0.0))
                z = image
                if done or not np.isfinite(z).all():
                    break
            if not done:
                z = equilibrium(problem.cell, theta, x, np.nan_to_num(z))
        return np.nan_to_num(z), bool(np.isfinite(z).all())

    def _evaluated(self, z: Array, unit: float) -> tuple[Array, Array]:
        """``f(z)`` and what rounding at ``unit`` may do to it, (n, *state)."""
        theta = {name: inexact(value, 0.0, unit) for name, value in self.problem.theta.items()}
        with np.errstate(all="ignore"):
            image = self.problem.cell.step(theta, inexact(self.problem.x, 0.0, unit))(inexact(z, 0.0, unit))
        return image.value, np.nan_to_num(image.error * ROUNDED, nan=np.inf)

    @cached_property
    def _arithmetic(self) -> Arithmetic:
        return Arithmetic.of(self.dtype, self.claims.computes_in.get(self.dtype, self.dtype))

    @cached_property
    def _own(self) -> Array:
        """What float64 leaves of the equilibrium, (n,)."""
        image, rounding = self._evaluated(self.z, 2.0**-52)
        return self._contraction[0] * self.states(np.abs(image - self.z) + rounding) * ROUNDED

    @property
    def _unseen(self) -> float:
        """What a residual's 2-norm may be though none is seen: products that underflow, and squares that do."""
        return self._arithmetic.tiny * int(np.prod(self.problem.state)) + self._arithmetic.unseen

    @cached_property
    def _left(self) -> Array:
        """What rounding may leave of a residual, in the 2-norm, (n,): twice one evaluation's, and ``3su(‖z‖ + ‖f‖)``;
        where f is linear, ``3su ‖|PᵀL||U||z|‖``."""
        s, unit, z = int(np.prod(self.problem.state)), self._arithmetic.unit, np.abs(self.z)
        _, noise = self._evaluated(self.z, 2 * unit)
        cell, theta = self.problem.cell, self.problem.theta
        if isinstance(cell, LinearCell):
            growth = growths(np.asarray(cell.matrix(theta))[None])
            solve = length(apply(growth, z.reshape(len(z), -1)), "2")
        else:
            solve = 2.0 * length(z, "2")
        return 2.0 * length(noise, "2") + 3 * s * unit * solve + self._unseen

    @cached_property
    def in_range(self) -> bool:
        largest = max(float(np.abs(self.z).max(initial=0.0)), float(np.abs(self.adjoint).max(initial=0.0)))
        return self._solved[1] and self._contraction[0] < np.inf and largest < self._arithmetic.largest / 64

    def states(self, difference: Array) -> Array:
        return length(difference, self._contraction[2])

    def adjoints(self, difference: Array) -> Array:
        return length(difference, DUAL[self._contraction[2]])

    @cached_property
    def z_error(self) -> Bound:
        """``A(left + claim) + u'‖z‖``, and :attr:`_own`; infinite where it exceeds what was looked at about z."""
        norm = self._contraction[2]
        found = self._allowed(self.claims.forward, self.z, self._left, norm, self._own)
        if self.problem.certificate is None:
            found = _within(found, self._reach)
        return found

    def _allowed(self, claim: Accuracy, answer: Array, left: Array, norm: str, own: Array) -> Bound:
        """Of the ``norm`` of an answer's error. The claim is one on the implementation's own image, whose size is at
        most ``‖answer‖ + c‖J‖e``, c from this norm to the claim's: ``e = A(left + k(a + b(‖answer‖ + c‖J‖e)))``."""
        amplification, size, _ = self._contraction
        n, s = len(answer), int(np.prod(self.problem.state))
        stored = (self._arithmetic.storage + 2.0**-53) * length(answer, norm)
        rounding = amplification * left * _wider("2", norm, s)
        e = rounding + stored + own
        claimed = np.zeros(n)
        if not claim.exact:
            many = n if claim.per == "batch" else 1
            root = claim.root_count((s, n)) if claim.norm == "rms" else 1.0
            k = root * _wider(claim.norm, norm, s) * (1.0 if claim.of == "value" else amplification)
            grows = k * claim.rtol * _wider(norm, claim.norm, s) * many / root * max(size, 1.0)
            with np.errstate(invalid="ignore", over="ignore"):
                fixed = k * (claim.allows(claim.norms_of(answer)) + self._arithmetic.norm_floor)
                claimed = (fixed + grows * e.max(initial=0.0)) / (1.0 - grows) if grows < 1.0 else np.full(n, np.inf)
        name = f"rounding in {self.dtype}, amplified"
        return Bound({name: rounding + stored, CLAIMED: np.nan_to_num(claimed, nan=np.inf), OWN: own})

    def error(self, z: Array) -> Array:
        return self.states(z - self.z) + self._own

    def residual(self, z: Array) -> Array:
        return self._evaluated(z, 2.0**-52)[0] - z

    def certificate(self, z: Array) -> tuple[Array, Bound]:
        """``A‖f(ẑ) − ẑ‖``, at most what the allowed residual makes of it (theory: certified); anything where nothing
        certifies."""
        image, rounding = self._evaluated(z, 2.0**-52)
        amplification = self._contraction[0]
        if amplification == np.inf:  # times a residual of zero it is no number
            return self.states(image - z), Bound({OWN: np.asarray(np.inf)})
        own = Bound({OWN: amplification * self.states(rounding + 2.0**-52 * np.abs(z))})
        return amplification * self.states(image - z), self._from_residuals(self.z_error, self.claims.forward) + own

    def _from_residuals(self, error: Bound, claim: Accuracy) -> Bound:
        """An error e has a residual of at most ``(1 + ‖J‖)e``; a bound that was amplified from a residual holds it,
        where nothing is stored in a narrower dtype."""
        if claim.of == "residual" and not self._arithmetic.storage:
            return error
        return (self._contraction[0] * (1.0 + self._contraction[1])) * error

    @cached_property
    def cotangent(self) -> Array:
        """(n, *state); the objective's where none was given."""
        if self._given is not None:
            return self._given
        assert self._of is not None
        F = self._of.B @ self.z.reshape(self.problem.n, -1).T
        return (self._of.B.T @ self._of.loss.gradient(F, self._of.Y)).T.reshape(self.z.shape)

    @cached_property
    def _jacobian(self) -> Array:
        """``∂f/∂z`` in float64, (n, s, s)."""
        problem = self.problem
        with np.errstate(all="ignore"):
            found = unit_pulls(problem.cell, problem.theta, problem.x, self.z)
        return np.nan_to_num(np.asarray(dense(found, problem.n)))

    @cached_property
    def adjoint(self) -> Array:
        s, c = self._jacobian.shape[-1], self.cotangent
        try:
            found = np.linalg.solve(np.eye(s) - transposed(self._jacobian), c.reshape(len(c), s, 1))
        except np.linalg.LinAlgError:
            return np.zeros(c.shape)
        return np.asarray(found.reshape(c.shape))

    def _pulled_back(self, adjoint: Array, reach: Array | float, unit: float) -> tuple[Array, Array]:
        """``∂f/∂zᵀ adjoint`` over the box ``z ± reach`` and its error, rounded at ``unit``, (n, *state)."""
        problem, wide = self.problem, np.broadcast_to(reach, self.z.shape).copy()
        theta = {name: inexact(value, 0.0, unit) for name, value in problem.theta.items()}
        with np.errstate(all="ignore"):
            box = Inexact(self.z, np.nan_to_num(wide, posinf=1e300), unit)
            found = problem.cell.pull(theta, inexact(problem.x, 0.0, unit), box, inexact(adjoint, 0.0, unit)).z
        return found.value, np.nan_to_num(found.error * ROUNDED, nan=np.inf)

    def _per_point(self, norms: Array) -> Array:
        return norms.reshape(-1, *[1] * (self.z.ndim - 1))

    @cached_property
    def adjoint_error(self) -> Bound:
        """As :attr:`z_error`, in the dual norm; J is that at an allowed ẑ, within e of z in every entry, which changes
        the equation for Λ by ``|(J − J*)ᵀΛ|``. A direct solve is forgiven ``3su ‖(|PᵀL||U|)ᵀ|Λ|‖``."""
        norm, unit, s = DUAL[self._contraction[2]], self._arithmetic.unit, self._jacobian.shape[-1]
        flat = np.abs(self.adjoint).reshape(self.problem.n, s)
        _, noise = self._pulled_back(self.adjoint, 0.0, 2 * unit)
        _, moved = self._pulled_back(self.adjoint, self._per_point(self.z_error.total), 2.0**-52)
        solve = 3 * s * unit * length(apply(transposed(growths(self._jacobian)), flat), "2")
        left = 2.0 * length(noise, "2") + solve + self._unseen
        found = self._allowed(self.claims.backward or Accuracy(), self.adjoint, left, norm, self._adjoint_own)
        carried = Bound({"error of the equilibrium, carried along": self._contraction[0] * length(moved, norm)})
        return found + carried

    @cached_property
    def _adjoint_own(self) -> Array:
        value, off = self._pulled_back(self.adjoint, self._per_point(self._own), 2.0**-52)
        left = np.abs(self.cotangent + value - self.adjoint) + off + 2.0**-52 * np.abs(self.adjoint)
        return self._contraction[0] * self.adjoints(left) * ROUNDED

    def adjoint_residual(self, adjoint: Array) -> Array:
        return self.cotangent + self._pulled_back(adjoint, 0.0, 2.0**-52)[0] - adjoint

    def adjoint_certificate(self, adjoint: Array) -> tuple[Array, Bound]:
        """``A‖c + JᵀΛ̂ − Λ̂‖``, J at the judge's own equilibrium."""
        amplification, norm = self._contraction[0], DUAL[self._contraction[2]]
        value, off = self._pulled_back(adjoint, self._per_point(self._own), 2.0**-52)
        own = Bound({OWN: amplification * length(off + 2.0**-52 * (np.abs(adjoint) + np.abs(self.cotangent)), norm)})
        found = amplification * self.adjoints(self.cotangent + value - adjoint)
        return found, self._from_residuals(self.adjoint_error, self.claims.backward or Accuracy()) + own


def _wider(of: str, than: str, s: int) -> float:
    """The least c with ``‖v‖_than ≤ c ‖v‖_of`` for v of s entries."""
    return float(s ** max(0.0, _ORDER[than] - _ORDER[of]))


def _within(bound: Bound, reach: float) -> Bound:
    """Infinite for a data point whose bound exceeds ``reach``."""
    far = ~(bound.total <= reach)
    return Bound({name: np.where(far, np.inf, term) for name, term in bound.terms.items()})
