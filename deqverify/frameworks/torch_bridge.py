"""The bridge to PyTorch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, ClassVar

import numpy as np
import torch

from deqverify.dtypes import Array
from deqverify.frameworks.base import PROCESS_SETTINGS, Framework, Setting, frozen, rows, unknown_layout
from deqverify.losses import Loss


def _set_interop_threads(count: int) -> None:
    with suppress(RuntimeError):  # PyTorch allows it once, before the first parallel work
        torch.set_num_interop_threads(count)


_SETTINGS: dict[str, Setting] = {
    "torch.get_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.get_num_interop_threads": (torch.get_num_interop_threads, _set_interop_threads),
    "torch.is_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.get_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_float32_matmul_precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch.are_deterministic_algorithms_enabled": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}

_KEEPING = ContextVar("keeping the graph", default=False)


def keeps_graph() -> bool:
    """Whether a pull now has to keep its graph for another one."""
    return _KEEPING.get()


def leaves_of(theta: Mapping[str, torch.Tensor], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Parameters by name and "x" as leaves of a new graph, which require a gradient unless they are frozen."""
    still = frozen()
    return {name: value.detach().requires_grad_(name not in still) for name, value in {**theta, "x": x}.items()}


def gradients_of(
    output: torch.Tensor, leaves: Mapping[str, torch.Tensor], cotangent: torch.Tensor
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """What ``output.backward(cotangent)`` leaves in ``.grad`` of every leaf, zeros where nothing does, and the names of
    the leaves that no gradient reached. What a hook adds there by calling ``backward`` itself belongs to it."""
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    for leaf in wanted.values():
        leaf.grad = None
    found = torch.autograd.grad(output, list(wanted.values()), cotangent, retain_graph=keeps_graph(), allow_unused=True)
    gradients, unreached = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}, []
    for (name, leaf), gradient in zip(wanted.items(), found, strict=True):
        parts = [part for part in (gradient, leaf.grad) if part is not None]
        if parts:
            gradients[name] = sum(parts[1:], parts[0])
        else:
            unreached.append(name)
    return gradients, tuple(unreached)


class TorchFramework(Framework):
    """Tensors, in their dtype and on their device."""

    name = "torch"
    layouts = ("strided", "transposed", "offset", "broadcast")
    mutable, because = True, ""
    without_gradient: ClassVar = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    global_settings: ClassVar = _SETTINGS | PROCESS_SETTINGS

    def function_error(self, dtype: str, device: str) -> float:
        """CUDA documents two units in the last place of tanh and exp; tanh was measured off by 3.2 of rounding in
        float32 and by 2.4 in float64."""
        return 4.0 if device.startswith("cuda") and dtype in ("float64", "float32") else 0.0

    @contextmanager
    def keeping_graph(self) -> Iterator[None]:
        """Pulls in this context keep their graph; compiled functions with donated buffers refuse to."""
        token = _KEEPING.set(True)
        try:
            yield
        finally:
            _KEEPING.reset(token)

    def native(self, values: Any, dtype: str, device: str) -> torch.Tensor:
        # Row by row in memory, as users hold their data; a transposed array would keep its strides.
        return torch.tensor(np.array(values, order="C"), dtype=getattr(torch, dtype), device=device)

    def like(self, values: Any, array: torch.Tensor) -> torch.Tensor:
        return torch.tensor(np.array(values, order="C"), dtype=array.dtype, device=array.device)

    def to_numpy(self, array: torch.Tensor) -> Array:
        return np.array(array.detach().to("cpu", torch.float64).numpy())

    def kind(self, array: torch.Tensor) -> tuple[str, str]:
        return str(array.dtype).removeprefix("torch."), array.device.type

    def readout(self, loss: Loss, z: torch.Tensor, B: torch.Tensor, Y: torch.Tensor) -> tuple[float, Any, Any]:
        wide = torch.promote_types(z.dtype, torch.float32)
        state, weights = (t.detach().to(wide).requires_grad_() for t in (z, B))
        with torch.enable_grad():
            value = loss.value(weights @ rows(state).T, Y.to(wide))
        dz, dB = torch.autograd.grad(value, (state, weights))
        return float(value.detach()), dz.to(z.dtype), dB.to(B.dtype)

    def assign(self, array: torch.Tensor, values: Any) -> None:
        with torch.no_grad():
            array.copy_(torch.tensor(values, dtype=array.dtype))

    def laid_out(self, array: torch.Tensor, layout: str) -> torch.Tensor:
        if layout not in self.layouts:
            raise unknown_layout(layout, self.layouts)
        shape, axes = tuple(array.shape), array.ndim
        if not axes:
            return array
        if layout == "broadcast":
            return array[(slice(1),) * axes].expand(shape)
        if layout == "transposed":
            backwards = tuple(range(axes))[::-1]
            return array.permute(backwards).contiguous().permute(backwards)
        view = {
            "strided": lambda: array.new_zeros([2 * size for size in shape])[
                (*[slice(None, None, 2)] * (axes - 1), slice(1, None, 2))
            ],
            # By two, so that real pairs that stand for complex numbers stay whole: torch.view_as_complex asks for it.
            "offset": lambda: array.new_zeros(math.prod(shape) + 2)[2:].view(shape),
        }[layout]()
        return view.copy_(array)

    @contextmanager
    def other_random_state(self) -> Iterator[None]:
        cuda = torch.cuda.is_initialized()
        with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else ()):
            for device in ("cpu", "cuda") if cuda else ("cpu",):
                torch.rand((), device=device)
            yield

    def random_state(self) -> str:
        states = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            states += torch.cuda.get_rng_state_all()
        return hashlib.sha256(b"".join(state.numpy().tobytes() for state in states)).hexdigest()
