"""The cost of the suite itself: examples per second of each law, where the time goes, and imports."""

from __future__ import annotations

import math
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from deqverify.benchmarking import cost

LAWS = (
    "existence", "uniqueness", "enclosure", "mass", "positivity", "permutation", "column-shift", "linearity", "scale",
    "batch", "gradient-A", "gradient-B", "gradient-Phi", "gradient-gamma", "energy", "euler", "adjoint-certificate",
    "gauge", "cotangent-linearity", "repeated-pull", "dissipation", "dissipation-floor", "flow", "descent",
    "column-sums", "trust-region", "descent-order", "status-forward", "status-backward", "status-cap", "status-nan",
    "answers", "poisoned-column", "inputs-kept", "dtype-and-device", "random-state",
)  # fmt: skip


class Laws:
    """One law on the reference, with a seed, so that each run judges the same examples."""

    params = (LAWS,)
    param_names = ("law",)
    timeout = 180

    def setup(self, law: str) -> None:
        try:
            self.examined = cost.examined(law, "reference", examples=100, seconds=20.0)
        except KeyError as missing:
            raise SkipNotImplemented(f"no law {law} here") from missing

    def track_examples_per_second(self, law: str) -> float:
        return self.examined.rate

    def track_share_oracle(self, law: str) -> float:
        return self.examined.shares["oracle"]

    def track_share_implementation(self, law: str) -> float:
        return self.examined.shares["implementation"]

    def track_share_bounds(self, law: str) -> float:
        return self.examined.shares["bounds"]

    def track_share_hypothesis(self, law: str) -> float:
        return self.examined.shares["Hypothesis, drawing and the rest"]


class Imports:
    """Seconds to import a module in a fresh interpreter, the interpreter's own start taken off."""

    params = (("deqverify", "deqverify.cli", "deqverify.law", "deqverify.reference.torch_direct"),)
    param_names = ("module",)
    unit = "s"

    def track_import(self, module: str) -> float:
        found: Any = cost.import_seconds(module)
        return math.nan if found is None else found
