"""Who takes part: every installed target, and plain baselines and libraries through a few lines each.

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
from deqverify.problem import Problem

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
    the iterations, so that memory grows with them.
    """

    name: str
    build: Callable[[Problem, str, str, float | None], Run]
    needs: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    devices: tuple[str, ...] = ("cpu",)
    direct: bool = False
    tunable: bool = True
    unrolled: bool = False

    def prepare(self, problem: Problem, dtype: str, device: str = "cpu", tolerance: float | None = None) -> Run:
        """Arrays on the device, functions made; nothing warmed up. :class:`Unavailable` says what is missing."""
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            raise Unavailable(f"{self.name} needs {', '.join(missing)}; pip install 'deqverify[bench]'")
        if dtype not in self.dtypes:
            raise Unavailable(f"{self.name} does not take {dtype}")
        if device not in self.devices:
            raise Unavailable(f"{self.name} does not run on {device}")
        if device == "cuda" and not cuda_present():
            raise Unavailable("no CUDA device is present")
        return self.build(problem, dtype, device, tolerance)


def cuda_present() -> bool:
    """Whether PyTorch sees a CUDA device."""
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


VARIANTS = {
    "reference": (
        "reference",
        "reference[numpy]",
        "reference[mass]",
        "reference[picard]",
        "reference[fast]",
    ),
    "torchdeq": ("torchdeq[ift]", "torchdeq[ift,anderson]", "torchdeq[ift,broyden]"),
}
"""Options that an installed name takes part with; a name that is not listed takes part as it is."""

BASELINES = {
    "torch-solve": "baselines_torch",
    "torch-unrolled": "baselines_torch",
    "xitorch[broyden1]": "baselines_torch",
    "xitorch[anderson]": "baselines_torch",
    "jax-solve": "baselines_jax",
    "jaxopt[picard]": "baselines_jax",
    "jaxopt[anderson]": "baselines_jax",
    "optimistix[picard]": "baselines_jax",
    "scipy-root[anderson]": "baselines_numpy",
    "scipy-root[krylov]": "baselines_numpy",
    "scipy-fixed-point": "baselines_numpy",
    "scipy-gmres": "baselines_numpy",
}
"""Names, and the module beside this one that makes each; written out, so that listing imports no library."""


def fixed_names() -> tuple[str, ...]:
    """This project's own names: they depend on nothing installed, as the parameters of a benchmark must not."""
    return (*(name for names in VARIANTS.values() for name in names), *BASELINES)


def names() -> tuple[str, ...]:
    """All who can take part here: the fixed names and every installed target of a third party."""
    from deqverify.implementations.loading import installed

    return (*fixed_names(), *(name for name in sorted(installed()) if name not in VARIANTS))


def contender(name: str) -> Contender:
    """The contender ``name``: a baseline, or any target that ``deqverify run`` takes. Unavailable where a target can't
    be loaded."""
    if name in BASELINES:
        from importlib import import_module

        found: Contender = import_module(f"deqverify.benchmarking.{BASELINES[name]}").contender(name)
        return found
    from deqverify.benchmarking.targets import contender as from_target

    return from_target(name)
