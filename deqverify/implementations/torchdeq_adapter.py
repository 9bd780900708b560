"""torchdeq (PyPI), called as its README does: ``z_list, info = deq(f, z0)`` in training mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchdeq import get_deq

from deqverify.implementations.adapter import Accuracy, Claims, Solution, Traced, cap, chosen
from deqverify.implementations.torch_base import MODULE_CLAIMS, ModuleLayer, batch_trace

WHERE = "torchdeq.core.DEQBase, docstring and nn.Module; torchdeq.solver.stat.SolverStat"


@dataclass(eq=False)
class TorchDeq(Traced, ModuleLayer):
    """One configuration; the ``words`` are its options. ``info`` reports on every data point."""

    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        solver = next((word for word in self.words if word in ("anderson", "broyden")), "fixed_point_iter")
        most = 40 if self.most is None else min(self.most, 100 if solver == "broyden" else 3000)  # it keeps each step
        stop, kind = ("rel", "rtol") if "rel" in self.words else ("abs", "atol")
        both = {"solver": solver, "max_iter": most, "stop_mode": stop} | ({"tol": self.tol} if self.tol else {})
        self.options: Any = {f"{end}_{key}": value for end in "fb" for key, value in both.items()}
        back = cap(self.words, "b_max_iter", most)
        self.options |= {"b_max_iter": back if self.most is None else min(back, most)}
        self.options |= {"ift": "ift" in self.words, "hook_ift": "hook" in self.words}
        self.module = get_deq(**self.options).train()
        forward, exact = (Accuracy(**{kind: tolerance}) for tolerance in (self.module.f_tol, self.module.b_tol))
        rule: Any = {"iteration": "picard" if solver == "fixed_point_iter" else None, "where": WHERE} | MODULE_CLAIMS
        self.claims = Claims(forward, None if "phantom" in self.words else exact, **rule)

    def fixed_point(self, step: Any, z0: Any) -> Solution:
        heard: list[Any] = []  # the statistics of backward passes, which reach a user only so
        states, info = self.module(step, z0, **({"backward_writer": heard.append} if "writer" in self.words else {}))
        z, steps, left = states[-1], info["nstep"], info[key := f"{self.module.f_stop_mode}_lowest"]
        solution: Any = Solution(z, iterations=steps, residual=left, statuses=left < self.module.f_tol)
        if self.tracing:  # its entry 0 is a placeholder
            solution.trace = batch_trace(info["abs_trace"][:, 1:], steps, step(z) - z)
        if "writer" in self.words:
            solution.backward_status = lambda: (heard[-1][key] < self.module.b_tol).all()
        return solution


def torchdeq(*words: str) -> Any:
    """Its defaults, or ``ift``, ``hook`` (by one), ``fixed_point``, ``anderson``, ``broyden``, ``rel`` (both passes),
    ``writer`` (statistics of the backward pass), ``b_max_iter=2``, ``tight``; ``phantom``: gradients not exact."""
    known = ("ift", "hook", "fixed_point", "anderson", "broyden", "rel", "writer", "phantom", "b_max_iter=2")
    return chosen(TorchDeq(words=words), words, known)
