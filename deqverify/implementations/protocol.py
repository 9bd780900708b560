"""What the suite asks of a DEQ: one method, ``vjp``, on batch-first native arrays."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from deqverify.cells import Cell
from deqverify.cells.base import Theta
from deqverify.claims import Claims
from deqverify.problem import Problem


class Status(enum.Enum):
    """What an implementation reports about a solve, as a sentence."""

    CONVERGED = "the solver reports that it converged"
    CAPPED = "the solver reports that it stopped before it converged"
    DIVERGED = "the solver reports that it diverged"
    NOT_REPORTED = "the solver reports nothing"

    @property
    def admits_failure(self) -> bool:
        """Whether the caller was told not to trust the answer."""
        return self in (Status.CAPPED, Status.DIVERGED)


def worst(statuses: list[Status]) -> Status:
    """What is true of a batch whose data points have ``statuses``."""
    order = (Status.DIVERGED, Status.CAPPED, Status.NOT_REPORTED)
    return next((status for status in order if status in statuses), Status.CONVERGED)


@dataclass
class Solution:
    """An equilibrium and what was reported with it.

    ``z`` is native, (n, m). ``residual`` and ``trace`` are in the norm that the library uses; a trace holds the largest
    residual over the data points that are still iterated, at the start and after each iteration, and ends in that of
    ``z``. ``iterations`` is as long, or one less where the start is not counted.
    ``backward_status`` is asked after a pull and reports on that backward solve. ``step`` is the step size α where a
    splitting is claimed as the iteration.

    ``status`` speaks of the batch: where it admits failure no data point is judged. ``statuses``, one for each data
    point, are for those who report on each; then NaN in one leaves the others to be judged (``poisoned-point``).
    """

    z: Any
    status: Status = Status.NOT_REPORTED
    iterations: int | None = None
    residual: float | None = None
    trace: list[float] | None = None
    backward_status: Callable[[], Status] | None = None
    statuses: list[Status] | None = None
    step: float | None = None


@dataclass
class Cotangents:
    """What a pull gives: the gradients in every parameter and in x, native, and the backward solve's status.

    ``unreached`` names what no gradient reached: zeros stand there, which a violation then says.
    """

    theta: dict[str, Any]
    x: Any
    status: Status = Status.NOT_REPORTED
    unreached: tuple[str, ...] = ()


Pull = Callable[[Any], Cotangents]
"""Pulls a cotangent (n, m) back through the equilibrium; where ``repeated_pulls`` is claimed it may be called again."""


OPTIONAL = {
    "limited": "has no cap to lower",
    "at_tolerance": "has no tolerance to set",
    "mode": "has no training and evaluation mode",
    "traced": "keeps no trace",
    "jvp": "gives no derivative along a tangent",
    "second_order": "gives no derivative of its gradient",
    "start_gradient": "shows no gradient in its start",
}
"""The optional methods of a layer, each with what is true of a layer that leaves it out."""


@runtime_checkable
class Layer(Protocol):
    """An implementation that solves for an equilibrium. ``framework`` names one of
    :mod:`deqverify.frameworks`: ``"numpy"``, ``"torch"`` or ``"jax"``.

    Optional methods, each asked for by the laws that need it; θ, x and z0 as in ``vjp``, ``tangent`` and ``direction``
    a pair of what θ and x are:

    * ``limited(max_iterations)``: the same layer with both iteration caps lowered.
    * ``at_tolerance(tolerance)``: the same layer with both passes' tolerances set and no cap in the way, for benchmarks
      at one accuracy.
    * ``mode(training)``: the same layer in training or in evaluation mode, itself changed or another one. A layer is
      given in training mode.
    * ``traced()``: the same layer, its solutions holding a trace.
    * ``jvp(cell, theta, x, tangent) -> (Solution, dz)``: the equilibrium's derivative along a tangent, (n, m).
    * ``second_order(cell, theta, x, cotangent, direction) -> Cotangents``: the derivative, along a direction, of the
      gradient that ``pull(cotangent)`` gives. Where none can be given it raises.
    * ``start_gradient(cell, theta, x, z0, cotangent)``: what a pull says of the start, (n, m).
    """

    name: str
    framework: str
    claims: Claims

    def vjp(self, cell: Cell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        """The equilibrium of ``z = f(z; θ, x)`` for x (n, m), from ``z0`` where one is given, and its pull.

        Where the framework was told to record no gradient, or in evaluation mode, the pull may raise.
        """


@runtime_checkable
class Model(Protocol):
    """An implementation that is whole: it takes a problem and returns ``L`` and its gradient in every block of
    the problem, by name: the parameters, "x" (n, *inputs) and "B"; float64."""

    name: str
    claims: Claims

    def value_and_grad(self, problem: Problem) -> tuple[float, dict[str, Any]]: ...
