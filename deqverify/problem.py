"""One instance of the deep equilibrium linear model, as drawn, shrunk, stored and printed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from deqverify.dtypes import Array, dtype, round_to
from deqverify.losses import Loss

BLOCKS = ("A", "B", "Phi", "gamma")
"""The blocks that a gradient has, in the order in which they are reported."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Weights A (m, m) and B (p, m), features Φ (m, n), targets Y (p, n), γ in (0, 1) and a loss.

    The equilibrium is ``Z = γSZ + Φ`` with S the softmax of every column of A, the outputs ``F = BZ``, the objective
    ``L = Σ_i ℓ(F_:i, Y_:i)`` (Kawaguchi, ICLR 2021, arXiv 2102.07346; theory: notation). Arrays are
    stored as float64, read-only; m ≥ 1, p ≥ 1, n ≥ 0.

    Raises TypeError or ValueError, naming the argument and the fix, for a wrong shape, a type that is not real,
    NaN or infinity, γ outside (0, 1), and targets that the loss does not take.
    """

    A: Array
    B: Array
    Phi: Array
    Y: Array
    gamma: float
    loss: Loss

    def __post_init__(self) -> None:
        for name in ("A", "B", "Phi", "Y"):
            object.__setattr__(self, name, _real_matrix(name, getattr(self, name)))
        m, p, n = self.m, self.p, self.n
        if m < 1 or p < 1:
            raise ValueError(f"{'Phi' if m < 1 else 'B'}: must have at least one row")
        _expect_shape("A", self.A, (m, m), "A is square, its size the number of rows of Phi")
        _expect_shape("B", self.B, (p, m), "B has one column for each row of Phi")
        _expect_shape("Y", self.Y, (p, n), "Y has a row for each row of B and a column for each column of Phi")
        object.__setattr__(self, "gamma", _contraction_factor(self.gamma))
        if isinstance(self.loss, type):
            raise TypeError(f"loss: got the class {self.loss.__name__}; pass an instance, {self.loss.__name__}()")
        if not hasattr(self.loss, "check_targets"):
            raise TypeError(f"loss: expected a loss from deqverify.losses such as Squared(), got {self.loss!r}")
        self.loss.check_targets(self.Y)

    @property
    def m(self) -> int:
        """Width: the number of features and of states."""
        return int(self.Phi.shape[0])

    @property
    def p(self) -> int:
        """Output dimension."""
        return int(self.B.shape[0])

    @property
    def n(self) -> int:
        """Number of data points."""
        return int(self.Phi.shape[1])

    def rounded_to(self, name: str) -> Problem:
        """The same problem with every value rounded to the dtype ``name``; a value beyond its range is a ValueError.

        γ becomes the nearest number of the format inside (0, 1): a γ that would round to 0 becomes the smallest
        subnormal number, one that would round to 1 the number below 1.
        """
        fmt = dtype(name)
        gamma = min(max(float(round_to(self.gamma, name)), fmt.smallest), fmt.below_one)
        A, B, Phi, Y = (round_to(array, name) for array in (self.A, self.B, self.Phi, self.Y))
        return Problem(A, B, Phi, Y, gamma, self.loss)

    def with_features(self, Phi: Array, Y: Array | None = None) -> Problem:
        """The same weights on other data; without ``Y`` the targets become zero, which the squared hinge refuses."""
        return replace(self, Phi=Phi, Y=np.zeros((self.p, np.shape(Phi)[1])) if Y is None else Y)

    def __repr__(self) -> str:
        """Python code that makes the same problem (``np`` and ``losses`` in scope)."""
        parts = [f"{name}={array_code(getattr(self, name))}" for name in ("A", "B", "Phi", "Y")]
        body = ",\n    ".join([*parts, f"gamma={self.gamma!r}", f"loss=losses.{self.loss!r}"])
        return f"Problem(\n    {body},\n)"


_LARGE, _LONGEST_PERIOD = 64, 16


def array_code(array: Array) -> str:
    """Python code for ``array``; one without entries keeps its shape, a large one that repeats itself is short."""
    if array.size == 0:
        return f"np.zeros({array.shape})"
    if array.size > _LARGE:
        for period in range(1, _LONGEST_PERIOD + 1):
            block = array.ravel()[:period]
            if np.array_equal(array, np.resize(block, array.shape)):
                return f"np.resize({block.tolist()}, {array.shape})"
    text = repr(array.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({text})"


def _real_array(name: str, value: object) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged rows; a tensor with a graph or a foreign dtype
        kind = ValueError if isinstance(error, ValueError) else TypeError
        fix = "pass rows of one length, a NumPy array, or tensor.detach().cpu().double().numpy()"
        raise kind(f"{name}: NumPy cannot read it ({error}); {fix}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}; pass floats")
    return array


def _real_matrix(name: str, value: object) -> Array:
    array = _real_array(name, value)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected a matrix, got shape {array.shape}; use reshape to give it two axes")
    result = np.array(array, dtype=np.float64)
    if not np.isfinite(result).all():
        raise ValueError(f"{name}: holds NaN or infinite entries; equilibria exist for finite values only")
    result.flags.writeable = False
    return result


def _expect_shape(name: str, array: Array, shape: tuple[int, int], rule: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}; {rule}")


def _contraction_factor(value: object) -> float:
    if not isinstance(value, Real):
        value = _real_array("gamma", value)
        if value.ndim:
            raise TypeError(f"gamma: expected one number in (0, 1), got shape {value.shape}")
    try:
        gamma = float(value)
    except OverflowError:
        gamma = np.inf
    if not 0.0 < gamma < 1.0:
        raise ValueError(f"gamma: must lie strictly between 0 and 1, got {gamma!r}; an equilibrium needs γ < 1")
    return gamma
