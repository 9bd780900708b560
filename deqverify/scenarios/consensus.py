"""Consensus-based optimisation: an optimiser that asks for values only, beside gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.scenarios.softmax_descent import descended, equilibria
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import infimum

ALPHA = 200.0
"""How sharply the consensus prefers low values, per size of the first particles' best."""

DRIFT, NOISE, DT = 1.0, 0.8, 0.05


def values(problem: SoftmaxProblem, particles: Array) -> Array:
    """``L(A, B)`` of particles (count, m² + pm), all at once: squared loss."""
    m, p = problem.m, problem.p
    A, B = particles[:, : m * m].reshape(-1, m, m), particles[:, m * m :].reshape(-1, p, m)
    _, _, Z = equilibria(A, problem.Phi, problem.gamma)
    return np.sum((B @ Z - problem.Y) ** 2, axis=(1, 2))


def consensus(particles: Array, of: Array, alpha: float) -> Array:
    """The mean weighted by ``exp(−αL)``."""
    weights = np.exp(-alpha * (of - of.min()))
    return np.asarray(weights @ particles / weights.sum())


def optimise(problem: SoftmaxProblem, count: int, steps: int, seed: int) -> dict[str, Any]:
    """``x ← x − λ(x − v)dt + σ(x − v)∘ξ√dt`` for each particle, v the consensus, ξ Gaussian and each its own."""
    draws = np.random.default_rng([seed, count, steps])
    first = np.concatenate([problem.A.ravel(), problem.B.ravel()])
    particles = first + 1.5 * draws.standard_normal((count, first.size))
    best, path, least = np.inf, [], []
    alpha = ALPHA / float(np.median(values(problem, particles)))
    for _ in range(steps):
        of = values(problem, particles)
        v = consensus(particles, of, alpha)
        best = min(best, float(values(problem, v[None])[0]), float(of.min()))
        path.append(v.tolist())
        least.append(best)
        away = particles - v
        particles = particles - DRIFT * DT * away + NOISE * DT**0.5 * away * draws.standard_normal(away.shape)
    return {"least": least, "path": path}


def hopping(problem: SoftmaxProblem, samples: int, hops: int, seed: int) -> list[float]:
    """Cosines of consensus hops with the descent of the smoothed landscape.

    A hop goes from x to the consensus of Gaussian samples ``x + σξ`` around it, the paper's scheme between its two
    methods. By partial integration it is ``−ασ²∇L̃(x)`` with ``L̃(x) = −1/α log E exp(−αL(x + σξ))``: gradient descent on
    a smoothed landscape, of which only values are asked. Here ∇L̃ is a central difference with the same ξ.
    """
    draws = np.random.default_rng([seed, samples, hops])
    x, cosines = np.concatenate([problem.A.ravel(), problem.B.ravel()]), []
    alpha = 0.0
    for _ in range(hops):
        half = draws.standard_normal((samples // 2, x.size))
        around = SIGMA * np.concatenate([half, -half])
        of = values(problem, x + around)
        alpha = alpha or 1.0 / float(of.std())
        hop = consensus(around, of, alpha)
        slope = [
            landscape(problem, x + h, around, alpha) - landscape(problem, x - h, around, alpha)
            for h in 1e-4 * np.eye(x.size)
        ]
        cosines.append(cosine(hop, -np.array(slope)))
        x = x + hop
    return cosines


SIGMA = 0.3
"""The spread of the samples of a hop."""


def landscape(problem: SoftmaxProblem, x: Array, around: Array, alpha: float) -> float:
    """``L̃(x) = −1/α log mean exp(−αL(x + around))``."""
    of = values(problem, x + around)
    return float(of.min() - np.log(np.mean(np.exp(-alpha * (of - of.min())))) / alpha)


def cosine(one: Array, other: Array) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size > 0.0 else 0.0


def descent(problem: SoftmaxProblem, steps: int) -> list[list[float]]:
    """Gradient descent from the same centre, until a line search finds no step."""
    exact, eta, path = ClosedForm(problem), 1.0, []
    for _ in range(steps):
        path.append(np.concatenate([exact.problem.A.ravel(), exact.problem.B.ravel()]).tolist())
        found = descended(exact, exact.gradient, 4.0 * eta)
        if found is None:
            break
        exact, eta = found
    return path


def start(seed: int, m: int, p: int, n: int) -> SoftmaxProblem:
    """Gaussian, with more points than features, so that L* > 0."""
    draws = np.random.default_rng([seed, m, p, n])
    A, B, Phi, Y = (draws.standard_normal(shape) for shape in ((m, m), (p, m), (m, n), (p, n)))
    return SoftmaxProblem(A, B, Phi, Y + 2.0 * Phi[:1], 0.5, Squared())


@scenario(
    name="consensus",
    title="Consensus-based optimisation asks for values only, and finds nothing below L*",
    source="Riedl, Klock, Geldhauser & Fornasier 2023, arXiv 2306.09778; theory: rate, monotone",
    quick={"sizes": ((1, 1, 4), (2, 1, 4), (3, 2, 6)), "count": 100, "steps": 150, "samples": 2000},
    full={
        "sizes": ((1, 1, 4), (2, 1, 4), (2, 2, 6), (3, 2, 6), (4, 3, 8), (6, 3, 10)),
        "count": 400,
        "steps": 400,
        "samples": 8000,
    },
)
def consensus_scenario(
    work: Work, sizes: tuple[tuple[int, int, int], ...], count: int, steps: int, samples: int
) -> Outcome:
    """Particles drift to their consensus, a mean that prefers low values, and are shaken in proportion to their
    distance from it. No gradient is asked for, so that none can mislead: an independent check that L* is global. The
    paper reads the consensus' path as a stochastic relaxation of gradient descent on a smoothed landscape."""

    def run(size: tuple[int, int, int]) -> dict[str, Any]:
        problem = start(work.seed, *size)
        bounds = infimum(problem)
        return optimise(problem, count, steps, work.seed) | {
            "first": ClosedForm(problem).loss,
            "attained": bounds.attained,
            "lower": bounds.lower,
            "descent": descent(problem, 60),
            "hops": hopping(problem, samples, 12, work.seed),
        }

    found = work.each(sizes, run, "m, p, n")
    below = [(run["lower"] - run["least"][-1]) / run["lower"] for run in found]
    gaps = [(run["least"][-1] - run["lower"]) / (run["first"] - run["lower"]) for run in found]
    few = [gap for size, gap in zip(sizes, gaps, strict=True) if size[0] ** 2 + size[0] * size[1] <= 8]
    along = [float(np.mean(run["hops"])) for run in found]
    few_along = [cos for size, cos in zip(sizes, along, strict=True) if size[0] ** 2 + size[0] * size[1] <= 8]
    claims = [
        Claim(
            "how far any run went below L*, relatively",
            max(below),
            "theory: rate; L* is the lower end of an enclosure that holds its own rounding, a value's is added",
            high=1e3 * 2.0**-53,
        ),
        Claim(
            "in at most 8 dimensions: what is left of L − L*, at worst",
            max(few),
            "the method converges in a few dimensions; two decades",
            high=0.01,
        ),
        Claim(
            "in at most 8 dimensions: the mean cosine of hops with the smoothed landscape's descent, at worst",
            min(few_along),
            "they are parallel in expectation, by partial integration; a tenth for a finite sample",
            low=0.9,
        ),
    ]
    rows = [
        (f"{m}, {p}, {n}", m * m + p * m, run["lower"], run["least"][-1], gap, cos)
        for (m, p, n), run, gap, cos in zip(sizes, found, gaps, along, strict=True)
    ]
    columns = ("m, p, n", "dimensions", "L*", "least value found", "left of L − L*", "cosine of hops with descent")

    def draw(figure: Any) -> None:
        plane, falls = figure.subplots(1, 2)
        k = min(1, len(sizes) - 1)
        m, run = sizes[k][0], found[k]
        one, other = m * m, m * m + m - 1
        path, descent = np.array(run["path"]), np.array(run["descent"])
        plane.plot(path[:, one], path[:, other], ".-", lw=0.6, ms=3, label="consensus")
        plane.plot(descent[:, one], descent[:, other], "k.-", lw=0.6, ms=3, label="gradient descent")
        plane.set_title("two entries of B, m, p, n = {}, {}, {}".format(*sizes[k]))
        plane.legend()
        for size, each in zip(sizes, found, strict=True):
            gap = (np.array(each["least"]) - each["lower"]) / (each["first"] - each["lower"])
            falls.semilogy(np.maximum(gap, 1e-14), label="m, p, n = {}, {}, {}".format(*size))
        falls.set_xlabel("step")
        falls.set_title("(best L so far − L*)/(L(0) − L*)")
        falls.legend()

    return Outcome(claims, columns, rows, draw)
