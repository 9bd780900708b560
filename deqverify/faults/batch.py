"""Data points that are not answered one by one: what one is told depends on the others, or on how many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells.base import Theta
from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton
from deqverify.implementations.protocol import Pull, Solution


@fault(cause="existence", killers=("batch",), origin="locuslab/deq#21")
class Centred(Sound):
    """The inputs are centred over the batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x - x.mean(dim=0), z0)


@fault(cause="poisoned-point", killers=("poisoned-point",), origin="locuslab/deq#21")
class BatchScaled(Sound):
    """The inputs are scaled by a norm over the batch, and scaled back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        norm = x.norm().clamp_min(torch.finfo(x.dtype).tiny)
        return super().equilibrium(cell, theta, x / norm, z0) * norm


@fault(cause="answers", killers=("answers",))
class Raises(Sound):
    """A batch of more than two data points raises."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        if len(x) > 2:
            raise torch.linalg.LinAlgError("singular")
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="batch", killers=("existence", "batch"), subtlety="rare")
class DropsBeyondABuffer(Sound):
    """Data points beyond the 64th are not solved for."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return torch.cat([z[:64], x[64:]])


@fault(cause="existence", killers=("mass",), subtlety="rare")
class BlocksBeyond(Sound):
    """From ``most`` states on the weights are taken for block diagonal."""

    most = 128

    def weights(self, cell: Any, theta: Any) -> Any:
        K = cell.matrix(theta)
        block = torch.arange(len(K)) // self.most
        return K * (block[:, None] == block)


@fault(cause="existence", killers=("existence",), subtlety="rare")
class BlocksBeyond256(BlocksBeyond):
    """From 256 states on the weights are taken for block diagonal."""

    most = 256


class _Lost(torch.autograd.Function):
    """The identity, but the cotangent of what lies beyond the 64th data point is lost."""

    @staticmethod
    def forward(ctx: Any, z: Any) -> Any:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        return torch.cat([cotangent[:64], torch.zeros_like(cotangent[64:])])


@fault(cause="adjoint-certificate", killers=("adjoint-certificate", "energy", "dissipation"), subtlety="rare")
class GradientOfTheFirst64(Sound):
    """The gradient of data points beyond the 64th is lost."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return _Lost.apply(super().equilibrium(cell, theta, x, z0))


@fault(cause="answers", killers=("batch-of-one",), subtlety="rare", origin="NVIDIA/tacotron2#303")
class Squeezes(Sound):
    """Dimensions of one are squeezed away from the batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).squeeze(0)


@fault(cause="empty-batch", killers=("empty-batch",), subtlety="rare")
class MaximumOfNothing(Sound):
    """The largest input of the batch is looked at."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        _ = x.abs().max()
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="empty-batch", killers=("empty-batch",), subtlety="rare")
class MeanOfNothing(Sound):
    """The gradient in γ goes through a mean over the batch, NaN where there is none."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)

        def averaged(cotangent: Any) -> Any:
            found = pull(cotangent)
            found.theta["gamma"] = found.theta["gamma"] + 0.0 * cotangent.mean()
            return found

        return solution, averaged


@fault(cause="batch", killers=("batch",), subtlety="rare")
class RemainderDropped(Sound):
    """Batches are solved in chunks of four, and what is left over after the last whole chunk is not."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z, whole = super().equilibrium(cell, theta, x, z0), len(x) - len(x) % 4
        return torch.cat([z[:whole], x[whole:]]) if whole else z


@fault(cause="batch", killers=("batch",))
class Sorted(Sound):
    """Data points are sorted by their size, and not put back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z[torch.argsort(x.detach().norm(dim=1))]


@fault(cause="batch", killers=("batch",))
class FirstForAll(Sound):
    """The first data point is solved and stands for all."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z[:1].expand_as(z) + 0 * z


@fault(cause="answers", killers=("batch-of-one",), subtlety="rare")
class AloneIsAState(Sound):
    """A batch of one is taken for one data point without a batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z[0] if len(z) == 1 else z


@fault(cause="batch", killers=("existence",), subtlety="rare")
class EqualPointsMerged(Sound):
    """Data points with the same first feature are taken for equal."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        first = [int((x[:, 0] == value).nonzero()[0, 0]) for value in x[:, 0]] if bool((x == x).all()) else []
        return z[first] if first else z


@fault(cause="existence", killers=("existence",), subtlety="rare")
class ZeroInputsSkipped(Sound):
    """Data points that begin with a zero are taken for padding, and answered by zero."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return torch.where((x[:, :1] == 0.0), torch.zeros_like(z), z)


@fault(cause="batch", killers=("batch",), subtlety="rare")
class AloneBeyond(SoundNewton):
    """A batch of states larger than 64 is solved for its first data point, and that is repeated."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)
        if solution.z[:1].size <= 64:
            return solution, pull
        return replace(solution, z=np.broadcast_to(solution.z[:1], solution.z.shape).copy()), pull
