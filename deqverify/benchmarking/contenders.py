"""What a contender is, and what is prepared of it to be timed.

A :class:`Contender` is light: it knows its name and what it needs, and imports nothing before
:meth:`Contender.prepare`. What is prepared is a :class:`Run`: three calls to be timed, on native arrays that already
lie where they belong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem

PASSES = ("forward", "gradient", "step")
"""z; z and the gradient of L in A, B, Φ and γ; a whole step of gradient descent on A and B."""

LEARNING_RATE = 1e-3


class Unavailable(RuntimeError):
    """A library, a device or a dtype that is missing: not a failure."""


class Run(Protocol):
    """One contender on one problem. Calls return when the work is queued; ``synchronise`` waits for the device."""

    device: str

    @property
    def iterations(self) -> int | None:
        """Products with K in the last forward solve, None where nothing is reported."""

    def forward(self) -> Any:
        """z, native, (n, m)."""

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        """z and the gradient in A, B, Phi (n, m) and gamma, native."""

    def step(self) -> Any:
        """New A and B; the prepared ones stay, so that every call does the same work."""

    def synchronise(self) -> None: ...

    def answer(self) -> tuple[Array | None, dict[str, Array]]:
        """z (m, n), None where it is not shown, and the gradients in A and Phi (m, n), float64."""


@dataclass(frozen=True)
class Contender:
    """``build(problem, dtype, device, tolerance)`` makes a run; ``tolerance`` None means the contender's own.

    ``direct`` contenders solve to rounding; ``tunable`` ones take a tolerance. ``unrolled``: the gradient goes through
    the iterations, so that memory grows with them. ``watched``: on a GPU PyTorch's events and its allocator see all the
    work; where not (JAX has streams and memory of its own), the host's clock counts and memory is unknown.
    """

    name: str
    build: Callable[[SoftmaxProblem, str, str, float | None], Run]
    needs: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    devices: tuple[str, ...] = ("cpu",)
    direct: bool = False
    tunable: bool = True
    unrolled: bool = False
    watched: bool = True

    def prepare(self, problem: SoftmaxProblem, dtype: str, device: str = "cpu", tolerance: float | None = None) -> Run:
        """Arrays on the device, functions made; nothing warmed up. :class:`Unavailable` says what is missing."""
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            raise Unavailable(f"{self.name} needs {', '.join(missing)}; pip install 'deqverify[bench]'")
        if dtype not in self.dtypes:
            raise Unavailable(f"{self.name} does not take {dtype}")
        if device not in self.devices:
            raise Unavailable(f"{self.name} does not run on {device}")
        if device == "cuda":
            from deqverify.implementations.devices import cuda_present  # an older base of --against has no such module

            if not cuda_present():
                raise Unavailable("no CUDA device is present")
        return self.build(problem, dtype, device, tolerance)
