"""What is true of the cells ``f(z) = relu(Wz + Ux + b)``, whatever W is made of (theory: homogeneity,
theory: readout-floor)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from deqverify.properties.common import any_problem, cases, finite, judged, own_rounding, problems_for
from hypothesis.strategies import SearchStrategy

from deqverify.bounds import FLOAT64, Bound
from deqverify.cells.norms import matrix_norms
from deqverify.cells.relu import ReluCell
from deqverify.cells.relu_gao import GaoReluCell
from deqverify.claims import Claims
from deqverify.comparison import Fact, Measurement, compare
from deqverify.drawing import signals
from deqverify.dtypes import Array, round_to
from deqverify.errors.judge import Judge, judge
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem, Problem
from deqverify.registry import ANY_RELU, law
from deqverify.theory.overparameterised import Promise, least_singular_value, promise

WRONG = "wrong gradient"
SLOW = "training does not reach the rate of the theorem"
PROMISED = "The guarantee that training converges, and stays well-posed on the way, does not hold here."
NOT_TIGHT = "the theorem's constants are far from tight: the reference's loss falls faster than promised."


def _inner(bound: Bound, weights: Array) -> Bound:
    """Of ``⟨g, weights⟩``, one number, g being off by ``bound``."""
    return Bound({name: np.asarray(np.sum(np.abs(weights) * term)) for name, term in bound.terms.items()})


def _squared_error(truth: Judge, block: str) -> Bound:
    """Of ``‖∂L/∂block‖²``: ``Σ 2|g|e + e²``."""
    error, size = truth.gradient_error(block), np.abs(truth.gradient[block])
    return _inner(error, 2 * size + error.total)


@law(
    about=ANY_RELU,
    statement="⟨U, ∂U⟩ + ⟨b, ∂b⟩ = ⟨x, ∂x⟩ + ⟨b, ∂b⟩ = ⟨c, z*⟩ for every cotangent c",
    source="theory: homogeneity",
    needs=("pull",),
    rests_on=("gradient-theta", "gradient-x"),
    anomaly=WRONG,
    at_stake="The adjoint equation is not solved: every gradient through the equilibrium is wrong.",
    draws=any_problem(ANY_RELU, cotangent=True),
)
def relu_euler(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """Euler's identity: z* (n, m) grows in proportion with U (m, d) and b (m,) together, and with x (n, d) and b. All
    sides are the implementation's.

    Bound: ``BallErrors.pulled`` weighted by U, x and b, ``BallErrors.z_error`` weighted by |c|, and the sums' own
    rounding. Catches one-step gradients, adjoints that stopped early, and slopes that do not belong to ẑ.
    """
    answer = deq.solve(problem)
    found = deq.pull(answer, cotangent)
    truth = judged(deq, problem, cotangent, near=answer.z)
    if not truth.in_range:
        return
    right, size = float(np.sum(cotangent * answer.z)), float(np.sum(np.abs(cotangent * truth.z)))
    for block in ("U", "x"):
        sides = {name: problem.block(name) for name in (block, "b")}
        for name in sides:
            yield finite(f"pull: {name}", found[name])
        products = [(found[name] * value).ravel() for name, value in sides.items()] + [(cotangent * answer.z).ravel()]
        allowed = _inner(truth.z_error, cotangent)
        for name, value in sides.items():
            allowed = allowed + _inner(truth.pulled_error(name), value)
        summed = np.concatenate(products)
        own = own_rounding("the sums", (summed.size + 4) * FLOAT64.unit * np.sum(np.abs(summed)))
        left = sum(float(np.sum(part)) for part in products[:2])
        yield compare(f"|⟨{block}, ∂{block}⟩ + ⟨b, ∂b⟩ − ⟨c, ẑ⟩|", abs(left - right), allowed + own, size)


def _with_squared_loss(arguments: dict[str, Any]) -> dict[str, Any]:
    problem = arguments["problem"]
    assert isinstance(problem, CellProblem)
    return arguments | {"problem": replace(problem, loss=Squared())}


def _regressions(deq: Subject) -> SearchStrategy[dict[str, Any]]:
    """Problems with the squared loss, whatever targets another loss drew, and of half as many data points as a state
    has entries: states that are not independent, as more of them never are, leave the law nothing to say."""

    def few(arguments: dict[str, Any]) -> dict[str, Any]:
        problem: Problem = arguments["problem"]
        return {**arguments, "problem": problem.chosen(slice((len(problem.block("U")) + 1) // 2))}

    return any_problem(ANY_RELU)(deq).map(few).map(_with_squared_loss)


@law(
    about=ANY_RELU,
    statement="‖∂L/∂B‖² ≥ 4 λ_min(ZᵀZ) L for L = ‖F−Y‖²",
    source="theory: readout-floor; Ling et al. 2023, arXiv 2205.13814",
    needs=("gradient",),
    rests_on=("gradient-B",),
    anomaly=WRONG,
    at_stake="The loss does not fall at the rate that over-parameterised training is promised to have.",
    draws=_regressions,
)
def readout_floor(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Whenever the states of n data points are independent the readout alone has a gradient, so that L > 0 at no
    stationary point. Ling et al. take ``½‖F−Y‖²``, whose floor is ``2 λ_min L``. An equality for n = 1.

    Bound: ``2|g|e + e²`` for ∂L/∂B (p, m); on the other side the errors of Z and L in float64. Catches a loss that is
    halved or averaged in the gradient, and a readout that is trained on other states than the equilibria. Blind to the
    adjoint.
    """
    _, found = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if not truth.in_range:
        return
    yield finite("∂L/∂B", found["B"])
    sigma, off = least_singular_value(truth.z.T)
    value, radius = truth.objective()
    promised, squared = 4.0 * sigma**2 * value, float(np.sum(found["B"] ** 2))
    above = 4.0 * (sigma + off) ** 2 * (value + radius) - promised
    own = own_rounding("both sides", above + (found["B"].size + 8) * FLOAT64.unit * (squared + promised))
    yield compare("4 λ_min(ZᵀZ) L − ‖∂L/∂B‖²", max(0.0, promised - squared), _squared_error(truth, "B") + own, promised)


STEPS = 8
Draws = Callable[[Subject], SearchStrategy[dict[str, Any]]]


def _starts(cell: str) -> Draws:
    """A problem whose readout and targets the law replaces, and the direction in which outputs are off at the start."""

    def draws(deq: Subject) -> SearchStrategy[dict[str, Any]]:
        off = lambda problem: signals((problem.p, problem.n), background=1.0)  # noqa: E731
        return cases(problems_for(deq, cell).map(_alive), off=off).map(_with_squared_loss)

    return draws


def _alive(problem: Problem) -> Problem:
    """Rows of U and entries of b with their signs turned where ``Ux + b`` of the first data point is negative: the
    state is 0 only if all of that is."""
    U, b = problem.block("U"), problem.block("b")
    sign = np.where(U @ problem.x[0] + b < 0.0, -1.0, 1.0)
    return problem.with_blocks(U=sign[:, None] * U, b=sign * b)


def _exactly(problem: Problem) -> Judge:
    """What is true at float64 weights."""
    return judge(problem, Claims(), "float64")


def _promising(deq: Subject, problem: Problem, off: Array, share: float) -> tuple[Problem, Promise] | None:
    """The problem, rounded to the dtype, from a start that keeps its promise, on the most data points whose states are
    independent. Its targets are ``F₀ − D``, D along ``off`` and a quarter of the size that is allowed; its readout is
    shrunk by a power of two, to that size over ζ at most, which is below ``β/2``, so that the rounding of F₀ is small
    beside D."""
    assert isinstance(problem, CellProblem)
    weight, Z, X = problem.cell.weight(problem.theta), _exactly(problem).z.T, problem.x.T  # type: ignore[attr-defined]
    tried = ((n, promise(weight, Z[:, :n], X[:, :n], share)) for n in range(min(Z.shape), 0, -1))
    n, found = next(((n, found) for n, found in tried if found), (0, None))
    size, wrong = matrix_norms(problem.B)["2"], float(np.linalg.norm(off[:, :n]))
    if found is None or not wrong:
        return None
    shrink = 2.0 ** np.floor(np.log2(found.most / found.zeta / size)) if size else 1.0
    B = round_to(problem.B * min(shrink, 1.0), deq.dtype)
    Y = round_to(B @ Z[:, :n] - off[:, :n] * (found.most / 4.0 / wrong), deq.dtype)
    return replace(problem.chosen(slice(n)), B=B, Y=Y), found


def _descent(deq: Subject, problem: Problem, off: Array, block: str, factor: float) -> Iterator[Measurement | Fact]:
    """Gradient descent on ``block``, U and B, of which ``W = factor · block``; judged at every step."""
    start = _promising(deq, problem, off, factor**2)
    if start is None:
        return
    here, known = start
    blocks, errors, added, first = (block, "U", "B"), np.zeros(3), 0.0, None
    for step in range(STEPS + 1):
        truth = _exactly(here)
        if not truth.in_range:
            return
        residual = float(np.sqrt(truth.objective()[0]))
        first = residual if first is None else first
        if not 0.0 < first <= known.most / 2.0 or not known.holds_with(*errors):
            return  # targets that rounding moved too far, or claims too loose for the promise
        yield from _kept(known, truth, factor * here.block(block), step)
        allowed = Bound({"gradient errors, carried along": np.asarray(added)})
        allowed = allowed + own_rounding("the loss", 64 * FLOAT64.unit * first)
        fallen = (1.0 - known.rate) ** step
        excess = max(0.0, residual - fallen * first)
        yield compare(f"√L − its promise after {step} steps", excess, allowed, (1.0 - fallen) * first)
        asked = here.rounded_to(deq.dtype)
        _, found = deq.value_and_grad(asked)
        for name in blocks:
            yield finite(f"∂L/∂{name}", found[name])
        seen = judged(deq, asked)
        if not seen.in_range:
            return
        here = here.with_blocks(**{k: here.block(k) - known.eta * found[k] for k in blocks})
        wrong = [seen.gradient_error(k).total + np.abs(seen.gradient[k] - truth.gradient[k]) for k in blocks]
        moved = [known.eta * e + FLOAT64.unit * np.abs(here.block(k)) for k, e in zip(blocks, wrong, strict=True)]
        each = np.array([factor, 1.0, 1.0]) * [float(np.linalg.norm(e)) for e in moved]
        errors, added = errors + each, added + known.carried(*each)


def _kept(known: Promise, truth: Judge, W: Array, step: int) -> Iterator[Measurement]:
    """``‖W‖₂ ≤ ω`` and ``λ_min(ZᵀZ) ≥ λ₀/2``: errors of the gradients have their room in both."""
    norm, (sigma, off) = matrix_norms(W)["2"], least_singular_value(truth.z.T)
    wide = own_rounding("‖W‖₂", (40 * len(W) + 8) * FLOAT64.unit)  # what raised the norm, of at most about 1
    yield compare(f"‖W‖₂ − {known.omega:.3g} after {step} steps", max(0.0, norm - known.omega), wide, 0.0)
    short = max(0.0, (known.least / 2.0) ** 0.5 - sigma)
    yield compare(f"√(λ₀/2) − √λ_min after {step} steps", short, own_rounding("√λ_min", off), 0.0)


@law(
    about=ReluCell.name,
    statement="from an over-parameterised start ‖W_k‖₂ < 1, λ_min(Z_kᵀZ_k) ≥ λ₀/2 and √L_k ≤ (1−ηλ₀/2)ᵏ√L₀",
    source="theory: over-parameterised; after Ling et al. 2023, arXiv 2205.13814",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake=PROMISED,
    cost=8,
    loose=NOT_TIGHT,
    draws=_starts(ReluCell.name),
)
def overparameterised_descent(deq: Subject, problem: Problem, off: Array) -> Iterator[Measurement | Fact]:
    """Eight steps of gradient descent on W, U and B with the implementation's gradients; b stays. The start has
    independent states, n ≤ m, a small readout, and outputs near their targets; its promise is a formula of W₀, Z₀, x.

    Weights are carried in float64. Bound on √L: the gradients' errors through ‖Z‖₂ and the readout's room, summed.
    Catches a sign, a factor below a quarter, and a readout whose gradient is lost. Blind to the adjoint: the readout
    alone gives the rate.
    """
    yield from _descent(deq, problem, off, "W", 1.0)


@law(
    about=GaoReluCell.name,
    statement="with W = γ/√m·A: from an over-parameterised start ‖W_k‖₂ < 1, and √L_k ≤ (1−ηλ₀/2)ᵏ√L₀",
    source="theory: over-parameterised; after Gao & Gao 2022, arXiv 2205.07463",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=SLOW,
    at_stake=PROMISED,
    cost=8,
    loose=NOT_TIGHT,
    draws=_starts(GaoReluCell.name),
)
def scaled_descent(deq: Subject, problem: Problem, off: Array) -> Iterator[Measurement | Fact]:
    """As overparameterised-descent, A (m, m) in place of W: its gradient and its step are each scaled by γ/√m, γ fixed,
    so that W moves by γ²/m times as much: well-posed throughout.

    Bound and catches likewise.
    """
    yield from _descent(deq, problem, off, "A", float(problem.block("gamma")) / len(problem.block("A")) ** 0.5)
