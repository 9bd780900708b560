"""The reference by iteration: a sweep repeated until its own certificate, and never a guess, says that it is done.

Both passes are solved in their own right: the pull solves the adjoint equation ``λ = Kᵀλ + c`` (theory: adjoint), and
no gradient goes through an iteration. One source serves NumPy and PyTorch.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

from deqverify.cells import Contraction, LinearCell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy
from deqverify.implementations.protocol import Cotangents, Layer, Pull, Solution, Status
from deqverify.namespaces import array_namespace
from deqverify.reference.stateless import STATELESS, Stateless
from deqverify.reference.sweeps import MassCorrected, Picard, Sweep, one_norm, zero_mass_rate

MAX_ITERATIONS = 1000
"""Picard reaches 1e-10 within it up to γ = 0.97: log(1e-10 (1−γ))/log γ = 870."""

HAND_OVER = 200
"""Sweeps after which the error must have fallen by the tolerance for certain, or nothing is gained.

The bound on γτ is pessimistic: on Gaussian logits, m from 64 to 256, it is 0.75 to 0.84 and predicts up to 130 sweeps
for 1e-10 where 12 to 14 are needed.
"""


def iterate(sweep: Sweep, start: Any, tolerance: float, max_iterations: int) -> Solution:
    """Repeats ``sweep`` from ``start`` (n, m); a data point that may stop does, and stays as it is.

    The state returned is the one whose residual was measured, and ``iterations`` counts products with K. ``residual``
    and ``trace`` hold the largest residual over the data points, in the sweep's norm, each entry of the trace over
    those that were still moving. CONVERGED: every data point is certified, or at the rounding floor
    (:meth:`Sweep.allowed`); CAPPED: some were not when the cap was reached; DIVERGED: a residual, or what it is judged
    by, is not finite.
    """
    if max_iterations < 1:
        raise ValueError(f"max_iterations: a residual costs one iteration, got {max_iterations}")
    xp = array_namespace(start)
    z = sweep.correct(xp.asarray(start, copy=True))
    moving, trace = xp.ones_like(z[:, 0], dtype=xp.bool), []
    for _ in range(max_iterations):
        f = sweep.step(z)
        candidate, r = sweep.complete(z, f)
        residual = sweep.norm(r)
        trace.append(_largest(xp.where(moving, residual, xp.zeros_like(residual))))
        allowed = sweep.allowed(z, candidate, r, tolerance)
        moving = residual > allowed  # false for NaN: no sweep mends it
        if not bool(xp.any(moving)):
            break
        z = xp.where(moving[:, None], sweep.correct(f), z)
    status = Status.CAPPED if bool(xp.any(moving)) else Status.CONVERGED
    judged = residual + allowed  # an infinite allowance judges nothing
    if not _finite(judged):
        status = Status.DIVERGED
        candidate = xp.where(xp.isfinite(judged)[:, None], candidate, xp.nan)  # instead of a finite start
    unmet = zip(moving.tolist(), xp.isfinite(judged).tolist(), strict=True)
    statuses = [Status.DIVERGED if not good else Status.CAPPED if far else Status.CONVERGED for far, good in unmet]
    return Solution(candidate, status, len(trace), _largest(residual), trace, statuses=statuses)


class PicardLayer(Stateless):
    """Picard iteration (:class:`~deqverify.reference.sweeps.Picard`), from z₀ or from ``f(0) = x``.

    Hopeless near γ = 1, and says so: it is CAPPED there. The claim is ``‖f(ẑ) − ẑ‖₂ ≤ tolerance · ‖f(ẑ)‖₂``, up to the
    rounding of one evaluation of f in the dtype, and the same for the adjoint. Up to rounding, as every claim: in
    float32 the default tolerance lies below it, and the claim says that the solve goes to the rounding floor.
    """

    iteration: Literal["picard", "mass-corrected"] = "picard"

    def __init__(
        self, framework: str, tolerance: float = 1e-10, max_iterations: int = MAX_ITERATIONS, trace: bool = False
    ):
        self.framework, self.name = framework, "reference[picard]"
        self.tolerance, self.max_iterations, self.trace = tolerance, max_iterations, trace
        self.claims = replace(
            STATELESS,
            forward=Accuracy(tolerance),
            backward=Accuracy(tolerance),
            devices=("cpu",) if framework == "numpy" else ("cpu", "cuda"),
            iteration=self.iteration,
            where="deqverify/reference/iterative.py",
        )

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        theta, x, z0 = {name: _plain(value) for name, value in theta.items()}, _plain(x), _plain(z0)
        K, gamma = cell.matrix(theta), _one_norm_rate(cell, theta)
        return self._solve(Picard(K, gamma), cell, theta, x, z0)

    def limited(self, max_iterations: int) -> PicardLayer:
        """The same layer, its cap on both passes lowered."""
        lowered = copy.copy(self)
        lowered.max_iterations = min(self.max_iterations, max_iterations)
        return lowered

    def traced(self) -> PicardLayer:
        """The same layer, its solutions holding a trace of residuals in the 1-norm."""
        tracing = copy.copy(self)
        tracing.trace = True
        return tracing

    def at_tolerance(self, tolerance: float) -> PicardLayer:
        """The same layer, both passes at ``tolerance`` and the cap out of the way: for comparisons at one accuracy."""
        changed = copy.copy(self)
        changed.tolerance, changed.max_iterations = tolerance, 100 * MAX_ITERATIONS
        changed.claims = replace(self.claims, forward=Accuracy(tolerance), backward=Accuracy(tolerance))
        return changed

    def _solve(
        self, method: Picard | MassCorrected, cell: LinearCell, theta: Theta, x: Any, z0: Any
    ) -> tuple[Solution, Pull]:
        def run(sweep: Sweep, start: Any) -> Solution:
            found = iterate(sweep, start, self.tolerance, self.max_iterations)
            found.trace = found.trace if self.trace else None
            return found

        solution = run(method.forward(x), x if z0 is None else z0)
        z = solution.z

        def pull(cotangent: Any) -> Cotangents:
            c = _plain(cotangent)
            adjoint = run(method.adjoint(c), c)
            return Cotangents(cell.pull(theta, x, z, adjoint.z).theta, adjoint.z, adjoint.status)

        return solution, pull


class MassCorrectedLayer(PicardLayer):
    """Mass-corrected Picard (:class:`~deqverify.reference.sweeps.MassCorrected`), or the direct solve.

    It hands over to ``direct`` before it iterates where ``rate ** HAND_OVER > tolerance``, rate being the bound on γτ
    (:func:`~deqverify.reference.sweeps.zero_mass_rate`): S near a permutation, the identity or block structure. The
    rule is the same in float32, where less would do: the rounding of every sweep piles up by 1/(1 − rate) and would
    keep the residual off its floor. ``iterations`` is 0 after a hand-over.
    """

    iteration = "mass-corrected"

    def __init__(
        self, direct: Layer, tolerance: float = 1e-10, max_iterations: int = MAX_ITERATIONS, trace: bool = False
    ):
        super().__init__(direct.framework, tolerance, max_iterations, trace)
        self.direct, self.name = direct, "reference[mass]"

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        theta, x, z0 = {name: _plain(value) for name, value in theta.items()}, _plain(x), _plain(z0)
        K, gamma = cell.matrix(theta), _one_norm_rate(cell, theta)
        rate = zero_mass_rate(K, gamma)
        if rate**HAND_OVER > self.tolerance:
            return self._hand_over(cell, theta, x, K)
        return self._solve(MassCorrected(K, gamma, rate), cell, theta, x, z0)

    def _hand_over(self, cell: LinearCell, theta: Theta, x: Any, K: Any) -> tuple[Solution, Pull]:
        solution, pull = self.direct.vjp(cell, theta, x)
        residual = _largest(one_norm(solution.z @ K.T + x - solution.z))
        solution.iterations, solution.residual, solution.trace = 0, residual, [residual] if self.trace else None

        def reporting(cotangent: Any) -> Cotangents:
            found = pull(cotangent)
            found.status = Status.CONVERGED if _finite(found.x) else Status.DIVERGED
            return found

        return solution, reporting


def _one_norm_rate(cell: LinearCell, theta: Theta) -> float:
    match cell.certificate(theta):
        case Contraction(rate, "1"):
            return rate
        case other:
            raise ValueError(f"cell: the iterations are certified by a contraction in the 1-norm, not by {other}")


def _plain(array: Any) -> Any:
    """Without its graph: both passes are solved, not differentiated."""
    return array.detach() if hasattr(array, "detach") else array


def _finite(array: Any) -> bool:
    xp = array_namespace(array)
    return bool(xp.all(xp.isfinite(array)))


def _largest(residual: Any) -> float:
    """The largest entry of (n,); 0 where there is none."""
    return float(array_namespace(residual).max(residual)) if residual.shape[0] else 0.0
