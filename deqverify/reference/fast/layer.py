"""The fast reference as a layer: what the laws verify."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deqverify.cells import LinearSoftmaxCell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy
from deqverify.implementations.protocol import Cotangents, Pull, Solution
from deqverify.reference.fast import batched
from deqverify.reference.fast.answer import finite
from deqverify.reference.fast.api import ACCURACY
from deqverify.reference.fast.cost import Method
from deqverify.reference.fast.models import model_for
from deqverify.reference.fast.solver import solver
from deqverify.reference.stateless import STATELESS, Stateless

_CLAIMS = replace(STATELESS, devices=("cpu", "cuda"), starts=False, where="deqverify/reference/fast/layer.py")
"""What every layer here claims, beside its accuracy."""


class FastLayer(Stateless):
    """``reference[fast]``: each problem by the method that the cost model picks, or by ``method``.

    The claim is of the residual, in the 2-norm, up to rounding. What is certified is more, the value itself, but in the
    1-norm and the maximum norm, which the vocabulary of claims does not have. No start is used.
    """

    framework = "torch"

    def __init__(self, method: Method | None = None, accuracy: float = ACCURACY):
        self.method, self.accuracy = method, accuracy
        self.name = f"reference[fast{',' + method if method else ''}]"
        claimed = Accuracy(0.0 if method == "lu" else accuracy)
        self.claims = replace(_CLAIMS, forward=claimed, backward=claimed)

    def at_tolerance(self, tolerance: float) -> FastLayer:
        """The same methods, both passes at the accuracy ``tolerance``."""
        return FastLayer(self.method, tolerance)

    def vjp(self, cell: Any, theta: Theta, x: torch.Tensor, z0: Any = None) -> tuple[Solution, Pull]:
        _check(cell)
        gamma = cell.certificate(theta).rate
        # Detached inputs leave no graph; a context manager for that costs as much as an operation.
        answer = solver(theta["A"].detach(), x.detach(), gamma, self.accuracy, self.method, model_for(x))

        def pull(cotangent: torch.Tensor) -> Cotangents:
            found = answer.pull(cotangent.detach())
            return Cotangents({"A": found.A, "gamma": found.gamma}, found.x, found.status)

        return Solution(answer.z, answer.status, answer.turns, answer.residual), pull


class BatchedLayer(Stateless):
    """``reference[fast,batched]``: the solver of many problems, given one, 64 times over."""

    framework = "torch"
    name = "reference[fast,batched]"
    claims = replace(_CLAIMS, where="deqverify/reference/fast/batched.py")
    problems = batched.FEWEST

    def vjp(self, cell: Any, theta: Theta, x: torch.Tensor, z0: Any = None) -> tuple[Solution, Pull]:
        _check(cell)
        cell.certificate(theta)
        with torch.no_grad():
            A, inputs = (t.detach().expand(self.problems, *t.shape) for t in (theta["A"], x))
            solved = batched.Solved(A, x.shape[0], theta["gamma"].detach().expand(self.problems))
            z = solved.forward(inputs)

        def pull(cotangent: torch.Tensor) -> Cotangents:
            with torch.no_grad():
                c = cotangent.detach().expand(self.problems, *cotangent.shape)
                dA, dx, dgamma = (g[1] for g in solved.pull(z, c, (True, True, True)) if g is not None)
                return Cotangents({"A": dA, "gamma": dgamma}, dx, finite(dx))

        return Solution(z[1], finite(z[1])), pull


def _check(cell: Any) -> None:
    if not isinstance(cell, LinearSoftmaxCell):
        raise TypeError(f"cell: the fast reference solves the LinearSoftmaxCell, not {cell!r}; use 'reference'")
