"""What can be wrong with a PyTorch module that somebody wraps, looked for before any law is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deqverify.claims import Claims
from deqverify.dtypes import Array
from deqverify.implementations.wrapping import (
    REAL,
    Packing,
    check_equation,
    check_points,
    check_same,
    check_states,
    sees_others,
)


def examined(calls: Any, claims: Claims) -> Array:
    """The layer's answer to the example in the first dtype, (n, *state), after all that can be wrong with a wrapping
    was looked for; ``calls`` are those of a module and its cell, which learn here what a state is."""
    n, found = len(calls.example[0]), []
    for name in claims.dtypes:
        dtype = getattr(torch, name)
        theta, x = _given(calls, dtype)
        with _asking("module(x)", calls, name), calls.holding(theta, x):
            out = calls.state(calls.module(*calls.inputs.parts(x)))
        given, calls.rebuild = _arrays(out, "module(x)", "state=lambda out: out[0]")
        check_points(given, n, "z.movedim({}, 0)")
        _check_dtype("module(x)", given, dtype, calls.module)
        calls.states = Packing.of(given)
        _check_cell(calls, claims, given, name)
        if claims.backward is not None and not any(array.requires_grad for array in given):
            raise ValueError(f"module: {no_graph(calls.module)}")
        found.append(numpy_of(calls.states.packed(given)))
    if "float64" not in claims.dtypes:  # the oracle asks the cell there
        _check_cell(calls, claims, [array.double() for array in given], "float64")
    if calls.cell is not None:
        theta, x = _given(calls, torch.float64)

        def image(x: Array, z: Array) -> Array:
            return numpy_of(calls.f(theta, torch.from_numpy(x), torch.from_numpy(z)))

        check_equation(image, numpy_of(x), found[0], "cell(z, x)")
    return found[0]


def _given(calls: Any, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """θ and x of the example."""
    theta = {key: value.to(dtype).requires_grad_() for key, value in calls.own.items()}
    return theta, calls.inputs.packed([each.detach().to(dtype) for each in calls.example]).detach().requires_grad_()


def _check_cell(calls: Any, claims: Claims, states: list[torch.Tensor], name: str) -> None:
    if calls.cell is None:
        check_states(states, states, "module(x)")
        return
    theta, x = _given(calls, getattr(torch, name))
    with _asking("cell(z, x)", calls, name), torch.enable_grad(), calls.holding(theta, x):
        image = calls.cell(calls.rebuild(states), *calls.inputs.parts(x))
    mapped, _ = _arrays(image, "cell(z, x)", "return z alone")
    check_states(states, mapped, "cell(z, x)")
    _check_dtype("cell(z, x)", mapped, getattr(torch, name), calls.module)
    _check_repeats(calls, claims, theta, x, calls.states.packed(states).detach())


def _check_repeats(calls: Any, claims: Claims, theta: Any, x: torch.Tensor, z: torch.Tensor) -> None:
    first = numpy_of(calls.f(theta, x, z))
    random = [key for key, each in calls.module.named_modules() if "Dropout" in type(each).__name__ and each.training]
    why = f"{' and '.join(random)} is on: call module.eval() first" if random else "draw what is random outside of it"
    check_same(first, numpy_of(calls.f(theta, x, z)), "cell", f"{why}, and judge the layer without it")
    if len(z) < 2 or not claims.separable:
        return
    twice = [0, 0]  # a batch of one is refused by some that take statistics of it
    try:
        beside = numpy_of(calls.f(theta, x[twice], z[twice]))
    except Exception as error:
        raise ValueError(
            f"cell: f(z, x) of two data points raised {type(error).__name__}: {error}; it was asked for {len(z)}, the "
            "first axis of the example: expected any number of them: where the example is one data point, example="
            "x[None], and what was made for one alone, cell=torch.vmap(f)"
        ) from error
    if sees_others(beside[:1], first[:1]):
        norms = [key for key, each in calls.module.named_modules() if "BatchNorm" in type(each).__name__]
        batch = (
            f"{' and '.join(norms)} takes statistics of the batch: call module.eval() first"
            if norms
            else ("its first axis does not count the data points: move it there, x.movedim(axis, 0)")
        )
        raise ValueError(
            f"cell: f(z, x) of the first data point beside itself is another than among {len(z)}; expected the same, "
            f"since separate data points are claimed: {batch}; or claim that they are not, Claims(separable=False)"
        )


@contextmanager
def _asking(what: str, calls: Any, dtype: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if "dtype" in str(error) or "expected scalar type" in str(error) or "Float and Double" in str(error):
            raise TypeError(
                f"module: {what} raised {said}, in {dtype}; {_float32(calls.module, dtype, what)}"
            ) from error
        if "shape" in str(error) or "size" in str(error) or "channels" in str(error) or "dimension" in str(error):
            shapes = " and ".join(str(tuple(each.shape)) for each in calls.example)
            raise ValueError(
                f"example: {what} raised {said}, for inputs of shape {shapes}; expected an input that the layer takes, "
                "data points first, (n, …): example=x.movedim(axis, 0), or an example of the size that it was built for"
            ) from error
        raise TypeError(
            f"module: {what} raised {said}; expected a call with the example, module(*example), and cell(z, *example)"
        ) from error


def _float32(module: torch.nn.Module, dtype: str, what: str) -> str:
    """Where a tensor of another dtype may come from, and what to write instead."""
    attributes = {
        f"{key + '.' if key else ''}{name}": value
        for key, each in module.named_modules()
        for name, value in vars(each).items()
    }
    loose = [
        name
        for name, value in attributes.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and str(value.dtype) != f"torch.{dtype}"
    ]
    listed = [
        name
        for name, value in attributes.items()
        if isinstance(value, list | tuple) and any(isinstance(one, torch.Tensor | torch.nn.Module) for one in value)
    ]
    if loose:
        leaf = loose[0].rpartition(".")[2]
        where = f"{' and '.join(loose)} is a plain attribute, which no cast reaches: self.register_buffer({leaf!r}, …)"
    elif listed:
        where = (
            f"{' and '.join(listed)} is a plain list, in which PyTorch finds no parameter: "
            "torch.nn.ParameterList(…), or torch.nn.ModuleList(…)"
        )
    else:
        where = (
            "a tensor that is made on the way has another dtype: write x.new_zeros(…), or torch.zeros(…, dtype=x.dtype)"
        )
    if what.startswith("cell"):  # which is asked for in float64 whatever is claimed
        return f"expected every tensor in {dtype}: {where}"
    return f"expected every tensor in {dtype}: {where}; or judge one dtype alone, claims=Claims(dtypes=('float32',))"


def _check_dtype(what: str, arrays: list[torch.Tensor], dtype: torch.dtype, module: torch.nn.Module) -> None:
    for array in arrays:
        if array.dtype != dtype:
            name = str(dtype).removeprefix("torch.")
            raise TypeError(f"module: {what} is {array.dtype} for inputs of {dtype}; {_float32(module, name, what)}")


def _arrays(out: Any, what: str, fix: str) -> tuple[list[torch.Tensor], Callable[[list[Any]], Any]]:
    leaves, rebuild = flattened(out)
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.is_complex():
            raise TypeError(f"{what.partition('(')[0]}: {what} returned {_described(out)}; {REAL}")
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            fields = [key for key, value in getattr(leaf, "__dict__", {}).items() if isinstance(value, torch.Tensor)]
            fix = f"state=lambda out: out.{fields[0]}" if fields else fix
            raise TypeError(
                f"{what.partition('(')[0]}: {what} returned {_described(out)}; expected the state and nothing else, a "
                f"tensor or a tuple of tensors, data points first: {fix}"
            )
    return leaves, rebuild


def _described(out: Any) -> str:
    if isinstance(out, torch.Tensor):
        return f"a {out.dtype} tensor of shape {tuple(out.shape)}"
    if isinstance(out, tuple | list):
        return f"a {type(out).__name__} of {' and '.join(_described(each) for each in out) or 'nothing'}"
    return f"a {type(out).__name__}"


def no_graph(module: torch.nn.Module) -> str:
    """What is missing where no gradient passes, and what to do."""
    if not module.training:
        return (
            "the equilibrium has no graph, and the module is in evaluation mode; expected one that a gradient passes "
            "through: call module.train() before it is wrapped, or claim Claims(backward=None) for a forward pass alone"
        )
    return (
        "the equilibrium has no graph; expected one that a gradient passes through: end in what autograd records, "
        "z = self.f(z.detach(), x), or claim Claims(backward=None) for a forward pass alone"
    )


def flattened(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of nested tuples, lists and dictionaries, and what makes the same tree of other leaves."""
    if isinstance(tree, Mapping):
        leaves, rebuild = flattened(tuple(tree.values()))
        return leaves, lambda given: dict(zip(tree, rebuild(given), strict=True))
    if not isinstance(tree, tuple | list):
        return [tree], lambda given: given[0]
    parts = [flattened(each) for each in tree]
    sizes = [len(leaves) for leaves, _ in parts]
    ends = np.cumsum([0, *sizes]).tolist()
    made = (lambda values: type(tree)(*values)) if hasattr(tree, "_fields") else type(tree)

    def together(given: list[Any]) -> Any:
        return made([build(given[a:b]) for (_, build), a, b in zip(parts, ends[:-1], ends[1:], strict=True)])

    return [leaf for leaves, _ in parts for leaf in leaves], together


def numpy_of(value: torch.Tensor) -> Array:
    """A float64 copy."""
    return np.array(value.detach().to("cpu", torch.float64).numpy())
