"""What is handed over and given back: arrays, dtypes, shapes, memory and graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deqverify.cells.base import Theta
from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton, SoundPicard, SoundSweeps
from deqverify.implementations.protocol import Cotangents, Pull, Solution


@fault(cause="inputs-kept", killers=("inputs-kept",))
class Overwrites(Sound):
    """The input is overwritten."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        x.data.mul_(2.0)
        return z


@fault(cause="dtype-and-device", killers=("dtype-and-device",))
class Promotes(Sound):
    """float32 comes back as float64."""

    claims = replace(Sound.claims, dtypes=("float32",))

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).double()


@fault(cause="no-gradient", killers=("no-gradient",), origin="locuslab/deq#12")
class HookWithoutGraph(Sound):
    """A hook is registered whether or not there is a graph."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        z.register_hook(lambda cotangent: cotangent)
        return z


@fault(cause="memory-layout", killers=("memory-layout",), subtlety="rare", origin="NVIDIA/Megatron-LM#251")
class Views(Sound):
    """Inputs are flattened by ``view``, which needs them contiguous."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x.view(-1).view(x.shape), z0)


@fault(cause="memory-layout", killers=("memory-layout",), subtlety="rare")
class AssumesRows(Sound):
    """The memory of A is read row by row, whatever its strides."""

    def weights(self, cell: Any, theta: Any) -> Any:
        A = theta["A"]
        rows = A.as_strided(A.shape, (A.shape[1], 1)) if A.stride() == (1, len(A)) else A
        return cell.matrix(theta | {"A": rows})


@fault(cause="existence", killers=("enclosure",), subtlety="subtle", origin="google/flax#612")
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


@fault(cause="answers", killers=("answers",))
class StateShapeOfInput(SoundSweeps):
    """States are taken to have the shape of the inputs."""

    def start(self, cell: Any, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@fault(cause="dtype-and-device", killers=("dtype-and-device",))
class Narrows(Sound):
    """float64 comes back as float32."""

    claims = replace(Sound.claims, dtypes=("float64",))

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return super().equilibrium(cell, theta, x, z0).float()


@fault(cause="inputs-kept", killers=("inputs-kept",), subtlety="subtle")
class WritesIntoTheCotangent(Sound):
    """The cotangent is scaled in place."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)

        def scaled(cotangent: Any) -> Any:
            found = pull(cotangent)
            cotangent.mul_(2.0)
            return found

        return solution, scaled


@fault(cause="inputs-kept", killers=("inputs-kept",), subtlety="subtle")
class WritesIntoTheStart(SoundPicard):
    """The start is where the iterates are written."""

    def iterate(self, f: Any, z: Any) -> tuple[Any, Any]:
        found, status = super().iterate(f, z)
        return z.copy_(found), status

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Any]:
        return SoundPicard.iterate(self, f, z)


@fault(cause="memory-layout", killers=("memory-layout",), subtlety="rare", origin="NVIDIA/apex#1573")
class CotangentView(Sound):
    """The cotangent is flattened by ``view``, which needs it contiguous."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> Any:
        solution, pull = super().vjp(cell, theta, x, z0)
        return solution, lambda cotangent: pull(cotangent.view(-1).view(cotangent.shape))


@fault(cause="no-gradient", killers=("no-gradient",), subtlety="subtle")
class FewSweepsWithoutGradient(SoundPicard):
    """Where no gradient is recorded, ten sweeps are taken for enough."""

    def fixed_point(self, step: Any, z0: Any) -> Any:
        if not torch.is_grad_enabled():
            for _ in range(10):
                z0 = step(z0)
            return z0
        return super().fixed_point(step, z0)


@fault(cause="start-gradient", killers=("start-gradient",), subtlety="rare")
class StartKeepsItsGraph(SoundPicard):
    """A part of the start is left in the answer's graph, its value taken off again."""

    def fixed_point(self, step: Any, z0: Any) -> Any:
        solution = super().fixed_point(step, z0)
        return replace(solution, z=solution.z + (z0 - z0.detach()))
