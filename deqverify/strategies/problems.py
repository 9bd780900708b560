"""Problems of every regime, by construction: nothing is drawn and then thrown away.

The simplest problem, to which everything shrinks, is m = n = p = 1, A = 0, B = 1, Φ = 1, Y = 0, γ = ½ with squared
loss.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.cells.linear_softmax import LOGIT_REGIMES, draw_logits
from deqverify.drawing import (
    contraction_factors,
    draw_signal,
    large_size,
    one_of,
    scales,
    size_up_to,
)
from deqverify.dtypes import Array, dtype
from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Loss, Poisson, PseudoHuber, Squared
from deqverify.problem import SoftmaxProblem

FEATURE_REGIMES = (
    "gaussian",
    "gaussian",
    "gaussian",
    "nonnegative",
    "zero column",
    "duplicated",
    "collinear",
    "nearly collinear",
    "deficient",
)
NARROW = "m < min(p, n)"
SIZE_REGIMES = ("any", NARROW, NARROW)
MANY_POINTS, WIDE = "many data points", "wide"
LARGE_REGIMES = (MANY_POINTS, WIDE)
"""Up to 300 data points or states: where blocks, buffers and matrix-free paths begin."""
LARGEST_GAMMA_LARGE = 0.99


@st.composite
def logits(draw: DrawFn, m: int, regimes: tuple[str, ...] = LOGIT_REGIMES) -> Array:
    """A, (m, m): Gaussian, or its columns constant, three times wider, nearly one-hot, or S near a permutation or
    the identity.

    Shrinks to zero, where S is 1/m everywhere. Three draws and the edits.
    """
    _check_regimes("regimes", regimes, LOGIT_REGIMES)
    return draw_logits(draw, m, regimes)


@st.composite
def features(
    draw: DrawFn, m: int, n: int, dtype_name: str = "float64", regimes: tuple[str, ...] = FEATURE_REGIMES
) -> Array:
    """Φ, (m, n): Gaussian, nonnegative, with a zero column, duplicated, (nearly) collinear or rank-deficient, and
    scaled.

    The scale is a power of two such that fourth powers stay inside the dtype's normal range. Shrinks to ones at
    scale 1. Four draws and the edits.
    """
    _check_regimes("regimes", regimes, FEATURE_REGIMES)
    return _draw_features(draw, m, n, dtype_name, regimes)


def _draw_features(draw: DrawFn, m: int, n: int, dtype_name: str, regimes: tuple[str, ...]) -> Array:
    base = draw_signal(draw, (m, n), 1.0)
    regime = draw(one_of(regimes))
    exponent = draw(scales(dtype_name))
    if n:
        if regime == "nonnegative":
            base = np.abs(base)
        elif regime == "zero column":
            base[:, -1] = 0.0
        elif regime == "duplicated":
            base = base[:, np.arange(n) // 2]
        elif regime == "collinear":
            base = base[:, :1] * (1.0 + np.arange(n))
        elif regime == "nearly collinear":
            base = base[:, :1] + 1e-12 * base
        elif regime == "deficient":
            rank = max(1, min(m, n) - 1)
            base = base[:, :rank] @ np.cos(np.arange(rank * n)).reshape(rank, n)
    return base * 2.0**exponent


def loss_functions() -> SearchStrategy[Loss]:
    """A loss: squared first, then every other, its ridge or width a number that every dtype holds exactly. One draw."""
    return _LOSSES


def smooth_losses() -> SearchStrategy[Loss]:
    """As :func:`loss_functions`, twice continuously differentiable ones only: what theory: trust-region speaks of."""
    return _SMOOTH


_RIDGES = (0.5, 0.125, 0.015625)
_RIDGED = (Logistic, CrossEntropy, Poisson, HingeSquared)
_MENU: list[Loss] = [
    *[Squared()] * 4,
    *(loss(ridge) for loss in _RIDGED for ridge in _RIDGES),
    *(PseudoHuber(delta) for delta in (1.0, 0.25, 8.0)),
    *[LogCosh()] * 3,
]
_LOSSES: SearchStrategy[Loss] = st.sampled_from(_MENU)
_SMOOTH: SearchStrategy[Loss] = st.sampled_from([loss for loss in _MENU if loss.smooth])


@st.composite
def targets(draw: DrawFn, loss: Loss, p: int, n: int) -> Array:
    """Y, (p, n), as ``loss`` takes it: Gaussian; labels 0 and 1 or −1 and 1; one-hot columns; counts.

    Shrinks to zero, to −1, or to class 0.
    """
    return draw_targets(draw, loss, p, n)


def draw_targets(draw: DrawFn, loss: Loss, p: int, n: int) -> Array:
    base = draw_signal(draw, (p, n))
    if isinstance(loss, Logistic):
        return (base > 0).astype(np.float64)
    if isinstance(loss, HingeSquared):
        return np.where(base > 0, 1.0, -1.0)
    if isinstance(loss, Poisson):
        return np.rint(2.0 * np.abs(base))
    if isinstance(loss, CrossEntropy):
        return (np.arange(p)[:, None] == base.argmax(axis=0)).astype(np.float64) if n else base
    return base


MOST_EXPONENT = 4.0
"""What no output of a Poisson problem exceeds: exp 4 ≈ 55, times features, is in range of every dtype."""


def _in_range(loss: Loss, B: Array, Phi: Array, gamma: float, most: float = MOST_EXPONENT) -> Array:
    """B, for the Poisson loss divided by the power of two that keeps every ``|F|`` at most ``most``.

    ``|F_ji| ≤ max_k |B_jk| ‖φ_i‖₁/(1−γ)`` (theory: conditioning).
    """
    if not isinstance(loss, Poisson):
        return B
    largest = float(np.abs(B).max() * np.abs(Phi).sum(axis=0).max(initial=0.0)) / (1.0 - gamma)
    return B * 2.0 ** -np.ceil(np.log2(largest / most)) if largest > most else B


@st.composite
def sizes(
    draw: DrawFn, largest: int, least_m: int = 1, least_n: int = 1, regimes: tuple[str, ...] = SIZE_REGIMES
) -> tuple[int, int, int]:
    """(m, p, n): most have a width below both p and n, the regime that the theorem is about, and few exceed four.

    Four draws; each size shrinks by itself, to its least, in a large regime to the least size beyond ``largest``.
    """
    return _draw_sizes(draw, largest, least_m, least_n, regimes)


def _draw_sizes(
    draw: DrawFn, largest: int, least_m: int, least_n: int, regimes: tuple[str, ...]
) -> tuple[int, int, int]:
    _check_regimes("regimes", regimes, SIZE_REGIMES + LARGE_REGIMES)
    if largest <= least_m:
        raise ValueError(f"largest: needs at least {least_m + 1} for a width below p and n, got {largest}")
    regime = draw(one_of(regimes))
    if regime == NARROW:
        m = draw(size_up_to(least_m, largest - 1))
        return m, draw(size_up_to(m + 1, largest)), draw(size_up_to(m + 1, largest))
    m = draw(large_size(largest) if regime == WIDE else size_up_to(least_m, largest))
    return (
        m,
        draw(size_up_to(1, largest)),
        draw(large_size(largest) if regime == MANY_POINTS else size_up_to(least_n, largest)),
    )


@st.composite
def problems(
    draw: DrawFn,
    dtype_name: str = "float64",
    largest_gamma: float = 1 - 1e-6,
    largest: int = 8,
    losses: SearchStrategy[Loss] | None = None,
    size_regimes: tuple[str, ...] = SIZE_REGIMES,
    feature_regimes: tuple[str, ...] = FEATURE_REGIMES,
    least_m: int = 1,
    least_n: int = 1,
) -> SoftmaxProblem:
    """A whole problem, its values numbers of ``dtype_name``, sizes at most ``largest`` but in a large regime.

    Draws sizes, γ, A, Φ, B, a loss and Y from the strategies of this module, about twenty draws in all. Shrinks part
    by part to the simplest problem (this module's docstring).
    """
    dtype(dtype_name)
    m, p, n = _draw_sizes(draw, largest, least_m, least_n, size_regimes)
    if max(m, n) > largest:
        largest_gamma = min(largest_gamma, LARGEST_GAMMA_LARGE)
    gamma = draw(contraction_factors(dtype_name, largest_gamma))
    _check_regimes("feature_regimes", feature_regimes, FEATURE_REGIMES)
    A = draw_logits(draw, m, LOGIT_REGIMES)
    Phi = _draw_features(draw, m, n, dtype_name, feature_regimes)
    B = draw_signal(draw, (p, m), 1.0)
    loss = draw(loss_functions() if losses is None else losses)
    Y = draw_targets(draw, loss, p, n)
    return SoftmaxProblem(A, _in_range(loss, B, Phi, gamma), Phi, Y, gamma, loss).rounded_to(dtype_name)


@st.composite
def well_conditioned_problems(
    draw: DrawFn,
    dtype_name: str = "float64",
    largest_gamma: float = 0.9,
    least_m: int = 1,
    losses: SearchStrategy[Loss] | None = None,
) -> SoftmaxProblem:
    """Problems for training laws: m < min(p, n), γ ≤ ``largest_gamma``, singular values of Φ in [½, 2], every loss."""
    m, p, n = _draw_sizes(draw, 5, least_m, 1, (NARROW,))
    gamma = draw(contraction_factors(dtype_name, largest_gamma))
    left = np.linalg.qr(draw_signal(draw, (m, m)) + 4.0 * np.eye(m))[0]
    right = np.linalg.qr(draw_signal(draw, (n, m)) + 4.0 * np.eye(n, m))[0]
    Phi = left * np.linspace(0.5, 2.0, m) @ right.T if m > 1 else right.T
    loss = draw(loss_functions() if losses is None else losses)
    A, B = draw_signal(draw, (m, m)), draw_signal(draw, (p, m), 1.0)
    Y = draw_targets(draw, loss, p, n)
    return SoftmaxProblem(A, _in_range(loss, B, Phi, gamma), Phi, Y, gamma, loss).rounded_to(dtype_name)


def _check_regimes(name: str, regimes: tuple[str, ...], known: tuple[str, ...]) -> None:
    if unknown := [regime for regime in regimes if regime not in known]:
        raise ValueError(f"{name}: {unknown[0]!r} is not one of {', '.join(known)}")
