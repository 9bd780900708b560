"""A step beyond the edge of stability: the loss settles on average, the gradient does not vanish."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from deqverify.dtypes import Array
from deqverify.losses import LogCosh
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.scenarios.softmax_descent import equilibria
from deqverify.theory.dissipation import infimum

GAMMA = 0.5

LOSS = LogCosh()
"""Curved at its minimum and of bounded slope far out: too long a step oscillates there, and does not run away."""


def data(seed: int, m: int, p: int, n: int) -> tuple[Array, Array]:
    """Φ (m, n) and Y (p, n), Gaussian; more points than features."""
    draws = np.random.default_rng([seed, m, p, n])
    return draws.standard_normal((m, n)), draws.standard_normal((p, n))


def gradient(A: Array, B: Array, Phi: Array, Y: Array) -> tuple[Array, Array, Array]:
    """Loss (k,), ``∂L/∂A`` (k, m, m) and ``∂L/∂B`` (k, p, m) of k models at once (theory: gradient)."""
    S, U, Z = equilibria(A, Phi, GAMMA)
    F = B @ Z
    dF = LOSS.gradient(F, Y)
    adjoint = np.linalg.solve(U.swapaxes(1, 2), B.swapaxes(1, 2) @ dF)
    SM = S * (GAMMA * adjoint @ Z.swapaxes(1, 2))
    r = np.abs(F - Y)
    value = np.sum(r + np.log1p(np.exp(-2.0 * r)) - np.log(2.0), axis=(1, 2))
    return value, SM - S * SM.sum(axis=1, keepdims=True), dF @ Z.swapaxes(1, 2)


def sharpness(Phi: Array, Y: Array) -> float:
    """A lower bound on the largest eigenvalue of the Hessian at every stationary point.

    There W is the one minimiser of the convex shallow problem. The Hessian's block in B is that of ``B ↦ L₀(BU⁻¹)``,
    with ``Σ_i h_i z_i z_iᵀ`` for an output, ``z_i = U⁻¹φ_i``. Along 1/√m it is ``Σ_i h_i (1ᵀφ_i)²/(m(1−γ)²)``, whatever
    A is (theory: mass).
    """
    m, p = len(Phi), len(Y)
    W = infimum(SoftmaxProblem(np.zeros((m, m)), np.zeros((p, m)), Phi, Y, GAMMA, LOSS)).W
    h = np.diagonal(LOSS.hessian(W @ Phi, Y), axis1=1, axis2=2)
    return float(np.max(Phi.sum(axis=0) ** 2 @ h) / (m * (1.0 - GAMMA) ** 2))


def trained(seed: int, m: int, p: int, n: int, eta_times: float, count: int, steps: int) -> dict[str, Any]:
    """``count`` starts at once, step ``eta_times`` the 2/λ of :func:`sharpness`."""
    Phi, Y = data(seed, m, p, n)
    eta = eta_times * 2.0 / sharpness(Phi, Y)
    draws = np.random.default_rng([seed, count])
    A, B = draws.standard_normal((count, m, m)), draws.standard_normal((count, p, m))
    losses, lengths = np.zeros((steps, count)), np.zeros((steps, count))
    for k in range(steps):
        losses[k], dA, dB = gradient(A, B, Phi, Y)
        lengths[k] = np.sqrt(np.sum(dA**2, axis=(1, 2)) + np.sum(dB**2, axis=(1, 2)))
        A, B = A - eta * dA, B - eta * dB
    quarter = steps // 4
    third, fourth, half = losses[2 * quarter : 3 * quarter], losses[3 * quarter :], losses[2 * quarter :]
    added, changes = np.mean(np.abs(half[0] - half[-1])) / (len(half) - 1), np.mean(np.abs(np.diff(half, axis=0)))
    # Wasserstein's distance: an orbit that settles between a few points leaves atoms, which may still move a little.
    apart = wasserstein_distance(third.ravel(), fourth.ravel()) if np.isfinite(fourth).all() else np.inf
    most = float(np.quantile(fourth, 0.999))
    counts, bins = np.histogram(fourth, 60, (0.0, most if np.isfinite(most) else 1.0))
    seen = np.unique(np.round(np.geomspace(1, steps, 200)).astype(int)) - 1
    return {
        "eta": eta,
        "gradient": float(lengths[-quarter:].mean() / lengths[0].mean()),
        "smallest": float(lengths[-quarter:].mean(axis=0).min() / lengths[0].mean()),
        "settled": float(abs(third.mean() - fourth.mean()) / fourth.mean()),
        "telescoped": float(added / changes) if changes != 0.0 else 0.0,
        "invariant": float(apart / fourth.mean()),
        "at": seen.tolist(),
        "loss": losses[seen, 0].tolist(),
        "mean": (np.cumsum(losses[:, 0]) / np.arange(1, steps + 1))[seen].tolist(),
        "length": lengths[seen, 0].tolist(),
        "histogram": [counts.tolist(), bins.tolist()],
    }


@scenario(
    name="edge",
    title="Beyond the edge of stability the loss settles, and the gradient does not vanish",
    source="Zhang, Li, Sra & Jadbabaie 2022, arXiv 2110.06256; theory: mass",
    quick={"size": (2, 1, 4), "times": (0.2, 1.5, 3.0), "count": 32, "steps": 2000},
    full={"size": (3, 2, 8), "times": (0.2, 1.2, 1.5, 2.0, 3.0), "count": 64, "steps": 6000},
)
def edge(work: Work, size: tuple[int, int, int], times: tuple[float, ...], count: int, steps: int) -> Outcome:
    """Gradient descent on the deep equilibrium linear model with log-cosh loss and steps longer than 2/λ, λ a bound
    below the sharpness of every stationary point (the mass of an equilibrium does not depend on A). Then no stationary
    point is stable. The loss oscillates, yet its average settles; ‖∇L‖ stays; changes of the loss add up to nothing;
    and the distribution of the loss over starts and steps is the same in the third and in the last quarter of the run.
    """
    found = dict(
        zip(times, work.each(times, lambda t: trained(work.seed, *size, t, count, steps), "step/(2/λ)"), strict=True)
    )
    beyond = [found[t] for t in times if t > 1.0]
    claims = [
        Claim(
            "beyond the edge: the mean ‖∇L‖ in the last quarter over that of the start, at the least of any start",
            min(run["smallest"] for run in beyond),
            "no stationary point is stable; a tenth is far from vanishing",
            low=0.1,
        ),
        Claim(
            "beyond the edge: the change of the mean loss from the third quarter to the last, over it",
            max(run["settled"] for run in beyond),
            "the report: the loss stabilises; two parts in a hundred",
            high=0.02,
        ),
        Claim(
            "beyond the edge, from the middle on: the mean change of the loss over the mean size of a change",
            max(run["telescoped"] for run in beyond),
            "it telescopes: |L(K/2) − L(K)| over K/2 steps; a fiftieth, where steps of one size would give 2/K",
            high=0.02,
        ),
        Claim(
            "beyond the edge: the distance of the loss's distributions in both quarters, over its mean",
            max(run["invariant"] for run in beyond),
            "an invariant measure; Wasserstein's distance, a twentieth for what a finite run shows",
            high=0.05,
        ),
        Claim(
            "within: the mean ‖∇L‖ in the last quarter over that of the start",
            found[min(times)]["gradient"],
            "there descent converges: what the first claim would look like otherwise",
            high=0.01,
        ),
    ]
    rows = [
        (t, run["eta"], run["gradient"], run["smallest"], run["settled"], run["telescoped"], run["invariant"])
        for t, run in found.items()
    ]
    columns = (
        "step/(2/λ)",
        "η",
        "‖∇L‖ at the end",
        "least of any start",
        "loss still changes",
        "changes add up to",
        "distributions apart",
    )

    def draw(figure: Any) -> None:
        losses, lengths, measure = figure.subplots(1, 3)
        for k, t in enumerate((min(times), max(times))):
            run = found[t]
            losses.loglog(np.array(run["at"]) + 1, run["loss"], color=f"C{k}", lw=0.7, alpha=0.5)
            losses.loglog(np.array(run["at"]) + 1, run["mean"], color=f"C{k}", label=f"η = {t:g}·2/λ, mean so far")
            lengths.loglog(np.array(run["at"]) + 1, np.maximum(run["length"], 1e-12), color=f"C{k}", lw=0.7)
        losses.set_title("loss of one start")
        losses.legend()
        lengths.set_title("‖∇L‖ of the same")
        for axes in (losses, lengths):
            axes.set_xlabel("step")
        for k, t in enumerate(t for t in times if t > 1.0):
            counts, bins = found[t]["histogram"]
            measure.stairs(np.array(counts) / max(sum(counts), 1), bins, color=f"C{k + 1}", label=f"η = {t:g}·2/λ")
        measure.set_title("the loss over starts and steps, last quarter")
        measure.legend()

    return Outcome(claims, columns, rows, draw)
