"""A cell that somebody else wrote: a function of native arrays, with parameters of its own (theory: opaque)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from deqverify.cells.base import Certificate, Parts, Shape, Theta
from deqverify.drawing import draw_signal, one_of
from deqverify.dtypes import Array

AROUND = ("own", "own", "near", "further")
"""How far from the user's own a parameter is drawn, the simplest first."""

_SPREADS = {"own": 0.0, "near": 2.0**-7, "further": 2.0**-4}
_ROWS = st.integers(0, 63)
_INPUTS = ("example", "near", "gaussian", "small", "tiny", "mixed")
_SMALLER = {"small": (2.0**-4,), "tiny": (2.0**-14,), "mixed": (1.0, 2.0**-14)}
"""By regime, what rows of the example are multiplied by in turn. An absolute tolerance says nothing of tiny states, and
one for the whole batch nothing of those that are tiny beside others."""


class Functions(Protocol):
    """The user's cell in its framework, asked in NumPy: θ, x (n, *inputs), z and cotangents (n, *state) are float64,
    what is computed is computed in ``dtype``."""

    @property
    def stacks(self) -> bool:
        """Whether several questions are best asked as one about more data points: not where each number is compiled
        for, and not where data points see each other."""

    def image(self, theta: Theta, x: Array, z: Array, dtype: str) -> Array:
        """``f(z; θ, x)``."""

    def pull(self, theta: Theta, x: Array, z: Array, cotangent: Array, dtype: str) -> Parts:
        """The framework's own derivative of it, transposed, applied to ``cotangent``."""

    def push(self, theta: Theta, x: Array, z: Array, tangent: Parts) -> Array:
        """The same along ``tangent``, in float64."""

    def jacobian(self, theta: Theta, x: Array, z: Array) -> Array:
        """∂f/∂z in float64, (n, s, s) with s the entries of a state; (1, ns, ns) where data points are coupled."""

    def answer(self, theta: Theta, x: Array, dtype: str) -> Array:
        """What the user's layer returns, (n, *state): asked for where its cell was not given."""

    def answer_pull(self, theta: Theta, x: Array, cotangent: Array, dtype: str) -> dict[str, Array]:
        """Its own gradients, in every parameter and in "x"."""


@dataclass(frozen=True, eq=False)
class WrappedCell:
    """The user's cell. ``own`` are the parameters as they were given, ``example`` the inputs (n, *inputs), ``answer``
    what the layer made of them, (n, *state). ``coupled``: a data point sees the others in its batch.

    It is asked in NumPy alone: the layer that is judged calls the user's function itself.
    """

    name: str
    own: Mapping[str, Array]
    example: Array
    answer: Array
    functions: Functions
    coupled: bool = False
    given: bool = True
    """Whether the user gave the cell; if not, only the layer can be asked."""
    known: Callable[[dict[str, Array]], Certificate | None] | None = None
    hardness: dict[str, float] = field(default_factory=dict)
    """What the oracle found of the example, kept for it to compare others with."""

    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = False

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return tuple(self.answer.shape[1:])

    def step(self, theta: Theta, x: Array) -> Callable[[Array], Array]:
        return lambda z: self.functions.image(theta, x, z, "float64")

    def pull(self, theta: Theta, x: Array, z: Array, cotangent: Array) -> Parts:
        return self.functions.pull(theta, x, z, cotangent, "float64")

    def push(self, theta: Theta, x: Array, z: Array, tangent: Parts) -> Array:
        return self.functions.push(theta, x, z, tangent)

    def certificate(self, theta: Theta) -> Certificate | None:
        return self.known(dict(theta)) if self.known else None

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """θ is the user's own, or every entry moved by a Gaussian of up to 1/16 of its parameter's root mean square; x
        rows of the example, as they are, moved likewise or smaller, all of them or every other one, or Gaussians of its
        size where it has both signs. Shrinks to the user's own θ and to the first row of the example."""
        spread = _SPREADS[draw(one_of(AROUND))]
        moves = draw_signal(draw, (sum(value.size for value in self.own.values()),)) if spread else None
        theta, begin = {}, 0
        for name, value in self.own.items():
            if moves is None:
                theta[name] = value
                continue
            move = moves[begin : begin + value.size].reshape(value.shape)
            theta[name], begin = value + spread * size_of(value) * move, begin + value.size
        return theta, self._draw_inputs(draw, n)

    def _draw_inputs(self, draw: DrawFn, n: int) -> Array:
        regime, move = draw(one_of(_INPUTS)), draw_signal(draw, (n, *self.example.shape[1:]))
        first = draw(_ROWS)
        rows = self.example[(first + np.arange(n)) % len(self.example)]
        if regime == "example":
            return rows
        if regime == "gaussian" and (self.example < 0).any() and (self.example > 0).any():
            return move * size_of(self.example)
        if regime in _SMALLER:
            shares = np.resize(_SMALLER[regime], n)
            return rows * shares.reshape(n, *[1] * (rows.ndim - 1))
        # A factor keeps zeros and signs, which may mean something to the user's function.
        return rows * (1.0 + np.clip(move, -3.0, 3.0) / 4.0)


def size_of(array: Array) -> float:
    """The root mean square, 1 where all entries are zero."""
    return math.sqrt(float(np.mean(array**2))) or 1.0 if array.size else 1.0
