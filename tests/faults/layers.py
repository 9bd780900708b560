"""Implementations broken in one way each, on purpose, and the sound ones that they are made from.

Each class changes one line of a sound layer; its docstring is the fault.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deqverify import Accuracy, Claims
from deqverify.cells import Parts
from deqverify.implementations.protocol import Cotangents, Solution, Status
from deqverify.implementations.torch_base import TorchLayer
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm


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


class SoundPicard(TorchLayer):
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
            z = ahead
        return z, Status.CAPPED

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return self.iterate(f, z)

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

            def adjoint_step(y: Any) -> Any:
                return torch.autograd.grad(image, state, y, retain_graph=True)[0] + cotangent

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

    def limited(self, max_iterations: int) -> SoundPicard:
        twin = type(self)()
        twin.most = max_iterations
        return twin


class RowSoftmax(Sound):
    """The softmax is taken along rows."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * torch.softmax(theta["A"], dim=1)


class GammaTwice(Sound):
    """γ is applied twice."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * cell.matrix(theta)


class WrongSign(Sound):
    """The recurrent part enters with the wrong sign."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return -cell.matrix(theta)


class Masked(Sound):
    """A causal mask is left on the weights."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta).tril()


class BestOfNothing(SoundPicard):
    """The best iterate is kept where a step improves on it: a start that is good enough is lost."""

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        if not self.far(f(z) - z, f(z)):
            return torch.zeros_like(z), Status.CONVERGED
        return super().iterate(f, z)


class ReplacesNan(Sound):
    """NaN in the inputs is replaced by zero, and success is reported."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return Solution(super().equilibrium(cell, theta, torch.nan_to_num(x), z0), Status.CONVERGED)


class ZeroIsNoCap(SoundPicard):
    """A cap of 0 gives the start, called converged; other caps are kept."""

    def limited(self, max_iterations: int) -> Any:
        capped = type(self)()
        capped.most = max_iterations
        return capped

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return super().iterate(f, z) if self.most else (z, Status.CONVERGED)

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard.iterate(self, f, z)


class ClippedLogits(Sound):
    """Logits beyond ±16 are clipped, which no column needs whose largest is subtracted."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * cell.softmax(theta["A"].clamp(-16.0, 16.0))


class Unnormalised(Sound):
    """The weights are exponentials without their sum, kept below one another way."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * torch.sigmoid(theta["A"]) / len(theta["A"])


class Centred(Sound):
    """The inputs are centred over the batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x - x.mean(dim=0), z0)


class Saturated(Sound):
    """States are clipped to [−4, 4]."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).clamp(-4.0, 4.0)


class BatchScaled(Sound):
    """The inputs are scaled by a norm over the batch, and scaled back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        norm = x.norm().clamp_min(torch.finfo(x.dtype).tiny)
        return super().equilibrium(cell, theta, x / norm, z0) * norm


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


class MissingTranspose(Sound):
    """The adjoint equation is solved with U instead of its transpose."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return _Untransposed.apply(torch.eye(x.shape[1], dtype=x.dtype) - self.weights(cell, theta), x.mT).mT


class OneStepGradient(Sound):
    """The gradient is that of one step at the equilibrium (the phantom gradient)."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return cell.step(theta, x)(super().equilibrium(cell, theta, x, z0).detach())


class DetachedWeights(Sound):
    """The block ∂L/∂A is missing: A is detached."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta | {"A": theta["A"].detach()})


class MeanForSum:
    """The loss is averaged over data points instead of summed."""

    name = "mean for sum"
    claims = Claims(cells=("linear-softmax",))

    def factor(self, problem: SoftmaxProblem) -> float:
        return 1.0 / problem.n

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact, factor = ClosedForm(problem), self.factor(problem)
        return factor * exact.loss, {block: factor * g for block, g in exact.block_gradient.items()}


class WrongDirection(MeanForSum):
    """The gradient has the wrong sign."""

    def factor(self, problem: SoftmaxProblem) -> float:
        return -1.0


class Vanishing(MeanForSum):
    """The gradient is lost on the way."""

    def factor(self, problem: SoftmaxProblem) -> float:
        return 0.0


class Penalised(MeanForSum):
    """The value holds a penalty that the gradient does not know of."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact = ClosedForm(problem)
        return exact.loss + 0.1 * float((problem.B**2).sum()), exact.block_gradient


class Decayed(MeanForSum):
    """The gradient holds a weight decay that the value does not know of."""

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact = ClosedForm(problem)
        return exact.loss, exact.block_gradient | {"B": exact.gradient["B"] + 0.1 * problem.B}


class AdjointStoppedEarly(SoundPicard):
    """The adjoint iteration stops after 50 steps and says nothing."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        for _ in range(50):
            z = f(z)
        return z, Status.NOT_REPORTED


class StatusAlwaysTrue(SoundPicard):
    """Whatever happened, the status is "converged"."""

    most = 20

    def say(self, status: Status) -> Status:
        return Status.CONVERGED


class StatusNeverSaid(SoundPicard):
    """The forward iteration stops after five steps and says nothing."""

    most = 5

    def say(self, status: Status) -> Status:
        return Status.NOT_REPORTED


class AbsoluteStopping(SoundPicard):
    """The stopping rule is absolute though the claim is relative."""

    def far(self, step: Any, size: Any) -> bool:
        return bool((step.norm(dim=1) > 1e-6).any())


class PassedByNan(SoundPicard):
    """The stopping rule is one that a NaN passes."""

    def far(self, step: Any, size: Any) -> bool:
        return bool((step.norm(dim=1) > 1e-6 * size.norm(dim=1)).any())


class ClippedCotangent(Sound):
    """The cotangent is clipped to [−1, 1] on its way back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        z.register_hook(lambda cotangent: cotangent.clamp(-1.0, 1.0))
        return z


class ForgetfulPull(Sound):
    """Only the first pull is right; later ones are halved."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        calls: list[int] = []

        def tired(cotangent: Any) -> Cotangents:
            calls.append(1)
            return pull(cotangent if len(calls) == 1 else 0.5 * cotangent)

        return solution, tired


class Raises(Sound):
    """A batch of more than two data points raises."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        if len(x) > 2:
            raise torch.linalg.LinAlgError("singular")
        return super().equilibrium(cell, theta, x, z0)


class Overwrites(Sound):
    """The input is overwritten."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        x.data.mul_(2.0)
        return z


class Promotes(Sound):
    """float32 comes back as float64."""

    claims = replace(Sound.claims, dtypes=("float32",))

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).double()


class RandomStart(Sound):
    """A start is drawn from the global generator."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.rand(1)
        return super().equilibrium(cell, theta, x, z0)


class DetachedAdjoint(SoundPicard):
    """The gradient looks differentiable, but its adjoint is a constant."""

    def heed_second_order(self) -> None:
        pass


class UnrolledFromStart(Sound):
    """Twenty steps are unrolled from the start, which is not detached."""

    claims = Claims(cells=("linear-softmax",))

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        step, z = cell.step(theta, x), torch.zeros_like(x) if z0 is None else z0
        for _ in range(20):
            z = step(z)
        return z


class UntransposedTangent(Sound):
    """The derivative along a tangent is solved with the transpose of U."""

    def jvp(self, cell: Any, theta: Any, x: Any, tangent: Any) -> Any:
        U = torch.eye(x.shape[1], dtype=x.dtype) - cell.matrix(theta)
        z = torch.linalg.solve(U, x.mT).mT
        dz = torch.linalg.solve(U.mT, cell.push(theta, x, z, Parts(*tangent, torch.zeros_like(z))).mT).mT
        return Solution(z), dz


class Damped(SoundPicard):
    """Every step goes only half the way, though Picard is claimed."""

    claims = Claims(Accuracy(1e-5), Accuracy(1e-5), iteration="picard")

    def traced(self) -> Damped:
        return self

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        trace, z = [], z0.detach()
        with torch.no_grad():
            for _ in range(20):
                trace.append(float((step(z) - z).abs().sum(dim=1).max()))
                z = (z + step(z)) / 2
        solution = super().fixed_point(step, z0)
        solution.trace = trace
        return solution


class Timid(SoundPicard):
    """Ten sweeps are made, and the failure is reported."""

    most = 10


class ZeroIsTheDefault(SoundPicard):
    """The cap is ``most or 2000``: a cap of 0 is none."""

    def limited(self, max_iterations: int) -> Any:
        capped = type(self)()
        capped.most = max_iterations or SoundPicard.most
        return capped


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
                z = step(z)
                trace.append(residual(z))
            trace.append(residual(solution.z))
        solution.iterations = len(trace) - 1
        solution.trace = trace[:: self.every][: len(trace) - self.left_out]
        return solution


class TracedNowAndThen(Traced):
    """Every fifth residual is written down."""

    every = 5


class TracedWithoutTheBest(Traced):
    """The trace ends before the answer that is returned."""

    left_out = 3

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        solution = super().fixed_point(step, z0)
        solution.iterations = None
        return solution


class DropsBeyondABuffer(Sound):
    """Data points beyond the 64th are not solved for."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return torch.cat([z[:64], x[64:]])


class BlocksBeyond(Sound):
    """From ``most`` states on the weights are taken for block diagonal."""

    most = 128

    def weights(self, cell: Any, theta: Any) -> Any:
        K = cell.matrix(theta)
        block = torch.arange(len(K)) // self.most
        return K * (block[:, None] == block)


class BlocksBeyond256(BlocksBeyond):
    """From 256 states on the weights are taken for block diagonal."""

    most = 256


class _OneStep(torch.autograd.Function):
    """The identity, but the cotangent of what lies beyond the 64th data point is lost."""

    @staticmethod
    def forward(ctx: Any, z: Any) -> Any:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        return torch.cat([cotangent[:64], torch.zeros_like(cotangent[64:])])


class GradientOfTheFirst64(Sound):
    """The gradient of data points beyond the 64th is lost."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return _OneStep.apply(super().equilibrium(cell, theta, x, z0))
