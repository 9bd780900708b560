"""The dynamics are those of trust-region Newton on the shallow model (THEORY.md §4; Kawaguchi 2021, Theorem 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.common import budget, cases, finite, own_rounding
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import Bound, Budget
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.law import law
from deqverify.problem import Problem
from deqverify.strategies import problems, smooth_losses
from deqverify.theory.closed_form import ClosedForm, softmax_jacobian
from deqverify.theory.dissipation import flow_velocity, shallow_gradient
from deqverify.theory.trust_region import smoothing, subproblem

WRONG = "wrong dynamics"
STAKE = "The implicit bias that the theory describes, and the rate that rests on it, are not this implementation's."
LARGEST_GAMMA = 0.99
"""Beyond it the certificate's own conditioning, κ(U)², leaves nothing to see in float64 (THEORY.md §4)."""


def _moderate(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    """Smooth losses only: the theorem speaks of a Hessian."""
    return cases(problems(deq.dtype, largest_gamma=LARGEST_GAMMA, largest=5, losses=smooth_losses()))


def _velocity_error(bounds: Budget) -> Bound:
    """Of ``Ẇ`` made from the implementation's gradients, in the Frobenius norm.

    ``‖δẆ‖ ≤ (‖e_B‖ + γ‖W‖₂‖e_dS‖) ‖U⁻¹‖₂``; the softmax differential at S has norm at most ½ a column.
    """
    exact = bounds.exact
    inverse = 1.0 / float(np.linalg.svd(exact.U, compute_uv=False)[-1])
    reach = exact.problem.gamma * float(np.linalg.norm(exact.W, 2)) * 0.5
    return bounds.bound(
        lambda e: inverse * float(np.linalg.norm(e.gradient["B"]) + reach * np.linalg.norm(e.gradient["A"]))
    )


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

    Necessary and sufficient for ``v = δẆ`` to be the minimiser, for losses twice continuously differentiable: no other
    is drawn. Bound: ``‖D⁻¹‖₂ ≤ ‖U‖₂²`` times the velocity's error, since ``δH + 𝒢 = D⁻¹``, and the rounding of the
    products. Catches a sign, a missing block, a missing transpose, one-step gradients alike.
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
    stretch = float(np.linalg.norm(exact.U, 2)) ** 2
    size = float(np.linalg.norm(newton.g))
    allowed = stretch * _velocity_error(bounds)
    yield compare("‖(δH + 𝒢) vec Ẇ + g‖", residual, allowed + _certificate_rounding(exact, newton.delta), size)


def _certificate_rounding(exact: ClosedForm, delta: float) -> Bound:
    """Rounding of W, Ẇ, H, 𝒮 and 𝒢 in float64: each is off by the solves' relative error, at magnitudes taken
    entrywise; H at the magnitude that it has at this point. g is taken at WΦ, whose rounding the loss carries on: a
    row of W is off by ``unit ‖U⁻¹‖₁ (‖w‖_∞ + ‖b‖_∞)``, and ``‖b‖_∞ ≤ (1+γ)‖w‖_∞``."""
    problem = exact.problem
    unit = 2.0**-53 * (3 * problem.m * exact.growth + problem.m + problem.p + problem.n + 8)
    condition = (1.0 + problem.gamma) / (1.0 - problem.gamma)
    spread = smoothing(exact)
    metric = np.linalg.norm(exact.U, 2) ** 2 * (1.0 + np.linalg.norm(spread - np.eye(len(spread)), 2))
    gradient = exact.gradient
    raw = np.linalg.norm(gradient["B"]) + 2 * np.linalg.norm(exact.W) * np.linalg.norm(exact.softmax_product)
    velocity = raw / float(np.linalg.svd(exact.U, compute_uv=False)[-1])
    steepest = np.linalg.norm(problem.loss.hessian(exact.F, problem.Y), ord=2, axis=(1, 2)).max(initial=0.0)
    curvature = np.linalg.norm(problem.Phi, 2) ** 2 * delta * steepest
    size = (metric + curvature) * velocity + np.linalg.norm(np.abs(exact.dF) @ np.abs(problem.Phi).T)
    outputs = 2 * unit * condition * np.abs(exact.W).max(axis=1)[:, None] * np.abs(problem.Phi).sum(axis=0)
    shallow = problem.loss.spread(exact.F, problem.Y, outputs) @ np.abs(problem.Phi).T
    return own_rounding("the certificate", 4 * unit * condition * size + np.linalg.norm(shallow))


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
    distance = float(np.abs(moved - eta * flowing).max())
    allowed = eta * _velocity_error(bounds) + _second_order(exact, gradient, eta) + _step_rounding(exact)
    yield compare("max |W(θ − ηĝ) − W(θ) + ηDg|", distance, allowed, float(np.abs(eta * flowing).max()))


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
