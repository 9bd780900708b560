"""What each method costs, and which one to take.

Times are sums of terms in the sizes, ``t = Σ c_i f_i(m, n)``: what any machine needs for operations, memory traffic and
calls. The coefficients c are fitted to a short measurement on the machine (:mod:`~deqverify.reference.fast.calibrate`);
without one, :mod:`~deqverify.reference.fast.defaults` stands in.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Literal, get_args

import torch

Method = Literal["lu", "mass", "mixed", "mixedlu"]
METHODS: tuple[Method, ...] = get_args(Method)
PARTS = ("lu", "mass", "mixed", "mixedlu", "turn mass", "turn mixed", "turn mixedlu")
"""What is fitted: for a method the time that doesn't depend on its turns, forward and backward, and for one turn."""

CLEARLY = 0.8
"""The share of the LU's time that another method must promise: its turns are a guess, and a hand-over pays twice."""


def features(m: int, n: int) -> tuple[float, ...]:
    """1, m, m², m³, mn, m²n: calls, vectors, matrix passes, factorisation, states, products."""
    return 1.0, float(m), float(m) ** 2, float(m) ** 3, float(m) * n, float(m) ** 2 * n


@dataclass
class CostModel:
    """Seconds of every part, as coefficients of :func:`features`, for one dtype, device and number of threads."""

    coefficients: dict[str, tuple[float, ...]]
    where: dict[str, str] = field(default_factory=dict)
    _looks: dict[tuple[int, int, float], bool] = field(default_factory=dict, repr=False, compare=False)

    def part(self, name: str, m: int, n: int) -> float:
        return sum(c * f for c, f in zip(self.coefficients[name], features(m, n), strict=True))

    def turns(self, method: Method, m: int, n: int, turns: float) -> float:
        """Seconds of that many turns of one pass."""
        return turns * self.part(f"turn {method}", m, n)

    def seconds(self, method: Method, m: int, n: int, gamma: float, accuracy: float, spread: float) -> float:
        """Forward and backward."""
        fixed = self.part(method, m, n)
        if method == "lu":
            return fixed
        turns = expected_turns(method, m, gamma, accuracy, spread, self.where.get("dtype", "float64"))
        return fixed + 2 * self.turns(method, m, n, turns)

    def worth_a_look(self, m: int, n: int, accuracy: float) -> bool:
        """Whether any method could beat the LU clearly on a good matrix: if not, none is looked at.

        Clearly, since a look costs too; a good matrix has independent entries of small variance.
        """
        key = m, n, accuracy
        known = self._looks.get(key)
        if known is None:
            if len(self._looks) > 1000:
                self._looks.clear()
            times = self.times(m, n, 0.5, accuracy, 0.3 / math.sqrt(m))
            known = self._looks[key] = min(times.values()) < CLEARLY * times["lu"]
        return known

    def choose(self, m: int, n: int, gamma: float, accuracy: float, spread: float) -> Method:
        """The method that should take the least time; ``spread`` is :meth:`System.spread`, a guess at ``|λ₂(S)|``."""
        times = self.times(m, n, gamma, accuracy, spread)
        times["lu"] *= CLEARLY
        return min(times, key=lambda method: times[method])

    def times(self, m: int, n: int, gamma: float, accuracy: float, spread: float) -> dict[Method, float]:
        """Seconds of every method that the dtype has: for float32 there is no narrower LU."""
        methods = [method for method in METHODS if (method, self.where.get("dtype")) != ("mixedlu", "float32")]
        return {method: self.seconds(method, m, n, gamma, accuracy, spread) for method in methods}

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps({"coefficients": self.coefficients, "where": self.where}, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> CostModel:
        found = json.loads(Path(path).read_text())
        return cls({name: tuple(values) for name, values in found["coefficients"].items()}, found["where"])


def expected_turns(method: Method, m: int, gamma: float, accuracy: float, spread: float, dtype: str) -> float:
    """Turns of one pass: the digits asked, with those that the certificate takes, over the digits that a turn gains."""
    rate = min(max(gamma * spread, 1e-3), 0.999999)
    unit = torch.finfo(getattr(torch, dtype)).eps / 2
    digits = -math.log(max(accuracy * 0.05, unit * math.sqrt(m)))
    picard = -math.log(rate)
    if method == "mass":
        return 1.0 + math.ceil(digits / picard)
    if method == "mixedlu":
        return math.ceil(digits / 14.0)  # 6 of float32's 7 digits: growth and the condition of U' take the rest
    narrow = narrow_dtype(getattr(torch, dtype), "cpu")
    terms = series_terms(rate, narrow)
    gained = 0.85 * min((terms + 1) * picard, picard - math.log(torch.finfo(narrow).eps / 2))
    return 1.0 + math.ceil(max(digits / gained - 1.0, 0.0))  # the start has one turn's digits already


def series_terms(rate: float, narrow: torch.dtype) -> int:
    """J of the series: until its truncation meets the rounding of the narrow products."""
    digits = -math.log(torch.finfo(narrow).eps / 2)
    return min(max(math.ceil(digits / -math.log(min(max(rate, 1e-3), 0.99))), 1), 12)


@lru_cache(maxsize=16)
def narrow_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """The dtype of narrow products: bfloat16, or float32 where a product in bfloat16 is slower than half of float64.

    Measured once a process, in about a millisecond, since processors without bfloat16 units emulate it.
    """
    if dtype == torch.float32 or device != "cpu":
        return torch.bfloat16
    times = {}
    for narrow in (torch.bfloat16, torch.float32):
        K, z = torch.ones(512, 512, dtype=narrow), torch.ones(16, 512, dtype=narrow)
        samples = []
        for _ in range(5):
            started = perf_counter()
            _ = z @ K.mT
            samples.append(perf_counter() - started)
        times[narrow] = min(samples)
    return min(times, key=lambda narrow: times[narrow])
