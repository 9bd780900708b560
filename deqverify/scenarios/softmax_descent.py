"""What scenarios on the linear-softmax model share: a step of descent, and the equilibria of many models at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from deqverify.dtypes import Array
from deqverify.theory.closed_form import ClosedForm

FRACTION = 0.5
"""Of the decrease that the gradient promises, what a step is asked for (theory: descent)."""

SHORTEST = 1e-12
"""Far below 1/smoothness of every loss that is descended here: a step that is no longer finds rounding alone."""

T = TypeVar("T")


def backtracked(
    tried: Callable[[float], tuple[T, float]], value: float, squared: float, eta: float
) -> tuple[T, float, float] | None:
    """The first of η, η/2, … with ``L(θ − ηg) ≤ L(θ) − FRACTION·η‖g‖²``: where it leads, the loss there and its η; None
    where no step longer than ``SHORTEST`` has it. ``tried`` says where a step leads and the loss there, ``value`` is
    L(θ) and ``squared`` ‖g‖²."""
    while eta > SHORTEST:
        ahead, lowered = tried(eta)
        if lowered <= value - FRACTION * eta * squared:
            return ahead, lowered, eta
        eta /= 2.0
    return None


def descended(exact: ClosedForm, g: dict[str, Array], eta: float) -> tuple[ClosedForm, float] | None:
    """The model a backtracked step of at most η along −g further, A and B alone, and the step; None where there is
    none."""
    here = exact.problem

    def tried(eta: float) -> tuple[ClosedForm, float]:
        ahead = ClosedForm(replace(here, A=here.A - eta * g["A"], B=here.B - eta * g["B"]))
        return ahead, ahead.loss

    found = backtracked(tried, exact.loss, float(np.sum(g["A"] ** 2) + np.sum(g["B"] ** 2)), eta)
    return None if found is None else (found[0], found[2])


def equilibria(A: Array, Phi: Array, gamma: float) -> tuple[Array, Array, Array]:
    """S and U (k, m, m), and Z (k, m, n), of k models A (k, m, m) at once, on the features Φ (m, n)."""
    E = np.exp(A - A.max(axis=1, keepdims=True))
    S = E / E.sum(axis=1, keepdims=True)
    U = np.eye(A.shape[1]) - gamma * S
    return S, U, np.linalg.solve(U, np.broadcast_to(Phi, (len(A), *Phi.shape)))
