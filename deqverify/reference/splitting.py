"""The reference for the monotone cell by operator splitting: forward–backward and Peaceman–Rachford (Winston & Kolter,
NeurIPS 2020, arXiv 2006.08591, §3.2; theory: splittings). The adjoint is that of Newton's reference, dense."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from deqverify.cells import Cell, Monotone, Theta
from deqverify.cells.arithmetic import identity_like, relu
from deqverify.cells.monotone import MonotoneCell
from deqverify.cells.probed import PROBE, ProbedCell
from deqverify.claims import Accuracy
from deqverify.frameworks import framework
from deqverify.implementations.protocol import Solution, Status, worst
from deqverify.namespaces import array_namespace
from deqverify.reference.newton import NewtonLayer
from deqverify.reference.stateless import STATELESS

Splitting = Literal["forward-backward", "peaceman-rachford"]
SPLITTINGS = get_args(Splitting)

MAX_SWEEPS = 1000
TOLERANCE = 1e-5
"""Above what rounding leaves of a residual in float32, but where ``‖W‖`` is large."""


class SplittingLayer(NewtonLayer):
    """Solves ``0 ∈ (I − W)z − (Ux + b) + ∂ι(z)``, ι the indicator of z ≥ 0, whose resolvent is the projector relu:

    * forward–backward, ``z ← relu(z + α(Wz + Ux + b − z))`` with ``α = μ/L²``, the step of the best rate;
    * Peaceman–Rachford, ``u ← 2y − w`` with ``w = 2 relu(u) − u`` and ``(I + α(I − W))y = w + α(Ux + b)``, z being
      relu(u) and ``α = 1/L``, likewise.

    Both start from z₀ or 0. A data point is CONVERGED, and left alone, where ``‖f(z) − z‖₂ ≤ tolerance · ‖f(z)‖₂``,
    which is the claim; CAPPED after ``max_iterations`` sweeps. ``Solution.step`` is α. NumPy and PyTorch.
    """

    def __init__(
        self, framework: str, method: Splitting, max_iterations: int = MAX_SWEEPS, tolerance: float = TOLERANCE
    ):
        super().__init__(framework, max_iterations)
        self.method, self.tolerance, self.tracing = method, tolerance, False
        self.name = f"reference[{method}]"
        self.claims = replace(
            STATELESS,
            cells=(MonotoneCell.name,),
            forward=Accuracy(tolerance),
            devices=("cpu",) if framework == "numpy" else ("cpu", "cuda"),
            iteration=method,
            where="deqverify/reference/splitting.py",
        )

    def traced(self) -> SplittingLayer:
        """The same layer, its solutions holding a trace of residuals ``‖f(z) − z‖₂``."""
        twin = copy.copy(self)
        twin.tracing = True
        return twin

    def at_tolerance(self, tolerance: float) -> SplittingLayer:
        """The same layer, its forward pass at ``tolerance`` and the cap out of the way; the adjoint, solved directly,
        has no tolerance."""
        changed = copy.copy(self)
        changed.tolerance, changed.max_iterations = tolerance, 100 * MAX_SWEEPS
        changed.claims = replace(self.claims, forward=Accuracy(tolerance))
        return changed

    def _solve(self, cell: Cell, theta: Theta, x: Any, z0: Any) -> Solution:
        bridge, xp = framework(self.framework), array_namespace(x)
        certificate = cell.certificate({name: self._numpy(value) for name, value in theta.items()})
        plain = cell.cell if isinstance(cell, ProbedCell) else cell
        if not isinstance(plain, MonotoneCell) or not isinstance(certificate, Monotone):
            raise TypeError(f"cell: a splitting needs the monotone cell and μ > 0, got {cell.name}")
        probe = theta.get(PROBE, 0.0)

        def project(v: Any) -> Any:
            """Onto z ≥ e: the resolvent where a probe e is added to f, zero without one."""
            return relu(v - probe) + probe

        def state(u: Any) -> Any:
            return u if self.method == "forward-backward" else project(u)

        with bridge.computing(bridge.kind(x)[0]):
            W, offset = plain.weight(theta), x @ theta["U"].T + theta["b"] + probe
            f, (sweep, alpha) = cell.step(theta, x), self._sweep(W, offset, project, certificate)
            u = bridge.like(np.zeros((x.shape[0], *cell.state(theta, tuple(x.shape[1:])))), x) if z0 is None else z0
            z = state(u)
            moving, trace = xp.ones_like(z[:, 0], dtype=xp.bool), []
            while True:
                image = f(z)
                residual, size = _norm(image - z), _norm(image)
                trace.append(_largest(xp.where(moving, residual, xp.zeros_like(residual))))
                moving = moving & (residual > self.tolerance * size)  # false for NaN: no sweep mends it
                if len(trace) > self.max_iterations or not bool(xp.any(moving)):
                    break
                u = xp.where(moving[:, None], sweep(u), u)
                z = xp.where(moving[:, None], state(u), z)
            finite = xp.isfinite(residual + size)
            z = xp.where(finite[:, None], z, xp.nan)
            statuses = [
                Status.DIVERGED if not good else Status.CAPPED if far else Status.CONVERGED
                for good, far in zip(finite.tolist(), moving.tolist(), strict=True)
            ]
        kept = trace if self.tracing else None
        return Solution(z, worst(statuses), len(trace) - 1, _largest(residual), kept, statuses=statuses, step=alpha)

    def _sweep(
        self, W: Any, offset: Any, project: Callable[[Any], Any], of: Monotone
    ) -> tuple[Callable[[Any], Any], float]:
        """What is done to u in one sweep, and α."""
        if self.method == "forward-backward":
            alpha = of.mu / of.lipschitz**2
            return lambda z: project(z + alpha * (z @ W.T + offset - z)), alpha
        alpha = 1.0 / of.lipschitz
        identity = identity_like(W)
        resolvent = array_namespace(W).linalg.inv(identity + alpha * (identity - W))

        def sweep(u: Any) -> Any:
            w = 2 * project(u) - u
            return 2 * ((w + alpha * offset) @ resolvent.T) - w

        return sweep, alpha


def _norm(states: Any) -> Any:
    """The 2-norm of every data point, (n,)."""
    xp = array_namespace(states)
    return xp.sqrt(xp.sum(states * states, axis=1))


def _largest(residual: Any) -> float:
    """The largest entry of (n,); 0 where there is none."""
    return float(array_namespace(residual).max(residual)) if residual.shape[0] else 0.0
