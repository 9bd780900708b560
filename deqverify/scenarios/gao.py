"""ReLU equilibria with scaled weights, as Gao & Gao start them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deqverify.cells import Cell
from deqverify.cells.relu_gao import GaoReluCell
from deqverify.dtypes import Array
from deqverify.scenarios.registry import Outcome, Work, scenario
from deqverify.scenarios.relu_descent import DIMENSION, FULL, QUICK, over_widths

GAMMA = 0.25
"""Below ½, as ‖A‖₂ tends to 2√m."""


def start(seed: int, width: int, n: int) -> tuple[Cell, dict[str, Array], Array, Array, Array]:
    """``A ~ N(0, 1)``, ``U ~ N(0, 2/m)``, readout ``~ N(0, 1)``, inputs of norm 1, targets ``N(0, 1)``."""
    draws = np.random.default_rng([seed, width, n])
    x = draws.standard_normal((n, DIMENSION))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    theta = {
        "A": draws.standard_normal((width, width)),
        "U": draws.standard_normal((width, DIMENSION)) * (2.0 / width) ** 0.5,
        "b": np.zeros(width),
        "gamma": np.asarray(GAMMA),
    }
    return GaoReluCell(), theta, draws.standard_normal((1, width)), x, draws.standard_normal((1, n))


@scenario(
    name="gao",
    title="Scaled ReLU equilibria stay well-posed, and a width linear in n suffices (Gao & Gao)",
    source="Gao & Gao 2022, arXiv 2205.07463; theory: over-parameterised",
    quick=QUICK,
    full=FULL,
)
def gao(work: Work, n: int, times: tuple[float, ...], seeds: int, steps: int) -> Outcome:
    """Gradient descent on z = relu(γ/√m·Az + Ux) with γ = ¼ held fixed, all else trained, squared loss, from random
    starts of growing width. Promised along the whole path: ‖γ/√m·A‖₂ < 1, λ_min(ZᵀZ) ≥ λ₀/2, and L_k ≤ (1 − ηλ₀/2)ᵏL₀.
    """
    outcome = over_widths(work, start, n, times, seeds, steps)
    note = (
        "The start is the paper's as far as it is known here: the pages at hand hold its abstract alone. γ/√m·A with "
        "Gaussian A is the paper's; the variance 2/m of the input weights, the readout's of 1 and unit inputs are "
        "ours, and so is the step, half of what the tangent kernel at the start allows."
    )
    return replace(outcome, notes=[note])
