"""The pull-back for a given cotangent: the adjoint equation, its linearity, its transpose (theory: certificate,
theory: adjoint, theory: allowed-adjoint)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from deqverify.properties.common import (
    PAIRS,
    SOFTMAX,
    Extra,
    any_problem,
    cases,
    cotangents,
    directions,
    finite,
    judged,
    large_problem,
    own_rounding,
    problems_for,
    rounded_signals,
    scale_of,
)

from deqverify.bounds import FLOAT64, Bound
from deqverify.cells import LinearCell
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, round_to
from deqverify.errors.judge import Direction
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.subject import Subject, heed
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.registry import law
from deqverify.strategies import problems

WRONG = "wrong gradient"
STAKE = "Every gradient through the equilibrium is built on this solve."


@law(
    statement="what the residual of Λ̂ proves of ‖Λ̂ − Λ‖ is within the claimed accuracy",
    source="theory: certificate, theory: probe, theory: allowed-adjoint",
    needs=("pull", "probe", "cell"),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake=STAKE,
    draws=any_problem(cotangent=True),
    large=large_problem(cotangent=True),
)
def adjoint_certificate(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The adjoint Λ, seen as the gradient in a probe that is added to f; for a drawn cotangent c (n, *state) its own
    residual ``c + (∂f/∂z)ᵀΛ̂ − Λ̂`` certifies it.

    In the linear-softmax cell x is such a probe, and Sᵀ contracts in the maximum norm at rate γ. The residual is
    evaluated in ball arithmetic. Bound: ``Errors.adjoint_certificate``, ``BallErrors.adjoint_error``. Catches a missing
    transpose, one-step gradients, and a backward solve that stops early.
    """
    adjoint, status = deq.adjoint(problem, cotangent)
    heed(status)
    truth = judged(deq, problem, cotangent)
    if not truth.in_range:
        return
    yield finite("Λ̂", adjoint)
    certificate, allowed = truth.adjoint_certificate(adjoint)
    yield compare("certificate of ‖Λ̂ − Λ‖ by the residual", certificate, allowed, truth.adjoints(truth.adjoint))


@law(
    statement="the pull-back is linear in the cotangent",
    source="theory: adjoint",
    needs=("pull",),
    rests_on=("adjoint-certificate", "gradient-theta", "gradient-x"),
    anomaly=WRONG,
    at_stake="Gradients do not add up: accumulation over micro-batches or losses changes them.",
    draws=any_problem(cotangent=True, weights=lambda problem: PAIRS),
)
def cotangent_linearity(
    deq: Subject, problem: Problem, cotangent: Array, weights: tuple[int, int]
) -> Iterator[Measurement | Fact]:
    """``pull(ac + bd) = a·pull(c) + b·pull(d)`` in every parameter and x, d the cotangent c (n, *state) of the data
    points in reverse.

    Bound: the errors of all three pulls (``Errors.pulled``), weighted, the combination's own rounding included.
    Catches backward solvers with absolute tolerances, and warm starts that leak from one pull to the next.
    """
    a, b = weights
    other = cotangent[::-1].copy()
    exact = a * cotangent + b * other
    combined = round_to(exact, deq.dtype)
    whole, first, second = (deq.pull(deq.solve(problem), c) for c in (combined, cotangent, other))
    truths = [judged(deq, problem, c) for c in (combined, cotangent, other)]
    if not all(each.in_range for each in truths):
        return
    rounded = np.abs(combined - exact)
    for block in problem.pulled_blocks:
        yield finite(f"pull: {block}", whole[block])
        allowed = truths[0].pulled_error(block, rounded)
        for weight, part in zip((abs(a), abs(b)), truths[1:], strict=True):
            allowed = allowed + weight * part.pulled_error(block)
        size = abs(a) * np.abs(truths[1].pulled[block]) + abs(b) * np.abs(truths[2].pulled[block])
        distance = np.abs(whole[block] - a * first[block] - b * second[block])
        yield compare(f"pull(ac + bd) − a·pull(c) − b·pull(d), in {block}", distance, allowed, size)


@law(
    statement="pulling back again, with another cotangent in between, gives the same gradient",
    source="the implementation's own claim; the protocol: a pull may be called again",
    needs=("pull", "repeated pulls"),
    rests_on=("adjoint-certificate",),
    anomaly="wrong gradient on the second call",
    at_stake="Code that calls backward twice (second losses, Jacobians row by row, hooks) gets other numbers.",
    loose="the reference does the same twice, bit by bit; sums in another order, as on several threads, are forgiven.",
    draws=any_problem(cotangent=True),
)
def repeated_pull(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The gradients in every parameter and x for c (n, *state), before and after a pull of −c.

    Bound: twice ``Errors.pulled``. Catches buffers freed or overwritten by the first pull, and hooks that fire twice.
    """
    answer = deq.solve(problem)
    first = deq.pull(answer, cotangent, again=True)
    deq.pull(answer, -cotangent, again=True)
    again = deq.pull(answer, cotangent)
    truth = judged(deq, problem, cotangent)
    if not truth.in_range:
        return
    for block in problem.pulled_blocks:
        yield finite(f"pull: {block}", again[block])
        allowed, size = 2 * truth.pulled_error(block), np.abs(truth.pulled[block])
        yield compare(f"second pull − first pull, in {block}", np.abs(again[block] - first[block]), allowed, size)


def _tangents(deq: Subject) -> Extra:
    """Directions in every parameter and x, numbers of the dtype; the law scales them."""
    return lambda problem: directions({name: problem.block(name) for name in problem.pulled_blocks}).map(
        lambda found: {name: round_to(d, deq.dtype) for name, d in found.items()}
    )


def scaled_to_blocks(problem: Problem, direction: Direction) -> dict[str, Array]:
    """A direction of each block's own scale: dx that of x, dγ at most 1 − γ, by powers of two, which round nothing."""
    factors = {"x": scale_of(problem.x)}
    if isinstance(problem, SoftmaxProblem):
        factors["gamma"] = 2.0 ** np.floor(np.log2(1.0 - problem.gamma))
    return {name: np.asarray(d * factors.get(name, 1.0)) for name, d in direction.items()}


@law(
    statement="⟨Jv, c⟩ = ⟨v, Jᵀc⟩: the derivative along a tangent and the pull-back are transposes",
    source="theory: adjoint-identity",
    needs=("pull", "jvp", "cell"),
    rests_on=("adjoint-certificate", "gradient-theta", "gradient-x"),
    anomaly=WRONG,
    at_stake="Forward and reverse mode give different derivatives: one of the two is wrong.",
    draws=lambda deq: any_problem(cotangent=True, tangent=_tangents(deq))(deq),
)
def adjoint_identity(
    deq: Subject, problem: Problem, cotangent: Array, tangent: Direction
) -> Iterator[Measurement | Fact]:
    """For a tangent v in every parameter and x, and a cotangent c (n, *state); Jacobians are not symmetric, so that
    transposes show.

    Bound: ``TangentErrors.dZ`` or ``BallErrors.tangent`` weighted by |c|, ``Errors.pulled`` weighted by |v|, and the
    inner products' own rounding. Catches a missing transpose, and a block that one of the two modes leaves out.
    """
    v = scaled_to_blocks(problem, tangent)
    dz = deq.jvp(problem, v)
    found = deq.pull(deq.solve(problem), cotangent)
    truth = judged(deq, problem, cotangent)
    if not truth.in_range:
        return
    yield finite("Jv", dz)
    for block in problem.pulled_blocks:
        yield finite(f"Jᵀc in {block}", found[block])
    left = np.sum(dz * cotangent)
    right = sum(np.sum(found[block] * v[block]) for block in problem.pulled_blocks)
    size = np.sum(np.abs(dz * cotangent))
    allowed = _summed(truth.tangent(v)[1], cotangent)
    for block in problem.pulled_blocks:
        allowed = allowed + _summed(truth.pulled_error(block), v[block])
    count = sum(np.size(d) for d in v.values()) + dz.size + 4
    own = count * FLOAT64.unit * (size + sum(np.sum(np.abs(found[block] * v[block])) for block in v))
    yield compare("|⟨Jv, c⟩ − ⟨v, Jᵀc⟩|", abs(left - right), allowed + own_rounding("both sides", own), size)


def _summed(bound: Bound, weights: Array) -> Bound:
    return Bound({name: np.asarray(np.sum(np.abs(weights) * term)) for name, term in bound.terms.items()})


def _small(deq: Subject) -> Any:
    """As ``problems_for``; of the linear-softmax cell, whose oracle takes four solves a block, up to five states."""
    alone = deq.own_cell is None and deq.cells == (SOFTMAX,)
    return problems(deq.dtype, largest=5) if alone else problems_for(deq)


@law(
    statement="the derivative of the gradient is right, or is refused with an error",
    source="theory: second-order, theory: second-order-of-a-cell; oracle: central differences in ball arithmetic",
    needs=("pull", "second order", "cell"),
    rests_on=("adjoint-certificate", "gradient-theta", "gradient-x"),
    anomaly="wrong second derivative",
    at_stake="Hessian-vector products, gradient penalties and hypergradients are wrong, and nothing says so.",
    draws=lambda deq: cases(_small(deq), cotangent=cotangents(deq), first=_tangents(deq), second=_tangents(deq)),
)
def second_order(
    deq: Subject, problem: Problem, cotangent: Array, first: Direction, second: Direction
) -> Iterator[Measurement | Fact]:
    """``D²⟨c, z*⟩[d, e]`` for a cotangent c (n, *state), a direction d in all blocks and e in each by itself.

    Bound: ``TangentErrors.second`` or ``errors.second`` weighted by |e|; where only first derivatives are claimed, the
    claimed accuracy of the passes stands for that of the solves along d. An error raised instead is an honest refusal,
    unless second order is claimed. Undecided at a kink. Catches gradients that are detached, or made of detached parts,
    yet look differentiable, and Jacobians that are held fixed.
    """
    d, e = scaled_to_blocks(problem, first), scaled_to_blocks(problem, second)
    answer = deq.solve(problem)
    deq.pull(answer, cotangent)  # crashes and reports of the first order are not this law's
    try:
        found = deq.second_order(problem, cotangent, d)
    except TargetFailure as refusal:
        yield Fact("the second derivative", not deq.claims.second_order, f"refused: {refusal}")
        return
    truth = judged(deq, problem, cotangent, near=answer.z)
    if not truth.in_range:
        return
    for block in e:
        yield finite(f"the second derivative in {block}", found[block])
    for block, (distance, allowed, size) in truth.off_second(found, d, e).items():
        yield compare(f"|D²⟨c, z*⟩[d, e] − its oracle|, e in {block}", distance, allowed, size)


@law(
    statement="the gradient in the start z₀ is zero: the equilibrium does not depend on it",
    source="theory: contraction (uniqueness), differentiated; theory: start",
    needs=("pull", "starts", "start gradient", "cell"),
    rests_on=("adjoint-certificate", "inputs-kept"),
    anomaly=WRONG,
    at_stake="Gradients leak into whatever made the start; the truncated unrolling behind them is no gradient.",
    loose="a start that is detached is not reached at all, and what is compared is zero; unrollings come to the bound.",
    draws=lambda deq: any_problem(cotangent=True, start=lambda p: rounded_signals(deq, p.states))(deq),
)
def start_gradient(deq: Subject, problem: Problem, cotangent: Array, start: Array) -> Iterator[Measurement | Fact]:
    """What a pull of c (n, *state) says of z₀ (n, *state), drawn where f is linear, elsewhere the layer's own answer.

    An unrolling of K steps leaves ``(Jᵀ)ᴷc`` there, which is also the residual ``c + JᵀΛ̂ − Λ̂`` of the adjoint that it
    gives, where J is the same at every step. Bound: ``Errors.adjoint_residual``, ``errors.passes.start_gradient``;
    undecided without a contraction. Catches unrollings that are too short, and starts that are not detached.
    """
    anywhere = isinstance(problem.cell, LinearCell)
    z0 = start * scale_of(problem.x) if anywhere else deq.equilibrium(problem)
    deq.equilibrium(problem, z0)  # where the solve is reported as failed, nothing is judged
    found = deq.start_gradient(problem, z0, cotangent)
    truth = judged(deq, problem, cotangent, near=None if anywhere else z0)
    if not truth.in_range:
        return
    yield finite("the gradient in z₀", found)
    size = truth.adjoints(cotangent)
    yield compare("‖∂⟨c, ẑ⟩/∂z₀‖_∞", truth.adjoints(found), truth.start_error, size)


@law(
    statement="from a given start z₀ the pull is that of the equilibrium too",
    source="theory: contraction (uniqueness); theory: allowed-adjoint",
    needs=("pull", "starts", "cell"),
    rests_on=("uniqueness", "adjoint-certificate", "gradient-theta", "gradient-x"),
    anomaly="wrong gradient from a given start",
    at_stake="Whoever starts at the states of the last batch trains with another gradient than whoever starts anew.",
    draws=lambda deq: any_problem(cotangent=True, start=lambda p: rounded_signals(deq, p.states))(deq),
)
def pull_from_start(deq: Subject, problem: Problem, cotangent: Array, start: Array) -> Iterator[Measurement | Fact]:
    """The gradients of ``⟨c, ẑ⟩`` in every parameter and in x, solved from z₀ (n, *state): drawn where a certificate
    says that there is one equilibrium, elsewhere the layer's own answer.

    Every other law of gradients leaves the start to the layer. Bound: ``Errors.pulled``. Catches graphs that are built
    from another state, or without the inputs, where a start is given.
    """
    anywhere = problem.certificate is not None
    z0 = round_to(start * scale_of(problem.x), deq.dtype) if anywhere else deq.equilibrium(problem)
    answer = deq.solve(problem, z0)
    found = deq.pull(answer, cotangent)
    truth = judged(deq, problem, cotangent, near=answer.z)
    if not truth.in_range:
        return
    for block, gradient in found.items():
        right, own = truth.pulled[block], own_rounding("the oracle's number", truth.pulled_own(block))
        yield finite(f"the pull from z₀ in {block}", gradient)
        distance, allowed = np.abs(gradient - right), truth.pulled_error(block) + own
        yield compare(f"|pull from z₀ − its oracle|, in {block}", distance, allowed, np.abs(right))
