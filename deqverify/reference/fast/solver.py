"""One problem solved, forward and backward: the chosen method, and the direct solve where that gives up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deqverify.reference.fast import direct, lean, refine
from deqverify.reference.fast.answer import Answer, Gradients
from deqverify.reference.fast.cost import CostModel, Method, narrow_dtype, series_terms
from deqverify.reference.fast.direct import Factors
from deqverify.reference.fast.refine import Found, Narrow, Plain, Series
from deqverify.reference.fast.system import System

CAREFUL = 0.01
"""Sums are taken carefully where their rounding could make up this share of the accuracy, amplified by 1/(1−γ)."""


def solver(A: Tensor, x: Tensor, gamma: float, accuracy: float, method: Method | None, model: CostModel) -> Answer:
    """The equilibria of A (m, m), x (n, m), γ in (0, 1). ``method`` forces one, None lets ``model`` choose."""
    m, n = A.shape[0], x.shape[0]
    direct_at_once = method == "lu" or (method is None and not model.worth_a_look(m, n, accuracy))
    if direct_at_once and m <= lean.WIDEST and 1.0 - gamma >= lean.NEAREST:
        return lean.Lean(A, x, gamma)
    return Solver(A, x, gamma, accuracy, "lu" if direct_at_once else method, model)


class Solver(Answer):
    """Any method on any problem; after a hand-over ``used`` is "lu"."""

    def __init__(self, A: Tensor, x: Tensor, gamma: float, accuracy: float, method: Method | None, model: CostModel):
        self.system, self.accuracy, self.model, self.n = System(A, gamma), accuracy, model, x.shape[0]
        self._factors: Factors | None = None
        self._inner: Plain | None = None
        self.forced = method is not None
        self.used: Method = method or model.choose(A.shape[0], self.n, gamma, accuracy, self.system.spread())
        found = self._refined(False, x)
        if found is None:
            self.z = direct.forward(self._lu(), x)
        else:
            self.z, self.bound, self.turns, self.residual = found.z, found.bound, found.turns, found.residual

    def pull(self, c: Tensor, wanted: Any = (True, True, True)) -> Gradients:
        found = self._refined(True, c)
        v, shift = direct.adjoint(self._lu(), c) if found is None else (found.z, found.shift)
        dA, dgamma = self.system.pull(self.z, v, shift, wanted[0], wanted[2])
        return Gradients(dA, v + shift, dgamma, *((None, 0) if found is None else (found.bound, found.turns)))

    def _refined(self, transposed: bool, source: Tensor) -> Found | None:
        if self.used == "lu":
            return None
        if self._inner is None:
            self._inner = self._make_inner(source)
        solve = refine.adjoint if transposed else refine.forward
        found = solve(self.system, source, self._inner, self.accuracy, self._gives_up)
        if found is None:
            self.used, self._inner = "lu", None
        return found

    def _make_inner(self, source: Tensor) -> Plain:
        system = self.system
        if system.m * system.unit > CAREFUL * self.accuracy * (1.0 - system.gamma):
            system.careful()
        if self.used == "mass":
            return Plain(system)
        if self.used == "mixedlu":
            return Narrow(system, torch.float32)
        narrow = narrow_dtype(source.dtype, source.device.type)
        return Series(system, narrow, series_terms(system.gamma * system.spread(), narrow))

    def _gives_up(self, turns: float) -> bool:
        """Whether ``turns`` more cost more than factorising now; a forced method goes on while there is hope."""
        if self.forced:
            return turns > refine.TURNS
        m = self.system.m
        return self.model.turns(self.used, m, self.n, turns) > self.model.part("lu", m, self.n)

    def _lu(self) -> Factors:
        if self._factors is None:
            self._factors = Factors(self.system)
        return self._factors
