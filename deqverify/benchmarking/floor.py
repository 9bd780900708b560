"""What the hardware allows: rates measured in the same run, and the least time of one pass at those rates.

The floor belongs to an algorithm. Direct: the LU of U (``⅔m³`` operations at GETRF's rate) and two triangular solves
(``2m²n``, at GEMM's). Iterative with k products: ``2m²nk``. A gradient adds the same solve transposed (no second LU),
the outer product ``ΛZᵀ`` and ``⟨Λ, SZ⟩`` (``2m²n`` each) and the readout's three products (``2pmn``). Memory: A, Φ and
the results are moved once, each product reads K and the states and writes the states. The floor is the greater of the
two times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deqverify.benchmarking.problems import OUTPUTS

_ORDER = 1024
_COPIED = 1 << 26  # bytes, beyond any second-level cache


@dataclass(frozen=True)
class Rates:
    """Operations a second of GEMM and GETRF, bytes a second of a copy (read and written), best of several."""

    gemm: float
    getrf: float
    bandwidth: float

    def __str__(self) -> str:
        return f"GEMM {self.gemm / 1e9:.0f} GFlop/s, GETRF {self.getrf / 1e9:.0f}, copy {self.bandwidth / 1e9:.1f} GB/s"


@lru_cache(maxsize=8)
def rates(dtype: str, device: str = "cpu") -> Rates:
    """Measured once a process, with PyTorch where it is installed and with NumPy and SciPy otherwise."""
    try:
        import torch
    except ImportError:
        return _with_scipy(dtype)
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    a = torch.rand((_ORDER, _ORDER), dtype=torch.float32, generator=generator).to(device, kind)
    dominant = a + _ORDER * torch.eye(_ORDER, dtype=kind, device=device)
    source = torch.zeros(_COPIED // a.element_size(), dtype=kind, device=device)
    target = torch.empty_like(source)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Rates(
        2 * _ORDER**3 / _best(lambda: a @ a, wait),
        2 / 3 * _ORDER**3 / _best(lambda: torch.linalg.lu_factor(dominant), wait),
        2 * _COPIED / _best(lambda: target.copy_(source), wait),
    )


def _with_scipy(dtype: str) -> Rates:
    import numpy as np
    import scipy.linalg

    a = np.ones((_ORDER, _ORDER), dtype=dtype)
    dominant = a + _ORDER * np.eye(_ORDER, dtype=dtype)
    source = np.zeros(_COPIED // a.itemsize, dtype=dtype)
    target = np.empty_like(source)
    return Rates(
        2 * _ORDER**3 / _best(lambda: a @ a),
        2 / 3 * _ORDER**3 / _best(lambda: scipy.linalg.lu_factor(dominant)),
        2 * _COPIED / _best(lambda: np.copyto(target, source)),
    )


def _best(call: Callable[[], Any], wait: Callable[[], None] = lambda: None, times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - started)
    return best


def floor(rate: Rates, m: int, n: int, itemsize: int, which: str, products: int | None = None) -> float:
    """Seconds that a forward pass, or a gradient or step, cannot undercut; ``products`` None for a direct solve."""
    solves = 1 if which == "forward" else 2
    each = products if products is not None else 1  # two triangular solves are as much as one product
    arithmetic = solves * each * 2 * m * m * n / rate.gemm
    moved = m * m + 2 * m * n + solves * each * (m * m + 2 * m * n)
    if products is None:
        arithmetic += 2 / 3 * m**3 / rate.getrf
        moved += m * m
    if which != "forward":
        arithmetic += (4 * m * m * n + 6 * OUTPUTS * m * n) / rate.gemm
        moved += m * m + 2 * m * n
    return max(arithmetic, moved * itemsize / rate.bandwidth)
