"""The equilibrium is right, and what is pulled back through it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells.base import Parts, Theta
from deqverify.claims import Claims
from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton, SoundPicard, SoundSweeps
from deqverify.implementations.protocol import Cotangents, Solution, Status
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.reference.newton import NewtonLayer


class _Untransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, U: Any, x: Any) -> Any:
        z = torch.linalg.solve(U, x)
        ctx.save_for_backward(U, z)
        return z

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        U, z = ctx.saved_tensors
        adjoint = torch.linalg.solve(U, cotangent)
        return -adjoint @ z.mT, adjoint


@fault(
    cause="adjoint-certificate",
    said="in place of its transpose",
    killers=("adjoint-certificate", "descent-dissipation", "trajectory", "trust-region", "gradient-theta"),
    origin="JuliaDecisionFocusedLearning/ImplicitDifferentiation.jl#161",
)
class MissingTranspose(Sound):
    """The adjoint equation is solved with U instead of its transpose."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return _Untransposed.apply(torch.eye(x.shape[1], dtype=x.dtype) - self.weights(cell, theta), x.mT).mT


@fault(
    cause="adjoint-certificate",
    said="gradient of one step",
    killers=("gradient-x", "gradient-theta", "euler", "descent-order"),
    origin="locuslab/torchdeq, its default gradient",
)
class OneStepGradient(Sound):
    """The gradient is that of one step at the equilibrium (the phantom gradient)."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return cell.step(theta, x)(super().equilibrium(cell, theta, x, z0).detach())


@fault(cause="adjoint-certificate", killers=("adjoint-certificate", "gradient-theta"))
class PollutesGrad(SoundPicard):
    """The adjoint's step is ``backward()``, which adds to ``.grad`` of all that the step was made of."""

    def transposed(self, image: Any, state: Any, y: Any) -> Any:
        state.grad = None
        image.backward(y, retain_graph=True)
        return state.grad


@fault(cause="gradient-theta", said="A", killers=("dissipation",))
class DetachedWeights(Sound):
    """The block ∂L/∂A is missing: A is detached."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta | {"A": theta["A"].detach()})


@fault(
    cause="adjoint-certificate",
    said="stops the adjoint's iteration early",
    killers=("status-backward",),
    subtlety="subtle",
    origin="locuslab/torchdeq, b_max_iter",
)
class AdjointStoppedEarly(SoundPicard):
    """The adjoint iteration stops after 50 steps and says nothing."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        for _ in range(50):
            z = f(z)
        return z, Status.NOT_REPORTED


@fault(cause="adjoint-certificate", killers=("cotangent-linearity",), subtlety="subtle")
class ClippedCotangent(Sound):
    """The cotangent is clipped to [−1, 1] on its way back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        if z.requires_grad:
            z.register_hook(lambda cotangent: None if cotangent is None else cotangent.clamp(-1.0, 1.0))
        return z


@fault(cause="repeated-pull", killers=("repeated-pull",), subtlety="rare")
class ForgetfulPull(Sound):
    """Only the first pull is right; later ones are halved."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        calls: list[int] = []

        def tired(cotangent: Any) -> Cotangents:
            calls.append(1)
            return pull(cotangent if len(calls) == 1 else 0.5 * cotangent)

        return solution, tired


@fault(cause="second-order", killers=("second-order",), subtlety="subtle", origin="pytorch/pytorch#58509")
class DetachedAdjoint(SoundPicard):
    """The gradient looks differentiable, but its adjoint is a constant."""

    def heed_second_order(self) -> None:
        pass


@fault(cause="existence", said="stops early", killers=("start-gradient",))
class UnrolledFromStart(Sound):
    """Twenty steps are unrolled from the start, which is not detached."""

    claims = Claims(cells=("linear-softmax",))

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        step, z = cell.step(theta, x), torch.zeros_like(x) if z0 is None else z0
        for _ in range(20):
            z = step(z)
        return z


@fault(cause="adjoint-identity", killers=("adjoint-identity",), subtlety="subtle")
class UntransposedTangent(Sound):
    """The derivative along a tangent is solved with the transpose of U."""

    def jvp(self, cell: Any, theta: Any, x: Any, tangent: Any) -> Any:
        U = torch.eye(x.shape[1], dtype=x.dtype) - cell.matrix(theta)
        z = torch.linalg.solve(U, x.mT).mT
        dz = torch.linalg.solve(U.mT, cell.push(theta, x, z, Parts(tangent[0], tangent[1], torch.zeros_like(z))).mT).mT
        return Solution(z), dz


@fault(cause="adjoint-certificate", said="at the start", killers=("adjoint-certificate",), subtlety="subtle")
class JacobianAtStart(SoundNewton):
    """The Jacobian is taken at the start, zero, and not at the equilibrium."""

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        return np.zeros_like(solution.z)


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="subtle")
class PreviousIterate(SoundNewton):
    """Slopes and gates are those of the last iterate but one."""

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        before = NewtonLayer("numpy", max(0, (solution.iterations or 0) - 2))  # the last found nothing better
        return before.vjp(cell, theta, x)[0].z


@fault(
    cause="gradient-x", killers=("gradient-x",), subtlety="subtle", origin="google/jaxopt#141", cells=("tanh", "relu")
)
class InputDetached(SoundNewton):
    """No gradient reaches x, but where x is added to f."""

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        found = super().gradient(cell, theta, x, z, adjoint)
        return found if cell.additive else Parts(found.theta, np.zeros_like(found.x), found.z)


@fault(cause="gradient-theta", said="U", killers=("gradient-theta",), subtlety="subtle", cells=("tanh", "relu"))
class InputWeightsDetached(SoundNewton):
    """No gradient reaches U, by which inputs enter; it reaches the parameters beside it."""

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        found = super().gradient(cell, theta, x, z, adjoint)
        lost = {name: np.zeros_like(value) for name, value in found.theta.items() if name == "U"}
        return Parts(found.theta | lost, found.x, found.z)


@fault(
    cause="adjoint-certificate",
    killers=("adjoint-certificate",),
    subtlety="subtle",
    cells=("conv", "graph", "attention"),
)
class FlattenedByColumns(SoundNewton):
    """The cotangent is flattened by columns, the Jacobian by rows: the same for states of one axis."""

    def flat(self, cotangent: Any) -> Any:
        return cotangent.T.reshape(-1, len(cotangent)).T


@fault(cause="adjoint-certificate", said="in place of its transpose", killers=("adjoint-certificate",))
class SymmetricJacobian(SoundNewton):
    """The Jacobian is taken for symmetric: J stands for its transpose."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        return super().adjoint(np.swapaxes(J, 1, 2), cotangent)


@fault(
    cause="adjoint-certificate",
    said="one Jacobian for the whole batch",
    killers=("adjoint-certificate",),
    subtlety="subtle",
)
class AveragedJacobian(SoundNewton):
    """One Jacobian serves the batch: the average over its data points."""

    def jacobian(self, J: Any) -> Any:
        return np.broadcast_to(J.mean(axis=0), J.shape)


@fault(cause="adjoint-certificate", said="of another data point", killers=("adjoint-certificate",), subtlety="subtle")
class NeighboursJacobian(SoundNewton):
    """A data point's adjoint is solved with the Jacobian of its neighbour in the batch."""

    def jacobian(self, J: Any) -> Any:
        return np.roll(J, 1, axis=0)


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="rare")
class ClippedJacobian(SoundNewton):
    """The Jacobian is scaled down to a 2-norm of at most 0.9, so that the adjoint's iteration contracts."""

    def jacobian(self, J: Any) -> Any:
        size = np.linalg.norm(J, 2, axis=(1, 2), keepdims=True)
        return (J * np.minimum(1.0, 0.9 / np.maximum(size, 0.9))).astype(J.dtype)


@fault(
    cause="adjoint-certificate",
    said="gradient of one step",
    killers=("adjoint-certificate", "output-balance", "relu-euler", "symplectic"),
)
class OneStepOfAnyCell(SoundNewton):
    """The gradient is that of one step of f at the equilibrium."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        return cotangent


@fault(cause="gradient-theta", said="b", killers=("gradient-theta",))
class BiasDetached(SoundSweeps):
    """The bias is read without its graph: no gradient reaches b."""

    def equilibrium(self, cell: Any, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None) -> Any:
        lost = {name: value.detach() for name, value in theta.items() if name == "b"}
        return super().equilibrium(cell, {**theta, **lost}, x, z0)


@fault(cause="gradient-theta", killers=("input-balance",), subtlety="subtle")
class GradientAtTheStart(SoundNewton):
    """The adjoint is right, but θ's gradient is formed with the first iterate in place of the equilibrium."""

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        found, first = super().gradient(cell, theta, x, z, adjoint), cell.step(theta, x)(np.zeros_like(z))
        return Parts(cell.pull(theta, x, first, adjoint).theta, found.x, found.z)


@fault(
    cause="in-place-update",
    killers=("balance-descent", "balance-flow"),
    subtlety="rare",
    cells=("linear-softmax", "relu"),
)
class FactorsKept(SoundNewton):
    """The Jacobian is used again for the adjoint as long as the first of the weights have moved by less than a half."""

    kept: tuple[Any, Any] | None = None

    def adjoint_of(self, cell: Any, theta: Theta, x: Any, z: Any, cotangent: Any) -> Any:
        A = next(iter(theta.values()))
        if self.kept is None or not self.near(A, z):
            self.kept = A, dense(unit_pulls(cell, theta, x, z), len(z)).astype(z.dtype)
        return self.adjoint(self.kept[1], self.flat(cotangent)).reshape(cotangent.shape)

    def near(self, A: Any, z: Any) -> bool:
        assert self.kept is not None
        before, J = self.kept
        same = before.shape == A.shape and len(J) == len(z)
        return same and bool(np.abs(A - before).max() < 0.5 * np.abs(before).max())


@fault(cause="adjoint-certificate", said="stops the adjoint's iteration early", killers=("euler",))
class TwoTermsOfNeumann(SoundPicard):
    """The adjoint is the sum of the first two terms of its series (the phantom gradient of two steps)."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return f(f(z)), Status.NOT_REPORTED


@fault(cause="history", killers=("history",), subtlety="subtle")
class AdjointWarmStarted(SoundPicard):
    """From the second backward on, three sweeps from the last adjoint are taken for enough."""

    last: Any = None

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        if self.last is not None and self.last.shape == z.shape:
            found, status = f(f(f(self.last))), Status.NOT_REPORTED
        else:
            found, status = super().backward_iterate(f, z)
        self.last = found
        return found, status


@fault(cause="adjoint-certificate", said="a tolerance is absolute", killers=("status-backward",), subtlety="subtle")
class AdjointToleranceAbsolute(SoundPicard):
    """The adjoint's tolerance is absolute, though the claim is relative: small cotangents are not solved for."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        for _ in range(self.most):
            ahead = f(z)
            if bool(((ahead - z).norm(dim=1) <= 1e-6).all()):
                return ahead, Status.CONVERGED
            z = ahead
        return z, Status.CAPPED


@fault(cause="adjoint-certificate", said="gives no gradient", killers=("adjoint-certificate",), subtlety="rare")
class ZeroGradientOnFailure(SoundPicard):
    """Where 50 sweeps do not suffice for the adjoint, zero is returned and nothing is said."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        few = self.limited(50)
        found, status = SoundPicard.iterate(few, f, z)
        return (found, status) if status is Status.CONVERGED else (torch.zeros_like(z), Status.NOT_REPORTED)


@fault(cause="repeated-pull", killers=("repeated-pull",), subtlety="rare", origin="locuslab/deq, self.hook.remove()")
class HookRemoved(SoundPicard):
    """The hook that solves the adjoint is removed when it was called once: a second backward is one step's."""

    claims = replace(SoundPicard.claims, threads=False)  # it counts its pulls

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        solution = super().fixed_point(step, z0)
        self.calls = 0
        return solution

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        self.calls += 1
        return super().backward_iterate(f, z) if self.calls == 1 else (f(z), Status.NOT_REPORTED)


@fault(cause="adjoint-certificate", said="half of the Jacobian", killers=("adjoint-certificate",))
class DampedAdjoint(SoundPicard):
    """The adjoint's iteration is damped where its right side is not: it solves with half of the Jacobian."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        right = f(torch.zeros_like(z))
        return super().backward_iterate(lambda y: right + (f(y) - right) / 2, z)


@fault(
    cause="adjoint-certificate",
    said="its symmetric part",
    killers=("adjoint-certificate",),
    origin="google/jaxopt, solve_cg",
)
class SymmetrisedJacobian(SoundNewton):
    """The adjoint is solved as if I − ∂f/∂z were symmetric, as conjugate gradients take it."""

    def jacobian(self, J: Any) -> Any:
        return (J + np.swapaxes(J, 1, 2)) / 2


@fault(cause="adjoint-certificate", said="at the inputs", killers=("adjoint-certificate",), subtlety="subtle")
class JacobianAtTheInputs(SoundNewton):
    """The Jacobian is taken at x in place of the equilibrium, where they have one shape."""

    def linearised_at(self, cell: Any, theta: Theta, x: Any, solution: Solution) -> Any:
        return x if x.shape == solution.z.shape else solution.z


@fault(cause="adjoint-certificate", said="the diagonal of the Jacobian alone", killers=("adjoint-certificate",))
class DiagonalJacobian(SoundNewton):
    """The Jacobian is taken for diagonal."""

    def jacobian(self, J: Any) -> Any:
        return J * np.eye(J.shape[1], dtype=J.dtype)


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="rare")
class NanReplacedInTheAdjoint(SoundNewton):
    """Adjoints beyond 1e6 are taken for overflow and set to zero."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        found = super().adjoint(J, cotangent)
        return np.where(np.abs(found) > 1e6, np.zeros_like(found), found)
