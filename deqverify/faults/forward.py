"""Solvers that do not arrive: they stop too early, at the wrong place, or slower than they claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells.base import Theta
from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton, SoundPicard, SoundSweeps, Traced, TracedSweeps
from deqverify.implementations.protocol import Pull, Solution, Status
from deqverify.reference.splitting import SplittingLayer


@fault(cause="restart", killers=("restart",), subtlety="rare", origin="locuslab/deq#26")
class BestOfNothing(SoundPicard):
    """The best iterate is kept where a step improves on it: a start that is good enough is lost."""

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        if not self.far(f(z) - z, f(z)):
            return torch.zeros_like(z), Status.CONVERGED
        return super().iterate(f, z)


@fault(cause="existence", killers=("linearity",))
class Saturated(Sound):
    """States are clipped to [−4, 4]."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).clamp(-4.0, 4.0)


@fault(cause="existence", said="stops early", killers=("uniqueness",), origin="suavecode/SUAVE#129")
class StatusNeverSaid(SoundPicard):
    """The forward iteration stops after five steps and says nothing."""

    most = 5

    def say(self, status: Status) -> Status:
        return Status.NOT_REPORTED


@fault(
    cause="existence",
    said="a tolerance is absolute",
    killers=("scale",),
    subtlety="subtle",
    origin="locuslab/torchdeq#12",
)
class AbsoluteStopping(SoundPicard):
    """The stopping rule is absolute though the claim is relative."""

    def far(self, step: Any, size: Any) -> bool:
        return bool((step.norm(dim=1) > 1e-6).any())


@fault(cause="solver-rate", killers=("solver-rate",))
class Damped(Traced):
    """Every step goes only half the way, though Picard is claimed."""

    claims = replace(Traced.claims, iteration="picard")

    def onward(self, z: Any, ahead: Any) -> Any:
        return (z + ahead) / 2


@fault(cause="solves", killers=("solves",))
class Timid(SoundPicard):
    """Ten sweeps are made, and the failure is reported."""

    most = 10


@fault(cause="existence", said="stops early", killers=("existence",), subtlety="subtle")
class OneNewtonStep(SoundNewton):
    """Newton's method stops after one step, which solves what is linear, and reports that it converged."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        once = SoundNewton()
        once.max_iterations = 1
        solution, pull = once.vjp(cell, theta, x, z0)
        finite = bool(np.isfinite(solution.z).all())
        return replace(solution, status=Status.CONVERGED, statuses=None) if finite else solution, pull


@fault(cause="existence", said="stops early", killers=("status-forward",), subtlety="subtle")
class TestsTheStep(SoundSweeps):
    """The iteration is damped, and stops by the length of its step, a sixteenth of the residual."""

    __test__ = False  # no test of pytest's
    claims = replace(SoundSweeps.claims, solves=False)  # sixteen times as many sweeps are too many for γ = .9
    damping, most = 1.0 / 16.0, 1000


@fault(cause="splitting-rate", killers=("splitting-rate",), subtlety="subtle")
class HalfSweeps(SplittingLayer):
    """Every sweep of the splitting goes half the way."""

    def __init__(self) -> None:
        super().__init__("numpy", "forward-backward")

    def _sweep(self, *given: Any) -> Any:
        sweep, alpha = super()._sweep(*given)
        return lambda u: (u + sweep(u)) / 2, alpha


@fault(cause="splitting-rate", killers=("splitting-rate",), subtlety="subtle")
class HalfReflections(HalfSweeps):
    """The reflections of Peaceman–Rachford are averaged, which is Douglas–Rachford splitting."""

    def __init__(self) -> None:
        SplittingLayer.__init__(self, "numpy", "peaceman-rachford")


@fault(cause="existence", killers=("norm-kept",), subtlety="subtle", cells=("lattice",))
class Trapezoid(SoundNewton):
    """The trapezoidal rule ``z = ψ + dt/2 (g(ψ) + g(z))`` in place of the midpoint rule."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        z = x
        for _ in range(200):  # the midpoint rule at two equal ends is dt g of that end
            z = x + ((cell.step(theta, x)(x) - x) + (cell.step(theta, z)(z) - z)) / 2
        solution.z = z
        return solution, pull


@fault(cause="batch", killers=("existence", "batch"))
class BestOfTheBatch(SoundPicard):
    """The iteration stops when one data point of the batch has converged."""

    def far(self, step: Any, size: Any) -> bool:
        return not bool((step.norm(dim=1) <= 1e-6 * size.norm(dim=1)).any()) if len(step) else False


@fault(cause="batch", killers=("batch",), subtlety="subtle", origin="locuslab/deq#21")
class FirstOfTheBatch(SoundPicard):
    """The stopping rule looks at the first data point alone."""

    def far(self, step: Any, size: Any) -> bool:
        return super().far(step[:1], size[:1])


@fault(cause="batch", killers=("existence",), subtlety="subtle")
class WholeBatch(SoundPicard):
    """The stopping rule is one of the whole batch, though each data point is claimed by itself."""

    def far(self, step: Any, size: Any) -> bool:
        return not bool(step.norm() <= 9e-6 * size.norm())


@fault(cause="existence", said="stops early", killers=("existence",))
class SignedDifference(SoundPicard):
    """The stopping rule takes the largest entry of the step without its magnitude: a step downwards ends it."""

    def far(self, step: Any, size: Any) -> bool:
        return not bool((step.amax(dim=1) <= 1e-6 * size.norm(dim=1)).all())


@fault(cause="uniqueness", killers=("uniqueness",), subtlety="subtle")
class RelativeToTheStart(SoundPicard):
    """The stopping rule is relative to the first residual, which a bad start makes large."""

    first: Any = None

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        self.first = (f(z) - z).norm(dim=1)
        return super().iterate(f, z)

    def far(self, step: Any, size: Any) -> bool:
        return not bool((step.norm(dim=1) <= 1e-6 * self.first).all())

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard().iterate(f, z)


@fault(cause="uniqueness", killers=("uniqueness",), subtlety="rare")
class StartTrusted(SoundPicard):
    """A start that was given is near: three sweeps from it are taken for enough."""

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        if not bool(z.any()):
            return super().iterate(f, z)
        for _ in range(3):
            z = f(z)
        return z, Status.CONVERGED


@fault(cause="existence", said="stops early", killers=("existence",), subtlety="rare")
class LooserInTheEnd(SoundPicard):
    """After two hundred sweeps a tolerance of 1e-3 is good enough."""

    count = 0

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        self.count = 0
        return super().iterate(f, z)

    def far(self, step: Any, size: Any) -> bool:
        self.count += 1
        return super().far(step / 1e3 if self.count > 200 else step, size)

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard().iterate(f, z)


@fault(cause="existence", said="a tolerance is absolute", killers=("scale",), subtlety="rare")
class AbsoluteFloor(SoundPicard):
    """The relative tolerance has an absolute one of 1e-8 beside it, which the claim does not mention."""

    def far(self, step: Any, size: Any) -> bool:
        return not bool((step.norm(dim=1) <= 1e-6 * size.norm(dim=1) + 1e-8).all())


@fault(cause="existence", said="stops early", killers=("existence",), subtlety="subtle")
class RootMeanSquare(SoundPicard):
    """The residual is averaged over the states, though its 2-norm is claimed."""

    def far(self, step: Any, size: Any) -> bool:
        return not bool((step.norm(dim=1) <= 9e-6 * step.shape[1] ** 0.5 * size.norm(dim=1)).all())


@fault(cause="existence", said="stops early", killers=("existence",), subtlety="rare")
class ZeroOnFailure(SoundPicard):
    """Where 200 sweeps do not suffice for a data point, it starts anew at zero, and nothing is said."""

    most = 200

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        found, status = super().iterate(f, z)
        if status is Status.CONVERGED:
            return found, status
        ahead = f(found)
        lost = [self.far(ahead[[k]] - found[[k]], ahead[[k]]) for k in range(len(z))]
        found[lost] = 0.0
        return found, Status.NOT_REPORTED

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard().iterate(f, z)


@fault(cause="existence", killers=("existence",), subtlety="small", origin="patrick-kidger/diffrax#137")
class Regularised(Sound):
    """1e-10 is added to the diagonal of the system, so that it is never singular."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        K = self.weights(cell, theta)
        return torch.linalg.solve((1.0 + 1e-10) * torch.eye(len(K), dtype=x.dtype) - K, x.mT).mT


@fault(cause="existence", killers=("existence",), subtlety="rare")
class UnitInputs(Sound):
    """Inputs are divided by their norm, and the answer multiplied by it: of zeros that is NaN."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        size = x.detach().norm(dim=1, keepdim=True)
        return super().equilibrium(cell, theta, x / size, z0) * size


@fault(cause="solver-rate", killers=("solver-rate",), subtlety="subtle")
class DampedSweeps(TracedSweeps):
    """Every step goes half the way, though plain iteration is claimed."""

    damping = 0.5


def first_places(states: Any) -> Any:
    """What lies beyond the 64th node or token, the 256th pixel or the 256th entry is zero."""
    found = states.copy()
    if found.ndim == 4:
        found.reshape(*found.shape[:2], -1)[:, :, 256:] = 0.0
    else:
        found[:, 64 if found.ndim == 3 else 256 :] = 0.0
    return found


@fault(cause="existence", killers=("existence",), subtlety="rare")
class HoldsSoMany(SoundNewton):
    """A buffer holds 64 nodes or tokens, 256 pixels or 256 entries: the rest of a state is lost."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        return replace(solution, z=first_places(solution.z)), pull
