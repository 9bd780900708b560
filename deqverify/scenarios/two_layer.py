"""Two-layer linear networks: balance, the minimum-norm limit, and what noise costs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from deqverify.dtypes import Array
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario

TOLERANCE = 1e-9
"""Of the integrator."""

LEFT = 1e-7
"""Of the residual, where training stops."""


class Data(NamedTuple):
    """Inputs (d, n) of covariance diag(``spectrum``), targets (p, n), and the weights (p, d) that made them."""

    X: Array
    Y: Array
    truth: Array
    spectrum: Array


def data(seed: int, d: int, p: int, n: int, noise: float) -> Data:
    """Three directions of variance 1, which the truth uses, and d − 3 of variance ``4/d``, which hide the noise: more
    of them than points, as benign overfitting asks."""
    draws = np.random.default_rng([seed, d, p, n])
    spectrum = np.where(np.arange(d) < 3, 1.0, 4.0 / d)
    X = draws.standard_normal((d, n)) * np.sqrt(spectrum)[:, None]
    truth = np.where(np.arange(d) < 3, draws.standard_normal((p, d)), 0.0)
    return Data(X, truth @ X + noise * draws.standard_normal((p, n)), truth, spectrum)


def balanced(seed: int, m: int, d: int, p: int, alpha: float) -> tuple[Array, Array]:
    """U (m, d) and B (p, m) with ``UUᵀ = BᵀB``, of size ``alpha``."""
    draws = np.random.default_rng([seed, m, d, p, 1])
    P, Q, R = (np.linalg.qr(draws.standard_normal((size, p)))[0] for size in (p, m, d))
    return alpha * Q @ R.T, alpha * P @ Q.T


def gradients(U: Array, B: Array, X: Array, Y: Array) -> tuple[Array, Array]:
    """Of ``½‖BUX − Y‖²`` in U and B: those of the cell ``z = Az + Ux`` with A = 0 held fixed."""
    R = B @ (U @ X) - Y
    return B.T @ R @ X.T, R @ (U @ X).T


def trained(seed: int, d: int, m: int, p: int, n: int, noise: float, alpha: float) -> dict[str, float]:
    """Gradient flow from a balanced start of size ``alpha`` until the residual is :data:`LEFT` of the first."""
    of = data(seed, d, p, n, noise)
    U, B = balanced(seed, m, d, p, alpha)
    before = U @ U.T - B.T @ B

    def unpacked(state: Array) -> tuple[Array, Array]:
        return state[: m * d].reshape(m, d), state[m * d :].reshape(p, m)

    def flow(t: float, state: Array) -> Array:
        dU, dB = gradients(*unpacked(state), of.X, of.Y)
        return -np.concatenate([dU.ravel(), dB.ravel()])

    def done(t: float, state: Array) -> float:
        U, B = unpacked(state)
        return float(np.linalg.norm(B @ U @ of.X - of.Y) - LEFT * np.linalg.norm(of.Y))

    done.terminal = True  # type: ignore[attr-defined]
    start = np.concatenate([U.ravel(), B.ravel()])
    ended = solve_ivp(flow, (0.0, 1e5), start, "LSODA", events=done, rtol=TOLERANCE, atol=TOLERANCE * alpha)
    U, B = unpacked(ended.y[:, -1])
    W, best = B @ U, of.Y @ np.linalg.pinv(of.X)
    after = U @ U.T - B.T @ B
    return {
        "time": float(ended.t[-1]),
        "left": float(np.linalg.norm(W @ of.X - of.Y) / np.linalg.norm(of.Y)),
        "apart": float(np.linalg.norm(W - best) / np.linalg.norm(best)),
        "drift": float(np.linalg.norm(after - before) / np.linalg.norm(U) ** 2),
        "risk": float(np.sum((W - of.truth) ** 2 * of.spectrum)),
        "best risk": float(np.sum((best - of.truth) ** 2 * of.spectrum)),
    }


@scenario(
    name="two-layer",
    title="Two-layer linear networks from small balanced starts find the minimum-norm interpolator",
    source="Chatterji, Long & Bartlett 2022, arXiv 2108.11489; theory: balance, conservation",
    quick={"d": 24, "m": 3, "p": 2, "n": 8, "noises": (0.0, 1.0), "alphas": (0.3, 0.03, 0.003), "seeds": 1},
    full={
        "d": 60,
        "m": 4,
        "p": 2,
        "n": 20,
        "noises": (0.0, 0.5, 1.0),
        "alphas": (1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
        "seeds": 2,
    },
)
def two_layer(
    work: Work, d: int, m: int, p: int, n: int, noises: tuple[float, ...], alphas: tuple[float, ...], seeds: int
) -> Outcome:
    """Gradient flow on ½‖BUX − Y‖² (the linear cell with A = 0 held fixed) with fewer points than inputs. UUᵀ − BᵀB is
    constant. What U has beyond the span of the data never moves, so that the limit W = BU differs from the
    pseudo-inverse's YX⁺ in proportion to the size α of the start. Then noise costs both the same excess risk."""
    items = [(noise, alpha, seed) for noise in noises for alpha in alphas for seed in range(seeds)]
    runs = work.each(items, lambda i: trained(work.seed + i[2], d, m, p, n, i[0], i[1]), "noise, α, start")
    found = {
        noise: {a: [r for i, r in zip(items, runs, strict=True) if i[:2] == (noise, a)] for a in alphas}
        for noise in noises
    }
    small = min(alphas)
    logs = np.log(sorted(alphas)[:3])
    apart = [np.mean([np.log(r["apart"]) for noise in noises for r in found[noise][a]]) for a in sorted(alphas)[:3]]
    ratio = [
        np.mean([r["risk"] for r in found[k][small]]) / np.mean([r["best risk"] for r in found[k][small]])
        for k in noises
    ]
    claims = [
        Claim(
            "the largest drift of UUᵀ − BᵀB, over ‖U‖²",
            max(r["drift"] for r in runs),
            f"conserved (theory: conservation); a thousand times the integrator's tolerance of {TOLERANCE:g}",
            high=1e3 * TOLERANCE,
        ),
        Claim(
            "the largest residual where training ends, over ‖Y‖",
            max(r["left"] for r in runs),
            "fewer points than inputs: interpolation; where the run is told to stop",
            high=2.0 * LEFT,
        ),
        Claim(
            "the exponent e of ‖W − YX⁺‖ ~ αᵉ at the three smallest α",
            float(np.polyfit(logs, apart, 1)[0]),
            "1: B times what U has beyond the data, which stays as it is at the start; a tenth for finite α",
            low=0.9,
            high=1.1,
        ),
        Claim(
            "at the smallest α: the largest ‖W − YX⁺‖/‖YX⁺‖",
            max(r["apart"] for k in noises for r in found[k][small]),
            "in proportion to α, with a constant √(‖W‖)/‖W‖ of a few",
            high=5.0 * small,
        ),
        Claim(
            "at the smallest α: the largest |excess risk/pseudo-inverse's − 1|, of any noise",
            max(abs(r - 1.0) for r in ratio),
            "the limit is the minimum-norm interpolator; twice the distance above",
            high=10.0 * small,
        ),
    ]
    rows = [
        (
            noise,
            a,
            *(float(np.mean([r[key] for r in found[noise][a]])) for key in ("apart", "risk", "best risk", "drift")),
        )
        for noise in noises
        for a in alphas
    ]
    columns = ("noise", "α", "‖W − YX⁺‖/‖YX⁺‖", "excess risk", "of the pseudo-inverse", "drift of the balance")

    def draw(figure: Any) -> None:
        limits, risks = figure.subplots(1, 2)
        for k, noise in enumerate(noises):
            limits.loglog(
                alphas,
                [np.mean([r["apart"] for r in found[noise][a]]) for a in alphas],
                "o-",
                color=f"C{k}",
                label=f"noise {noise:g}",
            )
        limits.loglog(alphas, alphas, ":", color="0.5", label="α")
        limits.set_xlabel("α, size of the start")
        limits.set_title("distance from the pseudo-inverse")
        limits.legend()
        for k, a in enumerate(alphas):
            risks.plot(
                noises,
                [np.mean([r["risk"] for r in found[noise][a]]) for noise in noises],
                "o-",
                color=f"C{k}",
                label=f"α = {a:g}",
            )
        risks.plot(
            noises,
            [np.mean([r["best risk"] for r in found[noise][small]]) for noise in noises],
            "k:",
            label="pseudo-inverse",
        )
        risks.set_xlabel("noise, standard deviation")
        risks.set_title("excess risk")
        risks.legend()

    return Outcome(claims, columns, rows, draw)
