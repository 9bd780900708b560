"""The base of every benchmark that times a target: fixed parameters, warm-up outside, synchronisation inside.

Parameters are literals: they depend on nothing that is installed. What a machine lacks (a library, a GPU, a dtype) is
skipped with :class:`SkipNotImplemented`, so that results of several machines have one shape. A third party's target
takes part through the environment variable ``DEQVERIFY_BENCH_TARGETS``, names separated by spaces.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from deqverify.benchmarking.problems import FixedProblem
from deqverify.benchmarking.targets import Unavailable, fixed_names, timed_target

# tools/ lies in the checkout and is not installed; last, so that deqverify is the one that asv installed.
sys.path.append(str(Path(__file__).parents[2]))

from tools import cost, floor

__all__ = ["IMPLEMENTATIONS", "Contest", "cost", "floor", "once"]

with suppress(ImportError):
    import torch  # noqa: F401 - a fork server imports it once for all benchmarks

IMPLEMENTATIONS = (*fixed_names(), *os.environ.get("DEQVERIFY_BENCH_TARGETS", "").split())


class Contest:
    """implementation × width × batch × γ × dtype × device. Each value of a parameter is published and stays."""

    params: Any = (IMPLEMENTATIONS, (16, 64, 256), (1, 256), (0.9, 0.999), ("float64", "float32"), ("cpu", "cuda"))
    param_names = ("implementation", "m", "n", "gamma", "dtype", "device")
    timeout = 60  # of one setting, set-up included; slower is "timed out", which is a result
    rounds, repeat, warmup_time = 1, (5, 50, 1.0), 0.05
    which = "gradient"
    tolerance: float | None = 1e-6
    """What tunable targets are asked for; equal *achieved* accuracy is ``deqverify bench --accuracy``."""

    def setup(self, implementation: str, m: int, n: int, gamma: float, dtype: str, device: str) -> None:
        """Prepares the run and warms it up, compilation included."""
        try:
            who = timed_target(implementation)
            self.fixed = FixedProblem(m, n, gamma)
            tolerance = self.tolerance if who.tunable else None
            self.run = who.prepare(self.fixed.problem(dtype), dtype, device, tolerance)
            self.call()
        except Unavailable as missing:
            raise SkipNotImplemented(str(missing)) from missing
        self.who = who

    def call(self) -> None:
        """What is timed, and once before what warms it up."""
        getattr(self.run, self.which)()
        self.run.synchronise()


def once(key: Any, measure: Callable[[], Any]) -> Any:
    """What ``measure()`` gave, JSON-ready, when it was first asked for ``key`` in the current folder."""
    kept = Path(hashlib.sha256(repr(key).encode()).hexdigest()[:16] + ".json")
    if not kept.exists():
        kept.write_text(json.dumps(measure()))
    return json.loads(kept.read_text())
