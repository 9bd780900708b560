"""Weak correlations of first and second derivatives, and the tangent kernel's drift, over widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.cells.tanh import TanhCell
from deqverify.dtypes import Array
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.scenarios.relu_descent import fixed

GAMMA = 0.25
"""‖γ/√m·A‖₂ tends to ½, and tanh does not stretch."""

DIMENSION = 4

CELL = TanhCell()

Weights = dict[str, Array]
"""A (m, m), U (m, d), B (m,): standard normal entries; ``W = γ/√m · A``, output ``Bᵀz/√m``."""


def start(seed: int, m: int, n: int) -> tuple[Weights, Array, Array]:
    """Weights, inputs (n, d) of norm 1 and targets (n,); inputs and targets do not depend on the width."""
    data = np.random.default_rng([seed, n])
    x, y = data.standard_normal((n, DIMENSION)), data.standard_normal(n)
    draws = np.random.default_rng([seed, n, m])
    shapes = {"A": (m, m), "U": (m, DIMENSION), "B": (m,)}
    weights = {name: draws.standard_normal(shape) for name, shape in shapes.items()}
    return weights, x / np.linalg.norm(x, axis=1, keepdims=True), y


def factors(w: Weights, x: Array) -> tuple[Array, Array]:
    """States z (n, m), and v (n, m): ``∂f_i/∂A = γ/√m · v_i z_iᵀ``, ``∂f_i/∂U = v_i x_iᵀ``; ``∂f_i/∂B = z_i/√m``."""
    m = len(w["B"])
    theta = {"W": GAMMA / m**0.5 * w["A"], "U": w["U"], "b": np.zeros(m)}
    z = fixed(CELL.step(theta, x), np.zeros((len(x), m)))
    slope, c = 1.0 - z**2, np.broadcast_to(w["B"] / m**0.5, z.shape)
    adjoint = fixed(lambda v: c + (v * slope) @ theta["W"], np.zeros_like(z))
    return z, adjoint * slope


def kernel(z: Array, v: Array, x: Array) -> Array:
    """The tangent kernel (n, n): inner products of the gradients of the outputs."""
    m = z.shape[1]
    states, adjoints = z @ z.T, v @ v.T
    return states / m + adjoints * (x @ x.T) + GAMMA**2 / m * adjoints * states


def moved(w: Weights, z: Array, v: Array, x: Array, along: Array) -> Weights:
    """The weights plus ``Σ_i along_i ∇f_i``."""
    m = len(w["B"])
    return {
        "A": w["A"] + GAMMA / m**0.5 * (v * along[:, None]).T @ z,
        "U": w["U"] + (v * along[:, None]).T @ x,
        "B": w["B"] + along @ z / m**0.5,
    }


def measured(seed: int, m: int, n: int, steps: int) -> dict[str, float]:
    """``correlation``: ``|∇²f[∇f, ∇f]|/‖∇f‖³`` at the first point, half the derivative of ‖∇f‖² along the gradient by
    central differences. ``drift``: ``‖Θ_k − Θ₀‖/‖Θ₀‖`` once gradient descent has taken ``steps`` steps."""
    w, x, y = start(seed, m, n)
    z, v = factors(w, x)
    first = kernel(z, v, x)
    size, e = first[0, 0] ** 0.5, np.eye(n)[0]
    h = 1e-3 / size  # truncation h² against rounding u/h
    ends = [kernel(*factors(moved(w, z, v, x, s * h * e), x), x)[0, 0] for s in (1.0, -1.0)]
    correlation = abs(ends[0] - ends[1]) / (4.0 * h) / size**3
    eta = 0.5 / float(np.linalg.eigvalsh(first)[-1])
    residual = w["B"] @ z.T / m**0.5 - y
    before = float(residual @ residual)
    for _ in range(steps):
        w = moved(w, z, v, x, -eta * residual)
        z, v = factors(w, x)
        residual = w["B"] @ z.T / m**0.5 - y
    return {
        "correlation": float(correlation),
        "drift": float(np.linalg.norm(kernel(z, v, x) - first) / np.linalg.norm(first)),
        "left": float(residual @ residual) / before,
    }


def exponent(widths: tuple[int, ...], of: Array) -> tuple[float, float]:
    """The slope of the logarithm of the root mean square over starts of ``of`` (widths, starts) in log width, and half
    of its 95 % confidence interval, by drawing the starts anew 400 times."""

    def slope(chosen: Array) -> float:
        return float(np.polyfit(np.log(widths), 0.5 * np.log(np.mean(chosen**2, axis=1)), 1)[0])

    draws = np.random.default_rng(0)
    count = of.shape[1]
    again = [slope(np.stack([row[draws.integers(count, size=count)] for row in of])) for _ in range(400)]
    low, high = np.quantile(again, (0.025, 0.975))
    return slope(of), float(high - low) / 2.0


@scenario(
    name="correlations",
    title="First and second derivatives decorrelate as a cell widens, and training becomes linear",
    source="Shem-Ur & Oz 2024, arXiv 2401.04013",
    quick={"widths": (8, 16, 32, 64, 128), "n": 4, "seeds": 8, "steps": 20},
    full={"widths": (8, 16, 32, 64, 128, 256, 512, 1024), "n": 4, "seeds": 8, "steps": 20},
)
def correlations(work: Work, widths: tuple[int, ...], n: int, seeds: int, steps: int) -> Outcome:
    """The cell z = tanh(γ/√m·Az + Ux) with output Bᵀz/√m, from standard normal weights. The correlation of the first
    derivative with the second, |∇²f[∇f, ∇f]|/‖∇f‖³, and the drift of the tangent kernel over training fall with the
    width m; the exponents of their root mean squares are fitted, with 95 % confidence intervals over starts."""
    items = [(m, s) for m in widths for s in range(seeds)]
    runs = work.each(items, lambda i: measured(work.seed + i[1], i[0], n, steps), "width, start")
    of = {
        name: np.array([run[name] for run in runs]).reshape(len(widths), seeds)
        for name in ("correlation", "drift", "left")
    }
    (one, one_error), (two, two_error) = exponent(widths, of["correlation"]), exponent(widths, of["drift"])
    fit = "the abstract says that it falls; −½ where second derivatives ignore first ones, −1 where they cancel"
    claims = [
        Claim("the exponent of the correlation in the width, plus its confidence", one + one_error, fit, high=-0.25),
        Claim("the exponent of the correlation in the width, less its confidence", one - one_error, fit, low=-1.5),
        Claim("the exponent of the kernel's drift in the width, plus its confidence", two + two_error, fit, high=-0.25),
        Claim("the exponent of the kernel's drift in the width, less its confidence", two - two_error, fit, low=-1.5),
        Claim(
            "the median share of the loss that training left, at the largest width",
            float(np.median(of["left"][-1])),
            "the drift is that of a training that got somewhere: half",
            high=0.5,
        ),
    ]
    rows = [(m, *(float(np.mean(of[name][k] ** 2) ** 0.5) for name in of)) for k, m in enumerate(widths)]
    columns = ("width", "correlation of ∇f and ∇²f", "drift of the tangent kernel", "loss left")

    def draw(figure: Any) -> None:
        for axes, name, slope, error in zip(
            figure.subplots(1, 2), ("correlation", "drift"), (one, two), (one_error, two_error), strict=True
        ):
            mean = np.sqrt(np.mean(of[name] ** 2, axis=1))
            for column in of[name].T:
                axes.loglog(widths, column, ".", color="0.7", ms=3)
            axes.loglog(widths, mean, "o", label="root mean square of the starts")
            through = np.exp(np.mean(np.log(mean)) - slope * np.mean(np.log(widths)))
            axes.loglog(widths, through * np.array(widths, float) ** slope, ":", label=f"m^({slope:.2f} ± {error:.2f})")
            axes.set_xlabel("width m")
            axes.legend()
        figure.axes[0].set_title("|∇²f[∇f, ∇f]|/‖∇f‖³")
        figure.axes[1].set_title("‖Θ − Θ₀‖/‖Θ₀‖ after training")

    return Outcome(claims, columns, rows, draw)
