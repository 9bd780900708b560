"""Seconds of a forward pass, of forward and backward, and of a training step; achieved.py has what they achieved."""

from __future__ import annotations

from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from deqverify.benchmarking.measuring import timed

from .common import Contest


class Forward(Contest):
    """z alone."""

    which = "forward"

    def time_forward(self, *params: Any) -> None:
        self.call()


class Gradient(Contest):
    """z and the gradient of L in A, B, Φ and γ."""

    def time_gradient(self, *params: Any) -> None:
        self.call()


class Step(Contest):
    """A step of gradient descent on A and B."""

    which = "step"

    def time_step(self, *params: Any) -> None:
        self.call()


class Events(Contest):
    """The GPU's own time of a gradient, between two CUDA events; the host's launches are not in it."""

    params = (*Contest.params[:-1], ("cuda",))
    unit = "s"

    def track_gradient(self, *params: Any) -> float:
        if self.run.device != "cuda" or not self.who.watched:
            raise SkipNotImplemented("events belong to a GPU, and to what PyTorch runs there")
        return timed(self.run.gradient, self.run.synchronise, "cuda").median
