"""The linear rate without any assumption on the width (theory: linear-rate)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm, softmax_jacobian


def rate_floor(problem: SoftmaxProblem) -> float:
    """``λ̲ = 1/(m(1+γ)²)``, below the smallest eigenvalue of D whatever the width (theory: floor)."""
    return 1.0 / (problem.m * (1.0 + problem.gamma) ** 2)


def shallow_gradient(exact: ClosedForm) -> Array:
    """``G = ∇L₀(W) = dF Φᵀ`` at ``W = BU⁻¹``, (p, m), by way of the shallow model alone."""
    problem = exact.problem
    return problem.loss.gradient(exact.W @ problem.Phi, problem.Y) @ problem.Phi.T


def dissipation(exact: ClosedForm) -> tuple[float, float]:
    """``gᵀDg`` in its two parts: ``‖X‖²`` and ``Σ_k ‖γ J_k Wᵀ x_k‖²`` with ``X = GU⁻ᵀ`` (theory: flow).

    Gradient flow loses the objective at the rate of their sum, which is ``‖∂L/∂B‖² + ‖∂L/∂A‖²`` (theory: dissipation).
    """
    X = exact.solve(shallow_gradient(exact).T).T
    image = exact.problem.gamma * softmax_jacobian(exact.S, exact.W.T @ X)
    return float(np.sum(X**2)), float(np.sum(image**2))


def flow_velocity(exact: ClosedForm, grad_A: Array, grad_B: Array) -> Array:
    """``Ẇ = −(∂B + γ W dS) U⁻¹``, the shallow model's velocity when A and B follow the given gradients; (p, m)."""
    dS = softmax_jacobian(exact.S, grad_A)
    return -exact.solve_transposed((grad_B + exact.problem.gamma * exact.W @ dS).T).T


@dataclass(frozen=True)
class Infimum:
    """``lower ≤ L* ≤ attained``, the value ``L₀(W)``; both ends carry the rounding of their own evaluation."""

    attained: float
    lower: float
    W: Array


def infimum(problem: SoftmaxProblem, newton_steps: int = 30) -> Infimum:
    """Encloses ``L* = inf L₀`` by Newton's method on the convex shallow problem.

    Upper end: the attained value, which stays above L* where Φ has directions whose squares round away. Lower end: the
    sublevel set of that value is convex and holds W and every minimiser; with curvature ρ > 0 on it, convexity along
    the reachable outputs ``WΦ`` gives ``L* ≥ L₀(W) − ‖dF P‖²/(2ρ)``, P the projector onto the row space of Φ. With
    ρ = 0 the lower end is 0, which every loss here has.
    """
    loss, Phi, Y = problem.loss, problem.Phi, problem.Y
    p, m = problem.p, problem.m
    W = np.zeros((p, m))
    value = float(loss.value(W @ Phi, Y))
    for _ in range(newton_steps):
        G = loss.gradient(W @ Phi, Y) @ Phi.T
        H = np.einsum("ai,bi,ijk->ajbk", Phi, Phi, loss.hessian(W @ Phi, Y)).reshape(m * p, m * p)
        step = np.linalg.lstsq(H, G.T.ravel(), rcond=None)[0].reshape(m, p).T
        moved, scale, promised = W, 1.0, float(np.sum(G * step))
        while scale > 1e-9:  # halving: the smallest useful fraction of a Newton step
            moved = W - scale * step
            # A quarter of what the slope promises, or far from it a loss of linear growth is crossed back and forth;
            # near the minimum the promise rounds away.
            if (lowered := float(loss.value(moved @ Phi, Y))) <= value - 0.25 * scale * promised:
                break
            scale /= 2
        else:
            break
        stalled = lowered == value
        W, value = moved, lowered
        if stalled:
            break
    F, unit = W @ Phi, 2.0**-53
    error = (m + 1) * unit * np.abs(W) @ np.abs(Phi)  # of the outputs: the product
    dF, moved = loss.gradient(F, Y), loss.spread(F, Y, error) + (p + 6) * unit * loss.terms(F, Y)
    rounding = float(np.sum((np.abs(dF) + moved) * error) + (F.size + 12) * unit * np.sum(loss.value_terms(F, Y)))
    attained = max(value, 0.0) + rounding
    rho = loss.curvature(attained)
    if rho <= 0 or not problem.n:
        return Infimum(attained, 0.0, W)
    slack = (_projected(dF, Phi) + float(np.linalg.norm(moved))) ** 2 / (2.0 * rho)
    return Infimum(attained, max(0.0, value - slack - rounding), W)


def _projected(dF: Array, Phi: Array) -> float:
    """An upper bound on ``‖dF P‖``, P the projector onto the row space of Φ, without deciding its rank.

    Singular vectors of values above √u·σ₁ are known to within ``8 max(m, n) u σ₁/σ_k``; where smaller values remain,
    zero or not, everything orthogonal to those vectors counts as reachable.
    """
    _, values, V = np.linalg.svd(Phi, full_matrices=False)
    if values[0] == 0.0:
        return 0.0
    known = values > 2.0**-26 * values[0]
    reachable = dF if (~known).any() else dF @ V.T
    angle = 8 * max(Phi.shape) * 2.0**-53 * float(values[0] / values[known][-1])
    return float(np.linalg.norm(reachable) + angle * np.linalg.norm(dF))


def polyak_lojasiewicz(problem: SoftmaxProblem, level: float) -> float:
    """κ with ``½‖∇L₀‖² ≥ κ(L₀ − L*)`` on ``{L₀ ≤ level}``: ``ρ σ²_min(Φ)`` (theory: constants).

    The sublevel set is convex and holds W and every minimiser, and the loss has curvature ρ on it: so
    ``L₀ − L* ≤ ‖dF P‖²/(2ρ)``, P the projector onto the row space of Φ, and ``‖∇L₀‖ = ‖dF Φᵀ‖ ≥ σ_min ‖dF P‖``. This
    holds for every loss with its own ``curvature(level)``; where no minimiser is attained that is 0.

    σ_min is the smallest singular value above the computed error of the decomposition, lowered by that error;
    rank-deficient data with values inside the error give 0, and the inequality says nothing rather than something
    false.
    """
    return problem.loss.curvature(level) * _least_singular_value(problem.Phi) ** 2


def _least_singular_value(Phi: Array) -> float:
    values = np.linalg.svd(Phi, compute_uv=False)
    nonzero = values[values > 0.0]
    return max(float(nonzero[-1]) - _svd_error(Phi, values), 0.0) if nonzero.size else 0.0


def _svd_error(Phi: Array, values: Any) -> float:
    """The backward error of a singular value decomposition, in the 2-norm."""
    return 4 * max(Phi.shape) * 2.0**-53 * float(np.max(values, initial=0.0))


def projected_floors(exact: ClosedForm) -> Array:
    """``4λ̲σ_k²‖RP_k‖²`` for every k, ``R = F − Y``, below ``‖∂L/∂A‖² + ‖∂L/∂B‖²`` for squared loss; (rank,).

    theory: projected.

    No rank is decided: P_k is made of the first k computed right singular vectors, whatever their values. The computed
    decomposition is the exact one of ``Φ + E``, so that ``‖RΦᵀ‖ ≥ σ_k‖RP_k‖ − ‖E‖‖R‖`` with its own σ_k and P_k.
    """
    problem = exact.problem
    R = exact.F - problem.Y
    _, values, V = np.linalg.svd(problem.Phi, full_matrices=False)
    reached = values * np.sqrt(np.cumsum(np.sum((R @ V.T) ** 2, axis=0)))
    lowered = np.maximum(reached - 2 * _svd_error(problem.Phi, values) * np.linalg.norm(R), 0.0)
    return np.asarray(4.0 * rate_floor(problem) * lowered**2)


def quotient_curvature(problem: SoftmaxProblem, level: float) -> float:
    """ρ of the softmax cross-entropy without ridge on ``{L₀ ≤ level}``, in the quotient by **1** (theory: quotient).

    For v orthogonal to **1** and probabilities q, ``vᵀ(diag q − qqᵀ)v ≥ min q ‖v‖²``: the variance under q is at least
    ``min q`` times the sum of squares about any centre. With targets y of total t, the excess over all entropies,
    ``E = level − Σ_i Σ_j −y_ji log(y_ji/t_i) ≥ 0``, bounds each point's divergence from its targets; keeping one entry
    of it and the rest as one, ``−log q_j ≤ (E + h_j)/y_j`` with ``h_j`` the entropy of ``(y_j, t − y_j)``. The
    gradient's columns sum to zero and L₀ is constant along **1**, so the inequality needs no more than this.
    """
    Y = problem.Y
    if not Y.size:
        return 0.0
    total = Y.sum(axis=0)
    excess = max(level - float(np.sum(_entropy(Y, total))), 0.0)
    pair = _entropy(Y, total) + _entropy(total - Y, total)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = np.where(Y > 0, np.exp(-(excess + pair) / Y), 0.0)
    return float((total * q.min(axis=0)).min())


def _entropy(y: Array, total: Array) -> Array:
    """``−y log(y/t)``, entry by entry, 0 at y = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(y > 0, -y * np.log(y / total), 0.0)


def quotient_polyak_lojasiewicz(problem: SoftmaxProblem, level: float) -> float:
    """κ for the softmax cross-entropy without ridge on ``{L₀ ≤ level}``: ``ρσ²_min(Φ)`` in the quotient by **1**."""
    return quotient_curvature(problem, level) * _least_singular_value(problem.Phi) ** 2
