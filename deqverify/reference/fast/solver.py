"""One problem solved, forward and backward: the chosen method, and the direct solve where that gives up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqverify.implementations.protocol import Status
from deqverify.reference.fast import direct, refine
from deqverify.reference.fast.batched import finite
from deqverify.reference.fast.cost import METHODS, CostModel, Method, narrow_dtype, series_terms
from deqverify.reference.fast.direct import Factors
from deqverify.reference.fast.refine import Found, Narrow, Plain, Series
from deqverify.reference.fast.system import System

__all__ = ["METHODS", "Adjoint", "Solver"]

CAREFUL = 0.01
"""Sums are taken carefully where their rounding could make up this share of the accuracy, amplified by 1/(1−γ)."""


@dataclass
class Adjoint:
    """``λ = v + shift`` and how it was found; ``bound`` (n,) as in :class:`~deqverify.reference.fast.refine.Found`."""

    v: Tensor
    shift: Tensor
    status: Status
    bound: Tensor | None = None

    @property
    def value(self) -> Tensor:
        return self.v + self.shift


class Solver:
    """The equilibrium of A (m, m), x (n, m), γ in (0, 1), at once; adjoints and gradients when asked.

    ``method`` forces one, None lets the cost model choose. ``used`` says what gave the answer: after a hand-over "lu".
    ``bound`` (n,) certifies the relative error of z in the 1-norm where the method has a certificate; else it is None.
    """

    def __init__(self, A: Tensor, x: Tensor, gamma: float, accuracy: float, method: Method | None, model: CostModel):
        self.system, self.x, self.accuracy, self.model = System(A, gamma), x, accuracy, model
        self._factors: Factors | None = None
        self._inner: Plain | None = None
        self.forced = method is not None
        self.rank = max(x.shape[0], 1)
        self.used: Method = method or self._choose()
        self.turns, self.residual = 0, None
        found = self._refined(refine.forward, x)
        if found is None:
            self.z, self.bound = direct.forward(self._lu(), x), None
        else:
            self.z, self.bound, self.turns, self.residual = found.z, found.bound, found.turns, found.residual
        self.status = finite(self.z)

    def adjoint(self, c: Tensor) -> Adjoint:
        """``λ = U⁻ᵀc`` for c (n, m)."""
        found = self._refined(refine.adjoint, c)
        if found is None:
            v, shift = direct.adjoint(self._lu(), c)
            return Adjoint(v, shift, finite(v))
        return Adjoint(found.z, found.shift, finite(found.z), found.bound)

    def _choose(self) -> Method:
        m = self.system.m
        if not self.model.worth_a_look(m, self.rank, self.accuracy):
            return "lu"
        return self.model.choose(m, self.rank, self.system.gamma, self.accuracy, self.system.spread())

    def _refined(self, solve: object, source: Tensor) -> Found | None:
        if self.used == "lu":
            return None
        if self._inner is None:
            self._inner = self._make_inner()
        found: Found | None = solve(self.system, source, self._inner, self.accuracy, self._gives_up)  # type: ignore[operator]
        if found is None:
            self.used, self._inner = "lu", None
        return found

    def _make_inner(self) -> Plain:
        dtype = self.x.dtype
        if self.system.m * self.system.unit > CAREFUL * self.accuracy * (1.0 - self.system.gamma):
            self.system.careful()
        if self.used == "mass":
            return Plain(self.system)
        if self.used == "mixedlu":
            return Narrow(self.system, torch.float32)
        narrow = narrow_dtype(dtype, self.x.device.type)
        return Series(self.system, narrow, series_terms(self.system.gamma * self.system.spread(), narrow))

    def _gives_up(self, turns: float) -> bool:
        """Whether ``turns`` more cost more than factorising now; a forced method goes on while there is hope."""
        if self.forced:
            return turns > refine.TURNS
        return self.model.turns(self.used, self.system.m, self.rank, turns) > self.model.rest_of_lu(
            self.system.m, self.rank
        )

    def _lu(self) -> Factors:
        if self._factors is None:
            self._factors = Factors(self.system)
        return self._factors
