"""The cost of the suite itself: examples per second of each law, where the time goes, and imports."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from .common import cost, once

LAWS = (
    "existence", "uniqueness", "restart", "enclosure", "trace", "solver-rate", "objective", "taylor", "gradient-theta",
    "gradient-B", "gradient-x", "energy", "adjoint-certificate", "cotangent-linearity", "repeated-pull",
    "adjoint-identity", "second-order", "start-gradient", "pull-from-start", "linearity", "scale", "input-balance",
    "output-balance", "balance-descent", "balance-flow", "relu-euler", "readout-floor", "overparameterised-descent",
    "scaled-descent",
    "splitting-rate", "shift", "shift-gradient", "node-order", "node-order-gradient", "token-order",
    "token-order-gradient", "norm-kept", "symplectic", "mass", "positivity", "permutation",
    "column-shift", "gauge", "euler", "dissipation", "dissipation-floor", "projected-floor", "quotient-floor",
    "flow", "descent", "descent-dissipation", "descent-floor", "global-optimum", "column-sums", "trust-region",
    "unhinged-flow", "descent-order", "trajectory", "status-forward", "status-backward", "status-cap", "status-nan",
    "solves", "perturbation", "straight-through",
    "batch", "poisoned-point", "batch-of-one", "empty-batch", "deterministic", "history", "answers-kept",
    "in-place-update", "settings-kept", "copies", "pickles", "threads", "answers", "inputs-kept",
    "dtype-and-device", "memory-layout", "no-gradient", "frozen", "modes",
)  # fmt: skip


class Laws:
    """One law on the reference, or where that claims too little on the iterative one, with a seed."""

    params = (LAWS,)
    param_names = ("law",)
    timeout = 180

    def setup_cache(self) -> None:
        """asv then runs all in one folder, where :func:`once` keeps what was found."""

    setup_cache.timeout = 60  # type: ignore[attr-defined]

    def setup(self, law: str) -> None:
        def measured() -> Any:
            try:
                return asdict(cost.examined(law, cost.judged_on(law), examples=100, seconds=20.0))
            except KeyError:
                return {"missing": f"no law {law} here"}

        self.examined = once(law, measured)
        if "missing" in self.examined:
            raise SkipNotImplemented(self.examined["missing"])

    def track_examples_per_second(self, law: str) -> float:
        return self.examined["rate"]

    def track_share_oracle(self, law: str) -> float:
        return self.examined["shares"]["oracle"]

    def track_share_implementation(self, law: str) -> float:
        return self.examined["shares"]["implementation"]

    def track_share_bounds(self, law: str) -> float:
        return self.examined["shares"]["bounds"]

    def track_share_hypothesis(self, law: str) -> float:
        return self.examined["shares"][cost.REST]


class Imports:
    """Seconds to import a module in a fresh interpreter, the interpreter's own start taken off."""

    params = (("deqverify", "deqverify.cli", "deqverify.registry", "deqverify.reference.torch_direct"),)
    param_names = ("module",)
    unit = "s"

    def track_import(self, module: str) -> float:
        found: Any = cost.import_seconds(module)
        return math.nan if found is None else found
