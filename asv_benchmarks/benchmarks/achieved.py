"""What each contender achieved in the same setting that it is timed in, so that faster but wrong shows."""

from __future__ import annotations

import math
from typing import Any

from deqverify.benchmarking.measure import floor_of
from deqverify.benchmarking.memory import growth, peak_memory
from deqverify.benchmarking.timing import timed

from .common import IMPLEMENTATIONS, Accuracy, Contest


class Achieved(Accuracy):
    """Relative residual and errors, the iterations, and the time against the floor measured in the same process."""

    def track_residual(self, *params: Any) -> float:
        return math.nan if self.reached.residual is None else self.reached.residual

    def track_error_z(self, *params: Any) -> float:
        return math.nan if self.reached.z is None else self.reached.z

    def track_error_A(self, *params: Any) -> float:
        return self.reached.A if self.reached.A is not None else math.nan

    def track_error_Phi(self, *params: Any) -> float:
        return self.reached.Phi if self.reached.Phi is not None else math.nan

    def track_iterations(self, *params: Any) -> float:
        return math.nan if self.run.iterations is None else self.run.iterations

    def track_times_floor(self, *params: Any) -> float:
        seconds = timed(self.run.gradient, self.run.synchronise, self.run.device).steady
        return seconds / floor_of(self.run, self.who, self.fixed, params[4], "gradient")

    track_residual.unit = track_error_z.unit = track_error_A.unit = track_error_Phi.unit = "relative"  # type: ignore
    track_iterations.unit, track_times_floor.unit = "products", "× floor"  # type: ignore


class Memory(Contest):
    """Bytes that a gradient needs at its peak, beyond what was held before."""

    unit = "bytes"

    def warm_up(self) -> None:
        self.run.gradient()
        self.run.synchronise()

    def track_peak(self, *params: Any) -> float:
        found = peak_memory(self.run.gradient, self.run.device, self.run.synchronise)
        return math.nan if found is None else found


class Growth(Contest):
    """States kept for each further iteration: about 0 for an implicit backward pass, at least 1 for an unrolled one."""

    params = (IMPLEMENTATIONS, (64,), (256,), (0.9,), ("float64", "float32"), ("cpu", "cuda"))
    unit = "states an iteration"

    def track_growth(self, *params: Any) -> float:
        found = growth(self.who, self.fixed, params[4], params[5])
        return math.nan if found is None else found
