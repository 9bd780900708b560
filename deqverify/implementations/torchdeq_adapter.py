"""torchdeq (PyPI), called as its README does: ``z_list, info = deq(f, z0)`` in training mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torchdeq import get_deq

from deqverify.claims import Accuracy, Claims
from deqverify.implementations.protocol import Solution, Status
from deqverify.implementations.torch_base import TorchLayer

SOLVERS = {"fixed_point": "fixed_point_iter", "anderson": "anderson", "broyden": "broyden"}


class TorchDeq(TorchLayer):
    """One configuration of torchdeq. Its documented defaults: f_tol = 1e-3, b_tol = 1e-6, at most 40 steps, absolute
    stopping.

    ``info`` holds the residual of every data point, which counts as a report. The backward solve's statistics reach
    a user only through ``backward_writer=``; the option ``writer`` passes one.
    """

    def __init__(self, options: dict[str, Any], claims: Claims, name: str, writer: bool):
        self._options, self._writer = options, writer
        self.claims, self.name = claims, name
        self._deq = get_deq(**options).train()
        relative = options.get("f_stop_mode") == "rel"
        self._tracing = False
        self._key, self._tolerance = ("rel_lowest" if relative else "abs_lowest"), options["f_tol"]

    def fixed_point(self, step: Callable[[torch.Tensor], torch.Tensor], z0: torch.Tensor) -> Solution:
        backward: list[dict[str, torch.Tensor]] = []
        extra = {"backward_writer": backward.append} if self._writer else {}
        states, info = self._deq(step, z0, **extra)
        solution = Solution(states[-1], _status(info[self._key], self._tolerance))
        solution.statuses = [_status(residual, self._tolerance) for residual in info[self._key]]
        solution.iterations = int(info["nstep"].max()) if z0.shape[0] else 0
        solution.residual = float(info[self._key].max()) if z0.shape[0] else 0.0
        if self._tracing:
            solution.trace = _trace(info, states[-1], step)
        if self._writer:
            key = "rel_lowest" if self._options["b_stop_mode"] == "rel" else "abs_lowest"
            solution.backward_status = lambda: _status(backward[-1][key], self._options["b_tol"])
        return solution

    def mode(self, training: bool) -> TorchDeq:
        """The module's own ``train(training)``: in evaluation mode it gives z without a gradient, at most
        ``eval_f_max_iter`` steps."""
        self._deq.train(training)
        return self

    def limited(self, max_iterations: int) -> TorchDeq:
        options = self._options | {"f_max_iter": max_iterations, "b_max_iter": max_iterations}
        return TorchDeq(options, self.claims, self.name, self._writer)

    def traced(self) -> TorchDeq:
        tracing = copy.copy(self)
        tracing._tracing = True
        return tracing

    def at_tolerance(self, tolerance: float) -> TorchDeq:
        """The same configuration, both passes at ``tolerance``; no cap binds, but Broyden stores each step."""
        most = 100 if self._options["f_solver"] == "broyden" else 3000
        chosen = {"f_tol": tolerance, "b_tol": tolerance, "f_max_iter": most, "b_max_iter": most}
        claimed = Accuracy(tolerance) if self.claims.forward.relative else Accuracy(atol=tolerance)
        claims = replace(self.claims, forward=claimed, backward=claimed)
        return TorchDeq(self._options | chosen, claims, self.name, self._writer)


def _status(residuals: torch.Tensor, tolerance: float) -> Status:
    return Status.CONVERGED if bool((residuals < tolerance).all()) else Status.CAPPED


def _trace(info: dict[str, torch.Tensor], z: torch.Tensor, step: Callable[..., torch.Tensor]) -> list[float]:
    """The largest residual over the data points that were still moving, the answer's own at the end: torchdeq applies f
    once more to what it measured last. Its entry 0 is a placeholder of 1e8, and after a data point's best step its
    entries repeat."""
    if not z.shape[0]:
        return []
    last = int(info["nstep"].max())
    moving = torch.arange(1, last + 1) <= info["nstep"][:, None]
    kept = torch.where(moving, info["abs_trace"][:, 1 : last + 1], 0.0).amax(dim=0).tolist()
    own = (step(z) - z).detach().flatten(1).norm(dim=1)
    return [*kept, float(own[info["nstep"] == last].max())]


def torchdeq(*flags: str) -> TorchDeq:
    """``torchdeq[flags]``: ``ift`` (implicit differentiation; without it, the default), one of ``fixed_point``,
    ``anderson``, ``broyden`` (both passes), ``rel`` (relative stopping, both passes), ``writer`` (backward
    statistics asked for), ``hook`` (implicit differentiation by a hook instead of a function), ``phantom`` (the
    default backward pass, asked for by name and therefore not claimed exact). ValueError for any other.
    """
    chosen, solver = set(flags), "fixed_point_iter"
    for flag in flags:
        if flag in SOLVERS:
            solver = SOLVERS[flag]
        elif flag not in ("ift", "rel", "writer", "hook", "phantom"):
            known = ", ".join(["ift", *SOLVERS, "rel", "writer", "hook", "phantom"])
            raise ValueError(f"torchdeq has no option {flag!r}; use some of {known}")
    mode = "rel" if "rel" in chosen else "abs"
    options = {
        "ift": "ift" in chosen,
        "hook_ift": "hook" in chosen,
        "f_solver": solver,
        "b_solver": solver,
        "f_max_iter": 40,
        "b_max_iter": 40,
        "f_tol": 1e-3,
        "b_tol": 1e-6,
        "f_stop_mode": mode,
        "b_stop_mode": mode,
    }
    relative = mode == "rel"
    claims = Claims(
        forward=Accuracy(1e-3) if relative else Accuracy(atol=1e-3),
        backward=Accuracy(1e-6) if relative else Accuracy(atol=1e-6),
        devices=("cpu", "cuda"),
        iteration="picard" if solver == SOLVERS["fixed_point"] else None,
        copies=True,
        pickles=True,
        modes=True,
        where="torchdeq.core.DEQBase, docstring and nn.Module; torchdeq.solver.stat.SolverStat",
    )
    if "phantom" in chosen:
        claims = replace(claims, backward=None)
    return TorchDeq(options, claims, f"torchdeq[{','.join(flags)}]" if flags else "torchdeq", "writer" in chosen)
