"""What each target achieved in the same setting that it is timed in, so that faster but wrong shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from deqverify.benchmarking.measuring import Row, entered, growth, measured
from deqverify.benchmarking.problems import FixedProblem
from deqverify.benchmarking.results import plain
from deqverify.benchmarking.targets import timed_target

from .common import IMPLEMENTATIONS, Contest, floor, once


class Achieved(Contest):
    """Of a gradient: relative residual, errors, iterations, time over the floor measured in the same process, and the
    bytes needed at the peak beyond what was held before.

    One measurement serves all: what the first of them finds, the others read.
    """

    def setup_cache(self) -> None:
        """asv then runs all in one folder, where :func:`once` keeps what was found."""

    setup_cache.timeout = 60  # type: ignore[attr-defined]

    def setup(self, *params: Any) -> None:
        implementation, m, n, gamma, dtype, device = params

        def found() -> Any:
            row = Row(implementation, "gradient", FixedProblem(m, n, gamma), dtype, device)
            try:
                who = timed_target(implementation)
                row = replace(row, tolerance=self.tolerance if who.tunable else None)
                run = who.prepare(row.problem.problem(dtype), dtype, device, row.tolerance)
                (row,) = measured([entered(row, who, run)], budget=0.1)
            except Exception as error:
                row = row.without(error)
            least = floor.floor_of(row)
            return plain(row) | {"ratio": row.timing.steady / least if row.timing and least else None}

        self.row = once(params, found)
        if self.row.get("timing") is None:
            raise SkipNotImplemented(self.row["note"])

    def track_residual(self, *params: Any) -> float:
        return _number(self.row["achieved"]["residual"])

    def track_error_z(self, *params: Any) -> float:
        return _number(self.row["achieved"]["z"])

    def track_error_A(self, *params: Any) -> float:
        return _number(self.row["achieved"]["theta"])

    def track_error_Phi(self, *params: Any) -> float:
        return _number(self.row["achieved"]["x"])

    def track_iterations(self, *params: Any) -> float:
        return _number(self.row["iterations"])

    def track_times_floor(self, *params: Any) -> float:
        return _number(self.row["ratio"])

    def track_peak(self, *params: Any) -> float:
        return _number(self.row["memory"])

    track_residual.unit = track_error_z.unit = track_error_A.unit = track_error_Phi.unit = "relative"  # type: ignore
    track_iterations.unit, track_times_floor.unit, track_peak.unit = "products", "× floor", "bytes"  # type: ignore


class Growth(Contest):
    """States kept for each further iteration: about 0 for an implicit backward pass, at least 1 for an unrolled one."""

    params = (IMPLEMENTATIONS, (64,), (256,), (0.9,), ("float64", "float32"), ("cpu", "cuda"))
    unit = "states an iteration"

    def track_growth(self, *params: Any) -> float:
        return _number(growth(self.who, self.fixed, params[4], params[5]))


def _number(value: float | None) -> float:
    """NaN, which asv shows as n/a, for what is not known."""
    return math.nan if value is None else value
