"""``wrap_torch``: a PyTorch module with parameters of its own becomes a layer like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedParameter

from deqverify.cells import Cell, Certificate, Parts
from deqverify.cells.base import Theta
from deqverify.cells.wrapped import WrappedCell
from deqverify.claims import Claims
from deqverify.dtypes import Array
from deqverify.frameworks.torch_bridge import gradients_of, leaves_of
from deqverify.implementations.protocol import Cotangents, Pull, Solution
from deqverify.implementations.torch_examined import examined, flattened, no_graph, numpy_of
from deqverify.implementations.wrapping import CLAIMS, Packing, check_example, check_floating, own_claims

_MOST_KEPT = 256
"""Converted arrays."""

Known = Callable[[dict[str, Array]], Certificate | None]


def wrap_torch(
    module: torch.nn.Module,
    cell: Callable[..., Any] | None = None,
    *,
    example: Any,
    claims: Claims | None = None,
    state: Callable[[Any], Any] | None = None,
    certificate: Known | None = None,
    name: str | None = None,
) -> WrappedTorch:
    """``module`` as an implementation: its parameters are its own, and are drawn around what they are.

    ``module(x)`` returns the equilibrium, data points first, of ``z = cell(z, x)``: any tensor, or a tuple, list or
    dictionary of them; ``cell`` is a function of native tensors that uses the module's parameters, a method or a
    submodule; without it the layer is judged by what can be seen from outside. ``example`` is an input, or a tuple of
    inputs, of a few data points. ``state`` picks the equilibrium out of what the module returns, where that is more.
    Without ``claims``, and where they say nothing of it, both passes are taken to be accurate to 1e-6, relative, and
    pulls of what ``torch.compile`` made not to be repeatable.
    ``certificate`` says of parameters, by name, why there is one equilibrium, if anything is known.

    Parameters that require a gradient are judged; buffers, and what is frozen, stay what they are. The module itself
    is called, in the mode in which it is.

    Raises TypeError or ValueError, with what was seen, what was expected and the line to change, for what is no such
    layer.
    """
    if isinstance(module, type) or not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: got {module!r}; expected a torch.nn.Module that was made: wrap_torch(MyLayer(…), …)")
    if cell is not None and not callable(cell):
        raise TypeError(f"cell: got {cell!r}; expected a function f(z, x) of tensors, as in cell=module.f")
    inputs = example if isinstance(example, tuple) else (example,)
    check_floating([getattr(given, "dtype", type(given).__name__) for given in inputs])
    for given in inputs:
        if not isinstance(given, torch.Tensor):
            raise TypeError(f"example: is a {type(given).__name__}; expected a tensor: example=torch.from_numpy(x)")
    if lazy := [key for key, p in module.named_parameters() if isinstance(p, UninitializedParameter)]:
        raise ValueError(f"module: {lazy[0]} has no shape yet; expected a module that was called once: module(example)")
    inputs = tuple(given.detach().cpu() for given in inputs)  # the device is asked for by whoever judges
    check_example([tuple(given.shape) for given in inputs])
    label = name or type(module).__name__
    usual = replace(CLAIMS, compiles=True, repeated_pulls=False) if _is_compiled(module) else CLAIMS
    claims = own_claims(claims, f"cell of {label}", usual)
    calls = TorchCalls(module, cell, inputs, state)
    z = examined(calls, claims)
    packed = calls.inputs.packed([given.detach().double() for given in inputs])
    own = {key: numpy_of(value) for key, value in calls.own.items()}
    coupled, given = not claims.separable, cell is not None
    wrapped = WrappedCell(claims.cells[0], own, numpy_of(packed), z, calls, coupled, given, certificate)
    return WrappedTorch(calls, claims, wrapped, label)


def _is_compiled(module: torch.nn.Module) -> bool:
    """Whether ``torch.compile``, or a module's own ``compile``, made a part of it: then its backward pass refuses to be
    called again. PyTorch says so in attributes of its own alone."""
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


class TorchCalls:
    """The user's module and cell as functions of θ, x and z, each one packed tensor or named ones."""

    def __init__(self, module: torch.nn.Module, cell: Any, example: tuple[torch.Tensor, ...], state: Any):
        self.module, self.cell, self.state = module, cell, state or (lambda out: out)
        self.own = {name: p.detach().cpu().clone() for name, p in module.named_parameters() if p.requires_grad}
        self.inputs, self.example = Packing.of(example), example
        self.states = Packing(())
        self.rebuild: Callable[[list[Any]], Any] = _first
        self._buffers: dict[str, dict[str, torch.Tensor]] = {}
        self._modules = dict(module.named_modules())
        self._converted: dict[tuple[int, str], tuple[Any, torch.Tensor]] = {}
        everywhere = list(module.named_parameters(remove_duplicate=False))
        first = {id(p): name for name, p in reversed(everywhere)}
        self._tied = {name: first[id(p)] for name, p in everywhere if first[id(p)] != name}
        self.coupled = False

    def fixed(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Buffers and frozen parameters beside ``like``, in its dtype; the same ones at every call, so that a module
        finds there what it left."""
        key = f"{like.dtype} {like.device}"
        if key not in self._buffers:
            frozen = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
            given = {**frozen, **dict(self.module.named_buffers())}
            self._buffers[key] = {
                name: value.detach().clone().to(like.device, like.dtype if value.is_floating_point() else value.dtype)
                for name, value in given.items()
            }
        return self._buffers[key]

    @contextmanager
    def holding(self, theta: Mapping[str, torch.Tensor], like: torch.Tensor) -> Iterator[None]:
        """The module with ``theta`` for its parameters, its buffers beside ``like``; at the end with its own again."""
        before: list[tuple[dict[str, Any], str, Any]] = []
        fixed = self.fixed(like)
        given = {**fixed, **theta}
        places = given | {name: given[first] for name, first in self._tied.items()}
        try:
            for name, value in places.items():
                home, leaf = _place(self._modules, name)
                before.append((home, leaf, home[leaf]))
                home[leaf] = value
            yield
        finally:
            for name, (home, leaf, value) in zip(places, before, strict=False):
                if name in fixed:
                    fixed[name] = home[leaf]  # a module may have put another tensor there
                home[leaf] = value

    def layer(self, theta: Mapping[str, torch.Tensor], x: torch.Tensor, **options: Any) -> torch.Tensor:
        """The equilibrium that the module returns, packed, in the caller's gradient mode."""
        with self.holding(theta, x):
            out = self.state(self.module(*self.inputs.parts(x), **options))
            return self.states.packed(flattened(out)[0])

    def f(self, theta: Mapping[str, torch.Tensor], x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The cell, packed, with its graph whatever the mode."""
        with torch.enable_grad(), self.holding(theta, x):
            out = self.cell(self.rebuild(self.states.parts(z)), *self.inputs.parts(x))
            return self.states.packed(flattened(out)[0])

    # The oracle's view, in NumPy.

    @property
    def stacks(self) -> bool:
        return not self.coupled

    def _tensors(self, theta: Theta, dtype: str) -> dict[str, torch.Tensor]:
        """θ as tensors, converted once for as long as the same arrays are asked about."""
        if len(self._converted) > _MOST_KEPT:
            self._converted.clear()
        found = {}
        for name, value in theta.items():
            key = id(value), dtype
            if key not in self._converted:
                self._converted[key] = value, _tensor(value, dtype)  # which keeps its id from being another's
            found[name] = self._converted[key][1].detach()
        return found

    def image(self, theta: Theta, x: Array, z: Array, dtype: str) -> Array:
        return numpy_of(self.f(self._tensors(theta, dtype), _tensor(x, dtype), _tensor(z, dtype)))

    def pull(self, theta: Theta, x: Array, z: Array, cotangent: Array, dtype: str) -> Parts:
        leaves = {name: value.requires_grad_() for name, value in self._tensors(theta, dtype).items()}
        wanted = (*leaves.values(), _tensor(x, dtype).requires_grad_(), _tensor(z, dtype).requires_grad_())
        *parts, dx, dz = _pulled(self.f(leaves, wanted[-2], wanted[-1]), wanted, _tensor(cotangent, dtype))
        return Parts(dict(zip(leaves, map(numpy_of, parts), strict=True)), numpy_of(dx), numpy_of(dz))

    def push(self, theta: Theta, x: Array, z: Array, tangent: Parts) -> Array:
        """By two pulls: the pull is linear in its cotangent, and its transpose is the derivative along a tangent."""
        leaves = {name: value.requires_grad_() for name, value in self._tensors(theta, "float64").items()}
        wanted = (*leaves.values(), _tensor(x, "float64").requires_grad_(), _tensor(z, "float64").requires_grad_())
        out = self.f(leaves, wanted[-2], wanted[-1])
        dual = torch.zeros_like(out, requires_grad=True)
        found = torch.autograd.grad(out, wanted, dual, create_graph=True, allow_unused=True)
        along = (*(tangent.theta[name] for name in leaves), tangent.x, tangent.z)
        pairs = [(g, _tensor(d, "float64")) for g, d in zip(found, along, strict=True) if g is not None]
        slope = sum((g * d).sum() for g, d in pairs if g.requires_grad)
        if not isinstance(slope, torch.Tensor):
            return np.zeros(tuple(out.shape))
        return numpy_of(torch.autograd.grad(slope, dual)[0])

    def jacobian(self, theta: Theta, x: Array, z: Array) -> Array:
        n, s = len(z), int(np.prod(z.shape[1:]))
        values = self._tensors(theta, "float64")
        if self.coupled:
            given = _tensor(z, "float64").requires_grad_()
            out = self.f(values, _tensor(x, "float64"), given).reshape(-1)
            rows = [_pulled(entry, (given,), torch.ones_like(entry), again=True)[0].reshape(-1) for entry in out]
            return numpy_of(torch.stack(rows))[None]
        given = _tensor(np.repeat(z, s, axis=0), "float64").requires_grad_()
        units = _tensor(np.tile(np.eye(s), (n, 1)).reshape(given.shape), "float64")
        out = self.f(values, _tensor(np.repeat(x, s, axis=0), "float64"), given)
        return numpy_of(_pulled(out, (given,), units)[0]).reshape(n, s, s)

    def answer(self, theta: Theta, x: Array, dtype: str) -> Array:
        with torch.no_grad():
            return numpy_of(self.layer(self._tensors(theta, dtype), _tensor(x, dtype)))

    def answer_pull(self, theta: Theta, x: Array, cotangent: Array, dtype: str) -> dict[str, Array]:
        leaves = {name: value.requires_grad_() for name, value in self._tensors(theta, dtype).items()}
        inputs = _tensor(x, dtype).requires_grad_()
        with torch.enable_grad():
            out = self.layer(leaves, inputs)
        with self.holding(leaves, inputs):
            found = _pulled(out, (*leaves.values(), inputs), _tensor(cotangent, dtype))
        return dict(zip((*leaves, "x"), map(numpy_of, found), strict=True))


class WrappedTorch:
    """A module as a layer: ``vjp`` gives it θ for its parameters, and what autograd says of its answer."""

    framework = "torch"
    whole = True
    """It takes no other cell, nor a probe in its own."""
    freezes = True

    def __init__(self, calls: TorchCalls, claims: Claims, cell: WrappedCell | None, name: str):
        self._calls, self.claims, self.cell, self.name = calls, claims, cell, name
        calls.coupled = not claims.separable

    def vjp(self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[Solution, Pull]:
        leaves = leaves_of(theta, x)
        own, inputs = {name: leaves[name] for name in theta}, leaves["x"]
        calls, recorded = self._calls, torch.is_grad_enabled()
        start = {} if z0 is None or not self.claims.starts else {"z0": calls.rebuild(calls.states.parts(z0))}
        output = calls.layer(own, inputs, **start)

        def pull(cotangent: torch.Tensor) -> Cotangents:
            if recorded and not output.requires_grad:
                raise RuntimeError(no_graph(calls.module))
            with calls.holding(own, inputs):  # a hook may ask the module again
                found, unreached = gradients_of(output, leaves, cotangent)
            dx = found.pop("x")
            return Cotangents(found, dx, unreached=unreached)

        return Solution(output.detach()), pull

    def mode(self, training: bool) -> WrappedTorch:
        """Itself, its module in training or in evaluation mode."""
        self._calls.module.train(training)
        return self


def _place(modules: Mapping[str, torch.nn.Module], name: str) -> tuple[dict[str, Any], str]:
    """The dictionary of a module that holds the parameter or buffer ``name``, and its key there."""
    path, _, leaf = name.rpartition(".")
    home = modules[path]
    return (home._parameters if leaf in home._parameters else home._buffers), leaf


def _pulled(out: torch.Tensor, wanted: Any, cotangent: torch.Tensor, again: bool = False) -> list[torch.Tensor]:
    if not out.requires_grad:
        return [torch.zeros_like(each) for each in wanted]
    found = torch.autograd.grad(out, wanted, cotangent, allow_unused=True, retain_graph=again)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


def _tensor(value: Any, dtype: str) -> torch.Tensor:
    return torch.tensor(np.asarray(value), dtype=getattr(torch, dtype))


def _first(leaves: list[Any]) -> Any:
    return leaves[0]
