"""Fixed problems for benchmarks: the same bits on every machine and for ever.

Once published they never change (a test keeps their digests), so that times can be compared across years. Entries are
made of Philox's raw 64-bit words, whose stream NumPy promises to keep, by integer arithmetic: each is the sum of a
word's four 16-bit fields, centred, times 2⁻¹⁵. That is a bell curve of standard deviation 1.155 on dyadic
numbers of 18 bits, exact in float32 too, and free of any libm.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deqverify.cells import LinearSoftmaxCell, cells
from deqverify.dtypes import Array
from deqverify.losses import Squared
from deqverify.problem import CellProblem, Problem, SoftmaxProblem

OUTPUTS = 4
SOFTMAX = LinearSoftmaxCell.name
KINDS = ("mixing", "sticky")
_STICKINESS = 12.0


@dataclass(frozen=True)
class FixedProblem:
    """Width ``m``, data points ``n``, γ, a kind and a cell.

    "mixing": bell-shaped logits; S forgets its start within a few products. "sticky": 12 is added along a cyclic
    permutation, so that S is nearly one, τ ≈ 1, and nothing is gained by correcting the mass (theory: zero-mass).
    A problem holds the data points of every smaller n of the same m. Other cells have the kind "mixing" alone, about m
    numbers in a state, and weights that contract at γ by their certificate, where the cell has one
    (:func:`_parameters`). ValueError for sizes below one, unknown kinds and unknown cells.
    """

    m: int
    n: int
    gamma: float
    kind: str = "mixing"
    cell: str = SOFTMAX

    def __post_init__(self) -> None:
        if self.m < 1 or self.n < 1:
            raise ValueError(f"m, n: a fixed problem has at least one state and one data point, got {self.m}, {self.n}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not known; use one of {', '.join(KINDS)}")
        if self.cell not in FIXED_CELLS:
            raise ValueError(f"cell: {self.cell!r} has no fixed problem; use one of {', '.join(FIXED_CELLS)}")
        if self.cell != SOFTMAX and self.kind != KINDS[0]:
            raise ValueError(f"kind: the cell {self.cell} has the kind {KINDS[0]} alone, got {self.kind!r}")

    def __str__(self) -> str:
        cell = "" if self.cell == SOFTMAX else f"{self.cell} "
        return f"{cell}{self.kind} m={self.m} n={self.n} γ={self.gamma:.10g}"

    def problem(self, dtype: str = "float64") -> Problem:
        """The problem, every value representable in ``dtype``."""
        return _made(self, dtype)


@lru_cache(maxsize=2)
def _made(fixed: FixedProblem, dtype: str) -> Problem:
    if fixed.cell != SOFTMAX:
        return _of_cell(fixed).rounded_to(dtype)
    m, n = fixed.m, fixed.n
    A = bell((m, m), 0, m)
    if fixed.kind == "sticky":
        A[np.arange(m), (np.arange(m) + 1) % m] += _STICKINESS
    B = bell((OUTPUTS, m), 1, m) * _unit(m)
    problem = SoftmaxProblem(A, B, bell((n, m), 2, m).T, bell((n, OUTPUTS), 3, m).T, fixed.gamma, Squared())
    return problem if dtype == "float64" else problem.rounded_to(dtype)


def _of_cell(fixed: FixedProblem) -> CellProblem:
    cell = cells()[fixed.cell]
    theta, shape = _parameters(fixed.cell, fixed.m, fixed.gamma)
    x = bell((fixed.n, *shape), 2, fixed.m)
    size = int(np.prod(cell.state(theta, shape)))
    B = bell((OUTPUTS, size), 1, fixed.m) * _unit(size)
    return CellProblem(cell, theta, x, B, bell((fixed.n, OUTPUTS), 3, fixed.m).T, Squared())


def _parameters(cell: str, m: int, gamma: float) -> tuple[dict[str, Array], tuple[int, ...]]:
    """θ, and the shape of one data point's x, of a cell with about ``m`` numbers in a state."""
    if cell in ("graph", "attention"):
        width = min(m, 8)
        places = max(1, m // width)
        if cell == "attention":
            return {name: _weight(width, 4 + k, gamma) for k, name in enumerate("QKV")}, (places, width)
        i, j = np.indices((places, places))
        ring = (i == j) | ((i - j) % places == 1) | ((j - i) % places == 1)
        adjacency = ring / ring.sum(axis=1)[0]
        return {"adjacency": adjacency, "W": _weight(width, 4, gamma), "U": np.eye(width), "b": bell((width,), 5, m)}, (
            places,
            width,
        )
    if cell == "conv":
        channels = min(m, 4)
        side = max(1, int((m // channels) ** 0.5))
        kernel = np.stack([_weight(channels, 4 + k, gamma / 9) for k in range(9)], axis=-1)
        return {"K": kernel.reshape(channels, channels, 3, 3), "gain": np.ones(channels)}, (channels, side, side)
    W, dense = _weight(m, 4, gamma), {"U": bell((m, m), 5, m) * _unit(m), "b": bell((m,), 6, m)}
    theta: dict[str, Array] = {
        "linear": {"A": W, "U": dense["U"]},
        "sigmoid": {"W": 4 * W, **dense},
        "relu-gao": {"A": W / gamma * np.sqrt(m), "gamma": np.asarray(gamma), **dense},
        "monotone": {"P": W / 2, "Q": bell((m, m), 7, m) * _unit(m) / 2, "mu": np.asarray(1 - gamma), **dense},
    }.get(cell, {"W": W, **dense})
    return theta, (m,)


def _weight(m: int, which: int, gamma: float) -> Array:
    """``γ/4`` times the sum of four cyclic shifts, rows and columns with the same signs: its maximum, 1- and 2-norm and
    its spectral radius are γ."""
    signs = np.where(bell((m,), which, m) < 0.0, -1.0, 1.0)
    shifts = sum(np.roll(np.eye(m), shift, axis=1) for shift in (0, 1, 5, 11))
    return np.asarray(signs[:, None] * shifts * signs * (0.25 * gamma))


def _unit(size: int) -> float:
    """The power of two next to ``1/√size``: sums of so many terms become of size one, and stay dyadic."""
    return float(2.0 ** -round(np.log2(size) / 2))


FIXED_CELLS = (SOFTMAX, "linear", "tanh", "sigmoid", "relu", "relu-gao", "monotone", "graph", "attention", "conv")


def bell(shape: tuple[int, ...], which: int, m: int) -> Array:
    """Entries of ``shape`` from the stream of array number ``which`` of width ``m``."""
    words = np.random.Philox(key=np.array([which, m], dtype=np.uint64)).random_raw(int(np.prod(shape)))
    fields = words.view(np.uint16).reshape(*shape, 4)
    return (fields.sum(axis=-1, dtype=np.int64) - 2 * 65535) * 2.0**-15


def digest(problem: Problem) -> str:
    """SHA-256 of a problem's arrays, little-endian, the first 16 digits."""
    found = hashlib.sha256()
    if isinstance(problem, SoftmaxProblem):
        arrays = [problem.A, problem.B, problem.Phi, problem.Y, np.array([problem.gamma])]
    else:
        arrays = [*problem.theta.values(), problem.x, problem.B, problem.Y]
    for array in arrays:
        found.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return found.hexdigest()[:16]
