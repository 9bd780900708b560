"""Over-parameterised ReLU equilibria, as Ling et al. start them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deqverify.cells import Cell
from deqverify.cells.relu import ReluCell
from deqverify.dtypes import Array
from deqverify.scenarios.registry import Outcome, Work, scenario
from deqverify.scenarios.relu_descent import DIMENSION, FULL, QUICK, over_widths

SIGMA_SQUARED = 0.08
"""σ_w² of the recurrent weights; below 1/8, as ‖W‖₂ tends to ``2√2 σ_w``."""


def start(seed: int, width: int, n: int) -> tuple[Cell, dict[str, Array], Array, Array, Array]:
    """``W ~ N(0, 2σ_w²/m)``, ``U ~ N(0, 2/d)``, readout ``~ N(0, 1/m)``, inputs of norm √d, targets ``N(0, 1)``."""
    draws = np.random.default_rng([seed, width, n])
    x = draws.standard_normal((n, DIMENSION))
    x *= DIMENSION**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    theta = {
        "W": draws.standard_normal((width, width)) * (2.0 * SIGMA_SQUARED / width) ** 0.5,
        "U": draws.standard_normal((width, DIMENSION)) * (2.0 / DIMENSION) ** 0.5,
        "b": np.zeros(width),
    }
    return ReluCell(), theta, draws.standard_normal((1, width)) / width**0.5, x, draws.standard_normal((1, n))


@scenario(
    name="ling",
    title="Wide ReLU equilibria train at a linear rate, and stay well-posed (Ling et al.)",
    source="Ling et al. 2023, arXiv 2205.13814; theory: over-parameterised, readout-floor",
    quick=QUICK,
    full=FULL,
)
def ling(work: Work, n: int, times: tuple[float, ...], seeds: int, steps: int) -> Outcome:
    """Gradient descent on z = relu(Wz + Ux), readout and all weights trained, squared loss, from random starts of
    growing width. Promised along the whole path: ‖W‖₂ < 1, λ_min(ZᵀZ) ≥ λ₀/2, and L_k ≤ (1 − ηλ₀/2)ᵏL₀. The paper
    proves it for widths beyond its constants; here it is seen from which width on every start keeps it."""
    outcome = over_widths(work, start, n, times, seeds, steps)
    note = (
        "The start is the paper's as far as it is known here: the pages at hand hold its abstract alone. The variances "
        "2σ_w²/m, 2/d and 1/m and inputs of norm √d are written from memory, σ_w² = 0.08 and d = 12 are ours; so is "
        "the step, half of what the tangent kernel at the start allows."
    )
    return replace(outcome, notes=[note])
