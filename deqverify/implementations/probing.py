"""The adjoint of a layer, seen as the gradient in a probe that is added to f (theory: probe)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deqverify.cells.probed import PROBE, probed, probed_inputs
from deqverify.dtypes import Array
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.protocol import Status
from deqverify.problem import Problem

if TYPE_CHECKING:
    from deqverify.implementations.subject import Subject

FAR = 0.1
"""What is left of the adjoint equation, over the cotangent, where the probe did not arrive where it should have."""


@dataclass(frozen=True)
class Probed:
    """Λ (n, *state), the status of its solve, or that of the forward pass where that admits failure, and ẑ."""

    adjoint: Array
    status: Status
    z: Array


def adjoint_by_probe(deq: Subject, problem: Problem, cotangent: Array) -> Probed:
    """Λ for a cotangent (n, *state), of any cell.

    The probe is a parameter first. Where that fails, or leads far from the adjoint of several data points, it stands
    behind the inputs instead: whoever takes a batch apart, point by point or in blocks, is right to share parameters.
    """
    if problem.n > 1 and problem.cell.name in deq.takes_apart:
        return _behind_inputs(deq, problem, cotangent)
    failure: TargetFailure | None = None
    try:
        first = _among_parameters(deq, problem, cotangent)
        if problem.n < 2 or first.status.admits_failure or not _far(problem, cotangent, first):
            return first
    except TargetFailure as crash:
        if problem.n < 2:
            raise
        failure = crash
    with suppress(TargetFailure):
        second = _behind_inputs(deq, problem, cotangent)
        if second.status.admits_failure or not _far(problem, cotangent, second):
            deq.takes_apart.add(problem.cell.name)
            return second
    if failure:
        raise failure
    return first


def _among_parameters(deq: Subject, problem: Problem, cotangent: Array) -> Probed:
    theta = deq.parameters(problem) | {PROBE: deq.native(np.zeros(problem.states))}
    z, found, status = deq.pull_probe(problem, theta, problem.x, probed(problem.cell), cotangent)
    return Probed(deq.given(found.theta[PROBE], problem.states, "the gradient in an additive probe"), status, z)


def _behind_inputs(deq: Subject, problem: Problem, cotangent: Array) -> Probed:
    cell = probed_inputs(problem.cell, problem.x.shape[1:], problem.state)
    x = cell.joined(problem.x, np.zeros(problem.states))
    z, found, status = deq.pull_probe(problem, deq.parameters(problem), x, cell, cotangent)
    _, adjoint = cell.apart(deq.given(found.x, x.shape, "the gradient in an additive probe behind the inputs"))
    return Probed(adjoint, status, z)


def _far(problem: Problem, cotangent: Array, found: Probed) -> bool:
    """Whether ``c + (∂f/∂z)ᵀΛ − Λ`` is of the size of c for some data point."""
    with np.errstate(all="ignore"):
        pulled = problem.cell.pull(problem.theta, problem.x, found.z, found.adjoint).z
        left = np.abs(cotangent + pulled - found.adjoint).reshape(problem.n, -1).max(axis=1, initial=0.0)
    return not np.all(left <= FAR * np.abs(cotangent).reshape(problem.n, -1).max(axis=1, initial=0.0))
