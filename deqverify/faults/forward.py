"""Solvers that do not arrive: they stop too early, at the wrong place, or slower than they claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells.base import Theta
from deqverify.claims import Accuracy, Claims
from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton, SoundPicard, SoundSweeps
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


@fault(cause="existence", said="stops early", killers=("scale",), subtlety="subtle", origin="locuslab/torchdeq#12")
class AbsoluteStopping(SoundPicard):
    """The stopping rule is absolute though the claim is relative."""

    def far(self, step: Any, size: Any) -> bool:
        return bool((step.norm(dim=1) > 1e-6).any())


@fault(cause="solver-rate", killers=("solver-rate",))
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


@fault(cause="existence", killers=("norm-kept",), subtlety="subtle")
class Trapezoid(SoundNewton):
    """The trapezoidal rule ``z = ψ + dt/2 (g(ψ) + g(z))`` in place of the midpoint rule."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        z = x
        for _ in range(200):  # the midpoint rule at two equal ends is dt g of that end
            z = x + ((cell.step(theta, x)(x) - x) + (cell.step(theta, z)(z) - z)) / 2
        solution.z = z
        return solution, pull
