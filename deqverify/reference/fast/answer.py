"""What every solver of this package gives: an equilibrium, what is known of it, and its pull-back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqverify.implementations.protocol import Status


@dataclass
class Gradients:
    """``∂A`` (m, m), the adjoint ``∂x`` (n, m), ``∂γ`` a scalar; A's and γ's are None where they were not wanted.

    ``bound`` (n,) certifies the relative error of the adjoint in the maximum norm, where it was found by iteration.
    """

    A: Tensor | None
    x: Tensor
    gamma: Tensor | None
    bound: Tensor | None = None
    turns: int = 0

    @property
    def status(self) -> Status:
        return finite(self.x)


class Answer:
    """``z`` (n, m); ``used``, the method that gave it; ``turns``, products in the working dtype, 0 if direct.

    ``bound`` (n,) certifies the relative error of z in the 1-norm, and is None for a direct solve.
    """

    z: Tensor
    used: str
    turns = 0
    residual: float | None = None
    bound: Tensor | None = None

    @property
    def status(self) -> Status:
        return finite(self.z)

    def pull(self, c: Tensor, wanted: Any = (True, True, True)) -> Gradients:
        """The gradients for a cotangent c (n, m); ``wanted``: of A, of x, of γ."""
        raise NotImplementedError


def finite(z: Tensor) -> Status:
    """CONVERGED, or DIVERGED where an entry is not finite."""
    # The sum is finite only if every entry is, and ten times faster than the test; its own overflow is asked again.
    sound = math.isfinite(float(z.sum())) or bool(torch.isfinite(z).all())
    return Status.CONVERGED if sound else Status.DIVERGED
