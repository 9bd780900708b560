"""torchdeq (PyPI), called as its README does: ``z_list, info = deq(f, z0)`` in training mode."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torchdeq import get_deq

from deqverify.implementations.adapter import Accuracy, Claims, Solution, Status, chosen
from deqverify.implementations.torch_base import TorchLayer

SOLVERS = {"fixed_point": "fixed_point_iter", "anderson": "anderson", "broyden": "broyden"}
STATUS = {True: Status.CONVERGED, False: Status.CAPPED}
WHERE = "torchdeq.core.DEQBase, docstring and nn.Module; torchdeq.solver.stat.SolverStat"


@dataclass(eq=False)
class TorchDeq(TorchLayer):
    """One configuration. ``info`` holds the residual of every data point, which counts as a report; statistics of the
    backward solve reach a user only through ``backward_writer=``, which ``writer`` passes."""

    options: dict[str, Any]
    claims: Claims
    writer: bool = False
    tracing: bool = False

    def __post_init__(self) -> None:
        self._deq = get_deq(**self.options).train()
        self._key = f"{self.options['f_stop_mode']}_lowest"  # both passes stop in the same mode

    def fixed_point(self, step: Callable[[torch.Tensor], torch.Tensor], z0: torch.Tensor) -> Solution:
        backward: list[dict[str, torch.Tensor]] = []
        extra = {"backward_writer": backward.append} if self.writer else {}
        states, info = self._deq(step, z0, **extra)
        good = [STATUS[ok] for ok in (info[self._key] < self.options["f_tol"]).tolist()]
        solution = Solution(states[-1], STATUS[Status.CAPPED not in good], statuses=good)
        solution.iterations = int(info["nstep"].max()) if good else 0
        solution.residual = float(info[self._key].max()) if good else 0.0
        if self.tracing:
            solution.trace = _trace(info, states[-1], step) if good else []
        if self.writer:
            b_tol = self.options["b_tol"]
            solution.backward_status = lambda: STATUS[bool((backward[-1][self._key] < b_tol).all())]
        return solution

    def mode(self, training: bool) -> TorchDeq:
        """The module's own ``train(training)``: in evaluation mode it gives z without a gradient, at most
        ``eval_f_max_iter`` steps."""
        self._deq.train(training)
        return self

    def limited(self, max_iterations: int) -> TorchDeq:
        return replace(self, options=self.options | {"f_max_iter": max_iterations, "b_max_iter": max_iterations})

    def traced(self) -> TorchDeq:
        tracing = copy.copy(self)
        tracing.tracing = True
        return tracing

    def at_tolerance(self, tolerance: float) -> TorchDeq:
        """No cap binds, but Broyden stores each step."""
        most = 100 if self.options["f_solver"] == "broyden" else 3000
        return _claiming(self.options | dict.fromkeys(("f_tol", "b_tol"), tolerance), self.writer).limited(most)


def _trace(info: dict[str, torch.Tensor], z: torch.Tensor, step: Callable[..., torch.Tensor]) -> list[float]:
    """The largest residual over the data points that were still moving, the answer's own at the end, of all of them:
    torchdeq applies f once more to what it measured last, and returns each data point's best step. Its entry 0 is a
    placeholder of 1e8, and after a data point's best step its entries repeat."""
    last = int(info["nstep"].max())
    moving = torch.arange(1, last + 1) <= info["nstep"][:, None]
    kept = torch.where(moving, info["abs_trace"][:, 1 : last + 1], 0.0).amax(dim=0).tolist()
    own = (step(z) - z).detach().flatten(1).norm(dim=1)
    return [*kept, float(own.max())]


def _claiming(options: dict[str, Any], writer: bool = False) -> TorchDeq:
    """What torchdeq's documentation claims of these options."""
    kind = "rtol" if options["f_stop_mode"] == "rel" else "atol"
    forward, backward = (Accuracy(**{kind: options[tol]}) for tol in ("f_tol", "b_tol"))
    iteration: Any = "picard" if options["f_solver"] == SOLVERS["fixed_point"] else None
    behaves: Any = {"devices": ("cpu", "cuda"), "copies": True, "pickles": True, "modes": True}
    return TorchDeq(options, Claims(forward, backward, iteration=iteration, where=WHERE, **behaves), writer)


def torchdeq(*words: str) -> TorchDeq:
    """Its documented defaults (f_tol = 1e-3, b_tol = 1e-6, at most 40 steps, absolute stopping), and ``ift`` (implicit
    differentiation), ``hook`` (by a hook instead of a function), one of ``fixed_point``, ``anderson``, ``broyden``
    (both passes), ``rel`` (relative stopping), ``writer`` (backward statistics asked for), ``b_max_iter=2`` (or another
    cap of the backward pass), ``tight``, and ``phantom`` (the default backward pass, not claimed exact)."""
    solver = next((SOLVERS[word] for word in words if word in SOLVERS), SOLVERS["fixed_point"])
    mode = "rel" if "rel" in words else "abs"
    caps = [word for word in words if re.fullmatch(r"b_max_iter=\d+", word)]
    options: dict[str, Any] = {"ift": "ift" in words, "hook_ift": "hook" in words, "f_tol": 1e-3, "b_tol": 1e-6}
    options |= {
        f"{end}_{key}": value
        for end in "fb"
        for key, value in (("solver", solver), ("stop_mode", mode), ("max_iter", 40))
    }
    known = ("ift", "hook", *SOLVERS, "rel", "writer", "phantom", *(caps or ["b_max_iter=2"]))
    for cap in caps:
        options["b_max_iter"] = int(cap.partition("=")[2])
    layer = chosen(_claiming(options, "writer" in words), words, known)
    return replace(layer, claims=replace(layer.claims, backward=None)) if "phantom" in words else layer
