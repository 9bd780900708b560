"""What an implementation says of itself. Unclaimed is not tested; claimed is tested hard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deqverify.dtypes import DTYPES


@dataclass(frozen=True)
class Accuracy:
    """How close an answer is claimed to be, for one forward or backward solve.

    ``tolerance`` bounds the residual of each data point in the 2-norm, ``‖f(z) − z‖₂``, or where ``of`` is "value" the
    error ``‖ẑ − z*‖₂`` itself: as it is where ``relative`` is false, times ``‖f(z)‖₂`` where it is true. 0 claims a
    backward-stable direct solve: rounding and nothing else. ValueError for a tolerance or an ``of`` that is not one.
    """

    tolerance: float = 0.0
    relative: bool = True
    of: Literal["residual", "value"] = "residual"

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance: must be finite and not negative, got {self.tolerance!r}")
        if self.of not in ("residual", "value"):
            raise ValueError(f'of: a claim is of the "residual" or of the "value", got {self.of!r}')

    def __str__(self) -> str:
        if self.tolerance == 0.0:
            return "rounding only"
        return f"{self.of} ≤ {self.tolerance:g}" + (" × ‖f(z)‖" if self.relative else " (absolute)")


DIRECT = Accuracy()
"""The accuracy of a backward-stable direct solve."""


@dataclass(frozen=True)
class Claims:
    """The claims of one implementation, with the place where its authors make them.

    ``backward`` is None where the gradient is documented as inexact. ``separable``: a data point's answer does not
    depend on the others in its batch, NaN included. ``status``: non-convergence is reported. ``starts``: the start
    z₀ is used, and the answer does not depend on it. ``iteration``: the trace is that of Picard's iteration, which
    contracts at γ, or of the mass-corrected one, at γτ. ``computes_in`` names a wider dtype that a narrow one is
    computed in before rounding.

    ``empty``: a batch of no data points is a legal one. ``threads``: two threads may call at once. ``copies`` and
    ``pickles``: ``copy.deepcopy`` and ``pickle`` make another of the same behaviour and without shared state.
    ``modes``: training and evaluation mode give the same equilibrium, and where ``evaluation_gradient`` the same
    gradient.
    """

    forward: Accuracy = DIRECT
    backward: Accuracy | None = DIRECT
    dtypes: tuple[str, ...] = ("float64", "float32")
    devices: tuple[str, ...] = ("cpu",)
    second_order: bool = False
    separable: bool = True
    status: bool = True
    starts: bool = True
    iteration: Literal["picard", "mass-corrected"] | None = None
    compiles: bool = False
    empty: bool = True
    threads: bool = False
    copies: bool = False
    pickles: bool = False
    modes: bool = False
    evaluation_gradient: bool = False
    computes_in: dict[str, str] = field(default_factory=dict)
    where: str = ""

    def __post_init__(self) -> None:
        for name in self.dtypes:
            if name not in DTYPES:
                raise ValueError(f"dtypes: {name!r} is not known; use some of {', '.join(DTYPES)}")
