"""The sound implementations that the faults are made from: what no law may reject. Each is cut into the steps that may
be done wrongly."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells import cells
from deqverify.cells.base import Parts, Theta
from deqverify.claims import Accuracy, Claims
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.implementations.torch_base import TorchLayer
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.problem import SoftmaxProblem
from deqverify.reference.newton import NewtonLayer, newton_correction
from deqverify.theory.closed_form import ClosedForm

CONTRACTING = tuple(name for name, cell in cells().items() if cell.contracts)


class Sound(TorchLayer):
    """The direct solve with autograd: the control that no law may reject."""

    name = "sound"
    claims = Claims(
        cells=("linear-softmax",),
        starts=False,
        threads=True,
        copies=True,
        pickles=True,
        modes=True,
        evaluation_gradient=True,
    )

    def mode(self, training: bool) -> Any:
        return self

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        K = self.weights(cell, theta)
        return torch.linalg.solve(torch.eye(len(K), dtype=x.dtype) - K, x.mT).mT


class Iterating(TorchLayer):
    """An iteration without a graph, one step with it, and an adjoint equation that is iterated likewise in a hook."""

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        """Where iterating f from z (n, *state) ends, and how."""
        raise NotImplementedError

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return self.iterate(f, z)

    def transposed(self, image: Any, state: Any, y: Any) -> Any:
        """``Jᵀy`` at ``state``, of which f is ``image``."""
        return torch.autograd.grad(image, state, y, retain_graph=True)[0]

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        with torch.no_grad():
            z, status = self.iterate(step, z0)
        reports: list[Status] = []
        answer = step(z)
        if not answer.requires_grad:
            return Solution(answer, self.say(status))
        state = z.detach().requires_grad_()
        image = step(state)

        def solve_adjoint(cotangent: Any) -> Any:
            self.heed_second_order()
            if cotangent is None:  # as autograd writes zero, which is its own adjoint
                reports.append(Status.CONVERGED)
                return None

            def adjoint_step(y: Any) -> Any:
                return self.transposed(image, state, y) + cotangent

            found, status = self.backward_iterate(adjoint_step, torch.zeros_like(cotangent))
            reports.append(status)
            return found

        answer.register_hook(solve_adjoint)
        return Solution(answer, self.say(status), backward_status=lambda: self.say(reports[-1]))

    def say(self, status: Status) -> Status:
        return status

    def heed_second_order(self) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError("the adjoint is solved, not differentiated: there is no second derivative")


class SoundPicard(Iterating):
    """Picard with relative stopping and an adjoint iteration of the same kind, both reported: the iterative control."""

    name = "sound picard"
    claims = replace(Sound.claims, forward=Accuracy(1e-5), backward=Accuracy(1e-5), starts=True)
    most = 2000

    def mode(self, training: bool) -> Any:
        return self

    def far(self, step: Any, size: Any) -> bool:
        near = step.norm(dim=1) <= 1e-6 * size.norm(dim=1)  # a tenth of the claim; false for NaN
        return not bool(near.all())

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        for _ in range(self.most):
            ahead = f(z)
            if not self.far(ahead - z, ahead):
                return ahead, Status.CONVERGED
            z = self.onward(z, ahead)
        return z, Status.CAPPED

    def onward(self, z: Any, ahead: Any) -> Any:
        """The next iterate."""
        return ahead

    def limited(self, max_iterations: int) -> SoundPicard:
        twin = type(self)()
        twin.most = max_iterations
        return twin


class Traced(SoundPicard):
    """The control of traces: the residual of each state, the last that of the answer."""

    every = 1
    left_out = 0

    def traced(self) -> Traced:
        return self

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        def residual(z: Any) -> float:
            return float((step(z) - z).norm(dim=1).max()) if len(z) else 0.0

        solution = super().fixed_point(step, z0)
        with torch.no_grad():
            z, trace = z0, [residual(z0)]
            while len(trace) <= self.most and self.far(step(z) - z, step(z)):
                z = self.onward(z, step(z))
                trace.append(residual(z))
            trace.append(residual(solution.z))
        solution.iterations = len(trace) - 1
        solution.trace = trace[:: self.every][: len(trace) - self.left_out]
        return solution


class SoundNewton(NewtonLayer):
    """Newton's method in NumPy and a dense adjoint, on any cell: the direct control."""

    def __init__(self) -> None:
        super().__init__("numpy")
        self.name = "sound Newton"

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, _ = super().vjp(cell, theta, x, z0)

        def pull(cotangent: Any) -> Cotangents:
            at = self.linearised_at(cell, theta, x, solution)
            adjoint = self.adjoint_of(cell, theta, x, at, cotangent) if at.size else cotangent
            found = self.gradient(cell, theta, x, at, adjoint)
            return Cotangents(found.theta, found.x, self._status(adjoint))

        return solution, pull

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        """The state at which derivatives are taken, (n, *state)."""
        return solution.z

    def adjoint_of(self, cell: Any, theta: Theta, x: Any, z: Any, cotangent: Any) -> Any:
        """Shaped like z, of one data point at least."""
        J = self.jacobian(dense(unit_pulls(cell, theta, x, z), len(z)).astype(z.dtype))
        return self.adjoint(J, self.flat(cotangent)).reshape(cotangent.shape)

    def jacobian(self, J: Any) -> Any:
        """∂f/∂z of every data point, (n, s, s)."""
        return J

    def flat(self, cotangent: Any) -> Any:
        """(n, s)."""
        return cotangent.reshape(len(cotangent), -1)

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        """(n, s)."""
        systems = np.eye(cotangent.shape[1], dtype=J.dtype) - np.swapaxes(J, 1, 2)
        return np.linalg.solve(systems, cotangent[..., None])[..., 0]

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        """In θ and in x."""
        return cell.pull(theta, x, z, adjoint)


class SoundSweeps(Iterating):
    """Picard on any cell that contracts, in PyTorch, with relative stopping and an adjoint iteration of the same kind,
    both reported: the iterative control."""

    name = "sound sweeps"
    claims = Claims(Accuracy(1e-5), Accuracy(1e-5), cells=CONTRACTING, copies=True, pickles=True, threads=True)
    most = 400
    damping = 1.0

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        for _ in range(self.most):
            ahead = self.sweep(f, z)
            if self.near(ahead - z, ahead):
                return ahead, Status.CONVERGED
            z = ahead
        return z, Status.CAPPED

    def sweep(self, f: Any, z: Any) -> Any:
        return z + self.damping * (f(z) - z)

    def near(self, step: Any, ahead: Any) -> bool:
        """Within half of the claim; false for NaN."""
        return bool((self.size(step) <= 5e-6 * self.size(ahead)).all())

    def size(self, states: Any) -> Any:
        """The 2-norm of each data point, (n,)."""
        return states.flatten(1).norm(dim=1)

    def limited(self, max_iterations: int) -> SoundSweeps:
        twin = copy.copy(self)
        twin.most = max_iterations
        return twin


class TracedSweeps(SoundSweeps):
    """The control of traces: plain iteration, the residuals of its first iterates, at most thirty, and the answer's."""

    claims = replace(SoundSweeps.claims, iteration="picard")

    def traced(self) -> TracedSweeps:
        return self

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        def residual(z: Any) -> float:
            return float(self.size(step(z) - z).max()) if len(z) else 0.0

        solution = super().fixed_point(step, z0)
        with torch.no_grad():
            z, trace = z0.detach(), [residual(z0)]
            for _ in range(min(30, self.most)):
                ahead = self.sweep(step, z)
                if self.near(ahead - z, ahead):
                    break
                z = ahead
                trace.append(residual(z))
            trace.append(residual(solution.z))
        return replace(solution, trace=trace)


class TwiceNewton(TorchLayer):
    """Newton's method without a graph, then two steps of it that autograd records: a step squares the error, so that
    two of them have the first three derivatives of the equilibrium."""

    name = "Newton, recorded"
    claims = Claims(cells=tuple(cells()), second_order=True, copies=True, pickles=True, threads=True, where=__name__)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        plain = {name: value.detach() for name, value in theta.items()}
        solution, _ = NewtonLayer("torch").vjp(cell, plain, x.detach(), None if z0 is None else z0.detach())
        z = solution.z
        for _ in range(2 if torch.is_grad_enabled() else 0):
            z = z + newton_correction(cell, theta, x, z)
        return replace(solution, z=z)


class SoundModel:
    """The closed form of the linear-softmax cell: the control of whole models."""

    name = "sound model"
    claims = Claims(cells=("linear-softmax",))

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact = ClosedForm(problem)
        return exact.loss, exact.block_gradient
