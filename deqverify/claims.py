"""What an implementation says of itself. Unclaimed is not tested; claimed is tested hard."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from deqverify.dtypes import DTYPES, check_bits

Norm = Literal["1", "2", "rms", "max"]
NORMS = get_args(Norm)


@dataclass(frozen=True)
class Accuracy:
    """How close an answer is claimed to be, for one forward or backward solve, as its stopping rule says it.

    ``‖f(z) − z‖ ≤ atol + rtol · (‖f(z)‖ + eps)``, both norms over the state of each data point, or over the whole
    batch where ``per`` is "batch". ``norm`` is the 2-norm, the root of the mean square ("rms"), the largest entry
    ("max") or the sum of magnitudes ("1"). Where ``of`` is "value" the left side is the error ``‖ẑ − z*‖`` instead.
    Without ``rtol`` and ``atol`` a backward-stable direct solve is claimed: rounding and nothing else.

    ValueError for what is no such rule, and for one that no arithmetic keeps or that says nothing.
    """

    rtol: float = 0.0
    atol: float = 0.0
    eps: float = 0.0
    per: Literal["point", "batch"] = "point"
    norm: Norm = "2"
    of: Literal["residual", "value"] = "residual"

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "eps"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name}: must be finite and not negative, got {value!r}")
        for name, known in (("per", ("point", "batch")), ("norm", NORMS), ("of", ("residual", "value"))):
            if getattr(self, name) not in known:
                said = " or ".join(f'"{word}"' for word in known)
                raise ValueError(f"{name}: is {said}, got {getattr(self, name)!r}")
        finest = DTYPES["float64"].unit_roundoff
        if 0.0 < self.rtol < finest and not self.atol:
            raise ValueError(
                f"rtol: {self.rtol!r} is below the rounding of every dtype ({finest:.2g}), so that no solver keeps it; "
                "write Accuracy() for rounding alone"
            )
        if self.eps and not self.rtol:
            raise ValueError("eps: says nothing without rtol; write atol for an absolute tolerance")

    @property
    def exact(self) -> bool:
        """Whether rounding and nothing else is claimed."""
        return self.rtol == self.atol == 0.0

    @property
    def relative(self) -> bool:
        """Whether data of another scale get an answer of that scale: nothing absolute is in the claim."""
        return self.atol == self.eps == 0.0

    def as_relative(self) -> Accuracy:
        """The same rule with its tolerance taken as relative."""
        return replace(self, rtol=max(self.rtol, self.atol), atol=0.0, eps=0.0)

    def norms_of(self, states: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As :meth:`norms`, of states (n, *state), data points first."""
        return self.norms(states.reshape(len(states), -1).T)

    def norms(self, states: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What the rule measures of ``states`` (m, n), for each data point (n,); over the batch the same for all."""
        size = np.abs(states)
        axis = None if self.per == "batch" else 0
        if self.norm == "max":
            found = size.max(axis=axis, initial=0.0)
        elif self.norm == "1":
            found = size.sum(axis=axis)
        else:
            found = np.sqrt(np.sum(size**2, axis=axis))
            if self.norm == "rms":
                found = found / max(1.0, self.root_count(size.shape))
        return np.broadcast_to(found, size.shape[1:]).astype(np.float64)

    def root_count(self, shape: tuple[int, ...]) -> float:
        """The root of the number of entries that one norm is taken over, for states of ``shape`` (m, n)."""
        return float(np.sqrt(shape[0] * (shape[1] if self.per == "batch" else 1)))

    def allows(self, sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``atol + rtol · (size + eps)``."""
        return np.asarray(self.atol + self.rtol * (sizes + self.eps))

    def __str__(self) -> str:
        if self.exact:
            return "rounding only"
        size = f"(‖f(z)‖ + {self.eps:g})" if self.eps else "‖f(z)‖"
        parts = [f"{self.atol:g}"] if self.atol else []
        parts += [f"{self.rtol:g} × {size}"] if self.rtol else []
        where = "" if (self.norm, self.per) == ("2", "point") else f" in the {self.norm} norm of each {self.per}"
        return f"{self.of} ≤ {' + '.join(parts)}{where}"


DIRECT = Accuracy()
"""The accuracy of a backward-stable direct solve."""


@dataclass(frozen=True)
class Claims:
    """The claims of one implementation, with the place where its authors make them.

    ``cells`` names those that can be solved; without any, every one that contracts.
    ``backward`` is None where the gradient is documented as inexact. ``separable``: a data point's answer does not
    depend on the others in its batch, NaN included. ``deterministic``: the same call gives the same answer, but for
    rounding. ``status``: non-convergence is reported. ``solves``: where γ ≤ 0.9 and features are of size one there is
    nothing to report, the default cap suffices. ``starts``: the start
    z₀ is used, and the answer does not depend on it. ``iteration``: the trace is that of Picard's iteration, which
    contracts at γ or at a certificate's rate, or of the mass-corrected one, at γτ; of forward–backward or
    Peaceman–Rachford splitting, where z₀ is what is iterated first, and a solution says its step (theory: splittings).
    ``computes_in`` names a wider dtype that a narrow one is computed in before rounding. ``function_error``: the
    relative error of elementary functions (exp, tanh, …), in units of rounding, 2 or more; a framework may need more.
    ``bits``: A of the linear-softmax cell is quantised to a symmetric grid of so many bits
    (:func:`deqverify.dtypes.to_grid`); z and every gradient are those at the quantised A, that in A included, though it
    is no derivative of what is computed. Problems are put on that grid, as on the dtype's (theory: quantised).

    ``empty``: a batch of no data points is a legal one. ``threads``: two threads may call at once. ``copies`` and
    ``pickles``: ``copy.deepcopy`` and ``pickle`` make another of the same behaviour and without shared state.
    ``repeated_pulls``: a pull may be called again, if the caller says beforehand that it will be (compiled functions
    that donate their buffers refuse). ``modes``: training and evaluation mode give the same equilibrium, and where
    ``evaluation_gradient`` the same gradient.
    """

    forward: Accuracy = DIRECT
    backward: Accuracy | None = DIRECT
    cells: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    devices: tuple[str, ...] = ("cpu",)
    second_order: bool = False
    separable: bool = True
    deterministic: bool = True
    status: bool = True
    solves: bool = True
    starts: bool = True
    iteration: Literal["picard", "mass-corrected", "forward-backward", "peaceman-rachford"] | None = None
    compiles: bool = False
    empty: bool = True
    threads: bool = False
    copies: bool = False
    pickles: bool = False
    repeated_pulls: bool = True
    modes: bool = False
    evaluation_gradient: bool = False
    computes_in: dict[str, str] = field(default_factory=dict)
    function_error: float = 2.0
    bits: int | None = None
    where: str = ""

    def __new__(cls, *positional: Any, **named: Any) -> Claims:
        """As always; it writes down what was said, which a default is not."""
        claims = super().__new__(cls)
        object.__setattr__(claims, "_said", {*(each.name for each in fields(cls)[: len(positional)]), *named})
        return claims

    def over(self, others: Claims) -> Claims:
        """``others``, but for what was said here."""
        return replace(others, **{name: getattr(self, name) for name in self._said})  # type: ignore[attr-defined]

    def __post_init__(self) -> None:
        for name in self.dtypes:
            if name not in DTYPES:
                raise ValueError(f"dtypes: {name!r} is not known; use some of {', '.join(DTYPES)}")
        if self.bits is not None:
            check_bits(self.bits)
        if not 2.0 <= self.function_error < float("inf"):
            raise ValueError(f"function_error: is 2 or more, in units of rounding, got {self.function_error!r}")
