"""Correct implementations that take a batch apart: each data point by itself, some at a time, or those that are left.

They share the parameters, as they may: no data point sees another (theory: separability).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.cells.base import Theta
from deqverify.correct.iterating import Variant
from deqverify.correct.registry import correct
from deqverify.faults.sound import SoundNewton
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status, worst


class InBlocks(SoundNewton):
    """Newton's method of ``size`` data points at a time; the gradients in the parameters are added up."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.name = size, f"Newton, {size} data points at a time"

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        if not len(x):
            return super().vjp(cell, theta, x, z0)
        blocks = [slice(begin, begin + self.size) for begin in range(0, len(x), self.size)]
        solved = [super(InBlocks, self).vjp(cell, theta, x[b], None if z0 is None else z0[b]) for b in blocks]

        def pull(cotangent: Any) -> Cotangents:
            found = [pull_one(cotangent[b]) for b, (_, pull_one) in zip(blocks, solved, strict=True)]
            parts = {name: np.asarray(sum(each.theta[name] for each in found)) for name in theta}
            dx = np.concatenate([each.x for each in found])
            return Cotangents(parts, dx, worst([each.status for each in found]))

        z = np.concatenate([solution.z for solution, _ in solved])
        return Solution(z, worst([solution.status for solution, _ in solved])), pull


@correct("point-by-point")
def point_by_point() -> InBlocks:
    """Each data point is solved by itself, in a loop."""
    return InBlocks(1)


@correct("in-blocks")
def in_blocks() -> InBlocks:
    """Three data points at a time, as a large batch is taken apart that does not fit into memory."""
    return InBlocks(3)


@correct("leaves-out-what-converged")
class LeavesOut(Variant):
    """Plain iteration of those data points alone that have not converged yet; the adjoint likewise."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        begin = np.zeros((len(x), *cell.state(theta, x.shape[1:])), dtype=x.dtype) if z0 is None else z0
        z, status = self._of_those_left(lambda rows: cell.step(theta, x[rows]), begin)

        def pull(cotangent: Any) -> Cotangents:
            adjoint, ended = self._of_those_left(
                lambda rows: self.back(cell, theta, x[rows], z[rows], cotangent[rows]), cotangent
            )
            found = cell.pull(theta, x, z, adjoint)
            return Cotangents(found.theta, found.x, ended)

        return Solution(z, status), pull

    def _of_those_left(self, step_of: Any, begin: Any) -> tuple[Any, Status]:
        z, rows, ends = begin.copy(), np.arange(len(begin)), []
        for turn in range(self.most + 1):
            if not len(rows):
                break
            image = step_of(rows)(z[rows])
            ended = [self.ended(z[[row]], image[[k]]) for k, row in enumerate(rows)]
            ends += [status for status in ended if status is not None]
            left = np.array([status is None for status in ended], dtype=bool)
            if turn == self.most:
                ends += [Status.CAPPED] * int(left.sum())
                break
            z[rows[left]] = image[left]
            rows = rows[left]
        return z, worst(ends) if ends else Status.CONVERGED
