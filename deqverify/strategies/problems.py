"""Problems of every regime, by construction: nothing is drawn and then thrown away.

The simplest problem, to which everything shrinks, is m = n = p = 1, A = 0, B = 1, Φ = 1, Y = 0, γ = ½ with squared
loss.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.dtypes import Array, dtype, round_to
from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Loss, Poisson, PseudoHuber, Squared
from deqverify.problem import Problem
from deqverify.strategies.arrays import draw_signal

LOGIT_REGIMES = ("gaussian", "gaussian", "constant columns", "wide", "one-hot", "permutation", "identity")
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
LARGEST_LARGE = 300
LARGEST_GAMMA_LARGE = 0.99

_NARROW_DTYPES = ("float16", "bfloat16")
_SMALL = 4  # sizes up to here are drawn most often


@lru_cache(maxsize=64)
def contraction_factors(dtype_name: str = "float64", largest: float = 1 - 1e-6) -> SearchStrategy[float]:
    """γ in (0, ``largest``], a number of the dtype: everyday values, values approaching 1, and a dense spread. One
    draw.

    Shrinks to ½. In float16 and bfloat16 γ stays at most 0.9: beyond it their own spacing decides the answer.
    """
    if not 0 < largest < 1:
        raise ValueError(f"largest: γ lies strictly between 0 and 1, got {largest!r}")
    if dtype_name in _NARROW_DTYPES:
        largest = min(largest, 0.9)
    # What prints in few digits comes first, for a failure to shrink to: in narrow dtypes sums of powers of two.
    everyday = [0.5, 0.9 if dtype_name == "float64" else 0.875, 0.125, 0.75] * 24
    spread = [k / 128 for k in range(1, 128)]
    powers = [1 - 2.0**-k for k in (7, 10, 13, 20)]
    approaching = [0.99, 0.999, 1 - 1e-4, 1 - 1e-6] if dtype_name == "float64" else powers
    menu = [*everyday, *spread, *4 * approaching, *(1 - 10.0**-k for k in np.linspace(1, 6, 24))]
    below = dtype(dtype_name).below_one
    return st.sampled_from([min(float(round_to(g, dtype_name)), below) for g in menu if g <= largest] or [largest])


@st.composite
def logits(draw: DrawFn, m: int, regimes: tuple[str, ...] = LOGIT_REGIMES) -> Array:
    """A, (m, m): Gaussian, or its columns constant, three times wider, nearly one-hot, or S near a permutation or
    the identity.

    Shrinks to zero, where S is 1/m everywhere. Three draws and the edits.
    """
    _check_regimes("regimes", regimes, LOGIT_REGIMES)
    return _draw_logits(draw, m, regimes)


def _draw_logits(draw: DrawFn, m: int, regimes: tuple[str, ...]) -> Array:
    base = draw_signal(draw, (m, m))
    regime = draw(_one_of(regimes))
    if regime == "wide":
        return 3.0 * base
    if regime == "constant columns":
        return np.broadcast_to(base[0], (m, m)).copy()
    if regime == "one-hot":
        return base + 30.0 * (np.arange(m)[:, None] == np.abs(base).argmax(axis=0))
    if regime == "permutation":
        return base + 20.0 * np.roll(np.eye(m), 1, axis=0)
    if regime == "identity":
        return base + 20.0 * np.eye(m)
    return base


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
    regime = draw(_one_of(regimes))
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


@lru_cache(maxsize=8)
def scales(dtype_name: str = "float64") -> SearchStrategy[int]:
    """Exponents of two for features; 0 most often, and a range in which fourth powers are normal numbers. One draw."""
    if dtype_name in _NARROW_DTYPES:
        return st.sampled_from([0, 0, 0, 1, -1])
    widest = 200 if dtype_name == "float64" else 26
    rare = {-3, 3, -10, 10, -26, 26, *range(-widest, widest + 1, max(1, widest // 12))} - {0}
    return st.sampled_from([*[0] * 40, *sorted(rare, key=lambda k: (abs(k), k))])


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
    return _draw_targets(draw, loss, p, n)


def _draw_targets(draw: DrawFn, loss: Loss, p: int, n: int) -> Array:
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
    regime = draw(_one_of(regimes))
    if regime == NARROW:
        m = draw(_size(least_m, largest - 1))
        return m, draw(_size(m + 1, largest)), draw(_size(m + 1, largest))
    m = draw(_large(largest) if regime == WIDE else _size(least_m, largest))
    return m, draw(_size(1, largest)), draw(_large(largest) if regime == MANY_POINTS else _size(least_n, largest))


@lru_cache(maxsize=8)
def _large(largest: int) -> SearchStrategy[int]:
    """Sizes beyond ``largest`` up to 300, four times in five beyond 256: what fails from a threshold on fails there,
    and shrinks to it."""
    below, above = range(largest + 1, 257), range(257, LARGEST_LARGE + 1)
    often = 4 * len(below) // len(above)
    return st.sampled_from([*below, *(size for size in above for _ in range(often))])


@lru_cache(maxsize=256)
def _size(least: int, largest: int) -> SearchStrategy[int]:
    """Sizes up to four stand six times in the menu; the first is the simplest."""
    menu = [size for size in range(least, largest + 1) for _ in range(6 if size <= _SMALL else 1)]
    return st.sampled_from(menu if len(menu) > 1 else 2 * menu)  # a menu of one draws nothing: shrinking would misalign


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
) -> Problem:
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
    A = _draw_logits(draw, m, LOGIT_REGIMES)
    Phi = _draw_features(draw, m, n, dtype_name, feature_regimes)
    B = draw_signal(draw, (p, m), 1.0)
    loss = draw(loss_functions() if losses is None else losses)
    Y = _draw_targets(draw, loss, p, n)
    return Problem(A, _in_range(loss, B, Phi, gamma), Phi, Y, gamma, loss).rounded_to(dtype_name)


@st.composite
def well_conditioned_problems(
    draw: DrawFn,
    dtype_name: str = "float64",
    largest_gamma: float = 0.9,
    least_m: int = 1,
    losses: SearchStrategy[Loss] | None = None,
) -> Problem:
    """Problems for training laws: m < min(p, n), γ ≤ ``largest_gamma``, singular values of Φ in [½, 2], every loss."""
    m, p, n = _draw_sizes(draw, 5, least_m, 1, (NARROW,))
    gamma = draw(contraction_factors(dtype_name, largest_gamma))
    left = np.linalg.qr(draw_signal(draw, (m, m)) + 4.0 * np.eye(m))[0]
    right = np.linalg.qr(draw_signal(draw, (n, m)) + 4.0 * np.eye(n, m))[0]
    Phi = left * np.linspace(0.5, 2.0, m) @ right.T if m > 1 else right.T
    loss = draw(loss_functions() if losses is None else losses)
    A, B = draw_signal(draw, (m, m)), draw_signal(draw, (p, m), 1.0)
    Y = _draw_targets(draw, loss, p, n)
    return Problem(A, _in_range(loss, B, Phi, gamma), Phi, Y, gamma, loss).rounded_to(dtype_name)


@lru_cache(maxsize=64)
def _one_of(regimes: tuple[str, ...]) -> SearchStrategy[str]:
    return st.sampled_from(regimes)


def _check_regimes(name: str, regimes: tuple[str, ...], known: tuple[str, ...]) -> None:
    if unknown := [regime for regime in regimes if regime not in known]:
        raise ValueError(f"{name}: {unknown[0]!r} is not one of {', '.join(known)}")
