"""Linear equilibrium models under gradient flow: the spheres on which their parameters stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from deqverify.cells.linear import PlainLinearCell
from deqverify.dtypes import Array
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario

TOLERANCE = 1e-10
"""Of the integrator."""

CELL = PlainLinearCell()

Weights = dict[str, Array]
"""A (m, m), U (m, d) and the readout B (p, m)."""


def adjoint(A: Array, c: Array) -> Array:
    """``(I − A)⁻ᵀc`` for cotangents c (m, n)."""
    return np.asarray(np.linalg.solve((np.eye(len(A)) - A).T, c))


def one_step(A: Array, c: Array) -> Array:
    """The one-step gradient's adjoint: c itself."""
    return c


def loss_and_gradient(w: Weights, X: Array, Y: Array, single_index: bool, of: Any = None) -> tuple[float, Weights]:
    """``½‖F − Y‖²``, or ``½‖tanh F − Y‖²`` of a single-index model, F = BZ with ``Z = (I − A)⁻¹UX``; and its gradient,
    ``of`` the adjoint. X (d, n), Y (p, n)."""
    Z = np.linalg.solve(np.eye(len(w["A"])) - w["A"], w["U"] @ X)
    F = w["B"] @ Z
    R = (np.tanh(F) if single_index else F) - Y
    dF = R * (1.0 - np.tanh(F) ** 2) if single_index else R
    pulled = CELL.pull({"A": w["A"], "U": w["U"]}, X.T, Z.T, (of or adjoint)(w["A"], w["B"].T @ dF).T).theta
    return 0.5 * float(np.sum(R**2)), {**pulled, "B": dF @ Z.T}


def spheres(w: Weights) -> tuple[Array, Array]:
    """``(I−A)(I−A)ᵀ + UUᵀ`` and ``(I−A)ᵀ(I−A) + BᵀB``: constant, so that ‖I − A‖² + ‖U‖² and ‖I − A‖² + ‖B‖² are."""
    M = np.eye(len(w["A"])) - w["A"]
    return M @ M.T + w["U"] @ w["U"].T, M.T @ M + w["B"].T @ w["B"]


def start(seed: int, m: int, d: int, p: int, n: int, single_index: bool) -> tuple[Weights, Array, Array]:
    """Small A, and targets that other weights of the same kind reach."""
    draws = np.random.default_rng([seed, m, d, p, n])

    def weights(size: float) -> Weights:
        return {
            "A": size * draws.standard_normal((m, m)) / m**0.5,
            "U": draws.standard_normal((m, d)) / d**0.5,
            "B": draws.standard_normal((p, m)) / m**0.5,
        }

    w, teacher, X = weights(0.2), weights(0.4), draws.standard_normal((d, n))
    F = teacher["B"] @ np.linalg.solve(np.eye(m) - teacher["A"], teacher["U"] @ X)
    return w, X, np.tanh(F) if single_index else F


def flow(
    w: Weights, X: Array, Y: Array, single_index: bool, until: float, points: int, of: Any = None
) -> dict[str, Any]:
    """Loss, both drifts (relative), the radii and σ_min(I − A) along gradient flow."""
    shapes = {name: value.shape for name, value in w.items()}

    def unpacked(state: Array) -> Weights:
        parts, at = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            parts[name], at = state[at : at + size].reshape(shape), at + size
        return parts

    def velocity(t: float, state: Array) -> Array:
        _, g = loss_and_gradient(unpacked(state), X, Y, single_index, of)
        return -np.concatenate([np.ravel(g[name]) for name in shapes])

    times = np.concatenate([[0.0], np.geomspace(until * 1e-3, until, points)])
    first = np.concatenate([value.ravel() for value in w.values()])
    path = solve_ivp(velocity, (0.0, until), first, "LSODA", times, rtol=TOLERANCE, atol=TOLERANCE).y.T
    before = spheres(w)
    seen: dict[str, Any] = {"times": times.tolist(), "loss": [], "input": [], "output": [], "least": [], "A": []}
    for state in path:
        here = unpacked(state)
        after = spheres(here)
        seen["loss"].append(loss_and_gradient(here, X, Y, single_index)[0])
        for name, one, other in zip(("input", "output"), before, after, strict=True):
            seen[name].append(float(np.linalg.norm(other - one) / np.linalg.norm(one)))
        seen["least"].append(float(np.linalg.svd(np.eye(len(here["A"])) - here["A"], compute_uv=False)[-1]))
        seen["A"].append(
            [
                float(np.linalg.norm(np.eye(len(here["A"])) - here["A"])),
                float(np.linalg.norm(here["U"])),
                float(np.linalg.norm(here["B"])),
            ]
        )
    return seen


def descent(w: Weights, X: Array, Y: Array, single_index: bool, eta: float, steps: int) -> list[float]:
    """How far gradient descent leaves ``constant + η² Σ GGᵀ``, relative to what it adds, for both."""
    before = spheres(w)
    added: list[Any] = [0.0, 0.0]
    for _ in range(steps):
        _, g = loss_and_gradient(w, X, Y, single_index)
        added[0] = added[0] + eta**2 * (g["A"] @ g["A"].T + g["U"] @ g["U"].T)
        added[1] = added[1] + eta**2 * (g["A"].T @ g["A"] + g["B"].T @ g["B"])
        w = {name: value - eta * g[name] for name, value in w.items()}
    return [
        float(np.linalg.norm(now - was - more) / np.linalg.norm(more))
        for was, now, more in zip(before, spheres(w), added, strict=True)
    ]


@scenario(
    name="spheres",
    title="The parameters of a linear equilibrium model stay on two spheres",
    source="Dandapanthula & Ramdas 2025, arXiv 2511.16976; theory: balance, conservation",
    quick={"cases": ((4, 3, 2, 6, False), (4, 3, 1, 6, True)), "until": 200.0, "points": 60},
    full={
        "cases": ((4, 3, 2, 6, False), (8, 5, 3, 12, False), (4, 3, 1, 6, True), (8, 5, 2, 12, True)),
        "until": 2000.0,
        "points": 120,
    },
)
def spheres_scenario(
    work: Work, cases: tuple[tuple[int, int, int, int, bool], ...], until: float, points: int
) -> Outcome:
    """Gradient flow on z = Az + Ux with readout B, squared loss, linear outputs and a single-index model's tanh of
    them. The paper's sphere, ‖I − A‖² + ‖U‖², and the one of the output side, ‖I − A‖² + ‖B‖², are both kept, as
    matrices. A one-step gradient keeps the first as well and leaves the second. Gradient descent leaves both by
    exactly η² Σ GGᵀ."""

    def run(case: tuple[int, int, int, int, bool]) -> dict[str, Any]:
        w, X, Y = start(work.seed, *case)
        single = case[-1]
        return {
            "flow": flow(w, X, Y, single, until, points),
            "one step": flow(w, X, Y, single, until, points, one_step),
            "descent": descent(w, X, Y, single, 0.01, 200),
        }

    found = work.each(cases, run, "m, d, p, n, single-index")
    right, wrong = [run["flow"] for run in found], [run["one step"] for run in found]
    kept = f"conserved (theory: conservation); a thousand times the integrator's tolerance of {TOLERANCE:g}: it adds up"
    claims = [
        Claim(
            "the largest drift of (I−A)(I−A)ᵀ + UUᵀ", max(max(r["input"]) for r in right), kept, high=1e3 * TOLERANCE
        ),
        Claim(
            "the largest drift of (I−A)ᵀ(I−A) + BᵀB", max(max(r["output"]) for r in right), kept, high=1e3 * TOLERANCE
        ),
        Claim(
            "one-step gradients: the largest drift of (I−A)(I−A)ᵀ + UUᵀ",
            max(max(r["input"]) for r in wrong),
            "kept by any adjoint (theory: balance): blind",
            high=1e3 * TOLERANCE,
        ),
        Claim(
            "one-step gradients: the least of the drifts of (I−A)ᵀ(I−A) + BᵀB",
            min(max(r["output"]) for r in wrong),
            "left, as the adjoint is wrong: far above the tolerance",
            low=1e-3,
        ),
        Claim(
            "gradient descent: the largest departure from η² Σ GGᵀ, over it",
            max(max(run["descent"]) for run in found),
            "exact (theory: conservation) but for rounding: 200 steps of a few roundings, over what η² leaves",
            high=1e-9,
        ),
        Claim(
            "the least σ_min(I − A) on any path, over that of its start",
            min(min(r["least"]) / r["least"][0] for r in right),
            "well-conditioned for all time, as the paper says of small starts: half of it stays",
            low=0.5,
        ),
        Claim(
            "the largest share of the loss that is left",
            max(r["loss"][-1] / r["loss"][0] for r in right),
            "convergence to a global minimum, which is 0 here; three decades",
            high=1e-3,
        ),
    ]
    rows = [
        (
            "single-index" if case[-1] else "linear",
            *case[:4],
            max(r["input"]),
            max(r["output"]),
            max(o["output"]),
            min(r["least"]),
            r["loss"][-1] / r["loss"][0],
        )
        for case, r, o in zip(cases, right, wrong, strict=True)
    ]
    columns = (
        "outputs",
        "m",
        "d",
        "p",
        "n",
        "drift, input side",
        "drift, output side",
        "the same, one-step gradient",
        "least σ_min(I − A)",
        "loss left",
    )

    def draw(figure: Any) -> None:
        losses, drifts, sphere = figure.subplots(1, 3)
        for k, (case, r, o) in enumerate(zip(cases, right, wrong, strict=True)):
            label = f"{'tanh' if case[-1] else 'linear'}, m = {case[0]}"
            losses.loglog(r["times"][1:], np.array(r["loss"][1:]) / r["loss"][0], color=f"C{k}", label=label)
            drifts.loglog(r["times"][1:], np.array(r["output"][1:]) + 1e-17, color=f"C{k}")
            drifts.loglog(r["times"][1:], np.array(o["output"][1:]) + 1e-17, ":", color=f"C{k}")
        losses.set_title("loss over its start")
        losses.legend()
        drifts.set_title("drift of (I−A)ᵀ(I−A) + BᵀB\n(dotted: one-step gradient)")
        part = np.array(right[0]["A"])
        sphere.plot(part[:, 0], part[:, 1], "C0", label="‖U‖ over ‖I − A‖")
        sphere.plot(part[:, 0], part[:, 2], "C1", label="‖B‖ over ‖I − A‖")
        for k in (1, 2):
            radius = np.hypot(part[0, 0], part[0, k])
            angle = np.linspace(0, np.pi / 2, 60)
            sphere.plot(radius * np.cos(angle), radius * np.sin(angle), ":", color="0.6")
        sphere.set_xlim(part[:, 0].min() - 0.3, part[:, 0].max() + 0.3)
        sphere.set_ylim(part[:, 1:].min() - 0.3, part[:, 1:].max() + 0.3)
        sphere.set_title("on the spheres")
        sphere.legend()
        for axes in (losses, drifts):
            axes.set_xlabel("time")

    return Outcome(claims, columns, rows, draw)
