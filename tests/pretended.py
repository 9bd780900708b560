"""A pretended CUDA device: tensors that say they lie on it, and are computed on the CPU.

Machines without a GPU can't run the paths for one, but they can find what would fail there: operations that mix
devices, results left on the host, host memory read without a copy, a device lost on the way. A tensor of the pretended
device refuses all of these as PyTorch on a GPU does. Not covered: speed, rounding, and what a CUDA library lacks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CUDA = torch.device("cuda", 0)
_MIXES = {
    torch.ops.aten.copy_.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
}
"""Operations that take tensors of several devices."""


class Pretended(torch.Tensor):
    """Holds a CPU tensor. To PyTorch's C++ it lies on the meta device, so that no CUDA is asked for."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Pretended:
        with torch.inference_mode(False):  # a wrapper made in that mode can't be detached
            made = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
            )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:
        return f"pretended {self.held!r}"

    def tolist(self) -> Any:
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, dict(kwargs or {}))


def _each(tree: Any, change: Callable[[Any], Any]) -> Any:
    """``tree``, arguments of an operation, with each leaf changed. PyTorch's own functions for any tree take more time
    than all the rest here."""
    if isinstance(tree, (list, tuple)):
        return type(tree)([_each(branch, change) for branch in tree])
    if isinstance(tree, dict):
        return {name: _each(branch, change) for name, branch in tree.items()}
    return change(tree)


def _tensors(*trees: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _each(trees, lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    return found


def _at_home(leaf: Any) -> Any:
    """What the CPU is asked with."""
    if isinstance(leaf, Pretended):
        return leaf.held
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """``func`` on what the pretended tensors hold, its results on the device that they would have."""
    if any(t.ndim and not isinstance(t, Pretended) for t in _tensors(args, kwargs)) and func not in _MIXES:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu")
    if func is torch.ops.aten.copy_.default and not isinstance(args[0], Pretended):
        return args[0].copy_(args[1].held)
    to_host = any(isinstance(a, torch.device) and a.type == "cpu" for a in (*args, kwargs.get("device")))
    out = func(*_each(args, _at_home), **_each(kwargs, _at_home))
    if func is torch.ops.aten._local_scalar_dense.default or to_host:
        return out
    there = _each(out, lambda leaf: Pretended(leaf) if isinstance(leaf, torch.Tensor) else leaf)
    return return_and_correct_aliasing(func, args, kwargs, there)


class _Operations(TorchDispatchMode):
    """Catches what PyTorch makes on the device by itself, a scalar operand for one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        where = kwargs.get("device")
        pretended = any(isinstance(tensor, Pretended) for tensor in _tensors(args, kwargs))
        if pretended or (where is not None and torch.device(where).type == "meta"):
            return _computed(func, args, kwargs)
        return func(*args, **kwargs)


def _placing(function: Any) -> Any:
    """``function``, a factory or a move, with "cuda" meaning the pretended device."""

    @functools.wraps(function)
    def placed(*args: Any, **kwargs: Any) -> Any:
        kept = tuple(a for a in args if not _means_cuda(a))
        named = {name: value for name, value in kwargs.items() if not (name == "device" and _means_cuda(value))}
        found = function(*kept, **named)
        asked = len(kept) + len(named) < len(args) + len(kwargs)
        return Pretended(found) if asked and not isinstance(found, Pretended) else found

    return placed


def _refusing_numpy(function: Any) -> Any:
    def refused(tensor: torch.Tensor, **options: Any) -> Any:
        if isinstance(tensor, Pretended):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return function(tensor, **options)

    return refused


def _new_tensor(function: Any) -> Any:
    def made(like: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(like, Pretended):
            return Pretended(function(like.held, *args, **kwargs))
        return function(like, *args, **kwargs)

    return made


def _means_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.startswith("cuda")


_FACTORIES = (
    "tensor", "as_tensor", "empty", "zeros", "ones", "full", "eye", "arange", "linspace", "rand", "randn", "randint",
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
)  # fmt: skip
_METHODS = ("to", "new_empty", "new_zeros", "new_ones", "new_full")


class _Event:
    """A CUDA event, by the host's clock."""

    def __init__(self, enable_timing: bool = False):
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: _Event) -> float:
        return (end.at - self.at) * 1e3


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """While it lasts, "cuda" is the pretended device."""
    counts = dict.fromkeys(("memory_allocated", "max_memory_allocated"), lambda *_: 0)
    nothing = dict.fromkeys(("synchronize", "reset_peak_memory_stats", "empty_cache"), lambda *_: None)
    with (
        mock.patch.multiple(
            torch.cuda,
            is_available=lambda: True,
            device_count=lambda: 1,
            get_device_name=lambda *_: "pretended",
            Event=_Event,
            **counts,
            **nothing,
        ),
        mock.patch.multiple(torch, **{name: _placing(getattr(torch, name)) for name in _FACTORIES}),
        mock.patch.multiple(torch.Tensor, **{name: _placing(getattr(torch.Tensor, name)) for name in _METHODS}),
        mock.patch.multiple(
            torch.Tensor, numpy=_refusing_numpy(torch.Tensor.numpy), new_tensor=_new_tensor(torch.Tensor.new_tensor)
        ),
        _Operations(),
    ):
        yield
