"""PyTorch: the base that makes a layer of a plain ``fixed_point(step, z0)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch

from deqverify.cells import Cell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy, Claims
from deqverify.frameworks.torch_bridge import gradients_of, leaves_of
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status, worst

MODULE_CLAIMS: dict[str, Any] = {"devices": ("cpu", "cuda"), "copies": True, "pickles": True, "modes": True}
"""What is claimed of a library's ``nn.Module``: PyTorch's documentation promises it of every one."""


class TorchLayer:
    """A layer whose gradient comes from PyTorch's autograd. Subclasses say ``fixed_point`` and ``claims``.

    ``fixed_point(step, z0)`` returns z with its graph, or a :class:`Solution` around it: what the library's users would
    call ``backward()`` on. ``step`` closes over parameters and inputs that require gradients.

    A solution may say of its data points in tensors (n,): ``iterations`` and ``residual``, whose largest are the
    batch's, and in ``statuses`` whether each converged; false is CAPPED, or DIVERGED where z is not finite. ``status``
    may be whether the batch did.
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
            return Cotangents(found, dx, _status(status), unreached)

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
        return _without_tensors(answer) if isinstance(answer, Solution) else Solution(answer), leaves


class ModuleLayer(TorchLayer):
    """A layer around a library's own ``module``, whose training and evaluation mode are the layer's."""

    module: torch.nn.Module

    def mode(self, training: bool) -> Self:
        self.module.train(training)
        return self


def batch_trace(residuals: torch.Tensor, iterations: torch.Tensor, last: torch.Tensor) -> list[float]:
    """The trace of data points that end one by one, from their ``residuals`` (n, k) of which the first ``iterations``
    (n,) count: the largest over those that were still moving, then that of ``last`` (n, *state), z's own."""
    if not len(iterations):
        return []
    rows = residuals[:, : int(iterations.max())]
    moving = torch.arange(rows.shape[1], device=rows.device) < iterations[:, None].to(rows.device)
    kept = torch.where(moving, rows, 0.0).amax(dim=0).tolist()
    return [*kept, float(last.detach().flatten(1).norm(dim=1).max())]


def _without_tensors(solution: Solution) -> Solution:
    """``solution`` with what it says in tensors as the protocol has it."""
    if not isinstance(solution.status, Status):
        solution.status = _status(solution.status, worst([Status.CAPPED, *_unconverged(solution.z)]))
    if isinstance(solution.statuses, torch.Tensor):
        pairs = zip(solution.statuses.tolist(), _unconverged(solution.z), strict=True)
        solution.statuses = [_status(*pair) for pair in pairs]
        solution.status = worst(solution.statuses)
    if isinstance(solution.iterations, torch.Tensor):
        solution.iterations = int(solution.iterations.max()) if len(solution.iterations) else 0
    if isinstance(solution.residual, torch.Tensor):
        solution.residual = float(solution.residual.max()) if len(solution.residual) else 0.0
    return solution


def _unconverged(z: torch.Tensor) -> list[Status]:
    """What each data point is where it did not converge."""
    finite = torch.isfinite(z).flatten(1).all(dim=1).tolist()
    return [Status.CAPPED if there else Status.DIVERGED for there in finite]


def _status(said: Any, otherwise: Status = Status.CAPPED) -> Status:
    """What was said, a status or whether the solver converged."""
    if isinstance(said, Status):
        return said
    return Status.CONVERGED if said else otherwise


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
