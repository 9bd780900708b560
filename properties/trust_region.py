"""The dynamics are those of trust-region Newton on the shallow model (THEORY.md §4; Kawaguchi 2021, Theorem 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.common import budget, cases, finite, own_rounding
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import Bound, Budget, Errors
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import problems
from deqverify.theory.closed_form import ClosedForm, softmax_jacobian
from deqverify.theory.dissipation import flow_velocity, shallow_gradient
from deqverify.theory.trust_region import smoothing, subproblem

WRONG = "wrong dynamics"
STAKE = "The implicit bias that the theory describes, and the rate that rests on it, are not this implementation's."
LARGEST_GAMMA = 0.99
"""Beyond it the certificate's own conditioning, κ(U)², leaves nothing to see in float64 (THEORY.md §4)."""


def _moderate(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    return cases(problems(deq.dtype, largest_gamma=LARGEST_GAMMA, largest=5))


def _certificate_error(bounds: Budget) -> Bound:
    """Of ``(δH + 𝒢) vec Ẇ + g``, Ẇ made from the implementation's gradients, in the Frobenius norm.

    Errors e_A, e_B move Ẇ by ``−EU⁻¹``, with columns ``E_k = e_B,k + M_k e_A,k`` and ``M_k = γWJ_k``. Since
    ``δH + 𝒢 = D⁻¹ = (U⊗I)𝒮⁻¹(Uᵀ⊗I)``, the residual moves by ``(U⊗I)𝒮⁻¹ vec E``: U⁻¹ cancels. ``𝒮_k = I + M_kM_kᵀ``,
    so that ``‖𝒮_k⁻¹‖₂ ≤ 1`` and ``‖𝒮_k⁻¹M_k‖₂ ≤ max σ/(1 + σ²) = ½``.
    """
    stretch = float(np.linalg.norm(bounds.exact.U, 2))
    return bounds.bound(
        lambda e: stretch * float(np.linalg.norm(e.gradient["B"]) + 0.5 * np.linalg.norm(e.gradient["A"]))
    )


def _velocity_error(bounds: Budget) -> Bound:
    """Of ``Ẇ`` made from the implementation's gradients, entry by entry, (p, m).

    ``|δẆ| ≤ (e_B + γ|W|e_dS)U⁻¹`` with U⁻¹ ≥ 0 and ``e_dS,k = |J_k|e_A,k ≤ S_k∘e_A,k + S_k(S_kᵀe_A,k)``.
    """
    exact = bounds.exact
    inverse, S = np.abs(exact.solve(np.eye(exact.problem.m))), exact.S

    def error(e: Errors) -> Array:
        weighted = S * e.gradient["A"]
        turned = exact.problem.gamma * np.abs(exact.W) @ (weighted + S * weighted.sum(axis=0))
        return (e.gradient["B"] + turned) @ inverse

    return bounds.bound(error)


@law(
    "trust-region",
    statement="(δH + 𝒢) vec Ẇ = −g: the shallow model's velocity solves a trust-region Newton subproblem",
    source="THEORY.md §4 (Moré–Sorensen certificate); Kawaguchi 2021, Theorem 2",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=_moderate,
)
def certificate(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Ẇ (p, m) is made from the implementation's ∂L/∂A and ∂L/∂B; g and H come from the shallow objective on the
    other path.

    Necessary and sufficient for ``v = δẆ`` to be the minimiser. Bound: ``‖U‖₂ (‖e_B‖ + ½‖e_A‖)``, e the gradients'
    errors, whatever the conditioning, since ``δH + 𝒢 = D⁻¹``; and the rounding of the products. Catches a sign, a
    missing block, a missing transpose, one-step gradients alike.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    for block in ("A", "B"):
        yield finite(f"∂L/∂{block}", gradient[block])
    exact = bounds.exact
    newton = subproblem(exact)
    velocity = flow_velocity(exact, gradient["A"], gradient["B"])
    residual = float(np.linalg.norm(newton.residual(velocity)))
    size = float(np.linalg.norm(newton.g))
    allowed = _certificate_error(bounds) + _certificate_rounding(exact, newton.delta)
    yield compare("‖(δH + 𝒢) vec Ẇ + g‖", residual, allowed, size)


def _certificate_rounding(exact: ClosedForm, delta: float) -> Bound:
    """Rounding of W, Ẇ, H, 𝒮 and 𝒢 in float64: each is off by the solves' relative error, at magnitudes taken
    entrywise."""
    problem = exact.problem
    unit = 2.0**-53 * (3 * problem.m * exact.growth + problem.m + problem.p + problem.n + 8)
    condition = (1.0 + problem.gamma) / (1.0 - problem.gamma)
    spread = smoothing(exact)
    metric = np.linalg.norm(exact.U, 2) ** 2 * (1.0 + np.linalg.norm(spread - np.eye(len(spread)), 2))
    gradient = exact.gradient
    raw = np.linalg.norm(gradient["B"]) + 2 * np.linalg.norm(exact.W) * np.linalg.norm(exact.softmax_product)
    velocity = raw / float(np.linalg.svd(exact.U, compute_uv=False)[-1])
    curvature = np.linalg.norm(exact.problem.Phi, 2) ** 2 * delta * problem.loss.smoothness(problem.Y)
    size = (metric + curvature) * velocity + np.linalg.norm(np.abs(exact.dF) @ np.abs(problem.Phi).T)
    return own_rounding("the certificate", 4 * unit * condition * size)


@law(
    "descent-order",
    statement="a descent step of size η moves the shallow model by −ηDg + O(η²)",
    source="THEORY.md §4 (discrete), §3 item 1",
    needs=("gradient",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=_moderate,
)
def descent_order(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """``W(θ − ηĝ) − W(θ) + ηDg``, ĝ the implementation's and Dg the shallow model's, for a step that moves A by 2⁻¹².

    Bound: half the second derivative of ``η ↦ W``, bounded by ``‖U⁻¹‖₁ = 1/(1−γ)`` and the first two differentials
    of the softmax; η times the velocity's error; rounding. Catches whatever turns a step away from the flow.
    """
    _, gradient = deq.value_and_grad(problem)
    bounds = budget(deq, problem)
    if not bounds.in_range:
        return
    for block in ("A", "B"):
        yield finite(f"∂L/∂{block}", gradient[block])
    exact = bounds.exact
    largest = max(
        float(np.abs(gradient["A"]).max()), float(np.abs(gradient["B"]).max()) / (float(np.abs(problem.B).max()) or 1.0)
    )
    if largest == 0.0:
        return
    eta = 2.0**-12 / largest
    ahead = replace(problem, A=problem.A - eta * gradient["A"], B=problem.B - eta * gradient["B"])
    moved = ClosedForm(ahead).W - exact.W
    flowing = flow_velocity(exact, *_flow_gradient(exact))
    distance = np.abs(moved - eta * flowing)
    allowed = eta * _velocity_error(bounds) + _second_order(exact, gradient, eta) + _step_rounding(exact)
    yield compare("|W(θ − ηĝ) − W(θ) + ηDg|", distance, allowed, np.abs(eta * flowing))


def _flow_gradient(exact: ClosedForm) -> tuple[Array, Array]:
    """∂L/∂A and ∂L/∂B by way of the shallow model: ``X = GU⁻ᵀ`` and ``γ J_k Wᵀ x_k`` (THEORY.md §3 item 1)."""
    X = exact.solve(shallow_gradient(exact).T).T
    return exact.problem.gamma * softmax_jacobian(exact.S, exact.W.T @ X), X


def _second_order(exact: ClosedForm, gradient: dict[str, Array], eta: float) -> Bound:
    """``½η² max|W″|`` along the step, entrywise by rows of B.

    With ``V = U⁻¹``: ``W″ = 2B′V′ + BV″``, ``V′ = γVS′V``, ``V″ = 2γ²VS′VS′V + γVS″V``; on vectors in the 1-norm
    ``‖V‖ = 1/(1−γ)``, ``‖S′‖ ≤ osc`` and ``‖S″‖ ≤ 2 osc²``, osc the largest spread of a column of ∂L/∂A. Twice that
    covers the path between.
    """
    gamma = exact.problem.gamma
    V = 1.0 / (1.0 - gamma)
    spread = float(np.ptp(gradient["A"], axis=0).max())
    rows, moved = float(np.abs(exact.problem.B).max()), float(np.abs(gradient["B"]).max())
    first = gamma * V**2 * spread
    second = 2 * gamma**2 * V**3 * spread**2 + 2 * gamma * V**2 * spread**2
    return Bound({"second order of the step": np.asarray(eta**2 * (2 * moved * first + rows * second))})


def _step_rounding(exact: ClosedForm) -> Bound:
    problem = exact.problem
    unit = 2.0**-53 * (3 * problem.m * exact.growth + problem.m + 8) * 4 / (1.0 - problem.gamma)
    return own_rounding("W at both ends", unit * float(np.abs(exact.W).sum(axis=1).max()))
