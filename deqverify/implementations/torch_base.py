"""PyTorch: the bridge from problems to tensors, and the base that makes a layer of a plain ``fixed_point(step,
z0)``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, ClassVar

import numpy as np
import torch

from deqverify.cells import Cell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy, Claims
from deqverify.dtypes import Array
from deqverify.implementations.numpy_base import keeps_subnormals, stop_flushing
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.losses import Loss


def _set_interop_threads(count: int) -> None:
    with suppress(RuntimeError):  # PyTorch allows it once, before the first parallel work
        torch.set_num_interop_threads(count)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
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
    "numpy.geterr": (np.geterr, lambda value: np.seterr(**value)),
    "subnormal numbers are kept": (lambda: keeps_subnormals("float64"), lambda kept: stop_flushing()),
}
"""What is global and not a layer's to change: how it is asked for, and how it is put back."""


_KEEPING = ContextVar("keeping the graph", default=False)


class TorchFramework:
    """The bridge between problems (float64, columns) and PyTorch layers (their dtype and device, rows)."""

    name = "torch"
    layouts = ("strided", "transposed", "offset", "broadcast")
    without_gradient: ClassVar[dict[str, Callable[[], AbstractContextManager[Any]]]] = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }
    """The modes in which the framework records no gradient."""

    @contextmanager
    def keeping_graph(self) -> Iterator[None]:
        """Pulls in this context keep their graph for another one; compiled functions with donated buffers refuse to."""
        token = _KEEPING.set(True)
        try:
            yield
        finally:
            _KEEPING.reset(token)

    def native(self, values: Any, dtype: str, device: str) -> torch.Tensor:
        # Row by row in memory, as users hold their data; a transposed array would keep its strides.
        return torch.tensor(np.array(values, order="C"), dtype=getattr(torch, dtype), device=device)

    def to_numpy(self, array: torch.Tensor) -> Array:
        return np.array(array.detach().to("cpu", torch.float64).numpy())

    def readout(self, loss: Loss, z: torch.Tensor, B: torch.Tensor, Y: torch.Tensor) -> tuple[float, Any, Any]:
        """``L``, ``∂L/∂z`` (n, m) and ``∂L/∂B`` (p, m) by autograd; in float32 for the half precisions, then
        rounded."""
        wide = torch.promote_types(z.dtype, torch.float32)
        state, weights = (t.detach().to(wide).requires_grad_() for t in (z, B))
        with torch.enable_grad():
            value = loss.value(weights @ state.T, Y.to(wide))
        dz, dB = torch.autograd.grad(value, (state, weights))
        return float(value.detach()), dz.to(z.dtype), dB.to(B.dtype)

    def kind(self, array: torch.Tensor) -> tuple[str, str]:
        """dtype and device of a native array."""
        return str(array.dtype).removeprefix("torch."), array.device.type

    def assign(self, array: torch.Tensor, values: Any) -> None:
        """Writes ``values`` into a native array, in place, as an optimiser does."""
        with torch.no_grad():
            array.copy_(torch.tensor(values, dtype=array.dtype))

    def laid_out(self, array: torch.Tensor, layout: str) -> torch.Tensor:
        """A matrix of the same entries in one of ``layouts``; "broadcast" takes the first entry for all."""
        rows, columns = array.shape
        if layout == "broadcast":
            return array[:1, :1].expand(rows, columns)
        if layout == "transposed":
            return array.mT.contiguous().mT
        view = {
            "strided": lambda: array.new_zeros(2 * rows, 2 * columns)[::2, 1::2],
            "offset": lambda: array.new_zeros(rows * columns + 1)[1:].view(rows, columns),
        }[layout]()
        return view.copy_(array)

    def settings(self) -> dict[str, Any]:
        """Global settings that are not a layer's to change, by name."""
        return {name: get() for name, (get, _) in _SETTINGS.items()}

    def restore(self, settings: dict[str, Any]) -> None:
        """Makes the settings what they were."""
        for name, value in settings.items():
            get, put = _SETTINGS[name]
            if get() != value:
                put(value)

    def random_state(self) -> str:
        states = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            states += torch.cuda.get_rng_state_all()
        return hashlib.sha256(b"".join(state.numpy().tobytes() for state in states)).hexdigest()


class TorchLayer:
    """A layer whose gradient comes from PyTorch's autograd. Subclasses say ``fixed_point`` and ``claims``.

    ``fixed_point(step, z0)`` returns z with its graph, or a :class:`Solution` around it: what the library's users would
    call ``backward()`` on. ``step`` closes over parameters and inputs that require gradients.
    """

    framework = "torch"
    name = "torch layer"
    claims = Claims()

    def fixed_point(self, step: Callable[[torch.Tensor], torch.Tensor], z0: torch.Tensor) -> Any:
        raise NotImplementedError("fixed_point: a TorchLayer says how z = step(z) is solved")

    def equilibrium(self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None) -> Any:
        """Override this instead where more than the step is needed, as a direct solver does."""
        return self.fixed_point(cell.step(theta, x), torch.zeros_like(x) if z0 is None else z0)

    def vjp(self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[Solution, Pull]:
        solution, leaves, inputs = self._solve(cell, theta, x, z0)
        wanted = (*leaves.values(), inputs)
        output, recorded = solution.z, torch.is_grad_enabled()

        def pull(cotangent: torch.Tensor) -> Cotangents:
            _check_graph(output, recorded)
            found = torch.autograd.grad(output, wanted, cotangent, retain_graph=_KEEPING.get(), allow_unused=True)
            unreached = tuple(name for name, g in zip((*leaves, "x"), found, strict=True) if g is None)
            *parts, dx = (torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))
            status = solution.backward_status() if solution.backward_status else Status.NOT_REPORTED
            return Cotangents(dict(zip(leaves, parts, strict=True)), dx, status, unreached)

        solution.z = output.detach()
        return solution, pull

    def second_order(
        self, cell: Cell, theta: Theta, x: torch.Tensor, cotangent: torch.Tensor, direction: tuple[Theta, torch.Tensor]
    ) -> Cotangents:
        """As ``backward(create_graph=True)`` and a second backward give it; RuntimeError where there is no graph."""
        solution, leaves, inputs = self._solve(cell, theta, x, None)
        wanted, along = (*leaves.values(), inputs), (*direction[0].values(), direction[1])
        _check_graph(solution.z, torch.is_grad_enabled())
        gradient = torch.autograd.grad(solution.z, wanted, cotangent, create_graph=True, allow_unused=True)
        slope = sum((g * d).sum() for g, d in zip(gradient, along, strict=True) if g is not None)
        found = torch.autograd.grad(slope, wanted, allow_unused=True)
        *parts, dx = (torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))
        return Cotangents(dict(zip(leaves, parts, strict=True)), dx)

    def start_gradient(
        self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor, cotangent: torch.Tensor
    ) -> torch.Tensor:
        """The gradient that reaches the start, (n, m); zero where none does."""
        start = z0.detach().requires_grad_()
        solution, _, _ = self._solve(cell, theta, x, start)
        _check_graph(solution.z, torch.is_grad_enabled())
        (found,) = torch.autograd.grad(solution.z, (start,), cotangent, allow_unused=True)
        return torch.zeros_like(start) if found is None else found

    def _solve(
        self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None
    ) -> tuple[Solution, dict[str, torch.Tensor], torch.Tensor]:
        """The solution with its graph, and the leaves of that graph."""
        leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
        inputs = x.detach().requires_grad_()
        answer = self.equilibrium(cell, leaves, inputs, z0)  # in the caller's gradient mode
        return answer if isinstance(answer, Solution) else Solution(answer), leaves, inputs


def _check_graph(z: torch.Tensor, recorded: bool) -> None:
    """RuntimeError, with the way out, for an equilibrium through which no gradient passes."""
    if recorded and not z.requires_grad:
        raise RuntimeError(
            "the equilibrium has no graph: no gradient reaches θ or x; let the solver end in what autograd records, or "
            "claim Claims(backward=None) for a forward pass alone (option backward=none of a function)"
        )


class TorchFixedPoint(TorchLayer):
    """A layer around a plain function ``solve(step, z0) -> z``, with its claims."""

    def __init__(self, solve: Callable[..., Any], claims: Claims | None = None, name: str | None = None):
        self.fixed_point = solve  # type: ignore[method-assign]
        self.claims = claims or Claims(Accuracy(1e-6), Accuracy(1e-6))
        self.name = name or str(getattr(solve, "__name__", type(solve).__name__))
