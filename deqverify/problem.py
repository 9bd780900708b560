"""One instance of a cell, as drawn, shrunk, stored and printed: its parameters, inputs, and an objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deqverify.cells import Cell, Certificate, LinearSoftmaxCell, cells, check_cells
from deqverify.cells.probed import PROBE
from deqverify.dtypes import Array, dtype, round_to
from deqverify.losses import Loss

_SOFTMAX = LinearSoftmaxCell()


class Problem:
    """What is asked of an implementation: the equilibria ``z_i = f(z_i; θ, x_i)`` of ``cell`` and the objective
    ``L = Σ_i ℓ(B vec z_i, Y_:i)``.

    ``theta`` holds the parameters by name, ``x`` the inputs (n, *inputs), data points first; ``B`` is the readout
    (p, entries of a state), ``Y`` the targets (p, n). Arrays are float64 and read-only. A *block* is what a gradient is
    taken in: a parameter by its name, "x" or "B".
    """

    cell: Cell
    theta: dict[str, Array]
    x: Array
    B: Array
    Y: Array
    loss: Loss

    @property
    def n(self) -> int:
        """Number of data points."""
        return int(self.x.shape[0])

    @property
    def p(self) -> int:
        """Output dimension."""
        return int(self.B.shape[0])

    @property
    def state(self) -> tuple[int, ...]:
        """The shape of one data point's state."""
        return self.cell.state(self.theta, self.x.shape[1:])

    @property
    def states(self) -> tuple[int, ...]:
        """The shape of all states, (n, *state)."""
        return (self.n, *self.state)

    @property
    def pulled_blocks(self) -> tuple[str, ...]:
        """The blocks in which a pull gives gradients: the parameters and "x"."""
        return (*self.theta, "x")

    @property
    def blocks(self) -> tuple[str, ...]:
        """Every block of the objective's gradient."""
        return (*self.theta, "x", "B")

    def block(self, name: str) -> Array:
        """The values of a block."""
        if name in self.theta:
            return self.theta[name]
        return {"x": self.x, "B": self.B}[name]

    @cached_property
    def certificate(self) -> Certificate | None:
        """Why there is one equilibrium, if anything is known."""
        return self.cell.certificate(self.theta)

    @property
    def rate(self) -> float:
        """The rate of the certificate, γ for the linear-softmax cell; 1 without one."""
        return self.certificate.rate if self.certificate else 1.0

    def with_blocks(self, **blocks: Array) -> Self:
        """The same problem with other values of some blocks."""
        raise NotImplementedError

    def with_inputs(self, x: Array, Y: Array | None = None) -> Self:
        """The same weights on other data; without ``Y`` the targets become zero, which the squared hinge refuses."""
        raise NotImplementedError

    def chosen(self, points: Any) -> Self:
        """The same weights on some of the data points: a slice, or a list of their numbers."""
        return self.with_inputs(self.x[points], self.Y[:, points])

    def rounded_to(self, name: str) -> Self:
        """The same problem with every value rounded to the dtype ``name``; a value beyond its range is a ValueError."""
        raise NotImplementedError

    def where(self) -> str:
        """Where in the space of problems it lies, in a few words."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class CellProblem(Problem):
    """A problem of any cell, given by its name or as an object; the fields are those of :class:`Problem`.

    Raises TypeError or ValueError, naming the argument and the fix, for a type that is not real, NaN or infinity, a
    readout or targets that do not fit, and targets that the loss does not take.
    """

    cell: Cell
    theta: dict[str, Array]
    x: Array
    B: Array
    Y: Array
    loss: Loss

    def __post_init__(self) -> None:
        if isinstance(self.cell, str):
            check_cells([self.cell])
            object.__setattr__(self, "cell", cells()[self.cell])
        if taken := {"x", "B", PROBE} & set(self.theta):
            raise ValueError(f"theta: {min(taken)!r} is the name of another block; call the parameter otherwise")
        theta = {name: _finite_array(f"theta[{name!r}]", value) for name, value in self.theta.items()}
        object.__setattr__(self, "theta", theta)
        for name in ("x", "B", "Y"):
            object.__setattr__(self, name, _finite_array(name, getattr(self, name)))
        if self.x.ndim < 1:
            raise ValueError("x: a number has no data points; give it the shape (n, *inputs)")
        entries = int(np.prod(self.state))
        if self.B.ndim != 2 or self.B.shape[0] < 1 or self.B.shape[1] != entries:
            raise ValueError(
                f"B: expected shape (p, {entries}), a column for each entry of a state, got {self.B.shape}"
            )
        _expect_shape("Y", self.Y, (self.p, self.n), "Y has a row for each row of B and a column for each data point")
        _check_loss(self.loss, self.Y)

    def with_blocks(self, **blocks: Array) -> CellProblem:
        theta = {name: blocks.get(name, value) for name, value in self.theta.items()}
        return replace(self, theta=theta, x=blocks.get("x", self.x), B=blocks.get("B", self.B))

    def with_inputs(self, x: Array, Y: Array | None = None) -> CellProblem:
        return replace(self, x=x, Y=np.zeros((self.p, len(x))) if Y is None else Y)

    def rounded_to(self, name: str) -> CellProblem:
        theta = {key: round_to(value, name) for key, value in self.theta.items()}
        return replace(self, theta=theta, x=round_to(self.x, name), B=round_to(self.B, name), Y=round_to(self.Y, name))

    def where(self) -> str:
        rate = f"rate {self.rate:.7g}" if self.certificate else "no certificate"
        return f"{self.cell.name}, {rate}, states {self.states}, p = {self.p}"

    def __repr__(self) -> str:
        """Python code that makes the same problem (``np`` and ``losses`` in scope)."""
        cell = repr(self.cell.name) if cells().get(self.cell.name) == self.cell else repr(self.cell)
        theta = ", ".join(f"{name!r}: {array_code(value)}" for name, value in self.theta.items())
        parts = [f"cell={cell}", f"theta={{{theta}}}"]
        parts += [f"{name}={array_code(getattr(self, name))}" for name in ("x", "B", "Y")]
        return _code_of("CellProblem", [*parts, f"loss=losses.{self.loss!r}"])


@dataclass(frozen=True, eq=False)
class SoftmaxProblem(Problem):
    """A problem of the linear-softmax cell, in the symbols of docs/theory.md. Weights A (m, m) and B (p, m), features Φ
    (m, n), targets Y (p, n), γ in (0, 1) and a loss. Here data points are columns: Φ is xᵀ.

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
        _check_loss(self.loss, self.Y)

    @property
    def cell(self) -> Cell:  # type: ignore[override]
        return _SOFTMAX

    @cached_property
    def theta(self) -> dict[str, Array]:  # type: ignore[override]
        return {"A": self.A, "gamma": np.asarray(self.gamma)}

    @property
    def x(self) -> Array:  # type: ignore[override]
        """Φᵀ, (n, m)."""
        return self.Phi.T

    @property
    def m(self) -> int:
        """Width: the number of features and of states."""
        return int(self.Phi.shape[0])

    def rounded_to(self, name: str) -> SoftmaxProblem:
        """The same problem with every value rounded to the dtype ``name``; a value beyond its range is a ValueError.

        γ becomes the nearest number of the format inside (0, 1): a γ that would round to 0 becomes the smallest
        subnormal number, one that would round to 1 the number below 1.
        """
        fmt = dtype(name)
        gamma = min(max(float(round_to(self.gamma, name)), fmt.smallest), fmt.below_one)
        A, B, Phi, Y = (round_to(array, name) for array in (self.A, self.B, self.Phi, self.Y))
        return SoftmaxProblem(A, B, Phi, Y, gamma, self.loss)

    def with_blocks(self, **blocks: Array) -> SoftmaxProblem:
        given: dict[str, Any] = {name: value for name, value in blocks.items() if name in ("A", "B", "gamma")}
        return replace(self, **given, Phi=blocks["x"].T if "x" in blocks else self.Phi)

    def with_inputs(self, x: Array, Y: Array | None = None) -> SoftmaxProblem:
        return replace(self, Phi=np.asarray(x).T, Y=np.zeros((self.p, len(x))) if Y is None else Y)

    def with_features(self, Phi: Array, Y: Array | None = None) -> SoftmaxProblem:
        """As :meth:`with_inputs`, data points as columns."""
        return self.with_inputs(np.asarray(Phi).T, Y)

    def where(self) -> str:
        return f"γ = {self.gamma:.7g}, m = {self.m}, p = {self.p}, n = {self.n}"

    def __repr__(self) -> str:
        """Python code that makes the same problem (``np`` and ``losses`` in scope)."""
        parts = [f"{name}={array_code(getattr(self, name))}" for name in ("A", "B", "Phi", "Y")]
        return _code_of("SoftmaxProblem", [*parts, f"gamma={self.gamma!r}", f"loss=losses.{self.loss!r}"])


def _code_of(name: str, parts: list[str]) -> str:
    body = ",\n    ".join(parts)
    return f"{name}(\n    {body},\n)"


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
    return _finite_array(name, array)


def _finite_array(name: str, value: object) -> Array:
    result = np.array(_real_array(name, value), dtype=np.float64)
    if not np.isfinite(result).all():
        raise ValueError(f"{name}: holds NaN or infinite entries; equilibria exist for finite values only")
    result.flags.writeable = False
    return result


def _check_loss(loss: Loss, Y: Array) -> None:
    if isinstance(loss, type):
        raise TypeError(f"loss: got the class {loss.__name__}; pass an instance, {loss.__name__}()")
    if not hasattr(loss, "check_targets"):
        raise TypeError(f"loss: expected a loss from deqverify.losses such as Squared(), got {loss!r}")
    loss.check_targets(Y)


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
