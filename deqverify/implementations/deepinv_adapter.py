"""deepinv (PyPI), called as its documentation of deep equilibrium models does: ``BaseOptim(iterator, DEQ=…)(y, physics,
init=…)``, one step of the map for the iterator. It needs torchvision: often an environment of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from deepinv.optim import BaseOptim, DEQConfig
from deepinv.optim.optim_iterators import OptimIterator

from deqverify.implementations.adapter import Accuracy, Claims, Configured, Solution, Status, chosen
from deqverify.implementations.torch_base import TorchLayer

POINTS = 300
"""``thres_conv`` bounds a mean over the data points: one of 300, the most that a law draws, may be so much worse."""


@dataclass(eq=False)
class DeepInv(Configured, TorchLayer):
    anderson: bool = False
    tol: float = 1e-5

    def __post_init__(self) -> None:
        rule = Accuracy(POINTS * self.tol, eps=1e-6)
        self.claims = Claims(rule, rule, where="BaseOptim: thres_conv, max_iter; DEQConfig: max_iter_backward")

    def fixed_point(self, step: Any, z0: torch.Tensor) -> Solution:
        class Step(OptimIterator):
            def forward(self, X: Any, *given: Any, **more: Any) -> Any:
                return {"est": (step(X["est"][0]),), "cost": None}

        forward, backward = (100, 50) if self.most is None else (self.most, self.most)
        deq = DEQConfig(anderson_acceleration_backward=self.anderson, max_iter_backward=backward)
        limits: Any = {"max_iter": forward, "thres_conv": self.tol, "early_stop": True, "trainable_params": []}
        model = BaseOptim(Step(has_cost=False), DEQ=deq, **limits)
        z = model(z0, None, init=(z0,))
        return Solution(z, Status.CONVERGED if model.has_converged else Status.CAPPED)


def deepinv(*words: str) -> Any:
    """``anderson`` (the backward pass) and ``tight``; without them plain iteration, at 1e-5."""
    return chosen(DeepInv(anderson="anderson" in words), words, ("anderson",))
