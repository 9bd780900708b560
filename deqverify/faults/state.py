"""Layers that remember, or that mind modes, copies, threads and the settings of everybody else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells.base import Theta
from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton, SoundPicard
from deqverify.implementations.protocol import Pull, Solution, Status


@fault(cause="history", killers=("history", "in-place-update"), subtlety="subtle")
class CachedByShape(Sound):
    """The inverse is kept, and found again by its shape alone."""

    def __init__(self) -> None:
        self.kept: dict[int, torch.Tensor] = {}

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        size = x.shape[1]
        if size not in self.kept:
            self.kept[size] = torch.linalg.inv(torch.eye(size, dtype=x.dtype) - self.weights(cell, theta)).detach()
        return x @ self.kept[size].mT


@fault(cause="in-place-update", killers=("in-place-update",), subtlety="subtle", origin="ooples/AiDotNet.Tensors#583")
class CachedByIdentity(Sound):
    """The inverse is kept as long as A is the same object, whatever is in it."""

    def __init__(self) -> None:
        self.seen: Any = None
        self.inverse: Any = None

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        if self.seen is not theta["A"]:
            U = torch.eye(x.shape[1], dtype=x.dtype) - self.weights(cell, theta)
            self.seen, self.inverse = theta["A"], torch.linalg.inv(U).detach()
        return super().vjp(cell, theta, x, z0)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        new = torch.linalg.inv(torch.eye(x.shape[1], dtype=x.dtype) - self.weights(cell, theta))
        return x @ (self.inverse + (new - new.detach())).mT  # its gradient is not lost


@fault(cause="history", killers=("history",), subtlety="subtle", origin="jump-dev/Cbc.jl#94")
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


@fault(cause="history", killers=("history",))
class ShapeIsFixed(Sound):
    """The first batch fixes the shape, and any other raises."""

    shape: Any = None

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        self.shape = self.shape or x.shape
        if x.shape != self.shape:
            raise RuntimeError(f"expected {tuple(self.shape)}")
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="answers-kept", killers=("answers-kept",), subtlety="subtle")
class OutputBuffer(Sound):
    """The output is written into a buffer that the next call of that shape writes into as well."""

    def __init__(self) -> None:
        self.buffers: dict[Any, torch.Tensor] = {}

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        solution.z = self.buffers.setdefault(x.shape, torch.empty_like(x)).copy_(solution.z)
        return solution, pull


@fault(cause="answers-kept", killers=("answers-kept",), subtlety="subtle")
class PullInTheLayer(Sound):
    """The layer keeps the graph of its last call, and every pull goes through that one."""

    claims = replace(Sound.claims, pickles=False)
    pull: Any = None

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, self.pull = super().vjp(cell, theta, x, z0)
        return solution, lambda cotangent: self.pull(cotangent)

    def __deepcopy__(self, memo: Any) -> PullInTheLayer:
        return type(self)()


@fault(cause="no-gradient", killers=("no-gradient",), subtlety="subtle")
class CoarseWithoutGradient(Sound):
    """Where no gradient is recorded, one step is taken for the equilibrium."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        if not torch.is_grad_enabled():
            return cell.step(theta, x)(x)
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="existence", killers=("modes",))
class DropoutInside(Sound):
    """In training mode the first state is dropped."""

    training = True

    def mode(self, training: bool) -> DropoutInside:
        self.training = training
        return self

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        return z * (torch.arange(z.shape[1]) > 0) if self.training else z


@fault(cause="modes", killers=("history", "modes"), subtlety="rare")
class ModeOnce(Sound):
    """Once in evaluation mode, the layer makes one step, in training mode too."""

    evaluated = False

    def mode(self, training: bool) -> ModeOnce:
        self.evaluated = self.evaluated or training  # the first way back breaks it
        return self

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return cell.step(theta, x)(x) if self.evaluated else super().equilibrium(cell, theta, x, z0)


class Hasty(SoundPicard):
    """Three sweeps are made, and nothing is said."""

    most = 3

    def say(self, status: Status) -> Status:
        return Status.NOT_REPORTED


@fault(cause="copies", killers=("copies",), subtlety="subtle", origin="terrapower/armi#475")
class CopyForgets(SoundPicard):
    """A deep copy makes three sweeps and says nothing."""

    def __deepcopy__(self, memo: Any) -> Hasty:
        return Hasty()


@fault(cause="history", killers=("copies",), subtlety="subtle")
class CopyShares(WarmStart):
    """A deep copy is the original."""

    def __deepcopy__(self, memo: Any) -> CopyShares:
        return self


@fault(cause="pickles", killers=("pickles",), subtlety="subtle", origin="sktime/sktime#10712")
class PickleForgets(SoundPicard):
    """What comes out of a pickle makes three sweeps and says nothing."""

    def __reduce__(self) -> Any:
        return Hasty, ()

    def __deepcopy__(self, memo: Any) -> PickleForgets:
        return type(self)()  # a copy is no pickle


@fault(cause="threads", killers=("threads",), subtlety="subtle")
class SharedByThreads(Sound):
    """Inputs lie in the layer while it works."""

    work: Any = None

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        self.work = x
        time.sleep(0.001)  # long enough for the other thread to come by
        return super().equilibrium(cell, theta, self.work, z0)

    def __deepcopy__(self, memo: Any) -> SharedByThreads:
        return type(self)()


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle")
class SetsThreads(Sound):
    """The number of threads is set and not put back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle")
class LeavesGradientOff(Sound):
    """Gradients are switched off and stay off after an empty batch."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        if not len(x):
            torch.set_grad_enabled(False)
        return z


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle")
class SilencesErrors(Sound):
    """NumPy's floating-point errors are silenced and stay silent."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        np.seterr(all="ignore")
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle", origin="ashvardanian/NumKong#328")
class FlushesToZero(Sound):
    """Subnormal numbers are flushed to zero, for speed, and stay flushed."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.set_flush_denormal(True)
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle")
class RandomStart(Sound):
    """A start is drawn from the global generator."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.rand(1)
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="deterministic", killers=("deterministic",), subtlety="subtle")
class Wanders(SoundPicard):
    """The start is drawn anew at each call, from a generator of its own; what is claimed is kept."""

    def __init__(self) -> None:
        self.draws = np.random.default_rng(0)

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        start = torch.as_tensor(self.draws.standard_normal(tuple(z.shape)), dtype=z.dtype) * f(z).norm()
        return super().iterate(f, z + start)


@fault(cause="history", killers=("history",), subtlety="rare")
class BuffersByCount(SoundNewton):
    """The buffer of the start is kept by its number of entries: states of another shape get the wrong one."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Any] = {}

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        start = np.zeros((len(x), *cell.state(theta, x.shape[1:])), dtype=x.dtype)
        buffer = self.kept.setdefault(start.size, start)
        return super().vjp(cell, theta, x, buffer if z0 is None else z0)


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle")
class SeedsTheWorld(Sound):
    """The global generator is seeded at each call, so that answers can be repeated."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.manual_seed(0)
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="settings-kept", killers=("settings-kept",), subtlety="subtle")
class DefaultDtype(Sound):
    """The default dtype is set to that of the inputs and not put back."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        torch.set_default_dtype(x.dtype)
        return super().equilibrium(cell, theta, x, z0)


@fault(cause="in-place-update", killers=("in-place-update",), subtlety="subtle")
class ResultByAddress(Sound):
    """The last answer is given again for inputs at the same address and weights that are the same object."""

    kept: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copy, or what is pickled, remembers nothing

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        if self.kept is None or self.kept[0] is not x or self.kept[1] is not theta["A"]:
            self.kept = x, theta["A"], super().vjp(cell, theta, x, z0)
        solution, pull = self.kept[2]
        return replace(solution, z=solution.z.clone()), pull


@fault(cause="deterministic", killers=("deterministic",), subtlety="rare")
class EverySeventhCall(Sound):
    """Every seventh call gives the answer of one step."""

    calls = 0

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        self.calls += 1
        return super().equilibrium(cell, theta, x, z0) if self.calls % 7 else cell.step(theta, x)(x)


@fault(cause="history", killers=("history",), subtlety="subtle")
class StaleFactors(Sound):
    """The weights of the last call are kept while γ stays the same."""

    kept: Any = None

    def weights(self, cell: Any, theta: Any) -> Any:
        same = self.kept is not None and self.kept[0] == float(theta["gamma"].detach())
        if not same or self.kept[1].shape != theta["A"].shape:
            self.kept = float(theta["gamma"].detach()), theta["A"].detach(), theta["A"]
            return super().weights(cell, theta)
        return super().weights(cell, theta | {"A": self.kept[1] + 0 * theta["A"]})
