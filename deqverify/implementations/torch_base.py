"""PyTorch: the base that makes a layer of a plain ``fixed_point(step, z0)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from deqverify.cells import Cell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy, Claims
from deqverify.frameworks.torch_bridge import gradients_of, leaves_of
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status


class TorchLayer:
    """A layer whose gradient comes from PyTorch's autograd. Subclasses say ``fixed_point`` and ``claims``.

    ``fixed_point(step, z0)`` returns z with its graph, or a :class:`Solution` around it: what the library's users would
    call ``backward()`` on. ``step`` closes over parameters and inputs that require gradients.
    """

    framework = "torch"
    name = "torch layer"
    claims = Claims()
    freezes = True
    """Blocks that are frozen require no gradient while it is called."""

    def fixed_point(self, step: Callable[[torch.Tensor], torch.Tensor], z0: torch.Tensor) -> Any:
        raise NotImplementedError("fixed_point: a TorchLayer says how z = step(z) is solved")

    def equilibrium(self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None) -> Any:
        """Override this instead where more than the step is needed, as a direct solver does."""
        return self.fixed_point(cell.step(theta, x), self.start(cell, theta, x) if z0 is None else z0)

    def start(self, cell: Cell, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        """Zeros of the shape of all states, (n, *state)."""
        return x.new_zeros((x.shape[0], *cell.state(theta, tuple(x.shape[1:]))))

    def vjp(self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[Solution, Pull]:
        solution, leaves = self._solve(cell, theta, x, z0)
        output, recorded = solution.z, torch.is_grad_enabled()

        def pull(cotangent: torch.Tensor) -> Cotangents:
            _check_graph(output, recorded)
            found, unreached = gradients_of(output, leaves, cotangent)
            dx = found.pop("x")
            status = solution.backward_status() if solution.backward_status else Status.NOT_REPORTED
            return Cotangents(found, dx, status, unreached)

        solution.z = output.detach()
        return solution, pull

    def second_order(
        self, cell: Cell, theta: Theta, x: torch.Tensor, cotangent: torch.Tensor, direction: tuple[Theta, torch.Tensor]
    ) -> Cotangents:
        """As ``backward(create_graph=True)`` and a second backward give it; RuntimeError where there is no graph."""
        solution, leaves = self._solve(cell, theta, x, None)
        wanted, along = tuple(leaves.values()), (*direction[0].values(), direction[1])
        _check_graph(solution.z, torch.is_grad_enabled())
        gradient = torch.autograd.grad(solution.z, wanted, cotangent, create_graph=True, allow_unused=True)
        slope = sum((g * d).sum() for g, d in zip(gradient, along, strict=True) if g is not None)
        found = torch.autograd.grad(slope, wanted, allow_unused=True)
        *parts, dx = (torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))
        return Cotangents(dict(zip(theta, parts, strict=True)), dx)

    def start_gradient(
        self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor, cotangent: torch.Tensor
    ) -> torch.Tensor:
        """The gradient that reaches the start, shaped like it; zero where none does."""
        start = z0.detach().requires_grad_()
        solution, _ = self._solve(cell, theta, x, start)
        _check_graph(solution.z, torch.is_grad_enabled())
        (found,) = torch.autograd.grad(solution.z, (start,), cotangent, allow_unused=True)
        return torch.zeros_like(start) if found is None else found

    def _solve(
        self, cell: Cell, theta: Theta, x: torch.Tensor, z0: torch.Tensor | None
    ) -> tuple[Solution, dict[str, torch.Tensor]]:
        """The solution with its graph, and the leaves of that graph: parameters by name, then "x"."""
        leaves = leaves_of(theta, x)
        given = {name: leaves[name] for name in theta}
        answer = self.equilibrium(cell, given, leaves["x"], z0)  # in the caller's gradient mode
        return answer if isinstance(answer, Solution) else Solution(answer), leaves


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
