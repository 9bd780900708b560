"""Every tolerance of the project: the allowed error of one comparison, as a sum of named terms.

A :class:`Budget` carries two errors through the formulas of docs/theory.md, entry by entry, to first order plus the
products that a loose claim makes large:

* *rounding* that a backward-stable implementation in this dtype must be forgiven. For a solve with U it is the
  residual ``u (3m ‖|L||U|‖₁ + m + 8) (‖z‖₁ + ‖φ‖₁)``: Higham, *Accuracy and Stability of Numerical Algorithms*,
  Theorem 9.4, for the LU of this very U; ``m + 8`` for forming γS and one product (theory: rounding). Amplified by
  ``‖U⁻¹‖₁ = 1/(1−γ)``, exactly.
* the *claimed* solver accuracy, amplified the same way (theory: amplification), from the norm of the claim to the one
  that contracts, and from the size of the implementation's own answer to that of the true one (theory: claims).

Data points are columns; the 1-norm serves equilibria, the maximum norm adjoints, since U contracts so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.dtypes import Array, dtype
from deqverify.theory.closed_form import ClosedForm

DISCRIMINATING = 0.1
"""A bound is informative when it allows at most this share of the quantity compared."""


@dataclass(frozen=True)
class Bound:
    """An allowed error, by term. Terms are floats or arrays of one shape, never negative."""

    terms: dict[str, Array]

    @property
    def total(self) -> Array:
        return np.asarray(sum(self.terms.values()), dtype=np.float64)

    def at(self, index: tuple[int, ...]) -> dict[str, float]:
        """The terms of one entry."""
        shape = self.total.shape
        return {name: float(np.broadcast_to(value, shape)[index]) for name, value in self.terms.items()}

    def __add__(self, other: Bound) -> Bound:
        names = [*self.terms, *(name for name in other.terms if name not in self.terms)]
        return Bound({name: np.asarray(self.terms.get(name, 0.0) + other.terms.get(name, 0.0)) for name in names})

    def __mul__(self, factor: float | Array) -> Bound:
        with np.errstate(invalid="ignore"):  # what counts for nothing allows nothing, however much its bound is
            scaled = {name: np.where(factor == 0, 0.0, value * factor) for name, value in self.terms.items()}
        return Bound(scaled)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Arithmetic:
    """The dtype that is computed in and the dtype that results are stored in."""

    unit: float
    storage: float
    tiny: float
    largest: float
    norm_floor: float
    """Below it a 2-norm is not seen: its squares underflow."""

    @classmethod
    def of(cls, name: str, computes_in: str | None = None) -> Arithmetic:
        stored, computed = dtype(name), dtype(computes_in or name)
        storage = stored.unit_roundoff if computed.name != stored.name else 0.0
        return cls(computed.unit_roundoff, storage, stored.tiny, stored.largest, computed.tiny**0.5)

    @property
    def unseen(self) -> float:
        """A 2-norm that who claims rounding alone may not see: squares are summed in float32 at the least, since
        nobody who claims that sums those of float16."""
        return min(self.norm_floor, dtype("float32").tiny ** 0.5)


FLOAT64 = Arithmetic.of("float64")


class Errors:
    """Entrywise bounds on the errors of one implementation's answers to one problem, for one accuracy a pass.

    ``forward`` and ``backward`` are the claims, rounding alone by default. Everything is a
    bound on ``|computed − true|`` with the shape of the quantity, but ``z`` and ``adjoint``, which hold one norm a
    data point.

    In the formulas (theory: propagation) ``e_x`` is the bound on x, ``u`` the unit roundoff of the dtype computed in,
    ``u'`` that of a narrower dtype stored in (0 without one), ``t = (m + n + p) tiny`` what may underflow.
    """

    def __init__(
        self, exact: ClosedForm, arithmetic: Arithmetic, forward: Accuracy = DIRECT, backward: Accuracy = DIRECT
    ):
        self.exact, self.arithmetic = exact, arithmetic
        self.forward, self.backward = forward, backward
        problem = exact.problem
        self.amplification = 1.0 / (1.0 - problem.gamma)
        self.solve_rounding = arithmetic.unit * (3 * problem.m * exact.growth + problem.m + 8)
        self.underflow = (problem.m + problem.n + problem.p) * arithmetic.tiny

    @cached_property
    def residual(self) -> Array:
        """``‖φ + γSẑ − ẑ‖₁`` of each data point, (n,): ``u (3m ‖|L||U|‖₁ + m + 8) (‖z*‖₁ + ‖φ‖₁) + t``, and a claim."""
        return self.solved(self.exact.Z, self.exact.problem.Phi, 0.0, dual=False)

    @cached_property
    def z(self) -> Array:
        """``‖ẑ − z*‖₁`` of each data point, (n,): ``e_z = residual/(1−γ) + u'‖z*‖₁`` (theory: amplification)."""
        stored = self.arithmetic.storage * np.abs(self.exact.Z).sum(axis=0)
        return self.residual * self.amplification + stored

    @cached_property
    def certificate(self) -> Array:
        """Of ``‖φ + γSẑ − ẑ‖₁/(1−γ)``, (n,): ``(q residual + 2u'‖z*‖₁)/(1−γ)``, q from :meth:`_certified`; rounding
        ẑ for storage costs a residual of up to twice that rounding (theory: certificate)."""
        stored = 2 * self.arithmetic.storage * np.abs(self.exact.Z).sum(axis=0)
        return (self.residual * self._certified(self.forward) + stored) * self.amplification

    @cached_property
    def F(self) -> Array:
        """Outputs, (p, n), a product with one row of B: ``e_F = max_k |B_jk| e_z + (m + 1) u |B||Z| + t``."""
        B = np.abs(self.exact.problem.B)
        rounding = (self.exact.problem.m + 1) * self.arithmetic.unit * (B @ np.abs(self.exact.Z))
        return B.max(axis=1)[:, None] * self.z + rounding + self.underflow

    @cached_property
    def dF(self) -> Array:
        """``∂L/∂F``, (p, n): ``e_dF = spread(F, Y, e_F) + (p + 6) u terms(F, Y) + t``, what the error of F makes of it,
        and the rounding of its formula."""
        problem = self.exact.problem
        spread = problem.loss.spread(self.exact.F, problem.Y, self.F)
        rounding = (problem.p + 6) * self.arithmetic.unit * problem.loss.terms(self.exact.F, problem.Y)
        return spread + rounding + self.underflow

    @cached_property
    def value(self) -> Array:
        """L, without axes: ``Σ (|dF| + spread(F, Y, e_F)) e_F + (pn + 12) u Σ value_terms(F, Y) + t``, the error
        of F carried along the gradient, which it moves too, and the sum's rounding."""
        problem, exact = self.exact.problem, self.exact
        carried = np.abs(exact.dF) + problem.loss.spread(exact.F, problem.Y, self.F)
        terms = problem.loss.value_terms(exact.F, problem.Y)
        rounding = (problem.p * problem.n + 12) * self.arithmetic.unit * np.sum(terms)
        return np.asarray(np.sum(carried * self.F) + rounding + self.underflow)

    @cached_property
    def cotangent(self) -> Array:
        """``BᵀdF``, (m, n): ``|B|ᵀ (e_dF + ((p + 1) u + u')|dF|) + t``."""
        B = np.abs(self.exact.problem.B)
        unit = (self.exact.problem.p + 1) * self.arithmetic.unit + self.arithmetic.storage
        return B.T @ (self.dF + unit * np.abs(self.exact.dF)) + self.underflow

    @cached_property
    def _peak(self) -> Array:
        """``‖Λ‖_∞`` of each data point, (n,)."""
        return np.abs(self.exact.adjoint).max(axis=0)

    def adjoint_residual(self, given: Array | float = 0.0) -> Array:
        """``‖c + γSᵀΛ̂ − Λ̂‖_∞`` of each data point for a cotangent c that is off by ``given`` in that norm, (n,):
        ``u (3m ‖|L||U|‖₁ + m + 8) (‖Λ‖_∞ + ‖c‖_∞) + given + t`` and the claim (:meth:`solved`)."""
        return self.solved(self.exact.adjoint, self.exact.cotangent, given, dual=True)

    def adjoint_from(self, cotangent: Array | float) -> Array:
        """``‖Λ̂ − Λ‖_∞`` of each data point, (n,), when the right side is off by ``cotangent`` (m, n) or nothing:
        ``e_Λ = adjoint_residual/(1−γ) + u'‖Λ‖_∞`` (theory: amplification)."""
        given = np.broadcast_to(cotangent, self.exact.adjoint.shape).max(axis=0)
        stored = self.arithmetic.storage * self._peak
        return self.adjoint_residual(given) * self.amplification + stored

    def swing_from(self, cotangent: Array | float) -> Array:
        """``‖Λ̂ − Λ − s1‖_∞`` of each data point for the best constant s, (n,), likewise: half the error's oscillation.

        ``adjoint_residual/(1−γτ) + u'‖Λ‖_∞``, for a claim on the value also ``adjoint_residual/(1−γ)``.
        Uᵀ takes half the oscillation of an error to no less than ``1 − γτ`` times it (theory: swing), where the
        error itself may be ``1/(1−γ)`` times the residual. The softmax Jacobian annihilates the constant.
        """
        given = np.broadcast_to(cotangent, self.exact.adjoint.shape).max(axis=0)
        residual = self.adjoint_residual(given)
        swing = residual / (1.0 - self.exact.zero_mass_rate)
        if self.backward.of == "value":  # the claim is on Λ itself: its constant part tells nothing of the rest
            swing = swing + residual * self.amplification
        return swing + self.arithmetic.storage * self._peak

    @cached_property
    def adjoint(self) -> Array:
        """Of the adjoint that a whole model computes, (n,): ``e_Λ``, its cotangent off by :attr:`cotangent`."""
        return self.adjoint_from(self.cotangent)

    def adjoint_certificate(self) -> Array:
        """Of ``‖c + γSᵀΛ̂ − Λ̂‖_∞/(1−γ)`` for a given cotangent c, (n,): ``q e_Λ + 2u'‖Λ‖_∞/(1−γ)``, q from
        :meth:`_certified` (theory: certificate)."""
        stored = self.arithmetic.storage * self._peak
        return self.adjoint_from(0.0) * self._certified(self.backward) + 2 * stored * self.amplification

    def _certified(self, claim: Accuracy) -> float:
        """By how much a certificate may exceed the error: ``q = (1+γ)/(1−γ)`` for a claim on the value, since an error
        e has a residual of up to (1+γ)e (theory: value-claims); otherwise 1."""
        return (1.0 + self.exact.problem.gamma) * self.amplification if claim.of == "value" else 1.0

    def pulled(self, cotangent: Array | float = 0.0) -> dict[str, Array]:
        """The gradients in A (m, m), Phi (m, n) and gamma (), for a cotangent that is off by ``cotangent`` (m, n).

        ``e_A = e_SM + S∘1·1ᵀe_SM + e_S∘1·1ᵀ(S∘|M|)`` with ``e_SM = S∘e_M + e_S∘|M|``, e_M from the adjoint's swing;
        ``e_Phi = e_Λ``; ``e_gamma = Σ e_Λ (‖z*‖₁ + e_z) + Σ ‖Λ‖_∞ e_z + ⟨|Λ|, e_S|Z|⟩``. To each the rounding of its
        own products and sums, and ``u'`` times the gradient (theory: propagation, theory: swing).
        """
        exact, problem = self.exact, self.exact.problem
        unit, m, n = self.arithmetic.unit, problem.m, problem.n
        Z, L, adjoint = np.abs(exact.Z), np.abs(exact.adjoint), self.adjoint_from(cotangent)
        M, eM = self._outer(self.swing_from(cotangent), centred=True)
        S, eS = exact.S, self.softmax
        eSM = S * eM + (eS + 2 * unit * S) * M
        SM = S * M
        column = eSM.sum(axis=0) + (m + 2) * unit * SM.sum(axis=0)
        eA = eSM + S * column + eS * SM.sum(axis=0) + 2 * unit * (SM + S * SM.sum(axis=0)) + self.underflow
        SZ = S @ Z
        gamma = np.sum(adjoint * (Z.sum(axis=0) + self.z)) + np.sum(L.max(axis=0, initial=0.0) * self.z)
        gamma = gamma + np.sum(L * (eS @ Z)) + (m * n + m + 2) * unit * np.sum(L * SZ) + self.underflow
        Phi = np.broadcast_to(adjoint, (m, n))
        return self._stored({"A": eA, "Phi": Phi, "gamma": np.asarray(gamma)})

    @cached_property
    def softmax(self) -> Array:
        """Of S, (m, m): ``e_S = S_ij u (m + 4 + max_k A_kj − A_ij) + tiny``, relative, with the rounding of the
        exponent's argument, ``u|a − max|`` (theory: rounding)."""
        problem = self.exact.problem
        logit = problem.A.max(axis=0) - problem.A
        return self.exact.S * self.arithmetic.unit * (problem.m + 4 + logit) + self.arithmetic.tiny

    def gauge(self, adjoint: Array) -> Array:
        """Of ``1ᵀ ∂L/∂A``, (m,): ``(1ᵀe_S + (3m + 8) u + 2u')∘1ᵀ(S∘(|M| + e_M)) + m t``, e_M for ``adjoint`` (n,):
        whatever M is, only rounding keeps it from zero; it scales with M (theory: gauge)."""
        exact, unit, m = self.exact, self.arithmetic.unit, self.exact.problem.m
        M, eM = self._outer(adjoint)
        column = (exact.S * (M + eM)).sum(axis=0)
        rounding = (self.softmax.sum(axis=0) + (3 * m + 8) * unit) * column + m * self.underflow
        stored = self.arithmetic.storage * 2 * column  # |∂L/∂A| ≤ S∘|M| + S·1ᵀ(S∘|M|)
        return np.asarray(rounding + stored)

    def _outer(self, adjoint: Array, centred: bool = False) -> tuple[Array, Array]:
        """``|M| = γ|Λ||Z|ᵀ`` and the error of M, (m, m), ``adjoint`` being that of Λ, (n,).

        ``(e_M)_jk = γ (Σ_i |Λ_ji| e_z,i + (|Z_ki| + e_z,i) e_Λ,i + (n + 2) u (|Λ||Z|ᵀ)_jk + t)``.
        ``centred``: of M up to a constant in every column, which constants in Λ and in its error are.
        """
        problem, exact = self.exact.problem, self.exact
        Z, L = np.abs(exact.Z), np.abs(exact.adjoint)
        M = L @ Z.T
        if centred and exact.adjoint.size:
            L = np.abs(exact.adjoint - (exact.adjoint.max(axis=0) + exact.adjoint.min(axis=0)) / 2)
        eM = (L @ self.z)[:, None] + ((Z + self.z) @ adjoint)[None, :]
        eM = eM + (problem.n + 2) * self.arithmetic.unit * M + self.underflow
        return problem.gamma * M, problem.gamma * eM

    @cached_property
    def gradient(self) -> dict[str, Array]:
        """Every block of the gradient of the objective: :meth:`pulled` with :attr:`cotangent`, and in B, (p, m),
        ``(e_B)_jk = Σ_i (e_dF,ji (|Z_ki| + e_z,i) + |dF_ji| e_z,i) + (n + 1) u (|dF||Z|ᵀ)_jk + t``."""
        exact, problem = self.exact, self.exact.problem
        Z, dF = np.abs(exact.Z), np.abs(exact.dF)
        eB = self.dF @ (Z + self.z).T + (dF @ self.z)[:, None] + (problem.n + 1) * self.arithmetic.unit * dF @ Z.T
        return self.pulled(self.cotangent) | self._stored({"B": eB + self.underflow})

    def solved(self, solution: Array, right: Array, given: Array | float, dual: bool) -> Array:
        """The residual of each data point of a solve with U, or where ``dual`` with Uᵀ, (n,): in the 1-norm or in the
        maximum norm, the norms that contract.

        The sum of: ``u (3m ‖|L||U|‖₁ + m + 8) (‖solution‖ + ‖right‖)``, rounding; ``given``, the error of the right
        side; and the claim. ``solution`` and ``right`` are (m, n), ``given`` one norm a data point (theory: rounding).
        """
        norm = (lambda x: np.abs(x).max(axis=0, initial=0.0)) if dual else (lambda x: np.abs(x).sum(axis=0))
        rounding = self.solve_rounding * (norm(solution) + norm(right)) + given + self.underflow
        claim = self.backward if dual else self.forward
        if claim.exact:  # to the 1-norm a 2-norm grows by √m, to the maximum norm by nothing
            return rounding + (1.0 if dual else len(solution) ** 0.5) * self.arithmetic.unseen
        return rounding + self._claimed(claim, solution, rounding, dual)

    def _claimed(self, claim: Accuracy, solution: Array, rounding: Array, dual: bool) -> Array:
        """What ``claim`` adds to a residual that is off by ``rounding`` in the norm that contracts, (n,).

        The claim is one on the implementation's own ``f(ẑ) = z* + K(ẑ − z*)``, which a residual r moves by at most
        ``g‖r‖`` in the claim's p-norm, ``g = ‖U⁻¹ − I‖_p``. So from ``‖r‖_p ≤ ρ + a + b(‖z*‖_p + g‖r‖_p)``, a and b the
        absolute and the relative part and ρ the rounding, ``‖r‖_p ≤ (ρ + a + b‖z*‖_p) / (1 − bg)``; where
        ``bg ≥ 1`` the claim excludes nothing. In the norm that contracts that is at most √m (p = 2) or m (p = ∞) times
        as much for the 1-norm, once for the maximum norm (theory: claims, theory: value-claims).

        A claim on the value has ``g = ‖K‖_p`` and the error in place of the residual; it is returned as the residual
        that ends in it: amplification by 1/(1−γ) takes the factor 1−γ back. A 2-norm says nothing below its own floor,
        where squares underflow, and is itself summed with rounding.
        """
        m, n = solution.shape
        root = claim.root_count(solution.shape) if claim.norm == "rms" else 1.0
        of_value = claim.of == "value"
        gain = self._gain(claim.norm, dual, of_value)
        allowed = root * claim.allows(claim.norms(solution))
        off = rounding * (self.amplification if of_value else 1.0)
        if dual:  # from the maximum norm to the claim's
            off = off * {"1": float(m), "max": 1.0}.get(claim.norm, m**0.5)
        if claim.per == "batch":
            off = np.broadcast_to(np.sum(off), off.shape)
        room = 1.0 - claim.rtol * gain
        if room <= 0.0:
            return np.full(rounding.shape, np.inf)
        claimed = (allowed + claim.rtol * gain * off) / room * (1.0 + (m * n + 4) * self.arithmetic.unit)
        if claim.norm in ("2", "rms"):
            claimed = claimed + self.arithmetic.norm_floor
        width = 1.0 if dual else {"1": 1.0, "max": float(m)}.get(claim.norm, m**0.5)
        return np.asarray(width * claimed / (self.amplification if of_value else 1.0))

    def _gain(self, norm: str, dual: bool, of_value: bool) -> float:
        """``‖U⁻¹ − I‖_p``, or of ``K`` for a claim on the value; transposed where ``dual``. ``‖·‖₂² ≤ ‖·‖₁‖·‖_∞``.

        Column sums are ``γ/(1−γ)`` and γ (theory: gain); row sums are raised by the rounding of their solve.
        """
        gamma = self.exact.problem.gamma
        if of_value:
            columns, rows = gamma, gamma * float(self.exact.S.sum(axis=1).max()) * (1.0 + 2.0**-40)
        else:
            columns = gamma * self.amplification
            ones = self.exact.solve(np.ones((self.exact.problem.m, 1)))
            # The solve's error: its residual's rounding, u (3m growth + m + 8)(‖z‖₁ + m), amplified.
            unit = FLOAT64.unit * (3 * self.exact.problem.m * self.exact.growth + self.exact.problem.m + 8)
            off = unit * (np.abs(ones).sum() + self.exact.problem.m) * self.amplification
            rows = float(ones.max() - 1.0 + off)
        largest = {"1": columns, "max": rows}
        if dual:
            largest = {"1": rows, "max": columns}
        return largest.get(norm, float(np.sqrt(columns * rows)))

    def _stored(self, errors: dict[str, Array]) -> dict[str, Array]:
        if not self.arithmetic.storage:
            return errors
        values = self.exact.gradient
        return {block: e + self.arithmetic.storage * np.abs(values[block]) for block, e in errors.items()}


class Budget:
    """The bounds of one comparison: :class:`Errors` for rounding alone and with the claimed accuracies.

    Raises nothing: a value that leaves the dtype's range gets an infinite bound, so that its example counts as
    uninformative.
    """

    def __init__(self, exact: ClosedForm, claims: Claims, dtype_name: str):
        self.exact, self.claims, self.dtype_name = exact, claims, dtype_name
        self.arithmetic = Arithmetic.of(dtype_name, claims.computes_in.get(dtype_name))
        backward = claims.backward or DIRECT
        self.rounding = Errors(exact, self.arithmetic)
        loose = not (claims.forward.exact and backward.exact)
        self.claimed = Errors(exact, self.arithmetic, claims.forward, backward) if loose else self.rounding

    def bound(self, select: Callable[[Errors], Array | float]) -> Bound:
        """The bound on the quantity that ``select`` names: with rounding alone, and what the claims add to that."""
        rounding = np.asarray(select(self.rounding), dtype=np.float64)
        terms = {f"rounding in {self.dtype_name}, amplified": rounding}
        if self.claimed is not self.rounding:
            with np.errstate(invalid="ignore"):
                claimed = np.asarray(select(self.claimed)) - rounding
            if not self._excludes:  # infinity times zero is NaN
                claimed = np.where(np.isnan(claimed), np.inf, claimed)
            terms["claimed solver accuracy, amplified"] = claimed
        return Bound(terms)

    @cached_property
    def _excludes(self) -> bool:
        """Whether the claims exclude any answer: near γ = 1 a relative claim of ``1 − γ`` or more excludes none."""
        return bool(np.isfinite(self.claimed.residual).all() and np.isfinite(self.claimed.adjoint_residual()).all())

    @property
    def in_range(self) -> bool:
        """Whether all that a model computes stays well inside the dtype; beyond it overflow is nobody's fault.

        ``(Σ|Λ| + m Σ e_Λ + Σ|dF| + Σ e_dF) · max(Σ|Z| + Σ e_z, 1) < largest/64``.
        With the errors that its claims allow: a loss such as Poisson's makes a moderate error of F a gradient that
        overflows.
        """
        exact, errors, limit = self.exact, self.claimed, self.arithmetic.largest / 64
        Z = float(np.abs(exact.Z).sum() + errors.z.sum())
        with np.errstate(over="ignore", invalid="ignore"):
            dF = float(np.abs(exact.dF).sum() + errors.dF.sum())
            adjoint = float(np.abs(exact.adjoint).sum() + exact.problem.m * errors.adjoint.sum())
            # Every block of the gradient is below this, softmax weights being below 1; false for NaN.
            return (adjoint + dF) * max(Z, 1.0) < limit

    def squared(self, *blocks: str) -> Bound:
        """Of ``Σ ‖gradient‖²`` over ``blocks``, without axes: ``Σ 2|g|e + e²`` (theory: propagation)."""
        gradient = self.exact.gradient
        return self.bound(
            lambda e: sum(float(np.sum(2 * np.abs(gradient[k]) * e.gradient[k] + e.gradient[k] ** 2)) for k in blocks)
        )

    @cached_property
    def theory(self) -> Errors:
        """The errors of the float64 closed forms themselves: rounding at ``u = 2⁻⁵³``."""
        return Errors(self.exact, FLOAT64)

    def along(self, direction: Mapping[str, Array]) -> Bound:
        """Of ``⟨∇L, d⟩`` for a direction d, without axes: ``Σ |d|e``, and ``N u Σ |d∘∇L|`` for N entries summed in
        float64."""
        bound = self.bound(lambda e: sum(float(np.sum(np.abs(d) * e.gradient[k])) for k, d in direction.items()))
        size = sum(float(np.sum(np.abs(d * self.exact.gradient[k]))) for k, d in direction.items())
        count = sum(np.size(d) for d in direction.values())
        return bound + Bound({"rounding of the inner product": np.asarray(count * FLOAT64.unit * size)})
