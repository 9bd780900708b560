"""The linear rate of the main paper, at widths below, at and above the output dimension and the number of points."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses import CrossEntropy, Logistic, Loss, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.scenarios.softmax_descent import FRACTION, descended
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import infimum, polyak_lojasiewicz, quotient_polyak_lojasiewicz, rate_floor

LOSSES: dict[str, Loss] = {
    "squared": Squared(),
    "logistic": Logistic(ridge=0.25),
    "cross-entropy": CrossEntropy(ridge=0.0),
}
"""The last without a ridge: its constant is that of the quotient by **1** (theory: quotient)."""


def gradient(exact: ClosedForm) -> dict[str, Array]:
    """What descent follows."""
    return exact.gradient


def promised(problem: SoftmaxProblem, level: float) -> float:
    """2κλ̲ on the sublevel set of ``level``."""
    ridged = getattr(problem.loss, "ridge", 1.0) > 0.0
    kappa = polyak_lojasiewicz(problem, level) if ridged else quotient_polyak_lojasiewicz(problem, level)
    return 2.0 * kappa * rate_floor(problem)


def start(seed: int, m: int, p: int, n: int, loss: Loss) -> SoftmaxProblem:
    """Gaussian weights, γ = ½, features (m, n) with singular values of 1 to 2, so that σ_min does not decide alone;
    targets that no width reaches exactly unless it is at least n."""
    draws = np.random.default_rng([seed, m])
    left, _, right = np.linalg.svd(draws.standard_normal((m, n)), full_matrices=False)
    Phi = left * np.linspace(2.0, 1.0, min(m, n)) @ right
    A, B, Y = (draws.standard_normal(shape) for shape in ((m, m), (p, m), (p, n)))
    if loss.name == "logistic":
        Y = np.asarray(Y > 0, dtype=np.float64)
    elif loss.name == "cross-entropy":
        Y = np.exp(0.5 * Y) / np.exp(0.5 * Y).sum(axis=0)
    return SoftmaxProblem(A, B / m**0.5, Phi, Y, 0.5, loss)


def descend(problem: SoftmaxProblem, steps: int) -> dict[str, Any]:
    """L − L* and its envelope ``Π(1 − 2cη_k κλ̲)(L(0) − L*)`` along backtracking gradient descent, as shares of L(0) −
    L*; κ is that of the start, whose sublevel set the path never leaves. ``rounding``: what is not resolved."""
    exact = ClosedForm(problem)
    floor = infimum(problem).attained
    first = exact.loss - floor
    # Evaluating the loss: a few roundings a term, of terms that add up to the loss itself.
    rounding = 64 * problem.n * problem.m * 2.0**-53 * (abs(exact.loss) + abs(floor)) / first
    rate, eta, envelope, time = promised(problem, exact.loss), 1.0, 1.0, 0.0
    gaps, envelopes, times = [1.0], [1.0], [0.0]
    for _ in range(steps):
        found = descended(exact, gradient(exact), 4.0 * eta)
        if found is None or gaps[-1] <= rounding:
            break
        exact, eta = found
        envelope, time = envelope * max(1.0 - FRACTION * eta * rate, 0.0), time + eta
        gaps.append(max((exact.loss - floor) / first, 0.0))
        envelopes.append(envelope)
        times.append(time)
    return {"gaps": gaps, "envelopes": envelopes, "times": times, "rate": rate, "rounding": rounding}


def measured_rate(run: dict[str, Any]) -> float:
    """The rate at which L − L* fell, on average over the time of the run."""
    return float(-np.log(max(run["gaps"][-1], run["rounding"])) / run["times"][-1])


@scenario(
    name="linear-rate",
    title="Gradient descent reaches the global optimum at a linear rate, whatever the width",
    source="Kawaguchi 2021, arXiv 2102.07346, Theorem 1; theory: rate, descent, constants, quotient",
    quick={"widths": (2, 4, 8), "p": 4, "n": 6, "steps": 200},
    full={"widths": (1, 2, 4, 5, 6, 8, 16, 32), "p": 4, "n": 6, "steps": 1000},
)
def linear_rate(work: Work, widths: tuple[int, ...], p: int, n: int, steps: int) -> Outcome:
    """Gradient descent on the deep equilibrium linear model with three losses, at widths below, at and above the number
    of outputs p = 4 and of data points n = 6. The theorem bounds L − L* by an envelope for every one of them; L* is the
    infimum of the convex shallow problem, found by Newton's method. Solid lines are measured, dotted ones promised."""
    runs = [(name, m) for name in LOSSES for m in widths]
    found = dict(
        zip(
            runs,
            work.each(runs, lambda run: descend(start(work.seed, run[1], p, n, LOSSES[run[0]]), steps)),
            strict=True,
        )
    )
    claims, rows = [], []
    for name in LOSSES:
        mine = [found[name, m] for m in widths]
        above = max(
            gap / (envelope + run["rounding"])
            for run in mine
            for gap, envelope in zip(run["gaps"][1:], run["envelopes"][1:], strict=True)
        )
        claims.append(
            Claim(
                f"{name} loss: the largest of (L − L*)/envelope",
                above,
                "theory: descent; the rounding of both losses is added to the envelope",
                high=1.0 + 2.0**-40,
            )
        )
        least = max(run["gaps"][-1] for run in mine)
        claims.append(
            Claim(
                f"{name} loss: what is left of L − L* at the end, at the worst width",
                least,
                "every stationary point is global (Theorem 1); a tenth says that no width is stuck on the way",
                high=0.1,
            )
        )
    for (name, m), run in found.items():
        kind = "below both" if m < min(p, n) else "above both" if m > max(p, n) else "between"
        rows.append((name, m, kind, len(run["gaps"]) - 1, run["gaps"][-1], measured_rate(run), run["rate"]))
    columns = ("loss", "width", "to p and n", "steps", "left of L − L*", "rate measured", "2κλ̲ promised")

    def draw(figure: Any) -> None:
        for axes, name in zip(figure.subplots(1, len(LOSSES), sharey=True), LOSSES, strict=True):
            for k, m in enumerate(widths):
                run = found[name, m]
                keep = _thinned(len(run["gaps"]))
                gaps = np.maximum(np.array(run["gaps"])[keep], run["rounding"])
                times = np.array(run["times"])[keep]
                axes.loglog(times[1:], gaps[1:], color=f"C{k}", label=f"m = {m}")
                axes.loglog(times[1:], np.array(run["envelopes"])[keep][1:], ":", color=f"C{k}")
            axes.set_title(name)
            axes.set_xlabel("time, Σ η")
        figure.axes[0].set_ylabel("(L − L*)/(L(0) − L*)")
        figure.axes[0].set_ylim(bottom=1e-12)
        figure.axes[0].legend(loc="lower left")  # where no curve comes by: squared losses begin late

    note = (
        "The envelope is far from tight, and blind to ∂L/∂A: it is the theorem, not a way of finding a wrong gradient."
    )
    return Outcome(claims, columns, rows, draw, [note])


def _thinned(count: int) -> Array:
    """At most 120 of the steps, evenly in the logarithm: more would not be seen."""
    return np.unique(np.round(np.geomspace(1, count, 120)).astype(int)) - 1
