"""The dynamics are those of trust-region Newton on the shallow model (theory: trust-region)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deqverify.dtypes import Array
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import shallow_gradient


@dataclass(frozen=True)
class Subproblem:
    """``min gᵀv + ½vᵀHv`` over ``‖v‖_𝒢 ≤ δ‖vec Ẇ‖_𝒢``; matrices (pm, pm), vec stacks columns."""

    g: Array
    H: Array
    metric: Array
    delta: float

    def residual(self, velocity: Array) -> Array:
        """``(δH + 𝒢) vec Ẇ + g``, zero exactly when ``v = δ vec Ẇ`` solves the subproblem with multiplier 1/δ.

        The Moré–Sorensen certificate; ``H + 𝒢/δ ⪰ 0`` holds by the choice of δ, and the radius is active because it
        is defined as the length of v. (p, m), reshaped from vec.
        """
        v = velocity.T.ravel()
        return ((self.delta * self.H + self.metric) @ v + self.g).reshape(velocity.T.shape).T


def subproblem(exact: ClosedForm) -> Subproblem:
    """The subproblem at ``W = BU⁻¹``, with H and g from the shallow model and 𝒢 as in theory: trust-region.

    δ is half of ``1/λ_max(𝒮𝓕)``, or 1 where 𝓕 = 0 (a loss that is flat at every data point) or so small that the
    quotient overflows. Raises ValueError for a loss that is not smooth.
    """
    problem, p = exact.problem, exact.problem.p
    if not problem.loss.smooth:
        raise ValueError(f"loss: {problem.loss!r} has no Hessian everywhere; use one of strategies.smooth_losses()")
    curvature = problem.loss.hessian(exact.W @ problem.Phi, problem.Y)
    H = _weighted_gram(problem.Phi, curvature)
    fisher = _weighted_gram(exact.Z, curvature)
    spread = smoothing(exact)
    largest = float(np.abs(np.linalg.eigvals(spread @ fisher)).max(initial=0.0))
    delta = 0.5 / largest if largest > 2.0**-1000 else 1.0
    U = np.kron(exact.U, np.eye(p))
    metric = U @ (np.linalg.inv(spread) - delta * fisher) @ U.T
    g = shallow_gradient(exact).T.ravel()
    return Subproblem(g, H, metric, delta)


def smoothing(exact: ClosedForm) -> Array:
    """``𝒮 = I + γ² blkdiag_k(W J_k² Wᵀ)``, (pm, pm) (theory: flow)."""
    problem, p = exact.problem, exact.problem.p
    S, W = exact.S, exact.W
    result = np.eye(p * problem.m)
    for k in range(problem.m):
        J = np.diag(S[:, k]) - np.outer(S[:, k], S[:, k])
        WJ = W @ J
        result[k * p : (k + 1) * p, k * p : (k + 1) * p] += problem.gamma**2 * WJ @ WJ.T
    return result


def _weighted_gram(X: Array, curvature: Array) -> Array:
    """``Σ_i x_i x_iᵀ ⊗ C_i``."""
    m, p = X.shape[0], curvature.shape[-1]
    return np.einsum("ai,bi,ijk->ajbk", X, X, curvature).reshape(m * p, m * p)
