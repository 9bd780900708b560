"""What is true of the plain linear cell ``f(z) = Az + Ux``, readout B: its gradients balance, pointwise and along
training (theory: balance, theory: conservation).

Both statements read ``GMᵀ = 0``, for weights M side by side and their gradient G: of the input side
``M = [I − A, U]`` and ``G = [−∂A, ∂U]``, of the output side ``M = [I − Aᵀ, Bᵀ]`` and ``G = [−∂Aᵀ, ∂Bᵀ]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from deqverify.properties.common import any_problem, finite, judged, own_rounding

from deqverify.bounds import FLOAT64, Bound
from deqverify.cells.linear import PlainLinearCell
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law

LINEAR = PlainLinearCell.name
WRONG = "wrong gradient"
DRIFTS = "Training drifts where the theory says it cannot: balance, and what is proved from it, is lost."

Side = Literal["input", "output"]
SIDES: tuple[Side, ...] = ("input", "output")
PARTNER = {"input": "U", "output": "B"}
"""The block that balances A."""


def _side_by_side(side: Side, A: Array, partner: Array) -> Array:
    """``[A, U]``, or ``[Aᵀ, Bᵀ]``."""
    return np.hstack([A, partner] if side == "input" else [A.T, partner.T])


def _weights(problem: Problem, side: Side) -> Array:
    """M."""
    A = problem.block("A")
    return _side_by_side(side, np.eye(len(A)) - A, problem.block(PARTNER[side]))


def _gradient(found: Mapping[str, Array], side: Side) -> Array:
    """G."""
    return _side_by_side(side, -found["A"], found[PARTNER[side]])


def _error(of: Callable[[str], Bound], side: Side) -> Bound:
    """Of G, entry by entry, by term."""
    parts = of("A"), of(PARTNER[side])
    names = dict.fromkeys(name for part in parts for name in part.terms)
    shapes = [part.total.shape for part in parts]
    return Bound(
        {
            name: _side_by_side(
                side, *(np.broadcast_to(part.terms.get(name, 0.0), s) for part, s in zip(parts, shapes, strict=True))
            )
            for name in names
        }
    )


def _times(bound: Bound, size: Array) -> Bound:
    """What an error of G makes of ``GMᵀ``, ``size`` being |M|."""
    return Bound({name: term @ size.T for name, term in bound.terms.items()})


def _balanced(
    what: str, problem: Problem, side: Side, found: Mapping[str, Array], true: Mapping[str, Array], error: Bound
) -> Iterator[Measurement | Fact]:
    for block in ("A", PARTNER[side]):
        yield finite(f"∂{block}", found[block])
    M, G, size = _weights(problem, side), _gradient(found, side), np.abs(_weights(problem, side))
    own = own_rounding("the products", (M.shape[1] + 2) * FLOAT64.unit * np.abs(G) @ size.T)
    yield compare(what, np.abs(G @ M.T), _times(error, size) + own, np.abs(_gradient(true, side)) @ size.T)


@law(
    about=LINEAR,
    statement="∂A(I−A)ᵀ = ∂U Uᵀ for every cotangent",
    source="theory: balance; Dandapanthula & Ramdas 2025, arXiv 2511.16976",
    needs=("pull",),
    rests_on=("gradient-theta",),
    anomaly=WRONG,
    at_stake="The gradients in A and U belong to two different states: training leaves the manifold that it starts on.",
    draws=any_problem(LINEAR, cotangent=True),
)
def input_balance(deq: Subject, problem: Problem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """Both sides are ``Λ(Ux)ᵀ``, summed over the data points: A (m, m), U (m, d), cotangents (n, m).

    Blind to the adjoint: any Λ̂ satisfies it, a one-step gradient's too. Bound: ``BallErrors.pulled`` through |I − A|
    and |U|. Catches a gradient in A that is formed with another state than the equilibrium.
    """
    found = deq.pull(deq.solve(problem), cotangent)
    truth = judged(deq, problem, cotangent)
    if truth.in_range:
        error = _error(truth.pulled_error, "input")
        yield from _balanced("|∂A(I−A)ᵀ − ∂U Uᵀ|", problem, "input", found, truth.pulled, error)


@law(
    about=LINEAR,
    statement="(I−A)ᵀ∂A = Bᵀ∂B",
    source="theory: balance",
    needs=("gradient",),
    rests_on=("gradient-theta", "gradient-B"),
    anomaly=WRONG,
    at_stake="The adjoint equation is not solved: A is trained on another objective than B.",
    draws=any_problem(LINEAR),
)
def output_balance(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Both sides are ``Bᵀ∂L/∂F Zᵀ``: A (m, m), B (p, m).

    Bound: ``BallErrors.gradient`` through |I − A| and |B|. Catches what input-balance cannot see: one-step gradients, a
    missing transpose, and adjoints that stopped early.
    """
    _, found = deq.value_and_grad(problem)
    truth = judged(deq, problem)
    if truth.in_range:
        error = _error(truth.gradient_error, "output")
        yield from _balanced("|(I−A)ᵀ∂A − Bᵀ∂B|", problem, "output", found, truth.gradient, error)


STEPS = 4
MOST_TURNS = 6
"""Fixed-point steps for a midpoint; each takes a digit or so off its error."""


class _Drift:
    """``MMᵀ`` of both sides along a path of steps ``M ← M − ηG``, and what a right implementation's may drift.

    G was asked for at weights that differ from those where the balance is taken, by the rounding to the dtype at the
    least: what that makes of ``GMᵀ`` is known, and allowed.
    """

    def __init__(self, problem: Problem):
        self.start = {side: self._invariant(problem, side) for side in SIDES}
        self.allowed = {side: own_rounding("MMᵀ", np.zeros_like(self.start[side])) for side in SIDES}
        self.size = {side: np.zeros_like(self.start[side]) for side in SIDES}
        self.expected = {side: np.zeros_like(self.start[side]) for side in SIDES}

    def _invariant(self, problem: Problem, side: Side) -> Array:
        M = _weights(problem, side)
        return M @ M.T

    def add(self, eta: float, asked: Problem, found: Mapping[str, Array], truth: Judge, here: Problem) -> None:
        """A step of η along ``found``, the gradient at ``asked``; ``here`` is where the balance is taken."""
        for side in SIDES:
            G, M = np.abs(_gradient(found, side)), _weights(here, side)
            away = G @ np.abs(M - _weights(asked, side)).T
            error = _times(_error(truth.gradient_error, side), np.abs(_weights(asked, side)))
            error = error + Bound({"gradient asked for at rounded weights": away})
            self.allowed[side] = self.allowed[side] + eta * error + eta * _transposed(error)
            # Forming M − ηG and MMᵀ at both ends: (columns + 4) roundings of the product of magnitudes, twice.
            reach = np.abs(M) + eta * G
            own = 2 * (M.shape[1] + 4) * FLOAT64.unit * reach @ reach.T
            self.allowed[side] = self.allowed[side] + own_rounding("MMᵀ", own)
            true = np.abs(_gradient(truth.gradient, side)) @ np.abs(M).T
            self.size[side] = self.size[side] + eta * (true + true.T)

    def expect(self, eta: float, found: Mapping[str, Array]) -> None:
        """What a step of gradient descent adds: ``η²GGᵀ``."""
        for side in SIDES:
            G = _gradient(found, side)
            self.expected[side] = self.expected[side] + eta**2 * (G @ G.T)

    def measure(self, here: Problem) -> Iterator[Measurement]:
        names = {"input": "(I−A)(I−A)ᵀ + UUᵀ", "output": "(I−A)ᵀ(I−A) + BᵀB"}
        for side in SIDES:
            moved = np.abs(self._invariant(here, side) - self.start[side] - self.expected[side])
            yield compare(f"drift of {names[side]}", moved, self.allowed[side], self.size[side])


def _transposed(bound: Bound) -> Bound:
    return Bound({name: term.T for name, term in bound.terms.items()})


def _step_size(here: Problem, found: Mapping[str, Array]) -> float:
    """An η for which A keeps contracting on all steps, and no block changes by more than a quarter of itself a step.

    ‖dA‖ is at most ``√m`` times its Frobenius norm in the norms that certify.
    """
    room = (1.0 - here.rate) / (2 * STEPS * len(here.block("A")) ** 0.5)
    most = {"A": room, **{block: np.linalg.norm(here.block(block)) / 4 for block in ("U", "B")}}
    slopes = {block: float(np.linalg.norm(found[block])) for block in most}
    return min((float(most[block]) / slope for block, slope in slopes.items() if slope > 0.0), default=0.0)


def _moved(here: Problem, found: Mapping[str, Array], eta: float) -> Problem:
    """``θ − ηĝ`` in A, U and B."""
    return here.with_blocks(**{block: here.block(block) - eta * found[block] for block in ("A", "U", "B")})


def _usable(found: Mapping[str, Array]) -> Iterator[Fact]:
    for block in ("A", "U", "B"):
        yield finite(f"∂L/∂{block}", found[block])


@law(
    about=LINEAR,
    statement="a step η of descent adds η²(∂A∂Aᵀ + ∂U∂Uᵀ) to (I−A)(I−A)ᵀ + UUᵀ, and likewise with B, and nothing else",
    source="theory: conservation",
    needs=("gradient",),
    rests_on=("input-balance", "output-balance"),
    anomaly=WRONG,
    at_stake=DRIFTS,
    cost=4,
    draws=any_problem(LINEAR),
)
def balance_descent(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Four steps of gradient descent on A, U and B; weights are carried in float64 and rounded for the implementation.

    ``(I−A)ᵀ(I−A) + BᵀB`` gains ``η²(∂Aᵀ∂A + ∂Bᵀ∂B)``. Bound: η times the errors of both balances, summed, and the
    rounding of the matrices. Catches what the balances catch, and whatever is kept from one call to the next: a
    factorisation that is used again though A has moved.
    """
    drift, here, eta = _Drift(problem), problem, 0.0
    for step in range(STEPS):
        asked = here.rounded_to(deq.dtype)
        _, found = deq.value_and_grad(asked)
        truth = judged(deq, asked)
        if not truth.in_range:
            return
        yield from _usable(found)
        eta = eta if step else _step_size(problem, truth.gradient)
        drift.add(eta, asked, found, truth, here)
        drift.expect(eta, found)
        here = _moved(here, found, eta)
        yield from drift.measure(here)


@law(
    about=LINEAR,
    statement="along gradient flow (I−A)(I−A)ᵀ + UUᵀ and (I−A)ᵀ(I−A) + BᵀB are constant",
    source="theory: conservation; Dandapanthula & Ramdas 2025, arXiv 2511.16976 (the first)",
    needs=("gradient",),
    rests_on=("input-balance", "output-balance"),
    anomaly=WRONG,
    at_stake=DRIFTS,
    cost=8,
    draws=any_problem(LINEAR),
)
def balance_flow(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """Three steps of the implicit midpoint rule, which keeps quadratic invariants exactly: no error of an integrator
    enters, only how far the point where the gradient was asked for is from the midpoint.

    Bound: the step times the errors of both balances, that distance times the gradient, and the rounding of the
    matrices. Catches what balance-descent catches.
    """
    drift, here, eta = _Drift(problem), problem, 0.0
    for _ in range(STEPS - 1):
        middle = here
        for _ in range(MOST_TURNS):
            asked = middle.rounded_to(deq.dtype)
            _, found = deq.value_and_grad(asked)
            if not all(np.isfinite(found[block]).all() for block in ("A", "U", "B")):
                break
            eta = eta or _step_size(problem, found)
            middle = _moved(here, found, eta / 2)
        truth = judged(deq, asked)
        if not truth.in_range:
            return
        yield from _usable(found)
        drift.add(eta, asked, found, truth, middle)
        here = _moved(here, found, eta)
        yield from drift.measure(here)
