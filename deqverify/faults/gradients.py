"""Gradients that are lost, scaled or mixed up on their way from the adjoint to the parameters and the inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells import cells
from deqverify.cells.base import Parts, Theta
from deqverify.claims import Claims
from deqverify.faults.forward import first_places
from deqverify.faults.registry import fault
from deqverify.faults.sound import CONTRACTING, Sound, SoundNewton, SoundPicard, SoundSweeps, TwiceNewton
from deqverify.implementations.protocol import Cotangents, Solution
from deqverify.implementations.torch_base import TorchLayer
from deqverify.reference.newton import newton_correction
from deqverify.reference.torch_direct import TorchDirect
from deqverify.reference.torch_quantised import StraightThrough


class Pulled(Sound):
    """The sound layer, its pull changed."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        return solution, lambda cotangent: self.changed(pull, cotangent)

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        """What the changed pull gives."""
        raise NotImplementedError


@fault(
    cause="adjoint-certificate", said="gives -1 times the gradient", killers=("adjoint-certificate", "unhinged-flow")
)
class WrongSignOfTheAdjoint(Pulled):
    """The gradient has the wrong sign."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        return pull(-cotangent)


@fault(
    cause="adjoint-certificate",
    said="the mean of the cotangents",
    killers=("adjoint-certificate",),
    origin="pytorch/pytorch#65244",
)
class CotangentBroadcast(Pulled):
    """One cotangent, the mean over the batch, is used for every data point."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        return pull(cotangent.mean(dim=0, keepdim=True).expand_as(cotangent).contiguous())


@fault(cause="adjoint-certificate", said="whatever the cotangent is", killers=("adjoint-certificate",))
class CotangentOfOnes(Pulled):
    """The cotangent is taken for ones, as where the loss is the sum."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        return pull(torch.ones_like(cotangent))


@fault(cause="adjoint-certificate", said="the number of states", killers=("adjoint-certificate",))
class WeightedInnerProduct(Pulled):
    """The inner product of the adjoint is a mean over the states, that of the loss is a sum."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        return pull(cotangent / cotangent.shape[1])


@fault(cause="gradient-theta", said="2 times the gradient in gamma", killers=("gradient-theta",), subtlety="subtle")
class GammaTwiceInTheGradient(Pulled):
    """γ's gradient is added twice."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        found = pull(cotangent)
        found.theta["gamma"] = 2 * found.theta["gamma"]
        return found


@fault(cause="gradient-theta", said="no gradient in gamma", killers=("gradient-theta",), subtlety="subtle")
class GammaDetached(Sound):
    """γ is read as a number: no gradient reaches it."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta | {"gamma": theta["gamma"].detach()})


@fault(
    cause="gradient-theta",
    said="as a mean over the data points",
    killers=("gradient-theta",),
    origin="NovaSky-AI/SkyRL#465",
)
class MeanOverTheBatch(Pulled):
    """The gradient in the parameters is averaged over the batch instead of summed."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        found = pull(cotangent)
        found.theta = {name: value / max(1, len(cotangent)) for name, value in found.theta.items()}
        return found


@fault(cause="gradient-theta", said="of the first data point alone", killers=("gradient-theta",))
class FirstDataPointOnly(Sound):
    """The gradient in the parameters is that of the first data point."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        _, first = super().vjp(cell, theta, x[:1], None)
        return solution, lambda cotangent: replace(pull(cotangent), theta=first(cotangent[:1]).theta)


@fault(cause="gradient-x", killers=("gradient-x",), subtlety="subtle", cells=("tanh", "relu"))
class InputOfOneStep(SoundNewton):
    """The gradient in x is that of one step, though that in θ is the equilibrium's: x enters f in other ways too."""

    def adjoint_of(self, cell: Any, theta: Theta, x: Any, z: Any, cotangent: Any) -> Any:
        self.cotangent = cotangent
        return super().adjoint_of(cell, theta, x, z, cotangent)

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        found = super().gradient(cell, theta, x, z, adjoint)
        return found if cell.additive or not z.size else found._replace(x=cell.pull(theta, x, z, self.cotangent).x)


@fault(cause="gradient-theta", killers=("gradient-theta",), subtlety="small")
class GradientInBfloat16(Pulled):
    """The gradient in A is rounded to bfloat16."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        found = pull(cotangent)
        found.theta["A"] = found.theta["A"].to(torch.bfloat16).to(cotangent.dtype)
        return found


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="small")
class AdjointInFloat32(SoundNewton):
    """The adjoint is solved in float32, whatever the dtype."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        found = super().adjoint(J.astype(np.float32), cotangent.astype(np.float32))
        return found.astype(cotangent.dtype)


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="small")
class CotangentScaled(Pulled):
    """The cotangent is scaled for a mixed-precision loss and scaled back by a number that is off by 1e-5."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        return pull(cotangent * (1.0 + 1e-5))


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="rare")
class SmallCotangentsDropped(Pulled):
    """Entries of the cotangent below 1e-8 are taken for zero."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        return pull(torch.where(cotangent.abs() < 1e-8, torch.zeros_like(cotangent), cotangent))


@fault(cause="gradient-theta", killers=("gradient-theta",), subtlety="subtle", origin="deepinv/deepinv#1145")
class LastLayerOfTheSoftmax(Pulled):
    """The gradient in A leaves out that the columns of the softmax add up to one."""

    def changed(self, pull: Any, cotangent: Any) -> Cotangents:
        found = pull(cotangent)
        A = found.theta["A"]
        found.theta["A"] = A - A.mean() + A.abs().amax() / 8
        return found


@fault(cause="second-order", killers=("second-order",), subtlety="subtle")
class OneRecordedStep(TwiceNewton):
    """One of Newton's steps is recorded by autograd, not two: what the Jacobian's own derivative in z adds is lost."""

    claims = replace(TwiceNewton.claims, cells=tuple(name for name in cells() if name != "linear-softmax"))

    def equilibrium(self, cell: Any, theta: Theta, x: Any, z0: Any) -> Solution:
        with torch.no_grad():
            solution = super().equilibrium(cell, theta, x, z0)
        return replace(solution, z=solution.z + newton_correction(cell, theta, x, solution.z))


@fault(cause="second-order", killers=("second-order",), subtlety="subtle")
class AdjointHeld(SoundSweeps):
    """The gradient looks differentiable, but its adjoint is a constant."""

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        with torch.no_grad():
            z, status = self.iterate(step, z0)
        answer, state = step(z), z.detach().requires_grad_()
        if answer.requires_grad:
            image = step(state)

            def solve_adjoint(cotangent: Any) -> Any:
                if cotangent is None:  # as autograd writes zero
                    return None
                with torch.enable_grad():
                    pulled = lambda y: torch.autograd.grad(image, state, y, retain_graph=True)[0]  # noqa: E731
                    return self.iterate(lambda y: pulled(y) + cotangent, torch.zeros_like(cotangent))[0].detach()

            answer.register_hook(solve_adjoint)
        return Solution(answer, status)


@fault(cause="existence", said="stops early", killers=("start-gradient",))
class UnrolledSweeps(TorchLayer):
    """Twelve steps are unrolled from a start that is not detached, and called exact."""

    name, claims = "unrolled sweeps", Claims(cells=CONTRACTING)

    def fixed_point(self, step: Any, z0: Any) -> Any:
        for _ in range(12):
            z0 = step(z0)
        return z0


@fault(cause="adjoint-certificate", killers=("adjoint-certificate",), subtlety="rare")
class AdjointOfSoMany(SoundNewton):
    """The adjoint beyond 64 nodes or tokens, 256 pixels or 256 entries is lost."""

    def adjoint(self, J: Any, cotangent: Any) -> Any:
        shape = self.shape or cotangent.shape
        return first_places(super().adjoint(J, cotangent).reshape(shape)).reshape(cotangent.shape)

    shape: Any = None

    def flat(self, cotangent: Any) -> Any:
        self.shape = cotangent.shape
        return super().flat(cotangent)


@fault(cause="gradient-x", said="x", killers=("shift-gradient",), subtlety="subtle", cells=("conv",))
class PaddedGradient(SoundNewton):
    """No gradient reaches the first row of an image, as with padding."""

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        found = super().gradient(cell, theta, x, z, adjoint)
        return found._replace(x=np.concatenate([0 * found.x[:, :, :1], found.x[:, :, 1:]], axis=2))


@fault(
    cause="gradient-x",
    said="x",
    killers=("node-order-gradient", "token-order-gradient"),
    subtlety="subtle",
    cells=("attention", "graph"),
)
class CausalGradient(SoundNewton):
    """The gradient of the first token, or node, is lost."""

    def gradient(self, cell: Any, theta: Theta, x: Any, z: Any, adjoint: Any) -> Parts:
        found = super().gradient(cell, theta, x, z, adjoint)
        return found._replace(x=np.concatenate([0 * found.x[:, :1], found.x[:, 1:]], axis=1))


class EightBits(StraightThrough):
    """The layer with weights of eight bits that is trained straight through, to be given another pull."""

    def __init__(self) -> None:
        super().__init__(8)


@fault(cause="straight-through", killers=("straight-through",), subtlety="subtle")
class GradientAtTheRealWeights(EightBits):
    """The gradient is taken at the real weights, though the equilibrium is that of the quantised ones."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, _ = super().vjp(cell, theta, x, z0)
        return solution, TorchDirect().vjp(cell, theta, x)[1]


@fault(cause="gradient-theta", said="A", killers=("gradient-theta", "straight-through"), subtlety="subtle")
class NoGradientBeyondOne(EightBits):
    """No gradient goes straight through to weights beyond ±1, as where weights are binary."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)

        def clipped(cotangent: Any) -> Cotangents:
            found = pull(cotangent)
            found.theta["A"] = torch.where(theta["A"].abs() > 1, 0.0, found.theta["A"])
            return found

        return solution, clipped


@fault(cause="frozen", killers=("frozen",), subtlety="rare")
class OneStepForData(Sound):
    """Where no gradient is wanted in the inputs, that in the weights is the one of one step."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z if x.requires_grad else cell.step(theta, x)(z.detach())


@fault(cause="pull-from-start", killers=("pull-from-start",), subtlety="subtle")
class InputsLostFromAStart(SoundPicard):
    """Where a start is given no gradient reaches the inputs: it was meant for starts that are states of the inputs."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x if z0 is None else x.detach(), z0)
