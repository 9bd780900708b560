"""The pull-back for a given cotangent: the adjoint equation, its linearity, the gauge (theory: certificate,
theory: adjoint, theory: gauge)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import (
    PAIRS,
    Extra,
    budget,
    cases,
    cotangents,
    finite,
    large_problem,
    own_rounding,
)
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import FLOAT64, Bound, Errors
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.implementations.subject import Subject, TargetFailure
from deqverify.law import law
from deqverify.oracle import Oracle
from deqverify.problem import Problem
from deqverify.strategies import problems, signals
from deqverify.tangent_errors import TangentErrors

WRONG = "wrong gradient"
STAKE = "Every gradient through the equilibrium is built on this solve."


@law(
    "adjoint-certificate",
    statement="‖c + γSᵀΛ̂ − Λ̂‖_∞/(1−γ), which bounds ‖Λ̂ − Λ‖_∞, is within the claimed accuracy",
    source="theory: certificate",
    needs=("pull",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
    large=large_problem(cotangent=True),
)
def adjoint_certificate(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The gradient in the inputs is the adjoint Λ; for a drawn cotangent c (m, n) its own residual certifies it.

    Sᵀ contracts in the maximum norm at rate γ. The residual is evaluated in ball arithmetic. Bound:
    ``Errors.adjoint_certificate``. Catches a missing transpose, one-step gradients, and a backward solve that stops
    early.
    """
    found = deq.pull(deq.solve(problem), cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    yield finite("Λ̂", found["Phi"])
    residual = np.abs(Oracle(problem).adjoint_residual(found["Phi"], cotangent)).max(axis=0, initial=0.0)
    certificate = residual * bounds.rounding.amplification
    size = np.abs(bounds.exact.adjoint).max(axis=0, initial=0.0)
    allowed = bounds.bound(Errors.adjoint_certificate)
    yield compare("certificate ‖c + γSᵀΛ̂ − Λ̂‖_∞/(1−γ)", certificate, allowed, size)


@law(
    "gauge",
    statement="1ᵀ ∂L/∂A = 0: adding a constant to a column of A changes nothing",
    source="theory: gauge",
    needs=("pull",),
    anomaly=WRONG,
    at_stake="Training drifts along directions that the model cannot see.",
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def gauge(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The columns of the gradient in A sum to zero for every cotangent c (m, n), however exact the adjoint is.

    Bound: ``Errors.gauge``, which scales with M = γΛZᵀ and not with the gradient. Catches a softmax Jacobian that is
    missing or taken along rows.
    """
    found = deq.pull(deq.solve(problem), cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    yield finite("∂L/∂A", found["A"])
    sums = np.abs(found["A"].sum(axis=0))
    size = np.abs(bounds.exact.softmax_product).sum(axis=0)
    allowed = bounds.bound(lambda e: e.gauge(e.adjoint_from(0.0)))
    yield compare("|1ᵀ ∂L/∂A|", sums, allowed, size)


_BLOCKS = ("A", "Phi", "gamma")


def _pulled(errors: Errors, block: str) -> Array:
    return errors.pulled()[block]


@law(
    "cotangent-linearity",
    statement="the pull-back is linear in the cotangent",
    source="theory: adjoint",
    needs=("pull",),
    anomaly=WRONG,
    at_stake="Gradients do not add up: accumulation over micro-batches or losses changes them.",
    draws=lambda deq: cases(
        problems(deq.dtype),
        cotangent=cotangents(deq),
        weights=lambda problem: PAIRS,
    ),
)
def cotangent_linearity(
    deq: Subject, problem: Problem, cotangent: Array, weights: tuple[int, int]
) -> Iterator[Measurement | Fact]:
    """``pull(ac + bd) = a·pull(c) + b·pull(d)`` in A, Φ and γ, d the cotangent c with its columns reversed.

    Bound: the errors of all three pulls (``Errors.pulled``), weighted, the combination's own rounding included.
    Catches backward solvers with absolute tolerances, and warm starts that leak from one pull to the next.
    """
    a, b = weights
    other = cotangent[:, ::-1].copy()
    exact = a * cotangent + b * other
    combined = round_to(exact, deq.dtype)
    whole, first, second = (deq.pull(deq.solve(problem), c) for c in (combined, cotangent, other))
    bounds = [budget(deq, problem, c) for c in (combined, cotangent, other)]
    if not all(each.in_range for each in bounds):
        return
    rounded = np.abs(combined - exact)
    for block in _BLOCKS:
        yield finite(f"pull: {block}", whole[block])
        allowed = bounds[0].bound(lambda e, k=block: e.pulled(rounded)[k])
        for weight, part in zip((abs(a), abs(b)), bounds[1:], strict=True):
            allowed = allowed + weight * part.bound(lambda e, k=block: _pulled(e, k))
        parts = (abs(a) * bounds[1].exact.gradient[block], abs(b) * bounds[2].exact.gradient[block])
        distance = np.abs(whole[block] - a * first[block] - b * second[block])
        yield compare(f"pull(ac + bd) − a·pull(c) − b·pull(d), in {block}", distance, allowed, sum(map(np.abs, parts)))


@law(
    "repeated-pull",
    statement="pulling back again, with another cotangent in between, gives the same gradient",
    source="the implementation's own claim; the protocol: a pull may be called again",
    needs=("pull", "repeated pulls"),
    anomaly="wrong gradient on the second call",
    at_stake="Code that calls backward twice (second losses, Jacobians row by row, hooks) gets other numbers.",
    loose="the reference does the same twice, bit by bit; sums in another order, as on several threads, are forgiven.",
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq)),
)
def repeated_pull(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The gradients in A, Φ and γ for c (m, n), before and after a pull of −c.

    Bound: twice ``Errors.pulled``. Catches buffers freed or overwritten by the first pull, and hooks that fire twice.
    """
    answer = deq.solve(problem)
    first = deq.pull(answer, cotangent, again=True)
    deq.pull(answer, -cotangent, again=True)
    again = deq.pull(answer, cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    for block in _BLOCKS:
        yield finite(f"pull: {block}", again[block])
        allowed = 2 * bounds.bound(lambda e, k=block: _pulled(e, k))
        size = np.abs(bounds.exact.gradient[block])
        yield compare(f"second pull − first pull, in {block}", np.abs(again[block] - first[block]), allowed, size)


def _tangent(problem: Problem, dA: Array, dPhi: Array, slope: int) -> dict[str, Array]:
    """A direction of each block's own scale: dΦ that of Φ, dγ a multiple of a power of two at most 1 − γ."""
    dgamma = slope * 2.0 ** np.floor(np.log2(1.0 - problem.gamma))
    return {"A": dA, "Phi": dPhi * _scale_of(problem.Phi), "gamma": np.asarray(dgamma)}


def _scale_of(array: Array) -> float:
    """A power of two near the largest entry: multiplying by it rounds nothing."""
    largest = float(np.abs(array).max(initial=0.0))
    return 2.0 ** np.floor(np.log2(largest)) if largest else 1.0


def _rounded_signals(deq: Subject, *shape: int) -> SearchStrategy[Array]:
    return signals(shape, background=1.0).map(lambda array: round_to(array, deq.dtype))


def _directions(deq: Subject, *names: str) -> dict[str, Extra]:
    """Strategies for directions in A and Phi, and the slope in gamma, each name with its suffix."""
    extras: dict[str, Extra] = {}
    for name in names:
        extras[f"{name}A"] = lambda problem: _rounded_signals(deq, problem.m, problem.m)
        extras[f"{name}Phi"] = lambda problem: _rounded_signals(deq, problem.m, problem.n)
    return extras | {"slope": lambda problem: st.integers(-1, 1)}


@law(
    "adjoint-identity",
    statement="⟨Jv, c⟩ = ⟨v, Jᵀc⟩: the derivative along a tangent and the pull-back are transposes",
    source="theory: adjoint-identity",
    needs=("pull", "jvp"),
    anomaly=WRONG,
    at_stake="Forward and reverse mode give different derivatives: one of the two is wrong.",
    draws=lambda deq: cases(problems(deq.dtype), cotangent=cotangents(deq), **_directions(deq, "d")),
)
def adjoint_identity(
    deq: Subject, problem: Problem, cotangent: Array, dA: Array, dPhi: Array, slope: int
) -> Iterator[Measurement | Fact]:
    """For a tangent v in A (m, m), Φ (m, n) and γ, and a cotangent c (m, n); S is not symmetric, so transposes show.

    Bound: ``TangentErrors.dZ`` weighted by |c|, ``Errors.pulled`` weighted by |v|, and the inner products' own
    rounding. Catches a missing transpose, and a block that one of the two modes leaves out.
    """
    tangent = _tangent(problem, dA, dPhi, slope)
    dz = deq.jvp(problem, tangent)
    found = deq.pull(deq.solve(problem), cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    yield finite("Jv", dz)
    for block in _BLOCKS:
        yield finite(f"Jᵀc in {block}", found[block])
    left = np.sum(dz * cotangent)
    right = sum(np.sum(found[block] * tangent[block]) for block in _BLOCKS)
    size = np.sum(np.abs(dz * cotangent))

    def allowed(errors: Errors) -> Array:
        forward = np.sum(TangentErrors(errors, tangent).dZ.error * np.abs(cotangent))
        return np.asarray(forward + sum(np.sum(_pulled(errors, block) * np.abs(tangent[block])) for block in _BLOCKS))

    count = dA.size + 2 * dPhi.size + 4
    own = count * FLOAT64.unit * (size + sum(np.sum(np.abs(found[block] * tangent[block])) for block in _BLOCKS))
    yield compare(
        "|⟨Jv, c⟩ − ⟨v, Jᵀc⟩|", abs(left - right), bounds.bound(allowed) + own_rounding("both sides", own), size
    )


@law(
    "second-order",
    statement="the derivative of the gradient is right, or is refused with an error",
    source="theory: second-order; oracle: mixed central differences in ball arithmetic",
    needs=("pull", "second order"),
    anomaly="wrong second derivative",
    at_stake="Hessian-vector products, gradient penalties and hypergradients are wrong, and nothing says so.",
    draws=lambda deq: cases(problems(deq.dtype, largest=5), cotangent=cotangents(deq), **_directions(deq, "d", "e")),
)
def second_order(
    deq: Subject, problem: Problem, cotangent: Array, dA: Array, dPhi: Array, eA: Array, ePhi: Array, slope: int
) -> Iterator[Measurement | Fact]:
    """``D²⟨c, z*⟩[d, e]`` for a cotangent c (m, n), a direction d in all blocks and e in A, Φ and γ one by one.

    Bound: ``TangentErrors.second`` weighted by |e|; where only first derivatives are claimed, the claimed accuracy of
    the passes stands for that of the solves along d. An error raised instead is an honest refusal, unless second
    order is claimed. Catches gradients that are detached, or made of detached parts, yet look differentiable.
    """
    first = _tangent(problem, dA, dPhi, slope)
    deq.pull(deq.solve(problem), cotangent)  # crashes and reports of the first order are not this law's
    try:
        found = deq.second_order(problem, cotangent, first)
    except TargetFailure as refusal:
        yield Fact("the second derivative", not deq.claims.second_order, f"refused: {refusal}")
        return
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    whole = _tangent(problem, eA, ePhi, 1)
    exact = TangentErrors(bounds.theory, first).second
    for block in _BLOCKS:
        along = {block: whole[block]}
        yield finite(f"the second derivative in {block}", found[block])
        allowed = bounds.bound(lambda e, k=block: np.sum(TangentErrors(e, first).second[k].error * np.abs(whole[k])))
        accuracy = 1e-3 * float(allowed.total)
        true = Oracle(problem).second_derivative(cotangent, first, along, accuracy)
        claimed = float(np.sum(found[block] * whole[block]))
        size = float(np.sum(np.abs(exact[block].value * whole[block])))
        own = accuracy + 2.0**-52 * abs(true) + whole[block].size * FLOAT64.unit * size
        yield compare(
            f"|D²⟨c, z*⟩[d, e] − its oracle|, e in {block}",
            abs(claimed - true),
            allowed + own_rounding("the oracle's number and the inner product", own),
            size,
        )


@law(
    "start-gradient",
    statement="the gradient in the start z₀ is zero: the equilibrium does not depend on it",
    source="theory: contraction (uniqueness), differentiated; theory: adjoint",
    needs=("pull", "starts", "start gradient"),
    anomaly=WRONG,
    at_stake="Gradients leak into whatever made the start; the truncated unrolling behind them is no gradient.",
    loose="a start that is detached is not reached at all, and what is compared is zero; unrollings come to the bound.",
    draws=lambda deq: cases(
        problems(deq.dtype), cotangent=cotangents(deq), start=lambda p: _rounded_signals(deq, p.m, p.n)
    ),
)
def start_gradient(deq: Subject, problem: Problem, cotangent: Array, start: Array) -> Iterator[Measurement | Fact]:
    """What a pull of c (m, n) says of a drawn z₀ (m, n).

    An unrolling of K steps leaves ``(γSᵀ)ᴷc`` there, which is also the residual ``c + γSᵀΛ̂ − Λ̂`` of the adjoint that it
    gives. Bound: ``Errors.adjoint_residual``. Catches unrollings that are too short, and starts that are not detached.
    """
    z0 = start * _scale_of(problem.Phi)
    deq.equilibrium(problem, z0)  # where the solve is reported as failed, nothing is judged
    found = deq.start_gradient(problem, z0, cotangent)
    bounds = budget(deq, problem, cotangent)
    if not bounds.in_range:
        return
    yield finite("the gradient in z₀", found)
    size = np.abs(cotangent).max(axis=0, initial=0.0)
    allowed: Bound = bounds.bound(lambda errors: errors.adjoint_residual())
    yield compare("‖∂⟨c, ẑ⟩/∂z₀‖_∞", np.abs(found).max(axis=0, initial=0.0), allowed, size)
