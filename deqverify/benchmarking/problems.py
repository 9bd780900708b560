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

from deqverify.dtypes import Array
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem

OUTPUTS = 4
KINDS = ("mixing", "sticky")
_STICKINESS = 12.0


@dataclass(frozen=True)
class FixedProblem:
    """Width ``m``, data points ``n``, γ and a kind.

    "mixing": bell-shaped logits; S forgets its start within a few products. "sticky": 12 is added along a cyclic
    permutation, so that S is nearly one, τ ≈ 1, and nothing is gained by correcting the mass (theory: zero-mass).
    A problem holds the data points of every smaller n of the same m. ValueError for sizes below one and unknown kinds.
    """

    m: int
    n: int
    gamma: float
    kind: str = "mixing"

    def __post_init__(self) -> None:
        if self.m < 1 or self.n < 1:
            raise ValueError(f"m, n: a fixed problem has at least one state and one data point, got {self.m}, {self.n}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not known; use one of {', '.join(KINDS)}")

    def __str__(self) -> str:
        return f"{self.kind} m={self.m} n={self.n} γ={self.gamma:.10g}"

    def problem(self, dtype: str = "float64") -> SoftmaxProblem:
        """The problem, every value representable in ``dtype``."""
        return _made(self, dtype)


@lru_cache(maxsize=2)
def _made(fixed: FixedProblem, dtype: str) -> SoftmaxProblem:
    m, n = fixed.m, fixed.n
    A = bell((m, m), 0, m)
    if fixed.kind == "sticky":
        A[np.arange(m), (np.arange(m) + 1) % m] += _STICKINESS
    scale = 2.0 ** -round(np.log2(m) / 2)  # outputs of size one, and still dyadic
    B = bell((OUTPUTS, m), 1, m) * scale
    problem = SoftmaxProblem(A, B, bell((n, m), 2, m).T, bell((n, OUTPUTS), 3, m).T, fixed.gamma, Squared())
    return problem if dtype == "float64" else problem.rounded_to(dtype)


def bell(shape: tuple[int, ...], which: int, m: int) -> Array:
    """Entries of ``shape`` from the stream of array number ``which`` of width ``m``."""
    words = np.random.Philox(key=np.array([which, m], dtype=np.uint64)).random_raw(int(np.prod(shape)))
    fields = words.view(np.uint16).reshape(*shape, 4)
    return (fields.sum(axis=-1, dtype=np.int64) - 2 * 65535) * 2.0**-15


def digest(problem: SoftmaxProblem) -> str:
    """SHA-256 of a problem's arrays and γ, little-endian, the first 16 digits."""
    found = hashlib.sha256()
    for array in (problem.A, problem.B, problem.Phi, problem.Y, np.array([problem.gamma])):
        found.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return found.hexdigest()[:16]
