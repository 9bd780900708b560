"""Faults of layers that solve any cell: Newton's method in NumPy with one line broken. The docstring is the fault."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify import Claims
from deqverify.implementations.protocol import Cotangents, Pull, Solution
from deqverify.implementations.subject import Subject
from deqverify.problem import CellProblem
from deqverify.reference.newton import NewtonLayer, _matrix, _pulled, _solved
from deqverify.reference.splitting import SplittingLayer


class SoundNewton(NewtonLayer):
    """The control that no law may reject."""

    def __init__(self) -> None:
        super().__init__("numpy")

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, _ = super().vjp(cell, theta, x, z0)

        def pull(cotangent: Any) -> Cotangents:
            return Cotangents(*self.gradients(cell, theta, x, solution.z, cotangent))

        return solution, pull

    def gradients(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> tuple[Any, Any]:
        """In θ and in x."""
        found = _pulled(cell, theta, x, z, cotangent)
        return found.theta, found.x


class OneStep(SoundNewton):
    """The gradient is that of one step at the equilibrium (the phantom gradient)."""

    def gradients(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> tuple[Any, Any]:
        return cell.pull(theta, x, z, cotangent)[:2]


class GradientAtTheStart(SoundNewton):
    """The adjoint is right, but θ's gradient is formed with the first iterate in place of the equilibrium."""

    def gradients(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> tuple[Any, Any]:
        adjoint = _pulled(cell, theta, x, z, cotangent).z
        first = cell.step(theta, x)(np.zeros_like(z))
        return cell.pull(theta, x, first, adjoint).theta, cell.pull(theta, x, z, adjoint).x


class FactorsKept(SoundNewton):
    """The factors of I − A are used again for the adjoint as long as A has moved by less than a half."""

    kept: tuple[Any, Any] | None = None

    def gradients(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> tuple[Any, Any]:
        A = theta["A"]
        if self.kept is None or not self.near(A, z):
            self.kept = A, _matrix(cell, theta, x, z)
        adjoint = _solved(np.swapaxes(self.kept[1], 1, 2), cotangent)
        return cell.pull(theta, x, z, adjoint)[:2]

    def near(self, A: Any, z: Any) -> bool:
        assert self.kept is not None
        before, matrix = self.kept
        same = before.shape == A.shape and len(matrix) == len(z)
        return same and bool(np.abs(A - before).max() < 0.5 * np.abs(before).max())


class Altered(SoundNewton):
    """Solves for other inputs than those given."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        return super().vjp(cell, theta, self.altered(x), z0)

    def altered(self, x: Any) -> Any:
        raise NotImplementedError


class Padded(Altered):
    """The first row of an image is taken for padding: it is zero."""

    def altered(self, x: Any) -> Any:
        return np.concatenate([0 * x[:, :, :1], x[:, :, 1:]], axis=2)


class RootedGraph(Altered):
    """The first node counts double."""

    def altered(self, x: Any) -> Any:
        return np.concatenate([2 * x[:, :1], x[:, 1:]], axis=1)


class Positions(Altered):
    """Positions are added to the tokens."""

    def altered(self, x: Any) -> Any:
        return x + np.arange(x.shape[1], dtype=x.dtype)[:, None] / 8


class PaddedGradient(SoundNewton):
    """No gradient reaches the first row of an image, as with padding."""

    def gradients(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> tuple[Any, Any]:
        parameters, along = super().gradients(cell, theta, x, z, cotangent)
        return parameters, Padded.altered(self, along)  # type: ignore[arg-type]


class CausalGradient(SoundNewton):
    """The gradient of the first token, or node, is lost."""

    def gradients(self, cell: Any, theta: Any, x: Any, z: Any, cotangent: Any) -> tuple[Any, Any]:
        parameters, along = super().gradients(cell, theta, x, z, cotangent)
        return parameters, np.concatenate([0 * along[:, :1], along[:, 1:]], axis=1)


class Trapezoid(SoundNewton):
    """The trapezoidal rule ``z = ψ + dt/2 (g(ψ) + g(z))`` in place of the midpoint rule."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        z = x
        for _ in range(200):  # the midpoint rule at two equal ends is dt g of that end
            z = x + ((cell.step(theta, x)(x) - x) + (cell.step(theta, z)(z) - z)) / 2
        solution.z = z
        return solution, pull


class HalvedLoss:
    """The gradient is that of half the loss."""

    name = "halved loss"
    claims = Claims(cells=("relu",))

    def value_and_grad(self, problem: CellProblem) -> tuple[float, dict[str, Any]]:
        value, found = Subject(SoundNewton()).value_and_grad(problem)
        return value, {block: gradient / 2 for block, gradient in found.items()}


class ReadoutFrozen(HalvedLoss):
    """No gradient reaches the readout."""

    name = "readout frozen"
    claims = Claims(cells=("relu", "relu-gao"))

    def value_and_grad(self, problem: CellProblem) -> tuple[float, dict[str, Any]]:
        value, found = Subject(SoundNewton()).value_and_grad(problem)
        return value, found | {"B": 0.0 * found["B"]}


class HalfSweeps(SplittingLayer):
    """Every sweep of the splitting goes half the way."""

    def __init__(self) -> None:
        super().__init__("numpy", "forward-backward")

    def _sweep(self, *given: Any) -> Any:
        sweep, alpha = super()._sweep(*given)
        return lambda u: (u + sweep(u)) / 2, alpha


class HalfReflections(HalfSweeps):
    """The reflections of Peaceman–Rachford are averaged, which is Douglas–Rachford splitting."""

    def __init__(self) -> None:
        SplittingLayer.__init__(self, "numpy", "peaceman-rachford")
