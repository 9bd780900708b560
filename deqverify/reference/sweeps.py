"""The fixed-point iterations of the reference, each with the certificate that tells when it may stop.

Written over the array API: the same code runs under NumPy and PyTorch. States, inputs and cotangents are (n, m), one
data point a row; K (m, m) acts on columns, so that ``Kz`` is ``z @ K.T`` and ``Kᵀλ`` is ``λ @ K``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deqverify.namespaces import array_namespace


def unit_roundoff(array: Any) -> float:
    """u, half the spacing of 1, of the array's dtype."""
    return float(array_namespace(array).finfo(array.dtype).eps) / 2


def one_norm(r: Any) -> Any:
    """``‖r‖₁`` of every row, (n,)."""
    xp = array_namespace(r)
    return xp.sum(xp.abs(r), axis=1)


def max_norm(r: Any) -> Any:
    """``√m ‖r‖_∞`` of every row, (n,): scaled so that, like the 1-norm, it is never below the 2-norm."""
    xp = array_namespace(r)
    return r.shape[1] ** 0.5 * xp.max(xp.abs(r), axis=1)


@dataclass(frozen=True)
class Sweep:
    """One iteration ``z ← correct(f(z))`` towards the fixed point of ``f(z) = step(z) + x``.

    The candidate of a sweep and its residual r are ``complete(z, f(z))``, and they certify themselves:

        ``norm(candidate − z*) ≤ norm(r)/(1 − rate) + doubt``,

    with ``doubt`` (a number, or one a row) the rounding of what is corrected exactly; rigorous up to the rounding of r
    (theory: certificate).
    """

    x: Any
    step: Callable[[Any], Any]
    norm: Callable[[Any], Any]
    rate: float
    correct: Callable[[Any], Any] = lambda f: f
    complete: Callable[[Any, Any], tuple[Any, Any]] = lambda z, f: (z, f - z)
    doubt: Any = 0.0

    def allowed(self, z: Any, candidate: Any, r: Any, tolerance: float) -> Any:
        """The largest ``norm(r)`` of every row at which the iteration may stop, (n,): certified, or at the floor.

        Certified: the error is at most ``tolerance · ‖f‖₁/√m``, f being ``candidate + r``. Since 1 − rate ≤ 1, ``‖f‖₁ ≤
        √m ‖f‖₂`` and no norm here is below the 2-norm, ``‖r‖₂ ≤ tolerance · ‖f‖₂``, which is what the reference claims.

        Floor: half of ``u (m + 8) (norm(z) + norm(x))``, the rounding of forming K and evaluating f once that bounds.py
        forgives. The other half is for the rounding of the measured r itself.
        """
        xp = array_namespace(z)
        size = one_norm(candidate + r) / z.shape[1] ** 0.5  # at most ‖f‖₂, without squares that overflow
        floor = 0.5 * unit_roundoff(z) * (z.shape[1] + 8) * (self.norm(z) + self.norm(self.x))
        return xp.maximum((1.0 - self.rate) * (tolerance * size - self.doubt), floor)


@dataclass(frozen=True)
class Picard:
    """``z ← Kz + x`` and ``λ ← Kᵀλ + c``, with ``‖K‖₁ ≤ γ`` (theory: picard, theory: certificate).

    Both contract at γ, in the 1-norm and in the maximum norm, and are certified by ``norm(r)/(1−γ)``.
    """

    K: Any
    gamma: float

    def forward(self, x: Any) -> Sweep:
        return Sweep(x, lambda z: z @ self.K.T + x, one_norm, self.gamma)

    def adjoint(self, c: Any) -> Sweep:
        return Sweep(c, lambda v: v @ self.K + c, max_norm, self.gamma)


@dataclass(frozen=True)
class MassCorrected:
    """Both iterations on the part that K contracts at ``rate ≥ γτ``, the other part exactly (theory: zero-mass).

    ``K = γS`` with S ≥ 0 and ``1ᵀS = 1ᵀ``; ``rate`` is :func:`zero_mass_rate`.
    """

    K: Any
    gamma: float
    rate: float

    def forward(self, x: Any) -> Sweep:
        """``z ← Kz + x``, its mass then set to ``1ᵀz* = 1ᵀx/(1−γ)``: errors have zero mass and contract at γτ.

        Let e be the error and μ = 1ᵀe what rounding leaves of its mass. With π ≥ 0 the Perron vector, ``Kπ = γπ`` and
        ``1ᵀπ = 1``, ``e − μπ`` has zero mass and ``(I − K)(e − μπ) = −r − (1−γ)μπ``, so that

            ``‖e‖₁ ≤ (‖r‖₁ + (1−γ)|μ|)/(1−γτ) + |μ| ≤ ‖r‖₁/(1−γτ) + 2|μ|``.

        The sums that set the mass give ``|μ| ≤ (m + 2) u (‖x‖₁/(1−γ) + ‖z‖₁) ≤ 2 (m + 2) u ‖x‖₁/(1−γ)``. The residual
        sees ``(1−γ)|μ|`` of it, no more than its floor.
        """
        xp, m = array_namespace(x), x.shape[1]
        mass = xp.sum(x, axis=1, keepdims=True) / (1.0 - self.gamma)
        doubt = 4 * (m + 2) * unit_roundoff(x) * one_norm(x) / (1.0 - self.gamma)

        def correct(f: Any) -> Any:
            return f + (mass - xp.sum(f, axis=1, keepdims=True)) / m

        return Sweep(x, lambda z: z @ self.K.T + x, one_norm, self.rate, correct, doubt=doubt)

    def adjoint(self, c: Any) -> Sweep:
        """``v ← Kᵀv + c`` up to constants: ``max − min`` of the residual ρ contracts at γτ, and ρ tends to a constant.

        ``Kᵀ1 = γ1``, so that ``λ̂ = v + s1`` with ``s = mid ρ/(1−γ)`` has the residual ``ρ − mid ρ``, mid being halfway
        between the extremes. v is kept centred: it stays of size ``‖c‖/(1−γτ)`` where λ grows like ``‖c‖/(1−γ)``, and
        so does the rounding of ρ. The certificate is Picard's, ``‖ρ − mid ρ‖_∞/(1−γ)``: what the Perron vector's share
        of it is, remains unknown.
        """

        def complete(v: Any, f: Any) -> tuple[Any, Any]:
            constant = _mid(f - v)
            return v + constant / (1.0 - self.gamma), f - v - constant

        return Sweep(c, lambda v: v @ self.K + c, max_norm, self.gamma, lambda f: f - _mid(f), complete)


def zero_mass_rate(K: Any, gamma: float) -> float:
    """An upper bound on γτ: how K contracts vectors of zero mass; inf where K is not γ times a column-stochastic S.

    Dobrushin's ``τ = ½ max_{i,j} ‖S_:i − S_:j‖₁`` itself compares all pairs of columns, m³ operations and more time
    than the LU that it could save. The lesser of two bounds in m² stands in for it: ``τ ≤ 1 − Σ_i min_j S_ij``
    (Doeblin; theory: zero-mass), better for few states, and ``τ ≤ max_j ‖S_:j − c‖₁`` for any c (triangle
    inequality), here the median of every row, better for many.
    """
    xp, m = array_namespace(K), K.shape[0]
    # Forming S, scaling it and summing it again rounds a column sum by at most 2 (m + 4) u, relatively.
    off = xp.max(xp.abs(xp.sum(K, axis=0) - gamma))
    if not (bool(xp.min(K) >= 0.0) and bool(off <= 2 * (m + 4) * unit_roundoff(K) * gamma)):
        return float("inf")
    doeblin = gamma - float(xp.sum(xp.min(K, axis=1)))
    median = xp.sort(K, axis=1)[:, m // 2][:, None]
    return max(0.0, min(doeblin, float(xp.max(one_norm((K - median).T)))))


def _mid(f: Any) -> Any:
    """Halfway between the extremes of every row, (n, 1)."""
    xp = array_namespace(f)
    return (xp.max(f, axis=1, keepdims=True) + xp.min(f, axis=1, keepdims=True)) / 2
