"""Implementations broken in one way each, on purpose, of any cell: most of these faults no linear cell shows, where the
Jacobian is the same everywhere.

Each class changes one line of a sound layer; its docstring is the fault.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify import Accuracy, Claims
from deqverify.cells import Parts, cells
from deqverify.cells.base import Theta
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.implementations.subject import Subject
from deqverify.implementations.torch_base import TorchLayer
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.problem import CellProblem
from deqverify.reference.newton import NewtonLayer, _corrected
from tests.honest import TwiceNewton

CONTRACTING = tuple(name for name, cell in cells().items() if cell.contracts)


class SoundNewton(NewtonLayer):
    """Newton's method in NumPy and a dense adjoint, in the steps that may be done wrongly: the direct control."""

    def __init__(self) -> None:
        super().__init__("numpy")
        self.name = "sound Newton"

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, _ = super().vjp(cell, theta, x, z0)

        def pull(cotangent: Any) -> Cotangents:
            at = self.linearised_at(cell, theta, x, solution)
            J = self.jacobian(dense(unit_pulls(cell, theta, x, at), len(at)).astype(at.dtype) if at.size else None)
            adjoint = self.adjoint(J, self.flat(cotangent)).reshape(cotangent.shape) if at.size else cotangent
            found = self.gradient(cell, cell.pull(theta, x, at, adjoint))
            return Cotangents(found.theta, found.x, self._status(adjoint))

        return solution, pull

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        return solution.z

    def jacobian(self, J: Any) -> Any:
        """∂f/∂z of every data point, (n, s, s); None of no data points."""
        return J

    def flat(self, cotangent: Any) -> Any:
        """(n, s)."""
        return cotangent.reshape(len(cotangent), -1)

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        systems = np.eye(cotangent.shape[1], dtype=J.dtype) - np.swapaxes(J, 1, 2)
        return np.linalg.solve(systems, cotangent[..., None])[..., 0]

    def gradient(self, cell: Any, found: Parts) -> Parts:
        return found


class JacobianAtStart(SoundNewton):
    """The Jacobian is taken at the start, zero, and not at the equilibrium."""

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        return np.zeros_like(solution.z)


class PreviousIterate(SoundNewton):
    """Slopes and gates are those of the last iterate but one."""

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        before = NewtonLayer("numpy", max(0, (solution.iterations or 0) - 2))  # the last found nothing better
        return before.vjp(cell, theta, x)[0].z


class InputDetached(SoundNewton):
    """No gradient reaches x, but where x is added to f."""

    def gradient(self, cell: Any, found: Parts) -> Parts:
        return found if cell.additive else Parts(found.theta, np.zeros_like(found.x), found.z)


class InputWeightsDetached(SoundNewton):
    """No gradient reaches U, by which inputs enter; it reaches the parameters beside it."""

    def gradient(self, cell: Any, found: Parts) -> Parts:
        lost = {name: np.zeros_like(value) for name, value in found.theta.items() if name == "U"}
        return Parts(found.theta | lost, found.x, found.z)


class FlattenedByColumns(SoundNewton):
    """The cotangent is flattened by columns, the Jacobian by rows: the same for states of one axis."""

    def flat(self, cotangent: Any) -> Any:
        return cotangent.T.reshape(-1, len(cotangent)).T


class SymmetricJacobian(SoundNewton):
    """The Jacobian is taken for symmetric: J stands for its transpose."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        return super().adjoint(np.swapaxes(J, 1, 2), cotangent)


class AveragedJacobian(SoundNewton):
    """One Jacobian serves the batch: the average over its data points."""

    def jacobian(self, J: Any) -> Any:
        return J if J is None else np.broadcast_to(J.mean(axis=0), J.shape)


class NeighboursJacobian(SoundNewton):
    """A data point's adjoint is solved with the Jacobian of its neighbour in the batch."""

    def jacobian(self, J: Any) -> Any:
        return J if J is None else np.roll(J, 1, axis=0)


class ClippedJacobian(SoundNewton):
    """The Jacobian is scaled down to a 2-norm of at most 0.9, so that the adjoint's iteration contracts."""

    def jacobian(self, J: Any) -> Any:
        if J is None:
            return J
        size = np.linalg.norm(J, 2, axis=(1, 2), keepdims=True)
        return (J * np.minimum(1.0, 0.9 / np.maximum(size, 0.9))).astype(J.dtype)


class OneStepOfAnyCell(SoundNewton):
    """The gradient is that of one step of f at the equilibrium."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        return cotangent


class OneNewtonStep(SoundNewton):
    """Newton's method stops after one step, which solves what is linear, and reports that it converged."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        once = SoundNewton()
        once.max_iterations = 1
        solution, pull = once.vjp(cell, theta, x, z0)
        finite = bool(np.isfinite(solution.z).all())
        return replace(solution, status=Status.CONVERGED, statuses=None) if finite else solution, pull


class NarrowInside(SoundNewton):
    """Float32 is computed in, whatever the dtype of what is given and returned."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        narrow = {name: np.asarray(value, dtype=np.float32) for name, value in theta.items()}
        start = None if z0 is None else z0.astype(np.float32)
        solution, pull = super().vjp(cell, narrow, x.astype(np.float32), start)

        def widened(cotangent: Any) -> Cotangents:
            found = pull(cotangent.astype(np.float32))
            parts = {name: np.asarray(value, dtype=x.dtype) for name, value in found.theta.items()}
            return replace(found, theta=parts, x=found.x.astype(x.dtype))

        return replace(solution, z=solution.z.astype(x.dtype)), widened


class BuffersByCount(SoundNewton):
    """The buffer of the start is kept by its number of entries: states of another shape get the wrong one."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Any] = {}

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        start = np.zeros((len(x), *cell.state(theta, x.shape[1:])), dtype=x.dtype)
        buffer = self.kept.setdefault(start.size, start)
        return super().vjp(cell, theta, x, buffer if z0 is None else z0)


class SoundSweeps(TorchLayer):
    """Picard on any cell that contracts, in PyTorch, with relative stopping and an adjoint iteration of the same kind,
    both reported: the iterative control."""

    name = "sound sweeps"
    claims = Claims(Accuracy(1e-5), Accuracy(1e-5), cells=CONTRACTING, copies=True, pickles=True, threads=True)
    most = 400
    damping = 1.0

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        for _ in range(self.most):
            ahead = z + self.damping * (f(z) - z)
            near = self.size(ahead - z) <= 5e-6 * self.size(ahead)  # half the claim; false for NaN
            if bool(near.all()):
                return ahead, Status.CONVERGED
            z = ahead
        return z, Status.CAPPED

    def size(self, states: Any) -> Any:
        """The 2-norm of each data point, (n,)."""
        return states.flatten(1).norm(dim=1)

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        with torch.no_grad():
            z, status = self.iterate(step, z0)
        reports: list[Status] = []
        answer = step(z)
        if not answer.requires_grad:
            return Solution(answer, status)
        state = z.detach().requires_grad_()
        image = step(state)

        def solve_adjoint(cotangent: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError("the adjoint is solved, not differentiated: there is no second derivative")
            pulled = lambda y: torch.autograd.grad(image, state, y, retain_graph=True)[0]  # noqa: E731
            found, status = self.iterate(lambda y: pulled(y) + cotangent, torch.zeros_like(cotangent))
            reports.append(status)
            return found

        answer.register_hook(solve_adjoint)
        return Solution(answer, status, backward_status=lambda: reports[-1])

    def limited(self, max_iterations: int) -> SoundSweeps:
        twin = copy.copy(self)
        twin.most = max_iterations
        return twin


class StateShapeOfInput(SoundSweeps):
    """States are taken to have the shape of the inputs."""

    def start(self, cell: Any, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class TestsTheStep(SoundSweeps):
    """The iteration is damped, and stops by the length of its step, a sixteenth of the residual."""

    __test__ = False  # no test of pytest's
    damping, most = 1.0 / 16.0, 1000


class TracedSweeps(SoundSweeps):
    """The control of traces: plain iteration, the residual of each iterate, for at most thirty of them."""

    claims = replace(SoundSweeps.claims, iteration="picard")

    def traced(self) -> TracedSweeps:
        return self

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        trace, z = [], z0.detach()
        with torch.no_grad():
            for _ in range(30):
                ahead = z + self.damping * (step(z) - z)
                trace.append(float(self.size(step(z) - z).max()) if len(z) else 0.0)
                z = ahead
        return replace(super().fixed_point(step, z0), trace=trace)


class DampedSweeps(TracedSweeps):
    """Every step goes half the way, though plain iteration is claimed."""

    damping = 0.5


class UnrolledSweeps(TorchLayer):
    """Twelve steps are unrolled from a start that is not detached, and called exact."""

    name, claims = "unrolled sweeps", Claims(cells=CONTRACTING)

    def fixed_point(self, step: Any, z0: Any) -> Any:
        for _ in range(12):
            z0 = step(z0)
        return z0


class OneRecordedStep(TwiceNewton):
    """One of Newton's steps is recorded by autograd, not two: what the Jacobian's own derivative in z adds is lost."""

    claims = replace(TwiceNewton.claims, cells=tuple(name for name in cells() if name != "linear-softmax"))

    def equilibrium(self, cell: Any, theta: Theta, x: Any, z0: Any) -> Solution:
        with torch.no_grad():
            solution = super().equilibrium(cell, theta, x, z0)
        return replace(solution, z=solution.z + _corrected(cell, theta, x, solution.z))


class AdjointHeld(SoundSweeps):
    """The gradient looks differentiable, but its adjoint is a constant."""

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        with torch.no_grad():
            z, status = self.iterate(step, z0)
        answer, state = step(z), z.detach().requires_grad_()
        if answer.requires_grad:
            image = step(state)

            def solve_adjoint(cotangent: Any) -> Any:
                with torch.enable_grad():
                    pulled = lambda y: torch.autograd.grad(image, state, y, retain_graph=True)[0]  # noqa: E731
                    return self.iterate(lambda y: pulled(y) + cotangent, torch.zeros_like(cotangent))[0].detach()

            answer.register_hook(solve_adjoint)
        return Solution(answer, status)


class PenalisedLoss:
    """The value holds a penalty on the readout that the gradient does not know of."""

    name, claims = "penalised loss", Claims(cells=("tanh",))

    def value_and_grad(self, problem: CellProblem) -> tuple[float, dict[str, Any]]:
        value, found = Subject(SoundNewton(), only=("tanh",)).value_and_grad(problem)
        return value + 0.1 * float((problem.B**2).sum()), found


def first_places(states: Any) -> Any:
    """What lies beyond the 64th node or token, the 256th pixel or the 256th entry is zero."""
    found = states.copy()
    if found.ndim == 4:
        found.reshape(*found.shape[:2], -1)[:, :, 256:] = 0.0
    else:
        found[:, 64 if found.ndim == 3 else 256 :] = 0.0
    return found


class HoldsSoMany(SoundNewton):
    """A buffer holds 64 nodes or tokens, 256 pixels or 256 entries: the rest of a state is lost."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        return replace(solution, z=first_places(solution.z)), pull


class AdjointOfSoMany(SoundNewton):
    """The adjoint beyond 64 nodes or tokens, 256 pixels or 256 entries is lost."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        shape = self.shape or cotangent.shape
        return first_places(super().adjoint(J, cotangent).reshape(shape)).reshape(cotangent.shape)

    shape: Any = None

    def flat(self, cotangent: Any) -> Any:
        self.shape = cotangent.shape
        return super().flat(cotangent)


class AloneBeyond(SoundNewton):
    """A batch of states larger than 64 is solved for its first data point, and that is repeated."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        if solution.z[:1].size <= 64:
            return solution, pull
        return replace(solution, z=np.broadcast_to(solution.z[:1], solution.z.shape).copy()), pull


class BiasDetached(SoundSweeps):
    """The bias is read without its graph: no gradient reaches b."""

    def equilibrium(self, cell: Any, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None) -> Any:
        lost = {name: value.detach() for name, value in theta.items() if name == "b"}
        return super().equilibrium(cell, {**theta, **lost}, x, z0)
