"""Gradient descent on a ReLU cell with ``½‖F − Y‖²``: what the two scenarios on over-parameterised cells share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from deqverify.cells import Cell
from deqverify.dtypes import Array
from deqverify.scenarios.registry import Claim, Outcome, Work
from deqverify.theory.overparameterised import least_singular_value

DIMENSION = 12
"""Of the inputs."""

QUICK = {"n": 6, "times": (0.5, 2, 8, 16), "seeds": 2, "steps": 40}
FULL = {"n": 8, "times": (0.5, 1, 2, 4, 8, 16, 32), "seeds": 5, "steps": 100}
"""Data points, widths over these, starts of each width, and steps."""

MOST_SWEEPS = 500
"""Of Picard's iteration: at a rate of .9, which no start here exceeds by much, 0.9⁵⁰⁰ is below 2⁻⁷⁰."""


class Start(Protocol):
    """Cell, θ, readout (1, m), inputs (n, d) and targets (1, n) of a seed and a width."""

    def __call__(self, seed: int, width: int, n: int) -> tuple[Cell, dict[str, Array], Array, Array, Array]: ...


def fixed(step: Any, z: Array) -> Array:
    """Picard's iteration from z until an entry moves by a few roundings at most."""
    for _ in range(MOST_SWEEPS):
        before, z = z, step(z)
        if np.abs(z - before).max() <= 8 * 2.0**-53 * np.abs(z).max():
            break
    return z


def gradients(cell: Cell, theta: dict[str, Array], x: Array, z: Array, start: Array, c: Array) -> tuple[Any, Array]:
    """The gradient in θ for the cotangent c, and the adjoint, looked for from ``start``."""
    adjoint = fixed(lambda v: c + cell.pull(theta, x, z, v).z, start)
    return cell.pull(theta, x, z, adjoint).theta, adjoint


def trained(cell: Cell, theta: dict[str, Array], B: Array, x: Array, Y: Array, steps: int) -> dict[str, Any]:
    """``L_k``, ``λ_min(Z_kᵀZ_k)`` and ``‖W_k‖₂`` on the way, and what was promised a step: ``1 − ηλ₀/2``."""
    frozen = {name: value for name, value in theta.items() if name in ("b", "gamma")}
    z, adjoint = np.zeros((len(x), B.shape[1])), np.zeros((len(x), B.shape[1]))
    losses, least, norms, eta = [], [], [], 0.0
    for k in range(steps + 1):
        W = cell.weight(theta)  # type: ignore[attr-defined]
        norms.append(float(np.linalg.norm(W, 2)))
        if not norms[-1] < 1.0:  # nobody says that there is an equilibrium
            break
        z = fixed(cell.step(theta, x), z)
        R = B @ z.T - Y
        losses.append(0.5 * float(np.sum(R**2)))
        least.append(least_singular_value(z.T)[0] ** 2)
        if k == 0:
            # Below 1/λ_max of the tangent kernel, whose parts are these: of B, of W (moved by ``share``) and of U.
            readout, share = np.linalg.norm(z, 2) ** 2, float(theta.get("gamma", 1.0)) ** 2
            share = share / len(W) if "gamma" in theta else 1.0
            inside = np.linalg.norm(B, 2) ** 2 / (1.0 - norms[0]) ** 2
            eta = 0.5 / float(readout + inside * (share * readout + np.linalg.norm(x, 2) ** 2))
        if k == steps:
            break
        g, adjoint = gradients(cell, theta, x, z, adjoint, R.T @ B)
        theta = {name: value - eta * g[name] for name, value in theta.items() if name not in frozen} | frozen
        B = B - eta * R @ z
    return {"losses": losses, "least": least, "norms": norms, "step": eta * least[0] / 2.0}


def kept(run: dict[str, Any]) -> dict[str, float]:
    """Of one run: the least λ_min over λ₀, the largest ‖W‖₂, and the largest L_k over its promise."""
    promised = run["losses"][0] * (1.0 - run["step"]) ** np.arange(len(run["losses"]))
    return {
        "gram": min(run["least"]) / run["least"][0] if run["least"][0] > 0.0 else 0.0,
        "norm": max(run["norms"]),
        "above": float(np.max(np.array(run["losses"][1:]) / promised[1:], initial=0.0)),
    }


def holds(seen: dict[str, float]) -> bool:
    """Whether a run kept all three promises."""
    return seen["gram"] >= 0.5 and seen["norm"] < 1.0 and seen["above"] <= 1.0


def over_widths(work: Work, start: Start, n: int, times: Sequence[float], seeds: int, steps: int) -> Outcome:
    """All runs, and what they say of the promise: from which width on it is kept by every start."""
    items = [(max(1, round(t * n)), seed) for t in times for seed in range(seeds)]

    def run(item: tuple[int, int]) -> dict[str, Any]:
        width, seed = item
        return trained(*start(work.seed + seed, width, n), steps)

    found = dict(zip(items, work.each(items, run, "width, start"), strict=True))
    widths = sorted({width for width, _ in items})
    seen = {m: [kept(found[m, seed]) for seed in range(seeds)] for m in widths}
    share = {m: sum(map(holds, seen[m])) / seeds for m in widths}
    broken = [m for m in widths if share[m] < 1.0]
    enough = [m for m in widths if m > max(broken, default=0)]
    widest = seen[widths[-1]]
    claims = [
        Claim(
            "the width from which on every start keeps the promise, over n",
            enough[0] / n if enough else np.inf,
            "linear in n, as the papers say, with a constant found here: 16",
            high=16.0,
        ),
        Claim(
            "at the largest width: the least λ_min(ZᵀZ)/λ₀ on any path",
            min(s["gram"] for s in widest),
            "the promise: half of λ₀ stays",
            low=0.5,
        ),
        Claim(
            "at the largest width: the largest ‖W‖₂ on any path",
            max(s["norm"] for s in widest),
            "the promise: well-posed all the way",
            high=1.0 - 2.0**-53,
        ),
        Claim(
            "at the largest width: the largest L_k over (1 − ηλ₀/2)ᵏL₀",
            max(s["above"] for s in widest),
            "the promise, from the first step on",
            high=1.0,
        ),
        Claim(
            "of the narrowest width: the share of starts that keep the promise",
            share[widths[0]],
            "fewer states than points have λ_min = 0: nothing can be promised, so the width matters",
            high=0.0,
        ),
    ]
    rows = []
    for m in widths:
        mine = [found[m, seed] for seed in range(seeds)]
        fell = float(
            np.median([-np.log(r["losses"][-1] / r["losses"][0]) / max(len(r["losses"]) - 1, 1) for r in mine])
        )
        promised = float(np.median([r["step"] for r in mine]))
        worst = (min(s["gram"] for s in seen[m]), max(s["norm"] for s in seen[m]), max(s["above"] for s in seen[m]))
        rows.append((m, m / n, share[m], *worst, fell, promised))
    columns = (
        "width",
        "over n",
        "kept by",
        "least λ_min/λ₀",
        "largest ‖W‖₂",
        "largest L/promise",
        "rate a step",
        "promised",
    )

    def draw(figure: Any) -> None:
        losses, paths, over = figure.subplots(1, 3)
        for k, m in enumerate((widths[1], widths[-1])):
            run = found[m, 0]
            at = np.arange(len(run["losses"]))
            losses.semilogy(at, np.array(run["losses"]) / run["losses"][0], color=f"C{k}", label=f"m = {m}")
            losses.semilogy(at, (1.0 - run["step"]) ** at, ":", color=f"C{k}")
            gram = np.array(run["least"]) / (run["least"][0] or 1.0)
            paths.plot(at, gram, color=f"C{k}", label=f"λ_min/λ₀, m = {m}")
            paths.plot(at, run["norms"][: len(at)], "--", color=f"C{k}", label=f"‖W‖₂, m = {m}")
        losses.set_title("L/L₀; dotted: promised")
        losses.set_xlabel("step")
        losses.legend()
        paths.axhline(0.5, color="0.6", lw=0.8)
        paths.set_title("on the way")
        paths.set_xlabel("step")
        paths.legend()
        over.semilogx(np.array(widths) / n, [share[m] for m in widths], "o-", label="share of starts")
        over.semilogx(
            np.array(widths) / n, [min(s["gram"] for s in seen[m]) for m in widths], "s:", label="least λ_min/λ₀"
        )
        over.set_title("promise kept, over widths")
        over.set_xlabel("width/n")
        over.legend()

    return Outcome(claims, columns, rows, draw)
