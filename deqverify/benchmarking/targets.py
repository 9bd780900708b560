"""Targets of ``deqverify run``, each loaded by its text and prepared on a fixed problem so that it can be timed.

A :class:`Run` is three calls on native arrays that already lie where they belong. The objective around the layer,
readout and loss, is written once for layers with a pull (NumPy, PyTorch) and once for those that JAX compiles whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deqverify.benchmarking.problems import SOFTMAX
from deqverify.dtypes import Array
from deqverify.implementations.loading import TargetError, installed, load
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem

PASSES = ("forward", "gradient", "step")
"""z; z and the gradient of L in every block; a whole step of gradient descent on the parameters and B."""

LEARNING_RATE = 1e-3

VARIANTS = {
    "reference": (
        "reference",
        "reference[numpy]",
        "reference[jax]",
        "reference[mass]",
        "reference[picard]",
        "reference[fast]",
    ),
    "plain": ("plain[solve]", "plain[unrolled]"),
    "torchdeq": ("torchdeq[ift]", "torchdeq[ift,anderson]", "torchdeq[ift,broyden]"),
    "xitorch": ("xitorch", "xitorch[anderson]"),
    "torchopt": ("torchopt",),
    "jaxopt": ("jaxopt", "jaxopt[gmres]", "jaxopt[anderson,gmres]"),
    "optimistix": ("optimistix[gmres]",),  # its default adjoint is dense in all states of a batch at once
    "scipy": ("scipy", "scipy[krylov]", "scipy[iteration]", "scipy[gmres]"),
    "fault": (),  # broken on purpose
}
"""Options that an installed name takes part with; a name that is not listed takes part as it is. Written out, so that
listing imports no library."""

NONLINEAR = ("reference[newton]", "reference[forward-backward]", "reference[peaceman-rachford]")
"""The references of nonlinear cells. On the linear-softmax cell Newton's method is the direct solve, with m times the
memory."""


def fixed_names() -> tuple[str, ...]:
    """This project's own names: they depend on nothing installed, as the parameters of a benchmark must not."""
    return tuple(name for names in VARIANTS.values() for name in names)


def names(cell: str = SOFTMAX) -> tuple[str, ...]:
    """All that can be timed here: the fixed names and every installed target of a third party; not all take ``cell``
    (:attr:`TimedTarget.cells`)."""
    ours = fixed_names() if cell == SOFTMAX else (*NONLINEAR, *fixed_names())
    return (*ours, *(name for name in sorted(installed()) if name not in VARIANTS))


class Unavailable(RuntimeError):
    """A library, a device, a dtype or a cell that is missing: not a failure."""


class Run(Protocol):
    """One target on one problem. Calls return when the work is queued; ``synchronise`` waits for the device."""

    device: str

    @property
    def iterations(self) -> int | None:
        """Iterations of the last forward solve, None where nothing is reported."""

    def forward(self) -> Any:
        """z, native, (n, *state). Unavailable where it is not shown."""

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        """z and the gradient in every parameter, in "x" and in "B", native. Unavailable without a backward pass."""

    def step(self) -> Any:
        """New parameters and B; the prepared ones stay, so that every call does the same work."""

    def synchronise(self) -> None: ...

    def answer(self, which: str) -> tuple[Array | None, dict[str, Array] | None]:
        """What the pass ``which`` gives: z (n, *state), None where it is not shown, and the gradients, None of
        "forward"; float64."""


@dataclass(frozen=True)
class TimedTarget:
    """What a benchmark has to know of a target; ``build(problem, dtype, device, tolerance)`` makes a run of it, at the
    target's own tolerance for None.

    ``direct`` targets solve to rounding; ``tunable`` ones take a tolerance. ``watched``: on a GPU PyTorch's events
    and its allocator see all the work; where not (JAX has streams and memory of its own), the host's clock counts and
    memory is unknown. ``needs``: the packages that its times depend on. ``cells``: those that it names in its claims,
    none where it names none.
    """

    name: str
    build: Callable[[Problem, str, str, float | None], Run]
    needs: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    devices: tuple[str, ...] = ("cpu",)
    cells: tuple[str, ...] = ()
    direct: bool = False
    tunable: bool = True
    watched: bool = True

    def prepare(self, problem: Problem, dtype: str, device: str = "cpu", tolerance: float | None = None) -> Run:
        """Arrays on the device, functions made; nothing warmed up. :class:`Unavailable` says what is missing.

        A target that names no cells claims those that contract, and is timed on every one: whether it solved the
        problem is measured.
        """
        if dtype not in self.dtypes:
            raise Unavailable(f"{self.name} does not take {dtype}")
        if device not in self.devices:
            raise Unavailable(f"{self.name} does not run on {device}")
        if self.cells and problem.cell.name not in self.cells:
            raise Unavailable(f"{self.name} does not take the cell {problem.cell.name}")
        if device == "cuda":
            from deqverify.implementations.devices import cuda_present  # an older base of --against has no such module

            if not cuda_present():
                raise Unavailable("no CUDA device is present")
        return self.build(problem, dtype, device, tolerance)


def timed_target(name: str) -> TimedTarget:
    """The target ``name``. An optional method ``at_tolerance(tolerance)`` of a layer makes it tunable. Unavailable
    where it can't be loaded."""
    try:
        implementation = load(name)
    except TargetError as error:
        raise Unavailable(str(error)) from error
    claims, framework = implementation.claims, getattr(implementation, "framework", "numpy")

    def build(problem: Problem, dtype: str, device: str, tolerance: float | None) -> Run:
        chosen = implementation if tolerance is None else implementation.at_tolerance(tolerance)
        subject = Subject(chosen, dtype, device)
        if not subject.is_layer:
            return ModelRun(subject, problem)
        return JaxRun(subject, problem) if claims.compiles and hasattr(chosen, "solve") else LayerRun(subject, problem)

    return TimedTarget(
        name,
        build,
        (name.split("[")[0].split(":")[0].split(".")[0], framework),
        dtypes=claims.dtypes,
        devices=claims.devices,
        cells=tuple(getattr(claims, "cells", ())),  # an older base of --against has one cell
        direct=claims.forward.exact,
        tunable=hasattr(implementation, "at_tolerance"),
        watched=framework != "jax",
    )


def wait_for(device: str) -> None:
    """Returns when PyTorch's work on ``device`` is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


class _OfALayer(ABC):
    """What runs of layers have in common: what they answer, and that they wait for the device."""

    def __init__(self, subject: Subject, problem: Problem):
        self.subject, self.problem, self.device = subject, problem, subject.device
        self._last: Any = None

    @abstractmethod
    def forward(self) -> Any: ...

    @abstractmethod
    def gradient(self) -> tuple[Any, dict[str, Any]]: ...

    def synchronise(self) -> None:
        if self.subject.framework.name == "jax":
            import jax

            jax.block_until_ready(self._last)
        else:
            wait_for(self.device)

    def answer(self, which: str) -> tuple[Array, dict[str, Array] | None]:
        numpy = self.subject.framework.to_numpy
        if which == "forward":
            return numpy(self.forward()), None
        z, gradient = self.gradient()
        return numpy(z), {name: numpy(gradient[name]) for name in self.problem.pulled_blocks}


class LayerRun(_OfALayer):
    """A layer: ``vjp``, then the gradient of the loss in z and B, and the pull."""

    def __init__(self, subject: Subject, problem: Problem):
        super().__init__(subject, problem)
        self.theta = subject.parameters(problem)
        self.x, self.B, self.Y = (subject.native(array) for array in (problem.x, problem.B, problem.Y))
        self.iterations: int | None = None
        self._plainly = next(iter(subject.framework.without_gradient.values()), nullcontext)

    def forward(self) -> Any:
        with self._plainly():
            self._last = self._solve()[0].z
            return self._last

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        solution, pull = self._solve()
        z, rows = solution.z, solution.z.reshape(solution.z.shape[0], -1)
        # The squared loss of the fixed problems: its gradient is arithmetic, in any framework and without a graph.
        dF = self.problem.loss.gradient(self.B @ rows.T, self.Y)
        try:
            found = pull((dF.T @ self.B).reshape(z.shape))
        except NotImplementedError as error:
            raise Unavailable(f"{self.subject.name} has a forward pass alone") from error
        self._last = {**found.theta, "x": found.x, "B": dF @ rows}
        return z, self._last

    def step(self) -> Any:
        gradient = self.gradient()[1]
        return [value - LEARNING_RATE * gradient[name] for name, value in (*self.theta.items(), ("B", self.B))]

    def _solve(self) -> Any:
        solution, pull = self.subject.implementation.vjp(self.problem.cell, self.theta, self.x)
        self.iterations = solution.iterations
        return solution, pull


class JaxRun(_OfALayer):
    """A layer of JAX with the objective around it under one ``jit``; each call is compiled when it is first made."""

    def __init__(self, subject: Subject, problem: Problem):
        import jax
        import jax.numpy as jnp

        super().__init__(subject, problem)
        cell, layer, loss = problem.cell, subject.implementation, problem.loss
        self._given = (subject.parameters(problem), subject.native(problem.x), subject.native(problem.B))
        Y = subject.native(problem.Y)

        def solve(theta: Any, x: Any) -> tuple[Any, Any]:
            answer = layer.solve(cell, theta, x, jnp.zeros((x.shape[0], *problem.state), x.dtype))
            if isinstance(answer, tuple):
                return answer[0], None
            return (answer.z, answer.iterations) if hasattr(answer, "iterations") else (answer, None)

        def objective(theta: Any, x: Any, B: Any) -> Any:
            z, count = solve(theta, x)
            return loss.value(B @ z.reshape(z.shape[0], -1).T, Y), (z, count)

        gradient = jax.grad(objective, argnums=(0, 1, 2), has_aux=True)

        def step(theta: Any, x: Any, B: Any) -> Any:
            (dtheta, _, dB), _ = gradient(theta, x, B)
            return {name: theta[name] - LEARNING_RATE * dtheta[name] for name in theta}, B - LEARNING_RATE * dB

        self._forward = jax.jit(lambda theta, x, _: solve(theta, x))
        self._gradient, self._step = jax.jit(gradient), jax.jit(step)
        self._count: Any = None

    @property
    def iterations(self) -> int | None:
        return None if self._count is None else int(self._count)

    def forward(self) -> Any:
        self._last, self._count = self._called(self._forward)
        return self._last

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        (theta, x, B), (z, self._count) = self._called(self._gradient)
        self._last = theta, x, B
        return z, {**theta, "x": x, "B": B}

    def step(self) -> Any:
        self._last = self._called(self._step)
        return self._last

    def _called(self, function: Any) -> Any:
        with self.subject.framework.computing(self.subject.dtype):
            return function(*self._given)


class ModelRun:
    """A model that is whole: it shows a gradient and no z, so that only the gradient's errors are known."""

    def __init__(self, subject: Subject, problem: Problem):
        self.subject, self.problem, self.device = subject, problem, subject.device
        self.iterations: int | None = None

    def forward(self) -> Any:
        raise Unavailable(f"{self.subject.name} is a whole model and shows no z")

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        return None, self.subject.value_and_grad(self.problem)[1]

    def step(self) -> Any:
        gradient = self.gradient()[1]
        blocks = {name: np.asarray(self.problem.block(name)) for name in (*self.problem.theta, "B")}
        return [value - LEARNING_RATE * gradient[name] for name, value in blocks.items()]

    def synchronise(self) -> None: ...

    def answer(self, which: str) -> tuple[None, dict[str, Array]]:
        if which == "forward":
            self.forward()  # raises
        gradient = self.gradient()[1]
        return None, {name: gradient[name] for name in self.problem.pulled_blocks}
