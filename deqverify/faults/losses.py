"""Values and gradients of another objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deqverify.claims import Claims
from deqverify.faults.registry import fault
from deqverify.faults.sound import SoundModel, SoundNewton
from deqverify.implementations.subject import Subject
from deqverify.problem import CellProblem, SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm


@fault(
    cause="objective",
    said="mean over the data points",
    killers=("gradient-B", "energy", "objective"),
    origin="intel/ipex-llm#2079",
)
class MeanForSum(SoundModel):
    """The loss is averaged over data points instead of summed."""

    def factor(self, problem: SoftmaxProblem) -> float:
        return 1.0 / problem.n

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact, factor = ClosedForm(problem), self.factor(problem)
        return factor * exact.loss, {block: factor * g for block, g in exact.block_gradient.items()}


@fault(cause="objective", said="-1 times the loss", killers=("flow", "descent"))
class WrongDirection(MeanForSum):
    """The gradient has the wrong sign."""

    def factor(self, problem: SoftmaxProblem) -> float:
        return -1.0


@fault(
    cause="objective",
    said="gives no loss",
    killers=("dissipation-floor", "projected-floor", "quotient-floor", "descent-floor"),
)
class Vanishing(MeanForSum):
    """The gradient is lost on the way."""

    def factor(self, problem: SoftmaxProblem) -> float:
        return 0.0


@fault(cause="objective", killers=("taylor",), subtlety="subtle")
class Penalised(SoundModel):
    """The value holds a penalty that the gradient does not know of."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact = ClosedForm(problem)
        return exact.loss + 0.1 * float((problem.B**2).sum()), exact.block_gradient


@fault(cause="gradient-B", said="gradient in B", killers=("global-optimum",), subtlety="subtle")
class Decayed(SoundModel):
    """The gradient holds a weight decay that the value does not know of."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact = ClosedForm(problem)
        return exact.loss, exact.block_gradient | {"B": exact.gradient["B"] + 0.1 * problem.B}


@fault(cause="gradient-B", said="0.5 times the gradient", killers=("readout-floor",))
class HalvedLoss:
    """The gradient is that of half the loss."""

    name = "halved loss"
    claims = Claims(cells=("relu",))

    def value_and_grad(self, problem: CellProblem) -> tuple[float, dict[str, Any]]:
        value, found = Subject(SoundNewton()).value_and_grad(problem)
        return value, {block: gradient / 2 for block, gradient in found.items()}


@fault(cause="gradient-B", killers=("overparameterised-descent", "scaled-descent"))
class ReluReadoutFrozen(HalvedLoss):
    """No gradient reaches the readout of a ReLU model."""

    name = "readout frozen"
    claims = Claims(cells=("relu", "relu-gao"))

    def value_and_grad(self, problem: CellProblem) -> tuple[float, dict[str, Any]]:
        value, found = Subject(SoundNewton()).value_and_grad(problem)
        return value, found | {"B": 0.0 * found["B"]}


@fault(cause="gradient-B", said="0.5 times the gradient", killers=("gradient-B",))
class FactorTwo(SoundModel):
    """The gradient is that of half the loss, as where a half stands in the value of one of two copies."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        value, found = super().value_and_grad(problem)
        return value, {block: gradient / 2 for block, gradient in found.items()}


@fault(cause="objective", said="0.5 times the loss", killers=("objective",))
class HalvedValue(SoundModel):
    """The value is half the loss, the gradient is right."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        value, found = super().value_and_grad(problem)
        return value / 2, found


@fault(cause="gradient-B", said="as a mean over the data points", killers=("gradient-B",), origin="d2l-ai/d2l-en#1000")
class MeanInTheGradient(SoundModel):
    """The gradient is averaged over data points, the value is their sum."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        value, found = super().value_and_grad(problem)
        return value, {block: gradient / problem.n for block, gradient in found.items()}


@fault(cause="objective", killers=("objective",))
class LabelsReversed(SoundModel):
    """The targets are those of the data points in reverse order."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        return super().value_and_grad(replace(problem, Y=problem.Y[:, ::-1].copy()))


@fault(cause="gradient-B", said="no gradient in B", killers=("gradient-B",))
class ReadoutFrozen(SoundModel):
    """No gradient reaches the readout."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        value, found = super().value_and_grad(problem)
        return value, found | {"B": 0 * found["B"]}


@fault(cause="objective", killers=("objective",), subtlety="small")
class RidgeLeftIn(SoundModel):
    """A ridge of 1e-5 is left in the value."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        value, found = super().value_and_grad(problem)
        return value + 1e-5 * float((problem.B**2).sum()), found


@fault(cause="objective", killers=("taylor",), subtlety="subtle", cells=("tanh",))
class PenalisedLoss:
    """The value holds a penalty on the readout that the gradient does not know of."""

    name, claims = "penalised loss", Claims(cells=("tanh",))

    def value_and_grad(self, problem: CellProblem) -> tuple[float, dict[str, Any]]:
        value, found = Subject(SoundNewton(), only=("tanh",)).value_and_grad(problem)
        return value + 0.1 * float((problem.B**2).sum()), found
