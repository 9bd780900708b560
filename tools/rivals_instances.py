"""What a baseline is given: a cell with parameters and inputs, and a layer on it as a function of one framework, as a
user has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from deqverify.cells import cells
from deqverify.frameworks import framework
from deqverify.implementations.jax_base import JaxLayer
from deqverify.implementations.protocol import Solution
from deqverify.implementations.torch_base import TorchLayer
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem

RATE = 0.5
"""Of the instances: the libraries' own tests stay where an iteration is fast (jaxopt: a spectral radius below ½)."""


class CannotAsk(Exception):
    """A baseline has no way to ask this."""


class Instance:
    """A cell, its parameters and its inputs, float64; ``z`` and ``pull`` of a layer on it, in a dtype, as NumPy."""

    def __init__(self, name: str, m: int, n: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.cell: Any = cells()[name]
        if name == "linear-softmax":
            self.theta, self.x = (
                {"A": rng.standard_normal((m, m)), "gamma": np.array(RATE)},
                rng.standard_normal((n, m)),
            )
        elif name == "tanh":
            W = rng.standard_normal((m, m))
            self.theta = {"W": RATE * W / np.linalg.norm(W, 2), "U": rng.standard_normal((m, 2)), "b": np.ones(m) / 4}
            self.x = rng.standard_normal((n, 2))
        else:
            self.theta, self.x = drawn(name)
        self.names = tuple(self.theta)

    @property
    def values(self) -> list[Any]:
        return [*self.theta.values(), self.x]

    def vjp(self, deq: Any, values: Any, dtype: str) -> tuple[Any, Callable[[Any], list[Any]]]:
        """z for parameters and inputs ``values``, and its pull, which may be called again where that is claimed."""
        bridge = framework(deq.framework)

        def native(value: Any) -> Any:
            return bridge.native(np.asarray(value, dtype=np.float64), dtype, "cpu")

        *parts, x = (native(value) for value in values)
        with torch.enable_grad(), bridge.computing(dtype):
            solution, pull = deq.vjp(self.cell, dict(zip(self.names, parts, strict=True)), x)

        def pulled(cotangent: Any) -> list[Any]:
            again = bridge.keeping_graph() if deq.claims.repeated_pulls else nullcontext()
            with torch.enable_grad(), bridge.computing(dtype), again:
                found = pull(native(cotangent))
            return [bridge.to_numpy(g) for g in (*(found.theta[name] for name in self.names), found.x)]

        return bridge.to_numpy(solution.z), pulled

    def residual(self, z: Any, values: Any = None) -> Any:
        *parts, x = self.values if values is None else values
        return self.cell.step(dict(zip(self.names, parts, strict=True)), x)(z) - z


@cache
def drawn(name: str) -> tuple[dict[str, Any], Any]:
    """A drawn instance of a cell, of two entries at least; of a rate that an iteration likes, where it has one."""
    from tests.cell_examples import sample

    for theta, x in sample(name, 30):
        certificate = cells()[name].certificate(theta)
        if np.prod(cells()[name].state(theta, x.shape[1:])) >= 2 and (certificate is None or certificate.rate <= 0.9):
            return dict(theta), x
    raise LookupError(name)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ask: Any, *given: Any) -> Any:
        value, ctx.pull = ask([t.detach().numpy() for t in given])
        ctx.like = given
        return torch.as_tensor(value, dtype=given[-1].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Any) -> Any:
        found = ctx.pull(cotangent.numpy())
        return None, *(torch.as_tensor(g, dtype=t.dtype).reshape(t.shape) for g, t in zip(found, ctx.like, strict=True))


def model_asked(deq: Any) -> tuple[Callable[[Any], tuple[Any, Callable[[Any], list[Any]]]], list[Any]]:
    """A whole model as its loss and gradient in A, γ, B and x, and values of these."""
    rng = np.random.default_rng(0)
    problem = SoftmaxProblem(
        *(rng.standard_normal(shape) for shape in ((3, 3), (1, 3), (3, 2), (1, 2))), gamma=RATE, loss=Squared()
    )
    names = ("A", "gamma", "B", "x")

    def ask(values: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
        A, gamma, B, x = values
        value, found = deq.value_and_grad(problem.with_blocks(A=A, gamma=float(gamma), B=B, x=x))
        return np.float64(value), lambda cotangent: [cotangent * np.asarray(found[name]) for name in names]

    return ask, [problem.A, np.array(problem.gamma), problem.B, problem.x]


def has_graph(deq: Any) -> bool:
    """Whether PyTorch's own graph is what the layer pulls back through."""
    return isinstance(deq, TorchLayer) and type(deq).vjp is TorchLayer.vjp


def in_torch(deq: Any, where: Instance) -> tuple[Callable[..., Any], list[Any]]:
    """As a function of float64 tensors, by the layer's own graph where it has one, and the tensors."""
    if not hasattr(deq, "vjp"):
        ask, values = model_asked(deq)
        return lambda *given: _Through.apply(ask, *given), [torch.tensor(v, requires_grad=True) for v in values]
    if deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    tensors = [torch.tensor(value, requires_grad=True) for value in where.values]
    if has_graph(deq):

        def own(*given: Any) -> Any:
            answer = deq.equilibrium(where.cell, dict(zip(where.names, given[:-1], strict=True)), given[-1], None)
            return answer.z if isinstance(answer, Solution) else answer

        return own, tensors
    return lambda *given: _Through.apply(lambda values: where.vjp(deq, values, "float64"), *given), tensors


def in_jax(deq: Any, where: Instance, dtype: str) -> Callable[..., Any]:
    """As a function of JAX's arrays: a layer in JAX itself, any other behind a callback with its own pull."""
    if hasattr(deq, "vjp") and deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    if hasattr(deq, "vjp") and dtype not in deq.claims.dtypes:
        raise CannotAsk(f"{dtype} is not claimed")
    if isinstance(deq, JaxLayer):

        def own(*given: Any) -> Any:
            theta, x = dict(zip(where.names, given[:-1], strict=True)), given[-1]
            z0 = jnp.zeros((len(x), *where.cell.state(theta, x.shape[1:])), x.dtype)
            answer = deq.solve(where.cell, theta, x, z0)
            return answer[0] if isinstance(answer, tuple) else getattr(answer, "z", answer)

        return own
    if getattr(deq, "framework", "") == "jax":
        raise CannotAsk("a callback of JAX must not call JAX")
    ask = (lambda values: where.vjp(deq, values, dtype)) if hasattr(deq, "vjp") else model_asked(deq)[0]
    shape: Any = ()
    if hasattr(deq, "vjp"):
        shape = (len(where.x), *where.cell.state(where.theta, where.x.shape[1:]))

    @jax.custom_vjp
    def through(*given: Any) -> Any:
        out = jax.ShapeDtypeStruct(shape, given[-1].dtype)
        return jax.pure_callback(lambda *v: np.asarray(ask([np.asarray(a) for a in v])[0], out.dtype), out, *given)

    def pulled(given: Any, cotangent: Any) -> Any:
        def host(cotangent: Any, *values: Any) -> Any:
            found = ask([np.asarray(value) for value in values])[1](np.asarray(cotangent))
            return tuple(np.asarray(g, v.dtype).reshape(v.shape) for g, v in zip(found, given, strict=True))

        return jax.pure_callback(host, tuple(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in given), cotangent, *given)

    through.defvjp(lambda *given: (through(*given), given), pulled)
    return through
