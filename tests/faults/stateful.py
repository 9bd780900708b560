"""Faults of behaviour: layers that remember, or that mind modes, copies, threads, memory and the size of the batch.

As in :mod:`tests.faults.layers`, each class breaks a sound layer in one way, and its docstring is the fault.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from deqverify.implementations.protocol import Solution, Status
from tests.faults.layers import Sound, SoundPicard


class CachedByShape(Sound):
    """The inverse is kept, and found again by its shape alone."""

    def __init__(self) -> None:
        self.kept: dict[int, torch.Tensor] = {}

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        size = x.shape[1]
        if size not in self.kept:
            self.kept[size] = torch.linalg.inv(torch.eye(size, dtype=x.dtype) - self.weights(cell, theta)).detach()
        return x @ self.kept[size].mT


class CachedByIdentity(Sound):
    """The inverse is kept as long as A is the same object, whatever is in it."""

    def __init__(self) -> None:
        self.seen: Any = None
        self.inverse: Any = None

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        if self.seen is not theta["A"]:
            U = torch.eye(x.shape[1], dtype=x.dtype) - self.weights(cell, theta)
            self.seen, self.inverse = theta["A"], torch.linalg.inv(U)
        return super().vjp(cell, theta, x, z0)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return x @ self.inverse.mT


class WarmStart(SoundPicard):
    """From the second call on, five sweeps from the last equilibrium are taken for enough."""

    last: Any = None

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        if self.last is not None and self.last.shape == z.shape:
            found = self.last
            for _ in range(5):
                found = f(found)
            status = Status.NOT_REPORTED
        else:
            found, status = super().iterate(f, z)
        self.last = found
        return found, status

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard.iterate(self, f, z)


class ShapeIsFixed(Sound):
    """The first batch fixes the shape, and any other raises."""

    shape: Any = None

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        self.shape = self.shape or x.shape
        if x.shape != self.shape:
            raise RuntimeError(f"expected {tuple(self.shape)}")
        return super().equilibrium(cell, theta, x, z0)


class OutputBuffer(Sound):
    """The output is written into a buffer that the next call of that shape writes into as well."""

    def __init__(self) -> None:
        self.buffers: dict[Any, torch.Tensor] = {}

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        solution.z = self.buffers.setdefault(x.shape, torch.empty_like(x)).copy_(solution.z)
        return solution, pull


class PullInTheLayer(Sound):
    """The layer keeps the graph of its last call, and every pull goes through that one."""

    pull: Any = None

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, self.pull = super().vjp(cell, theta, x, z0)
        return solution, lambda cotangent: self.pull(cotangent)

    def __deepcopy__(self, memo: Any) -> PullInTheLayer:
        return type(self)()


class CoarseWithoutGradient(Sound):
    """Where no gradient is recorded, one step is taken for the equilibrium."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        if not torch.is_grad_enabled():
            return cell.step(theta, x)(x)
        return super().equilibrium(cell, theta, x, z0)


class HookWithoutGraph(Sound):
    """A hook is registered whether or not there is a graph."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        z.register_hook(lambda cotangent: cotangent)
        return z


class DropoutInside(Sound):
    """In training mode the first state is dropped."""

    training = True

    def mode(self, training: bool) -> DropoutInside:
        self.training = training
        return self

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z * (torch.arange(z.shape[1]) > 0) if self.training else z


class ModeOnce(Sound):
    """Once in evaluation mode, the layer makes one step, in training mode too."""

    evaluated = False

    def mode(self, training: bool) -> ModeOnce:
        self.evaluated = self.evaluated or training  # the first way back breaks it
        return self

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return cell.step(theta, x)(x) if self.evaluated else super().equilibrium(cell, theta, x, z0)


class CopyForgets(SoundPicard):
    """A deep copy makes three sweeps and says nothing."""

    def __deepcopy__(self, memo: Any) -> Hasty:
        return Hasty()


class CopyShares(WarmStart):
    """A deep copy is the original."""

    def __deepcopy__(self, memo: Any) -> CopyShares:
        return self


class PickleForgets(SoundPicard):
    """What comes out of a pickle makes three sweeps and says nothing."""

    def __reduce__(self) -> Any:
        return Hasty, ()


class Hasty(SoundPicard):
    """Three sweeps are made, and nothing is said."""

    most = 3

    def say(self, status: Status) -> Status:
        return Status.NOT_REPORTED


class SharedByThreads(Sound):
    """Inputs lie in the layer while it works."""

    work: Any = None

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        self.work = x
        time.sleep(0.001)  # long enough for the other thread to come by
        return super().equilibrium(cell, theta, self.work, z0)

    def __deepcopy__(self, memo: Any) -> SharedByThreads:
        return type(self)()


class Views(Sound):
    """Inputs are flattened by ``view``, which needs them contiguous."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x.view(-1).view(x.shape), z0)


class AssumesRows(Sound):
    """The memory of A is read row by row, whatever its strides."""

    def weights(self, cell: Any, theta: Any) -> Any:
        A = theta["A"]
        rows = A.as_strided(A.shape, (A.shape[1], 1)) if A.stride() == (1, len(A)) else A
        return cell.matrix(theta | {"A": rows})


class Squeezes(Sound):
    """Dimensions of one are squeezed away from the batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).squeeze(0)


class MaximumOfNothing(Sound):
    """The largest input of the batch is looked at."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        _ = x.abs().max()
        return super().equilibrium(cell, theta, x, z0)


class MeanOfNothing(Sound):
    """The gradient in γ goes through a mean over the batch, NaN where there is none."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)

        def averaged(cotangent: Any) -> Any:
            found = pull(cotangent)
            found.theta["gamma"] = found.theta["gamma"] + 0.0 * cotangent.mean()
            return found

        return solution, averaged


class SetsThreads(Sound):
    """The number of threads is set and not put back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().equilibrium(cell, theta, x, z0)


class LeavesGradientOff(Sound):
    """Gradients are switched off and stay off after an empty batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        if not len(x):
            torch.set_grad_enabled(False)
        return z


class SilencesErrors(Sound):
    """NumPy's floating-point errors are silenced and stay silent."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        np.seterr(all="ignore")
        return super().equilibrium(cell, theta, x, z0)


class FlushesToZero(Sound):
    """Subnormal numbers are flushed to zero, for speed, and stay flushed."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.set_flush_denormal(True)
        return super().equilibrium(cell, theta, x, z0)


class Wanders(SoundPicard):
    """The start is drawn anew at each call, from a generator of its own; what is claimed is kept."""

    def __init__(self) -> None:
        self.draws = np.random.default_rng(0)

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        start = torch.as_tensor(self.draws.standard_normal(tuple(z.shape)), dtype=z.dtype) * f(z).norm()
        return super().iterate(f, z + start)
