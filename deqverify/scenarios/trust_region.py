"""W(t) of gradient flow on the equilibrium model, and of trust-region Newton on the shallow model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from deqverify.dtypes import Array
from deqverify.losses import CrossEntropy, Logistic, Loss, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import infimum, shallow_gradient
from deqverify.theory.trust_region import subproblem

TOLERANCE = 1e-9
"""Of both integrations, relative and absolute: entries are of size one."""

LOSSES: dict[str, Loss] = {
    "squared": Squared(),
    "logistic": Logistic(ridge=0.25),
    "cross-entropy": CrossEntropy(ridge=0.25),
}


def gradient(exact: ClosedForm) -> dict[str, Array]:
    """What the equilibrium model's flow follows."""
    return exact.gradient


def start(seed: int, loss: str, m: int, p: int, n: int) -> SoftmaxProblem:
    """Far from the optimum, and with a softmax that is far from flat, so that A moves W as much as B does."""
    draws = np.random.default_rng([seed, m, p, n])
    Phi = 0.6 * np.linalg.qr(draws.standard_normal((n, m)))[0].T if n >= m else draws.standard_normal((m, n))
    A, W, Y = 1.5 * draws.standard_normal((m, m)), 4.0 * draws.standard_normal((p, m)), draws.standard_normal((p, n))
    if loss == "logistic":
        Y = np.asarray(Y > 0, dtype=np.float64)
    elif loss == "cross-entropy":
        Y = np.eye(p)[:, np.arange(n) % p]
    problem = SoftmaxProblem(A, np.zeros((p, m)), Phi, Y, 0.6, LOSSES[loss])
    return replace(problem, B=W @ ClosedForm(problem).U)


def paths(problem: SoftmaxProblem, until: float, points: int) -> dict[str, Any]:
    """W(t), (points, p·m): of the equilibrium model, of trust-region Newton, and of gradient flow on W itself."""
    (m, p), times = (problem.m, problem.p), np.linspace(0.0, until, points)
    first = ClosedForm(problem)

    def unpacked(state: Array) -> SoftmaxProblem:
        return replace(problem, A=state[: m * m].reshape(m, m), B=state[m * m : m * m + p * m].reshape(p, m))

    def flow(t: float, state: Array) -> Array:
        g = gradient(ClosedForm(unpacked(state)))
        return -np.concatenate([g["A"].ravel(), g["B"].ravel()])

    def newton(t: float, state: Array) -> Array:
        """A and B by the closed forms; W by ``(δH + 𝒢)v = −g`` at W itself, whose metric A gives."""
        here = unpacked(state)
        exact = ClosedForm(here)
        W = state[m * m + p * m :].reshape(p, m)
        region = subproblem(ClosedForm(replace(here, B=W @ exact.U)))
        v = np.linalg.solve(region.delta * region.H + region.metric, -region.g)
        g = exact.gradient
        return np.concatenate([-g["A"].ravel(), -g["B"].ravel(), v.reshape(m, p).T.ravel()])

    def shallow(t: float, state: Array) -> Array:
        W = state.reshape(p, m)
        return -np.asarray(shallow_gradient(ClosedForm(replace(problem, B=W @ first.U)))).ravel()

    def followed(velocity: Any, state: Array) -> Array:
        return solve_ivp(velocity, (0, until), state, "DOP853", times, rtol=TOLERANCE, atol=TOLERANCE).y.T

    weights = np.concatenate([problem.A.ravel(), problem.B.ravel()])
    mine = [ClosedForm(unpacked(state)).W.ravel().tolist() for state in followed(flow, weights)]
    theirs = followed(newton, np.concatenate([weights, first.W.ravel()]))[:, weights.size :]
    return {
        "times": times.tolist(),
        "equilibrium": mine,
        "newton": theirs.tolist(),
        "shallow": followed(shallow, first.W.ravel()).tolist(),
        "best": infimum(problem).W.ravel().tolist(),
    }


def distance(one: Any, other: Any) -> Array:
    """‖W − W′‖ over the largest ‖W‖ of the first path, at every time."""
    first, second = np.array(one), np.array(other)
    return np.linalg.norm(first - second, axis=1) / np.linalg.norm(first, axis=1).max()


@scenario(
    name="trust-region",
    title="The equilibrium model moves as trust-region Newton moves the shallow model",
    source="Kawaguchi 2021, arXiv 2102.07346, Theorem 2; theory: trajectory, more-sorensen",
    quick={"cases": (("squared", 2, 1, 3), ("logistic", 2, 2, 3)), "until": 2.0, "points": 40},
    full={
        "cases": (
            ("squared", 2, 1, 3),
            ("squared", 4, 2, 3),
            ("logistic", 2, 2, 3),
            ("logistic", 3, 1, 6),
            ("cross-entropy", 3, 3, 5),
        ),
        "until": 4.0,
        "points": 80,
    },
)
def trust_region(work: Work, cases: tuple[tuple[str, int, int, int], ...], until: float, points: int) -> Outcome:
    """Two integrations from one start. One follows gradient flow of (A, B) and reads off W = BU⁻¹; the other moves W by
    the minimiser of trust-region Newton's subproblem on the convex shallow objective, in the metric that A gives. They
    are one path. Gradient flow on W itself, from the same W, is another."""
    found = work.each(cases, lambda case: paths(start(work.seed, *case), until, points))
    apart = [distance(run["equilibrium"], run["newton"]).max() for run in found]
    other = [distance(run["equilibrium"], run["shallow"]).max() for run in found]
    claims = [
        Claim(
            "the largest distance of the two paths, over the largest ‖W‖",
            float(max(apart)),
            f"a thousand times the integrators' tolerance of {TOLERANCE:g}: what an error may grow by on the way "
            "(theory: trajectory)",
            high=1e3 * TOLERANCE,
        ),
        Claim(
            "the least distance, in any case, of gradient flow on W itself",
            float(min(other)),
            "far above the bound of the first claim, which therefore tells something",
            low=0.01,
        ),
    ]
    rows = [(*case, one, two) for case, one, two in zip(cases, apart, other, strict=True)]
    columns = ("loss", "m", "p", "n", "trust-region Newton's, apart by", "gradient flow on W, apart by")

    def draw(figure: Any) -> None:
        plane, gaps = figure.subplots(1, 2)
        run = found[0]
        mine, theirs, shallow = (np.array(run[name]) for name in ("equilibrium", "newton", "shallow"))
        plane.plot(*shallow[:, :2].T, color="0.6", label="gradient flow on W")
        plane.plot(*mine[:, :2].T, color="C0", label="equilibrium model, W = BU⁻¹")
        plane.plot(*theirs[::4, :2].T, "o", mfc="none", color="C1", label="trust-region Newton")
        plane.plot(*run["best"][:2], "k*", label="L*")
        plane.set_xlabel("W₁")
        plane.set_ylabel("W₂")
        plane.set_title("{}, m = {}, p = {}, n = {}".format(*cases[0]))
        plane.legend()
        for k, (case, each) in enumerate(zip(cases, found, strict=True)):
            gap = np.maximum(distance(each["equilibrium"], each["newton"]), 1e-16)
            label = f"{case[0]}, {case[2]} × {case[1]}"
            gaps.semilogy(each["times"], gap, color=f"C{k}", label=label)
            gaps.semilogy(each["times"], distance(each["equilibrium"], each["shallow"]) + 1e-16, ":", color=f"C{k}")
        gaps.set_xlabel("time")
        gaps.set_title("distance from the equilibrium model's path")
        gaps.set_ylim(1e-13, 10)
        gaps.legend()

    return Outcome(claims, columns, rows, draw, ["Dotted lines: gradient flow on the shallow model itself."])
