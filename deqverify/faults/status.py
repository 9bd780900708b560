"""What is said of an answer: its status, its cap, its trace."""

from __future__ import annotations

from typing import Any

import torch

from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundPicard, Traced
from deqverify.implementations.protocol import Solution, Status


@fault(cause="existence", said="stops early", killers=("status-forward", "status-cap"), origin="CoolProp/CoolProp#18")
class StatusAlwaysTrue(SoundPicard):
    """Whatever happened, the status is "converged"."""

    most = 20

    def say(self, status: Status) -> Status:
        return Status.CONVERGED


@fault(cause="status-nan", killers=("status-nan",), subtlety="rare", origin="KVSlab/turtleFSI#100")
class PassedByNan(SoundPicard):
    """The stopping rule is one that a NaN passes."""

    def far(self, step: Any, size: Any) -> bool:
        return bool((step.norm(dim=1) > 1e-6 * size.norm(dim=1)).any())


@fault(cause="status-nan", killers=("status-nan",), subtlety="rare")
class ReplacesNan(Sound):
    """NaN in the inputs is replaced by zero, and success is reported."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return Solution(super().equilibrium(cell, theta, torch.nan_to_num(x), z0), Status.CONVERGED)


@fault(cause="status-cap", killers=("status-cap",), subtlety="rare")
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


@fault(cause="status-cap", killers=("status-cap",), subtlety="rare")
class ZeroIsTheDefault(SoundPicard):
    """The cap is ``most or 2000``: a cap of 0 is none."""

    def limited(self, max_iterations: int) -> Any:
        capped = type(self)()
        capped.most = max_iterations or SoundPicard.most
        return capped


@fault(cause="trace", killers=("trace",), subtlety="subtle")
class TracedNowAndThen(Traced):
    """Every fifth residual is written down."""

    every = 5


@fault(cause="trace", killers=("trace",), subtlety="subtle")
class TracedWithoutTheBest(Traced):
    """The trace ends before the answer that is returned."""

    left_out = 3

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        solution = super().fixed_point(step, z0)
        solution.iterations = None
        return solution


@fault(cause="existence", said="stops early", killers=("status-cap",), subtlety="rare", origin="adda-team/adda#110")
class LastSweepIsSuccess(SoundPicard):
    """A solve that used its last sweep is called converged."""

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        found, _ = super().iterate(f, z)
        return found, Status.CONVERGED

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard.iterate(self, f, z)


@fault(cause="history", killers=("status-forward",), subtlety="subtle")
class StickyStatus(SoundPicard):
    """The status of the first solve is that of all later ones, and so is its number of sweeps."""

    most = 50
    first: Any = None

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        found, status = super().iterate(f, z)
        self.first = self.first or status
        return found, self.first

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard().iterate(f, z)


@fault(
    cause="adjoint-certificate",
    said="and says: the solver reports that it converged",
    killers=("status-backward",),
    subtlety="subtle",
)
class OnlyForwardIsReported(SoundPicard):
    """The adjoint stops after fifty sweeps, and its status is that of the forward pass."""

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        found, _ = SoundPicard.iterate(self.limited(50), f, z)
        return found, Status.CONVERGED


@fault(cause="status-nan", killers=("status-nan",), subtlety="rare", origin="SimVascular/svSolver#54")
class NanSkipped(SoundPicard):
    """The largest residual of the batch is taken over those that are numbers."""

    def far(self, step: Any, size: Any) -> bool:
        off = torch.nan_to_num(step.norm(dim=1) - 1e-6 * size.norm(dim=1), nan=-1.0)
        return bool((off > 0.0).any())


@fault(cause="trace", killers=("trace",), subtlety="subtle")
class TraceOfTheMean(Traced):
    """The trace holds the mean residual of the batch, not the largest."""

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        solution = super().fixed_point(step, z0)
        with torch.no_grad():
            assert solution.trace
            residual = (step(solution.z) - solution.z).norm(dim=1)
            solution.trace[-1] = float(residual.mean()) if len(z0) else 0.0
        return solution


@fault(cause="trace", killers=("trace",))
class IterationsMiscounted(Traced):
    """The number of iterations is that of the evaluations."""

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        solution = super().fixed_point(step, z0)
        solution.iterations = 2 * (solution.iterations or 0) + 2
        return solution
