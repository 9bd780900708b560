"""For users: ``solve``, differentiable once by autograd with the exact adjoint, and ``vjp`` without autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deqverify.reference.fast import batched
from deqverify.reference.fast.answer import Answer, Gradients
from deqverify.reference.fast.cost import METHODS, Method
from deqverify.reference.fast.models import model_for
from deqverify.reference.fast.solver import solver

ACCURACY = 1e-10


class _Solve(torch.autograd.Function):
    """One problem; the backward pass solves the adjoint equation with what the forward pass left."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, x: Tensor, gamma: Any, value: float, accuracy: float, method: Any) -> Tensor:
        answer = solver(A, x, value, accuracy, method, model_for(A))
        ctx.answer, ctx.like = answer, gamma
        # Another tensor of the same memory: what is returned is given the graph, which holds ctx, and ctx the answer.
        # The same one would close a circle, that only Python's garbage collection frees.
        return answer.z.detach()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        _refuse_second_derivatives()
        wanted = ctx.needs_input_grad[:3]
        found = ctx.answer.pull(cotangent, wanted)
        dgamma = found.gamma.reshape(ctx.like.shape).to(ctx.like) if wanted[2] else None
        return found.A, found.x if wanted[1] else None, dgamma, None, None, None


class _SolveBatched(torch.autograd.Function):
    """Many problems of one size."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, x: Tensor, gamma: Tensor) -> Tensor:
        ctx.solved = batched.Solved(A, x.shape[1], gamma)
        z = ctx.solved.forward(x)
        ctx.save_for_backward(z)
        return z

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        _refuse_second_derivatives()
        return ctx.solved.pull(*ctx.saved_tensors, cotangent, ctx.needs_input_grad)


def _refuse_second_derivatives() -> None:
    """PyTorch's own decorator lets some callers have zeros for them; silence would be worse than an error."""
    if torch.is_grad_enabled():
        raise RuntimeError("create_graph: solve is differentiable once; for second derivatives use reference()")


def solve(
    A: Tensor, x: Tensor, gamma: float | Tensor, *, accuracy: float = ACCURACY, method: Method | None = None
) -> Tensor:
    """The equilibria ``z = γSz + x``, S the softmax of every column of A: (n, m) like x, one data point a row.

    A (m, m), x (n, m), γ in (0, 1) a number or a tensor with one element; or k problems at once, A (k, m, m),
    x (k, n, m), γ as before or (k,). float64 or float32, any device. Gradients in A, x and γ, those that are asked,
    come from the adjoint equation solved in its own right, to the same accuracy; second derivatives raise an error.

    ``accuracy``: of each data point, relative, in the 1-norm (of the adjoint: in the maximum norm), certified by
    theory: zero-mass, or as a backward-stable direct solve has it where that is faster or the certificate fails.
    Below the rounding of the dtype it asks for that rounding. ``method`` forces ``"lu"``, ``"mass"``, ``"mixed"`` or
    ``"mixedlu"`` instead of the cost model's choice; k problems are always solved directly.

    Raises TypeError or ValueError, naming the argument and the fix.
    """
    _check_options(accuracy, method)
    _check(A, x)
    if A.ndim == 3:
        if method not in (None, "lu"):
            raise ValueError(f"method: many problems at once are solved directly; leave it out, got {method!r}")
        return _SolveBatched.apply(A, x, _batch_gamma(gamma, A))
    return _Solve.apply(A, x, gamma, _one_gamma(gamma), accuracy, method)


def vjp(
    A: Tensor, x: Tensor, gamma: float, *, accuracy: float = ACCURACY, method: Method | None = None
) -> tuple[Answer, Callable[[Tensor], Gradients]]:
    """One problem without autograd: the answer with its certificate, and its pull-back, which may be called again.

    Arguments and errors as for :func:`solve`. The answer's ``z`` is (n, m), its ``bound`` (n,) the certified relative
    error; ``pull(c)`` takes a cotangent (n, m) and gives the gradients in A, x and γ, and the adjoint's bound.
    """
    _check_options(accuracy, method)
    _check(A, x)
    if A.ndim != 2:
        raise ValueError(f"A: one problem is (m, m), got {tuple(A.shape)}; use solve for many")
    with torch.no_grad():
        answer = solver(A.detach(), x.detach(), _one_gamma(gamma), accuracy, method, model_for(A))

    def pull(c: Tensor) -> Gradients:
        with torch.no_grad():
            return answer.pull(c)

    return answer, pull


def _check_options(accuracy: float, method: Any) -> None:
    if not 0.0 < accuracy < 1.0:
        raise ValueError(f"accuracy: must lie strictly between 0 and 1, got {accuracy!r}")
    if method is not None and method not in METHODS:
        raise ValueError(f"method: use one of {', '.join(METHODS)}, or None for the quickest; got {method!r}")


def _check(A: Any, x: Any) -> None:
    for name, value in (("A", A), ("x", x)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch tensor, got {type(value).__name__}; torch.as_tensor makes one")
        if value.dtype not in (torch.float64, torch.float32):
            raise TypeError(f"{name}: expected float64 or float32, got {value.dtype}; convert it with .to()")
    if A.ndim not in (2, 3) or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0:
        raise ValueError(f"A: expected (m, m) or (k, m, m) with m ≥ 1, got {tuple(A.shape)}")
    expected = (*A.shape[:-2], "n", A.shape[-1])
    if x.ndim != A.ndim or x.shape[-1] != A.shape[-1] or x.shape[:-2] != A.shape[:-2]:
        raise ValueError(f"x: expected ({', '.join(map(str, expected))}) to go with A, got {tuple(x.shape)}")
    if x.dtype != A.dtype or x.device != A.device:
        raise TypeError(f"x: {x.dtype} on {x.device}, but A is {A.dtype} on {A.device}; convert one with .to()")


def _one_gamma(gamma: float | Tensor) -> float:
    if isinstance(gamma, Tensor) and gamma.numel() != 1:
        raise ValueError(f"gamma: one problem takes one number, got shape {tuple(gamma.shape)}")
    value = float(gamma.detach()) if isinstance(gamma, Tensor) else float(gamma)
    if not 0.0 < value < 1.0:
        raise ValueError(f"gamma: must lie strictly between 0 and 1, got {value!r}; an equilibrium needs γ < 1")
    return value


def _batch_gamma(gamma: float | Tensor, A: Tensor) -> Tensor:
    found = gamma if isinstance(gamma, Tensor) else torch.tensor(float(gamma), dtype=A.dtype, device=A.device)
    if found.numel() != 1 and found.shape != A.shape[:1]:
        raise ValueError(f"gamma: expected a number or one a problem, ({A.shape[0]},), got {tuple(found.shape)}")
    if found.dtype != A.dtype or found.device != A.device:
        raise TypeError(f"gamma: {found.dtype} on {found.device}, but A is {A.dtype} on {A.device}; convert with .to()")
    low, high = torch.aminmax(found.detach()) if found.numel() else (0.5, 0.5)
    if not (float(low) > 0.0 and float(high) < 1.0):
        raise ValueError(f"gamma: must lie strictly between 0 and 1, got {float(low)!r} to {float(high)!r}")
    return found
