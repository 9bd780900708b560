"""Many small problems at once, each with weights of its own: what a batch dimension gives over a loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.benchmarking.contenders import Unavailable
from deqverify.benchmarking.problems import OUTPUTS, bell
from deqverify.benchmarking.timing import wait_for
from deqverify.dtypes import Array
from deqverify.implementations.devices import cuda_present
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem

M, GAMMA = 8, 0.9
BATCHED = (
    "reference[fast], batched",
    "torch-solve, batched",
    "jax-solve, vmap",
    "reference, loop",
    "reference[numpy], loop",
)


def arrays(count: int) -> tuple[Array, Array, Array, Array]:
    """A (count, m, m), B (count, p, m), φ (count, m) and y (count, p); more problems begin with those of fewer."""
    shapes = ((count, M, M), (count, OUTPUTS, M), (count, M), (count, OUTPUTS))
    A, B, phi, y = (bell(shape, 10 + which, M) for which, shape in enumerate(shapes))
    return A, B, phi, y


def batched(name: str, count: int, device: str = "cpu") -> Any:
    """The run ``name`` on ``count`` problems: ``gradient`` and ``synchronise``. Unavailable without its library, or
    where it does not run on ``device``."""
    kind, _, how = name.partition(", ")
    if device == "cuda" and (how != "batched" or not cuda_present()):
        raise Unavailable(f"{name} does not run on cuda here")
    if how == "loop":
        return _Loop(kind, count)
    try:
        return _Torch(kind, count, device) if how == "batched" else _Jax(count)
    except ImportError as error:
        raise Unavailable(str(error)) from error


class _Loop:
    """One problem after the other through a contender."""

    iterations = None

    def __init__(self, name: str, count: int):
        from deqverify.benchmarking.contenders import contender

        who, (A, B, phi, y) = contender(name), arrays(count)
        self.runs = [
            who.prepare(SoftmaxProblem(A[k], B[k], phi[k][:, None], y[k][:, None], GAMMA, Squared()), "float64")
            for k in range(count)
        ]

    def gradient(self) -> Any:
        return [run.gradient() for run in self.runs]

    def synchronise(self) -> None: ...


class _Torch:
    """One differentiable solve of all problems, by the fast reference or by torch.linalg.solve."""

    iterations = None

    def __init__(self, kind: str, count: int, device: str):
        import torch

        self.device = device
        self.arrays = [torch.tensor(np.ascontiguousarray(a), device=device) for a in arrays(count)]
        self.equilibria = _plain_solve if kind == "torch-solve" else _fast_solve

    def gradient(self) -> Any:
        import torch

        A, B, phi, y = self.arrays
        leaves = [t.detach().requires_grad_() for t in (A, B, phi)]
        A, B, phi = leaves
        z = self.equilibria(A, phi)
        loss = torch.sum((torch.einsum("kpm,km->kp", B, z) - y) ** 2)
        return z, torch.autograd.grad(loss, leaves)

    def synchronise(self) -> None:
        wait_for(self.device)


def _plain_solve(A: Any, phi: Any) -> Any:
    import torch

    U = torch.eye(M, dtype=A.dtype, device=A.device) - GAMMA * torch.softmax(A, dim=1)
    return torch.linalg.solve(U, phi)


def _fast_solve(A: Any, phi: Any) -> Any:
    from deqverify.reference import solve

    return solve(A, phi[:, None], GAMMA)[:, 0]


class _Jax:
    iterations = None

    def __init__(self, count: int):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)

        def loss(A: Any, B: Any, phi: Any, y: Any) -> Any:
            z = jnp.linalg.solve(jnp.eye(M) - GAMMA * jax.nn.softmax(A, axis=0), phi)
            return jnp.sum((B @ z - y) ** 2)

        self.arrays = [jnp.asarray(np.ascontiguousarray(a)) for a in arrays(count)]
        self._gradient, self._last = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2)))), None

    def gradient(self) -> Any:
        self._last = self._gradient(*self.arrays)
        return self._last

    def synchronise(self) -> None:
        import jax

        jax.block_until_ready(self._last)
