"""When gradient descent on a ReLU cell with squared loss must fall at a linear rate: what a start promises for every
step (theory: over-parameterised).

W (m, m), U (m, d) and the readout are trained, b is not; states Z (m, n) and inputs X (d, n), one data point a column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deqverify.bounds import FLOAT64
from deqverify.cells.norms import matrix_norms, raised
from deqverify.dtypes import Array

ROOM = 0.25
"""The share of 1 − ‖W₀‖₂ by which ‖W‖₂ may grow."""
KEPT = 1.0 - 2.0**-0.5
"""How much of √λ₀ the states may move by, so that half of λ₀ is left."""


@dataclass(frozen=True)
class Promise:
    """If ``√L₀ ≤ most`` and ``‖B₀‖₂ ≤ beta/2``: ``‖W_k‖₂ ≤ omega < 1``, ``‖B_k‖₂ ≤ beta``, ``‖Z_k‖₂ ≤ zeta``,
    ``λ_min(Z_kᵀZ_k) ≥ least/2`` and ``√L_k ≤ (1 − rate)ᵏ√L₀`` for steps of size ``eta``.

    ``share`` is s, by which a step moves W less than its gradient says: 1, or γ²/m where ``W = γ/√m · A``.
    """

    first: float
    """‖W₀‖₂."""
    omega: float
    beta: float
    zeta: float
    xi: float
    least: float
    share: float

    @property
    def eta(self) -> float:
        return 0.5 / self.zeta**2

    @property
    def rate(self) -> float:
        return self.eta * self.least / 2.0

    @property
    def most(self) -> float:
        """The √L₀ up to which the path stays where its constants hold."""
        gap, lam = 1.0 - self.omega, self.least
        weights = (self.omega - self.first) * gap * lam / (4.0 * self.share * self.beta * self.zeta)
        return min(weights, self.beta * lam / (8.0 * self.zeta), self.beta * KEPT * lam**0.5)

    def moved(self, weights: float, inputs: float) -> float:
        """What steps ``‖dW‖`` and ``‖dU‖`` make of ``‖dZ‖``, at most: Frobenius norms."""
        return (weights * self.zeta + inputs * self.xi) / (1.0 - self.omega)

    def carried(self, weights: float, inputs: float, readout: float) -> float:
        """What errors of a step in W, U and B add to ``√L``, at most: Frobenius norms."""
        return readout * self.zeta + self.beta * self.moved(weights, inputs)

    def holds_with(self, weights: float, inputs: float, readout: float) -> bool:
        """Whether errors of the steps, summed, leave the constants as they are for ``√L₀ ≤ most/2``: each takes a
        quarter of its room, and adds less to ``√L₀`` than another quarter."""
        return (
            weights <= (self.omega - self.first) / 4.0
            and readout <= self.beta / 8.0
            and self.moved(weights, inputs) <= KEPT * self.least**0.5 / 4.0
            and self.carried(weights, inputs, readout) <= self.most / 4.0
        )


def promise(W: Array, Z: Array, X: Array, share: float = 1.0) -> Promise | None:
    """What a start promises; None where ``‖W‖₂ < 1`` or the independence of the n states cannot be shown.

    The readout's room β is the largest with ``β²(sζ² + ξ²)/(1 − ω)² ≤ λ₀/4``, ``ζ = ‖Z₀‖₂ + (1 − 1/√2)√λ₀``, ξ = ‖X‖₂.
    """
    first, (sigma, off) = matrix_norms(W)["2"], least_singular_value(Z)
    if first >= 1.0 or sigma <= off:
        return None
    omega, root = first + ROOM * (1.0 - first), sigma - off
    zeta, xi = matrix_norms(Z)["2"] + KEPT * root, matrix_norms(X)["2"]
    beta = 0.5 * root * (1.0 - omega) / np.sqrt(share * zeta**2 + xi**2)
    # A dozen roundings of positive numbers: λ₀ is lowered and ζ raised by more.
    return Promise(first, omega, float(beta), raised(zeta, 16), xi, root**2 / raised(1.0, 16), share)


def least_singular_value(Z: Array) -> tuple[float, float]:
    """``√λ_min(ZᵀZ)`` of Z (m, n), and what its rounding in float64 may be, that of Z included; 0 where n > m.

    A computed singular value is off by a slowly growing function of the size times ``u‖Z‖₂`` (LAPACK Users' Guide,
    §4.9): ten times the larger size is allowed, as for norms.
    """
    m, n = Z.shape
    if n > m or not n or not np.isfinite(Z).all():
        return 0.0, 0.0
    values = np.linalg.svd(Z, compute_uv=False)
    return float(values[-1]), (10 * m + 2) * FLOAT64.unit * float(np.linalg.norm(Z))
