"""The unhinged loss, under which readout and features move by a linear flow: one matrix exponential."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from deqverify.dtypes import Array
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.unhinged import generator as exact_generator

TOLERANCE = 1e-10
"""Of the integrator, relative."""


def slope(p: int, n: int) -> Array:
    """``∂L/∂F = −(Y − 1/p)`` for labels in turn, (p, n): constant."""
    return 1.0 / p - np.eye(p)[:, np.arange(n) % p]


def velocity(problem: SoftmaxProblem, dF: Array) -> tuple[Array, Array]:
    """``−∂L/∂Bᵀ`` (m, p) and ``−∂L/∂Φ`` (m, n) by the gradients of an equilibrium model."""
    exact = ClosedForm(problem, problem.B.T @ dF)
    return -(dF @ exact.Z.T).T, -exact.gradient["Phi"]


def generator(problem: SoftmaxProblem, dF: Array) -> Array:
    """N (theory: unhinged)."""
    return exact_generator(problem, dF).N


def compared(seed: int, case: tuple[int, int, int, float], growth: float, points: int) -> dict[str, Any]:
    """Both paths until the largest eigenvalue has grown its part by exp(``growth``)."""
    m, p, n, gamma = case
    draws = np.random.default_rng([seed, m, p, n])
    A, B, Phi = (draws.standard_normal(shape) for shape in ((m, m), (p, m), (m, n)))
    dF, nothing = slope(p, n), np.zeros((p, n))

    def at(state: Array) -> SoftmaxProblem:
        """Of the columns of Bᵀ and of Φ, one below the other."""
        columns = state.reshape(p + n, m)
        return SoftmaxProblem(A, columns[:p], columns[p:].T, nothing, gamma, Squared())

    first = np.concatenate([B.ravel(), Phi.T.ravel()])
    N = generator(at(first), dF)
    fastest = float(np.linalg.eigvalsh(N)[-1])
    times = np.linspace(0.0, growth / fastest, points)

    def flow(t: float, state: Array) -> Array:
        return np.concatenate([part.T.ravel() for part in velocity(at(state), dF)])

    mine = solve_ivp(flow, (0.0, times[-1]), first, "DOP853", times, rtol=TOLERANCE, atol=TOLERANCE).y.T
    step, closed = expm(N * (times[1] - times[0])), [first]
    for _ in times[1:]:
        closed.append(step @ closed[-1])
    sizes = np.linalg.norm(closed, axis=1)
    balance = np.sum(mine[:, : p * m] ** 2, axis=1) - np.sum(mine[:, p * m :] ** 2, axis=1)
    outputs = [float(np.sum(dF * ClosedForm(at(state)).F)) for state in mine]
    return {
        "times": times.tolist(),
        "apart": (np.linalg.norm(mine - closed, axis=1) / sizes).tolist(),
        "drift": (np.abs(balance - balance[0]) / sizes**2).tolist(),
        "rates": (np.diff(np.log(np.linalg.norm(mine, axis=1))) / np.diff(times) / fastest).tolist(),
        "entries": mine[:, : min(4, m)].T.tolist(),
        "closed": np.array(closed)[:, : min(4, m)].T.tolist(),
        "losses": outputs,
        "fastest": fastest,
    }


@scenario(
    name="unhinged",
    title="Under the unhinged loss readout and features move by one matrix exponential",
    source="Zhou et al. 2023, arXiv 2312.07841; theory: unhinged",
    quick={"cases": ((4, 3, 5, 0.5), (3, 2, 6, 0.9)), "growth": 10.0, "points": 41},
    full={"cases": ((4, 3, 5, 0.5), (3, 2, 6, 0.9), (8, 4, 12, 0.8), (6, 5, 4, 0.99)), "growth": 20.0, "points": 81},
)
def unhinged(work: Work, cases: tuple[tuple[int, int, int, float], ...], growth: float, points: int) -> Outcome:
    """The loss −⟨Y − 1/p, F⟩ is linear in the outputs and has no minimum. With A held fixed, B and Φ (the layer-peeled
    model with an equilibrium layer between) follow a linear flow whose generator is symmetric. Lines: integrated by
    the model's gradients; circles: the exponential. ∂L/∂B and the adjoint are thereby judged together along a whole
    path."""
    found = work.each(cases, lambda case: compared(work.seed, case, growth, points))
    last = [run["rates"][-1] for run in found]
    claims = [
        Claim(
            "the largest distance of the flow from the exponential, over the size of the latter",
            max(max(run["apart"]) for run in found),
            f"a thousand times the integrator's tolerance of {TOLERANCE:g} a step: hundreds of steps, each of whose "
            "errors grows as the solution does at most",
            high=1e3 * TOLERANCE,
        ),
        Claim(
            "the largest drift of ‖B‖² − ‖Φ‖², over the size of the state",
            max(max(run["drift"]) for run in found),
            "conserved (theory: euler, both identities); as above",
            high=1e3 * TOLERANCE,
        ),
        Claim(
            "the slowest growth at the end, over ‖∂L/∂F‖₂‖U⁻¹‖₂",
            min(last),
            "nothing grows faster than the largest eigenvalue; 0.9 says that it has taken over",
            low=0.9,
        ),
        Claim(
            "the fastest growth at the end, over ‖∂L/∂F‖₂‖U⁻¹‖₂",
            max(last),
            "an eigenvalue of a symmetric generator bounds the growth; 1e-6 is the integrator's",
            high=1.0 + 1e-6,
        ),
    ]
    rows = [
        (*case, run["fastest"], max(run["apart"]), max(run["drift"]), run["rates"][-1])
        for case, run in zip(cases, found, strict=True)
    ]
    columns = ("m", "p", "n", "γ", "‖∂L/∂F‖₂‖U⁻¹‖₂", "apart", "drift of the balance", "growth over its limit")

    def draw(figure: Any) -> None:
        entries, losses, gaps = figure.subplots(1, 3)
        run = found[0]
        for k, (mine, closed) in enumerate(zip(run["entries"], run["closed"], strict=True)):
            entries.plot(run["times"], mine, color=f"C{k}")
            entries.plot(run["times"][::4], closed[::4], "o", mfc="none", color=f"C{k}")
        entries.set_title("entries of B; circles: exp(Nt)")
        for k, (case, each) in enumerate(zip(cases, found, strict=True)):
            at = np.array(each["times"]) * each["fastest"]
            losses.plot(at, -np.sign(each["losses"]) * np.log10(1.0 + np.abs(each["losses"])), color=f"C{k}")
            gaps.semilogy(
                at,
                np.maximum(each["apart"], 1e-16),
                color=f"C{k}",
                label="m = {}, p = {}, n = {}, γ = {}".format(*case),
            )
        losses.set_title("−sign(L) log₁₀(1 + |L|)")
        gaps.set_title("distance of the two")
        gaps.legend()
        for axes in (losses, gaps):
            axes.set_xlabel("time · largest eigenvalue")

    return Outcome(claims, columns, rows, draw)
