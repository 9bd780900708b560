"""What PyTorch offers for the same answers: ways of compiling, batching, checkpointing and of hanging in a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from deqverify.claims import Accuracy
from deqverify.correct.iterating import CONTRACTING
from deqverify.correct.registry import correct
from deqverify.faults.sound import Sound, SoundPicard
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.implementations.torch_base import TorchLayer
from deqverify.reference.stateless import LINEAR, STATELESS


class Direct(Sound):
    """``torch.linalg.solve`` for a linear cell, with autograd's own derivatives of any order."""

    name = "direct"
    claims = replace(STATELESS, cells=LINEAR, starts=False, second_order=True, devices=("cpu", "cuda"), where=__name__)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return solved(self.weights(cell, theta), cell.offset(theta, x))


def solved(K: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """z (n, m) of ``z = Kz + offset``."""
    return torch.linalg.solve(torch.eye(K.shape[0], dtype=K.dtype, device=K.device) - K, offset.mT).mT


compiled_solve = torch.compile(solved, backend="aot_eager", dynamic=True)
"""Traced by Dynamo and differentiated ahead of time, as ``torch.compile`` does, but run without a C++ compiler."""


@correct("torch-compile")
class Compiled(Direct):
    """Through ``torch.compile``: no second derivative, no second pull, no calls from two threads are claimed."""

    claims = replace(Direct.claims, second_order=False, compiles=True, repeated_pulls=False, threads=False)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        return compiled_solve(self.weights(cell, theta), cell.offset(theta, x))


@correct("per-point")
class PerPoint(Direct):
    """A call of the solver for each data point, and the answers stacked."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        K, offset = self.weights(cell, theta), cell.offset(theta, x)
        return torch.cat([solved(K, offset[i : i + 1]) for i in range(len(x))]) if len(x) else offset


@correct("double-batched")
class DoubleBatched(Direct):
    """Two axes of batches: a system for each data point, (n, 1, m, m), instead of one with n right sides."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        K, offset = self.weights(cell, theta), cell.offset(theta, x)
        U = (torch.eye(len(K), dtype=K.dtype, device=K.device) - K).expand(len(x), 1, len(K), len(K))
        return torch.linalg.solve(U, offset[:, None, :, None])[:, 0, :, 0]


@correct("checkpointed")
class Checkpointed(Direct):
    """Nothing is kept for the backward pass, which solves once more (``torch.utils.checkpoint``)."""

    claims = replace(Direct.claims, second_order=False)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        names = tuple(theta)

        def solve(x: Any, *values: Any) -> Any:
            given = dict(zip(names, values, strict=True))
            return solved(self.weights(cell, given), cell.offset(given, x))

        return checkpoint(solve, x, *theta.values(), use_reentrant=False, preserve_rng_state=False)


@correct("wide-inside")
class WideInside(Direct):
    """Float32 is computed in float64 and rounded once, and claimed so."""

    claims = replace(Direct.claims, computes_in={"float32": "float64"})

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        wide = {name: value.double() for name, value in theta.items()}
        return super().equilibrium(cell, wide, x.double(), z0).to(x.dtype)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OnThreads(Direct):
    """Both passes on so many threads, a setting of the process: no calls from two threads are claimed."""

    count = 1
    claims = replace(Direct.claims, threads=False)

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        with threads(self.count):
            return super().equilibrium(cell, theta, x, z0)

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, inner = super().vjp(cell, theta, x, z0)

        def pull(cotangent: Any) -> Cotangents:
            with threads(self.count):
                return inner(cotangent)

        return solution, pull


@correct("one-thread")
class OneThread(OnThreads):
    """On one thread of the processor, whatever the process has set, which is put back."""


@correct("two-threads")
class TwoThreads(OnThreads):
    """On two threads of the processor, whatever the process has set, which is put back."""

    count = 2


class _Implicit(torch.autograd.Function):
    """z and the names of θ are arguments; the gradient is ``(∂f/∂θ)ᵀΛ`` and ``(∂f/∂x)ᵀΛ`` by the cell's own pull."""

    @staticmethod
    def forward(ctx: Any, layer: Any, cell: Any, names: Any, said: Any, z: Any, x: Any, *values: Any) -> Any:
        ctx.save_for_backward(z, x, *values)
        ctx.rest = layer, cell, names, said
        return z.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Any) -> Any:
        layer, cell, names, said = ctx.rest
        z, x, *values = ctx.saved_tensors
        theta = dict(zip(names, values, strict=True))

        def back(adjoint: Any) -> Any:
            return cell.pull(theta, x, z, adjoint).z + cotangent

        adjoint, status = layer.iterate(back, torch.zeros_like(cotangent))
        said.append(status)
        found = cell.pull(theta, x, z, adjoint)
        return None, None, None, None, None, found.x, *(found.theta[name] for name in names)


class Iterated(SoundPicard):
    """Picard's iteration on any cell that contracts, in PyTorch, stopped by the claim's own rule; the state that is
    returned is the one whose residual was measured."""

    tolerance = 1e-5
    claims = replace(
        STATELESS, cells=CONTRACTING, forward=Accuracy(tolerance), backward=Accuracy(tolerance), where=__name__
    )

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        with torch.no_grad():
            for _ in range(self.most + 1):
                ahead = f(z)
                if self.meets(ahead - z, ahead):
                    return z, Status.CONVERGED
                z, before = ahead, z
        return before, Status.CAPPED

    def meets(self, step: Any, size: Any) -> bool:
        step, size = (a.flatten(1).double().norm(dim=1) for a in (step, size))
        return bool((step <= self.tolerance * size).all())


@correct("autograd-function")
class ImplicitFunction(Iterated):
    """The implicit gradient in a ``torch.autograd.Function``, once differentiable; the adjoint equation is iterated
    with the cell's own pull, and no graph is recorded at all."""

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        raise NotImplementedError

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        start = self.start(cell, theta, x) if z0 is None else z0
        plain = {name: value.detach() for name, value in theta.items()}
        z, status = self.iterate(cell.step(plain, x.detach()), start.detach())
        said: list[Status] = []
        answer = _Implicit.apply(self, cell, tuple(theta), said, z, x, *theta.values())
        return Solution(answer, status, backward_status=lambda: said[-1])


@correct("unrolled-checkpointed")
class UnrolledCheckpointed(TorchLayer):
    """So many recorded steps from the converged state that their gradient keeps the claim, each recomputed in the
    backward pass.

    k steps pull back ``λ_k = Σ_{j<k} (Jᵀ)ʲc``, whose residual is ``(Jᵀ)ᵏc``. The cell contracts at q in the 1-, 2- or
    maximum norm, so ‖(Jᵀ)ᵏ‖₂ ≤ √s qᵏ, and ``c = (I − Jᵀ)λ`` is at most ``(1 + √s)‖λ‖₂``: with
    ``√s (1 + √s) qᵏ`` at most a quarter of the tolerance, the residual is that of the claim, as ``c + Jᵀλ_k`` is near
    λ. The state is iterated to a hundredth of the claim before, so that all recorded states are one state to the claim.
    """

    name = "unrolled, checkpointed"
    tolerance = 1e-4
    claims = replace(
        STATELESS,
        cells=CONTRACTING,
        forward=Accuracy(tolerance),
        backward=Accuracy(tolerance),
        dtypes=("float64",),
        where=__name__,
    )
    most = 400

    def mode(self, training: bool) -> Any:
        return self

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Solution:
        z = self.start(cell, theta, x) if z0 is None else z0.detach()
        plain = {name: value.detach() for name, value in theta.items()}
        rate = cell.certificate({name: np.asarray(value) for name, value in plain.items()}).rate
        s = math.prod(z.shape[1:])
        wanted = 0.25 * self.tolerance / (math.sqrt(s) * (1.0 + math.sqrt(s)))
        steps = 1 if rate == 0.0 else math.ceil(math.log(wanted) / math.log(rate))
        step, status = cell.step(plain, x.detach()), Status.CAPPED
        with torch.no_grad():
            for _ in range(5 * self.most):
                z, before = step(z), z
                moved, size = (a.flatten(1).norm(dim=1) for a in (z - before, z))
                if bool((moved <= 0.01 * self.tolerance * size).all()):
                    status = Status.CONVERGED if steps <= self.most else Status.CAPPED
                    break
        step = cell.step(theta, x)
        for _ in range(min(steps, self.most)):
            z = checkpoint(step, z, use_reentrant=False, preserve_rng_state=False)
        return Solution(z, status, backward_status=lambda: status)
