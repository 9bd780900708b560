"""Gradients that lead training elsewhere: what an optimiser, an accumulation or a compression leaves in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.faults.registry import fault
from deqverify.faults.sound import SoundModel
from deqverify.problem import SoftmaxProblem

Gradients = dict[str, Any]


def same(first: Any, second: Any) -> bool:
    return np.shape(first) == np.shape(second)


class Changed(SoundModel):
    """The sound model, its gradients changed."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, Gradients]:
        value, found = super().value_and_grad(problem)
        return value, self.changed(problem, found)

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        """By block."""
        raise NotImplementedError


@fault(cause="gradient-theta", said="right in a first call and wrong in a later one", killers=("gradient-theta",))
class NotZeroed(Changed):
    """Gradients of one shape add up from call to call: nobody sets them to zero."""

    def __init__(self) -> None:
        self.sums: dict[Any, Any] = {}

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        for block, gradient in found.items():
            key = block, np.shape(gradient)
            self.sums[key] = self.sums.get(key, 0.0) + gradient
        return {block: self.sums[block, np.shape(gradient)] for block, gradient in found.items()}


@fault(
    cause="gradient-theta",
    said="right in a first call and wrong in a later one",
    killers=("gradient-theta",),
    subtlety="subtle",
)
class MomentumByAccident(Changed):
    """A tenth of the gradient of the last call, where it had the same shape, is left in that of this one."""

    def __init__(self) -> None:
        self.last: Gradients = {}

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        kept = {k: g + 0.1 * self.last[k] for k, g in found.items() if k in self.last and same(g, self.last[k])}
        self.last = found
        return found | kept


@fault(cause="gradient-theta", killers=("column-sums",), subtlety="subtle")
class ColumnSumsDrift(Changed):
    """A decay of A is left in its gradient: columns drift along what the softmax does not see."""

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        return found | {"A": found["A"] + 0.01 * problem.A}


@fault(cause="gradient-B", killers=("gradient-theta",), subtlety="subtle")
class GradientClipped(Changed):
    """Gradients longer than one are clipped to that length."""

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        size = float(np.sqrt(sum(np.sum(np.square(g)) for g in found.values())))
        return {block: g / max(1.0, size) for block, g in found.items()}


@fault(cause="gradient-B", said="wrong gradient in A, B, x", killers=("gradient-theta",), subtlety="subtle")
class SmallEntriesDropped(Changed):
    """Entries below a tenth of the largest are not sent to the other workers."""

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        return {k: np.where(np.abs(g) < 0.1 * np.abs(g).max(initial=0.0), 0.0, g) for k, g in found.items()}


@fault(cause="gradient-B", said="wrong gradient in A, B, x", killers=("gradient-theta",), subtlety="small")
class SentInFloat16(Changed):
    """Gradients travel in float16, scaled by their largest entry."""

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        def sent(g: Any) -> Any:
            size = np.abs(g).max(initial=0.0) or 1.0
            return (g / size).astype(np.float16).astype(np.float64) * size

        return {block: sent(np.asarray(g)) for block, g in found.items()}


@fault(cause="gradient-theta", said="-1 times the gradient in A", killers=("descent",), subtlety="subtle")
class AscentInA(Changed):
    """The gradient in A has the wrong sign, the others are right."""

    def changed(self, problem: SoftmaxProblem, found: Gradients) -> Gradients:
        return found | {"A": -found["A"]}
