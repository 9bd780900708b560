"""The dynamics are those of trust-region Newton on the shallow model (theory: trust-region; Kawaguchi 2021,
Theorem 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.common import (
    EVALUATIONS,
    SOFTMAX,
    NoDirection,
    budget,
    cases,
    direction,
    finite,
    own_rounding,
    packed,
    unpacked,
    usable,
    visit,
)
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import Bound, Budget, Errors
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.importing import imported
from deqverify.problem import SoftmaxProblem
from deqverify.registry import law
from deqverify.strategies import problems, smooth_losses, well_conditioned_problems
from deqverify.theory.closed_form import ClosedForm, softmax_jacobian
from deqverify.theory.dissipation import flow_velocity, shallow_gradient
from deqverify.theory.trust_region import smoothing, subproblem

WRONG = "wrong dynamics"
STAKE = "The implicit bias that the theory describes, and the rate that rests on it, are not this implementation's."
LARGEST_GAMMA = 0.99
"""Beyond it the certificate's own conditioning, κ(U)², leaves nothing to see in float64 (theory: more-sorensen)."""


def _moderate(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    """Smooth losses only: the theorem speaks of a Hessian."""
    return cases(problems(deq.dtype, largest_gamma=LARGEST_GAMMA, largest=5, losses=smooth_losses()))


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
    about=SOFTMAX,
    statement="(δH + 𝒢) vec Ẇ = −g: the shallow model's velocity solves a trust-region Newton subproblem",
    source="theory: trust-region, theory: more-sorensen; Kawaguchi 2021, Theorem 2",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=_moderate,
)
def trust_region(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Ẇ (p, m) is made from the implementation's ∂L/∂A and ∂L/∂B; g and H come from the shallow objective on the
    other path.

    Necessary and sufficient for ``v = δẆ`` to be the minimiser, for losses twice continuously differentiable: no other
    is drawn. Bound: ``‖U‖₂ (‖e_B‖ + ½‖e_A‖)``, e the gradients' errors, whatever the conditioning, since ``δH + 𝒢 =
    D⁻¹``; and the rounding of the products. Catches a sign, a missing block, a missing transpose, one-step gradients
    alike.
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
    entrywise; H at the magnitude that it has at this point. g is taken at WΦ, whose rounding the loss carries on: a
    row of W is off by ``unit ‖U⁻¹‖₁ (‖w‖_∞ + ‖b‖_∞)``, and ``‖b‖_∞ ≤ (1+γ)‖w‖_∞``."""
    problem = exact.problem
    unit = 2.0**-53 * (3 * problem.m * exact.growth + problem.m + problem.p + problem.n + 8)
    condition = (1.0 + problem.gamma) / (1.0 - problem.gamma)
    spread = smoothing(exact)
    metric = np.linalg.norm(exact.U, 2) ** 2 * (1.0 + np.linalg.norm(spread - np.eye(len(spread)), 2))
    gradient = exact.gradient
    raw = np.linalg.norm(gradient["B"]) + 2 * np.linalg.norm(exact.W) * np.linalg.norm(exact.softmax_product)
    velocity = raw * _inverse_norm(exact)
    steepest = np.linalg.norm(problem.loss.hessian(exact.F, problem.Y), ord=2, axis=(1, 2)).max(initial=0.0)
    curvature = np.linalg.norm(problem.Phi, 2) ** 2 * delta * steepest
    size = (metric + curvature) * velocity + np.linalg.norm(np.abs(exact.dF) @ np.abs(problem.Phi).T)
    outputs = 2 * unit * condition * np.abs(exact.W).max(axis=1)[:, None] * np.abs(problem.Phi).sum(axis=0)
    shallow = problem.loss.spread(exact.F, problem.Y, outputs) @ np.abs(problem.Phi).T
    return own_rounding("the certificate", 4 * unit * condition * size + np.linalg.norm(shallow))


@law(
    about=SOFTMAX,
    statement="a descent step of size η moves the shallow model by −ηDg + O(η²)",
    source="theory: discrete, theory: flow",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=_moderate,
)
def descent_order(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """``W(θ − ηĝ) − W(θ) + ηDg``, ĝ the implementation's and Dg the shallow model's.

    The step moves A by 2⁻¹², or less where its second order would show. Bound: half the second derivative of ``η ↦
    W``, bounded by ``‖U⁻¹‖₁ = 1/(1−γ)`` and the first two differentials of the softmax; η times the velocity's error,
    entry by entry; rounding. Catches whatever turns a step away from the flow.
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
    flowing = flow_velocity(exact, *_flow_gradient(exact))
    eta = 2.0**-12 / largest
    while float(_second_order(exact, gradient, eta).total) > eta * float(np.abs(flowing).max()) / 64 and eta > 2.0**-60:
        eta /= 8.0
    ahead = replace(problem, A=problem.A - eta * gradient["A"], B=problem.B - eta * gradient["B"])
    moved = ClosedForm(ahead).W - exact.W
    distance = np.abs(moved - eta * flowing)
    allowed = eta * _velocity_error(bounds) + _second_order(exact, gradient, eta) + _step_rounding(exact)
    yield compare("|W(θ − ηĝ) − W(θ) + ηDg|", distance, allowed, np.abs(eta * flowing))


def _flow_gradient(exact: ClosedForm) -> tuple[Array, Array]:
    """∂L/∂A and ∂L/∂B by way of the shallow model: ``X = GU⁻ᵀ`` and ``γ J_k Wᵀ x_k`` (theory: flow)."""
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


@law(
    about=SOFTMAX,
    statement="trust-region Newton's velocity on the shallow model integrates to the W(t) of the DEQ's gradient flow",
    source="theory: trajectory; Kawaguchi 2021, Theorem 2",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=WRONG,
    at_stake=STAKE,
    cost=8,
    loose=(
        "the integrator's local errors stay far below the tolerance that it answers for; in float32, where the "
        "gradient's error counts, the bound is near."
    ),
    draws=lambda deq: cases(well_conditioned_problems(deq.dtype, losses=smooth_losses())),
)
def trajectory(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """``Ȧ = −∂L/∂A, Ḃ = −∂L/∂B`` by the implementation; beside it ``Ẇ = v(W, A)`` with ``(δH + 𝒢)v = −g`` at W itself.

    One system (Dormand–Prince, at most 60 gradients), from ``W = BU⁻¹``, for a time 1/L: then ``W − BU⁻¹`` stays zero
    but for local errors and the gradient's, which grow at most by ``exp(Lt)``, L the Lipschitz constant of v in W.
    Bound: these, the integrator's tolerance a step taken sixteenfold, L twice what the accepted points show. Catches
    whatever ``trust-region`` catches, where it accumulates.
    """
    try:
        yield from _side_by_side(deq, problem)
    except NoDirection as lost:
        yield from usable(lost.gradient)


def _side_by_side(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    calls, error, start = 0, 0.0, ClosedForm(problem)
    split, tolerance = packed(problem.A, problem.B).size, 1e-8  # of the integrator; it enters the bound below

    def velocity(t: float, state: Array) -> Array:
        nonlocal calls, error
        if not np.isfinite(state).all():  # a trial step out of range, which the integrator then rejects
            return np.full_like(state, np.nan)
        here = unpacked(problem, state[:split])
        point = visit(deq, here)
        calls, error = calls + 1, max(error, point.error)
        shallow = _shallow(here, state[split:].reshape(start.W.shape))
        newton = subproblem(shallow)
        step = np.linalg.solve(newton.delta * newton.H + newton.metric, -newton.g)
        return np.concatenate([-direction(point), step.reshape(start.W.T.shape).T.ravel()])

    state = np.concatenate([packed(problem.A, problem.B), start.W.ravel()])
    growth = 2 * _lipschitz(start)
    if not growth > 0.0:  # inputs of zero: nothing moves, for however long
        return
    solver = imported("scipy.integrate").RK45(
        velocity, 0.0, state, t_bound=1.0 / growth, rtol=tolerance, atol=tolerance * _size(state)
    )
    steps = 0
    while calls + 6 <= EVALUATIONS and solver.status == "running":
        message = solver.step()
        if solver.status == "failed":
            yield Fact("the flow can be integrated", False, str(message))
            return
        steps += 1
        exact = ClosedForm(unpacked(problem, solver.y[:split]))
        W = solver.y[split:].reshape(start.W.shape)
        shallow = _shallow(exact.problem, W)
        growth = max(growth, 2 * _lipschitz(shallow))
        stretch = _inverse_norm(exact) * (1.0 + problem.gamma * 0.5 * float(np.linalg.norm(exact.W, 2)))
        local = 16 * steps * tolerance * _size(solver.y) * np.sqrt(solver.y.size) * (1.0 + stretch)
        newton, carried = subproblem(shallow), float(np.exp(growth * solver.t))
        rounding = _certificate_rounding(shallow, newton.delta) * (solver.t * _diffusion_norm(shallow) * carried)
        allowed = rounding + Bound(
            {
                "gradient error carried along": np.asarray(carried * solver.t * stretch * error),
                "integrator's local error": np.asarray(carried * local),
            }
        )
        moved = float(np.linalg.norm(exact.W - start.W))
        yield compare(f"‖W − BU⁻¹‖ at t = {solver.t:.3g}", float(np.linalg.norm(W - exact.W)), allowed, moved)


def _shallow(here: SoftmaxProblem, W: Array) -> ClosedForm:
    """The point of ``here``'s A whose shallow model is W: ``B = WU``."""
    return ClosedForm(replace(here, B=W @ ClosedForm(here).U))


def _size(state: Array) -> float:
    return float(np.abs(state).max(initial=0.0)) or 1.0


def _inverse_norm(exact: ClosedForm) -> float:
    """``‖U⁻¹‖₂``."""
    return 1.0 / float(np.linalg.svd(exact.U, compute_uv=False)[-1])


def _diffusion_norm(exact: ClosedForm) -> float:
    """``‖D‖₂ ≤ ‖U⁻¹‖²(1 + γ²‖W‖²/4)``, since ``‖J_k‖₂ ≤ ½``."""
    return _inverse_norm(exact) ** 2 * (1.0 + (exact.problem.gamma * float(np.linalg.norm(exact.W, 2)) / 2) ** 2)


def _lipschitz(exact: ClosedForm) -> float:
    """Of ``W ↦ −D(W)g(W)`` at W: ``‖U⁻¹‖²((1 + γ²‖W‖²/4)‖H‖ + γ²‖W‖‖g‖/2)``."""
    problem, W = exact.problem, float(np.linalg.norm(exact.W, 2))
    curvature = float(np.abs(problem.loss.hessian(exact.W @ problem.Phi, problem.Y)).sum(axis=2).max(initial=0.0))
    H = float(np.linalg.norm(problem.Phi, 2)) ** 2 * curvature
    g = float(np.linalg.norm(shallow_gradient(exact)))
    return _diffusion_norm(exact) * H + _inverse_norm(exact) ** 2 * problem.gamma**2 * W * g / 2
