"""Weights of a few bits: what quantising them does to the equilibrium, and to training through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deqverify.dtypes import Array, to_grid
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import infimum

GAMMA = 0.5


def perturbed(problem: SoftmaxProblem, bits: int) -> dict[str, float]:
    """At one problem: ``‖z*(A_q) − z*(A)‖₁`` at the worst data point over its bound, the departure from the identity,
    the relative size, and the departure from the mass that §equilibrium gives."""
    exact, coarse = ClosedForm(problem), ClosedForm(replace(problem, A=to_grid(problem.A, bits)))
    moved = coarse.Z - exact.Z
    pushed = (coarse.S - exact.S) @ exact.Z
    allowed = problem.gamma / (1.0 - problem.gamma) * np.abs(pushed).sum(axis=0)
    identity = problem.gamma * coarse.solve(pushed)
    mass = coarse.Z.sum(axis=0) - problem.Phi.sum(axis=0) / (1.0 - problem.gamma)
    size = np.abs(exact.Z).sum(axis=0)
    return {
        "used": float(np.max(np.abs(moved).sum(axis=0) / allowed)),
        "identity": float(np.max(np.abs(moved - identity).sum(axis=0) / size)),
        "moved": float(np.max(np.abs(moved).sum(axis=0) / size)),
        "mass": float(np.max(np.abs(mass) / size)),
    }


def preconditioned(A: Array, g: Array) -> Array:
    """The steepest descent in the metric ``I − ssᵀ``, s = tanh(a)/(1 + ‖tanh(a)‖) for each column a of A: nearly
    Euclidean, so that its inverse is ``I + ssᵀ/(1 − sᵀs)``."""
    t = np.tanh(A)
    s = t / (1.0 + np.linalg.norm(t, axis=0))
    return g + s * np.sum(s * g, axis=0) / (1.0 - np.sum(s * s, axis=0))


def straight_through(problem: SoftmaxProblem, bits: int | None, metric: bool, steps: int, eta: float) -> list[float]:
    """Losses along ``A ← A − η ∂L/∂A(A_q)``, B likewise and quantised likewise: the gradient at the quantised weights
    moves the real ones. ``bits`` None: no quantisation."""
    A, B, seen = problem.A, problem.B, []
    for _ in range(steps):
        here = problem if bits is None else replace(problem, A=to_grid(A, bits), B=to_grid(B, bits))
        exact = ClosedForm(replace(here, A=A, B=B) if bits is None else here)
        seen.append(exact.loss)
        g = exact.gradient
        A = A - eta * (preconditioned(A, g["A"]) if metric else g["A"])
        B = B - eta * g["B"]
    return seen


def start(seed: int, m: int, p: int, n: int) -> SoftmaxProblem:
    """Gaussian weights and targets; features with singular values of 1 to 1.3; more points than features, so L* > 0."""
    draws = np.random.default_rng([seed, m, p, n])
    left, _, right = np.linalg.svd(draws.standard_normal((m, n)), full_matrices=False)
    Phi = left * np.linspace(1.3, 1.0, min(m, n)) @ right
    A, B, Y = (draws.standard_normal(shape) for shape in ((m, m), (p, m), (p, n)))
    return SoftmaxProblem(A, 0.5 * B / m**0.5, Phi, Y, GAMMA, Squared())


@scenario(
    name="bits",
    title="Weights of a few bits: the equilibrium moves within its bound, and training loses a quarter a bit",
    source="Chen et al. 2023, arXiv 2302.03390; theory: quantised, theory: mass",
    quick={"m": 6, "p": 2, "n": 10, "bits": (2, 3, 4, 5, 6, 8), "seeds": 3, "steps": 300},
    full={"m": 12, "p": 3, "n": 24, "bits": (2, 3, 4, 5, 6, 7, 8, 10), "seeds": 4, "steps": 800},
)
def bits_scenario(work: Work, m: int, p: int, n: int, bits: tuple[int, ...], seeds: int, steps: int) -> Outcome:
    """A is quantised to k bits. The softmax of what remains is column-stochastic, so that there is one equilibrium,
    with the same mass; it moves by γU_q⁻¹(S_q − S)z*, hence by γ/(1−γ)·‖(S_q − S)z*‖₁ at most. Then A and B are
    trained with the straight-through gradient, which is the gradient at the quantised weights, with and without a
    Riemannian metric."""
    items = [(k, s) for k in bits for s in range(seeds)]
    seen = dict(
        zip(
            items,
            work.each(items, lambda i: perturbed(start(work.seed + i[1], m, p, n), i[0]), "bits, start"),
            strict=True,
        )
    )

    def train(item: tuple[int | None, bool, int]) -> dict[str, float]:
        k, metric, s = item
        problem = start(work.seed + s, m, p, n)
        eta = 0.4 / float(np.linalg.norm(ClosedForm(problem).Z, 2) ** 2)  # 2/λ is 1/‖Z‖² in B; A moves Z
        losses, floor = straight_through(problem, k, metric, steps, eta), infimum(problem).attained
        return {"left": float(np.mean(losses[-steps // 4 :]) - floor) / (losses[0] - floor)}

    choices = [(k, metric, s) for k in (*bits, None) for metric in (False, True) for s in range(seeds)]
    runs = dict(zip(choices, work.each(choices, train, "trained with bits, metric, start"), strict=True))

    def left(k: int | None, metric: bool) -> float:
        return float(np.exp(np.mean([np.log(max(runs[k, metric, s]["left"], 1e-16)) for s in range(seeds)])))

    middle = [k for k in bits if k >= 3]
    halvings = [np.log2(2 ** (k - 1) - 1) for k in middle]  # of the grid step
    moved = [float(np.mean([np.log2(seen[k, s]["moved"]) for s in range(seeds)])) for k in middle]
    costs = [np.log2(left(k, False)) for k in middle]
    better = float(np.exp(np.mean([np.log(left(k, True) / left(k, False)) for k in bits])))
    claims = [
        Claim(
            "the largest ‖z*(A_q) − z*(A)‖₁ over γ/(1−γ)·‖(S_q − S)z*‖₁",
            max(s["used"] for s in seen.values()),
            "U_q⁻¹ has columns of sum 1/(1−γ) (theory: quantised)",
            high=1.0 + 1e-9,
        ),
        Claim(
            "the largest departure from z*(A_q) − z*(A) = γU_q⁻¹(S_q − S)z*, over ‖z*‖₁",
            max(s["identity"] for s in seen.values()),
            f"an identity: three solves of κ₁(U) ≤ 3, ten times {m} roundings each",
            high=3 * 3 * 10 * m * 2.0**-53,
        ),
        Claim(
            "the largest departure of the mass from 1ᵀφ/(1−γ), over ‖z*‖₁",
            max(s["mass"] for s in seen.values()),
            "theory: mass, at the quantised weights; rounding as above",
            high=3 * 3 * 10 * m * 2.0**-53,
        ),
        Claim(
            "the binary logarithm of the equilibrium's movement, for each halving of the grid step",
            float(np.polyfit(halvings, moved, 1)[0]),
            "at most half a grid step an entry, of which it is a smooth function; a fifth for the coarse grids",
            low=-1.2,
            high=-0.8,
        ),
        Claim(
            "the binary logarithm of what training leaves of L − L*, for each such halving",
            float(np.polyfit(halvings, costs, 1)[0]),
            "a minimum is flat: the square of the grid step; a half, for weights that hop between two grid points",
            low=-2.5,
            high=-1.5,
        ),
        Claim(
            "what training leaves with the metric, over what it leaves without it",
            better,
            "the abstract reports that the metric does better; with ours, no difference beyond a quarter",
            low=0.75,
            high=1.25,
        ),
    ]
    rows = [
        (
            str(k),
            max(seen[k, s]["used"] for s in range(seeds)),
            max(seen[k, s]["moved"] for s in range(seeds)),
            left(k, False),
            left(k, True),
        )
        for k in bits
    ] + [("64", 0.0, 0.0, left(None, False), left(None, True))]
    columns = ("bits", "movement over its bound", "movement over ‖z*‖₁", "left of L − L*", "the same with the metric")

    def draw(figure: Any) -> None:
        moving, training = figure.subplots(1, 2)
        moving.semilogy(
            bits, [max(seen[k, s]["moved"] for s in range(seeds)) for k in bits], "o-", label="‖Δz*‖₁/‖z*‖₁"
        )
        moving.semilogy(
            bits, [max(seen[k, s]["used"] for s in range(seeds)) for k in bits], "s:", label="over its bound"
        )
        moving.set_title("the equilibrium, worst of all starts")
        training.semilogy(bits, [left(k, False) for k in bits], "o-", label="straight-through")
        training.semilogy(bits, [left(k, True) for k in bits], "s--", label="with the metric")
        training.axhline(left(None, False), color="0.6", lw=0.8, label="64 bits")
        training.set_title("share of L − L* left by training A and B")
        for axes in (moving, training):
            axes.set_xlabel("bits")
            axes.legend()

    notes = [
        "What the paper's abstract does not determine is chosen here: the grid (symmetric, its step the least power of "
        "two that reaches the largest entry), the metric (I − ssᵀ in each column, s = tanh(a)/(1 + ‖tanh(a)‖), nearly "
        "Euclidean) and plain gradient descent of one step size. Nothing evolves by Ricci flow here.",
    ]
    return Outcome(claims, columns, rows, draw, notes)
