"""What is true of the monotone operator network and of the splittings that solve it (theory: splittings)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.linalg
from deqverify.properties.common import any_problem, finite, judged, rounded_signals

from deqverify.bounds import FLOAT64, Arithmetic, Bound
from deqverify.cells import Monotone
from deqverify.cells.monotone import MonotoneCell
from deqverify.cells.norms import matrix_norms
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law

MONOTONE = MonotoneCell.name


@law(
    about=MONOTONE,
    statement="a splitting contracts: ‖z_k − z*‖ ≤ ρᵏ‖z₀ − z*‖, ρ² = 1−2αμ+α²L² or 1−4αμ/(1+2αμ+α²L²)",
    source="theory: splittings; Winston & Kolter 2020, arXiv 2006.08591",
    needs=("equilibrium", "splitting"),
    rests_on=("existence",),
    anomaly="the solver is slower than its iteration",
    at_stake="Caps are hit where the method would have converged; the cost of a solve is not what the theory says.",
    draws=lambda deq: any_problem(MONOTONE, start=lambda p: rounded_signals(deq, p.states))(deq),
)
def splitting_rate(deq: Subject, problem: Problem, start: Array) -> Iterator[Measurement | Fact]:
    """The trace of forward–backward (the first ρ, where ``α < 2μ/L²``) or Peaceman–Rachford splitting from z₀ (n, m),
    judged whatever the status; α is the step that the solution says, ``sym(I−W) ⪰ μI`` and ``L ≥ ‖I−W‖₂``.

    Each entry is the largest ``‖f(z_k) − z_k‖`` over data points, in a p-norm, 1 ≤ p ≤ 2. Bound: ``√m (1+‖W‖₂) ρᵏ``
    times the first error (that of u where u is iterated), and the rounding of the sweeps, summed as 1/(1−ρ). Catches
    damping that was not asked for, stale iterates, and a step other than the one that is said.
    """
    solution = deq.solve(problem, z0=start, layer=deq.traced()).solution
    said = solution.trace is not None and solution.step is not None
    yield Fact("the trace and the step that were asked for", said, f"got {solution.step}", informative=False)
    entries, alpha, known = np.asarray(solution.trace, dtype=np.float64), solution.step, problem.certificate
    assert alpha is not None
    yield finite("the trace", entries)
    truth = judged(deq, problem)
    if not isinstance(known, Monotone) or not np.isfinite(truth.z_error.total).all() or not entries.size:
        return
    forward_backward = deq.claims.iteration == "forward-backward"
    if alpha <= 0.0 or (forward_backward and alpha >= 2.0 * known.mu / known.lipschitz**2):
        return  # a step of which nothing is promised
    rate = _rate(known, alpha, forward_backward)
    first, rounding, floor = _first_error_and_rounding(deq, problem, start, truth.z, alpha, forward_backward)
    W = MonotoneCell().weight(problem.theta)
    steepest = len(W) ** 0.5 * (1.0 + matrix_norms(W)["2"])
    swept = steepest * rounding / (1.0 - rate) if rate < 1.0 else np.inf
    powers = rate ** np.arange(1, len(entries))
    allowed = Bound(
        {
            "the theorem's rate": steepest * powers * first,
            "rounding of the sweeps": np.asarray(swept),
            "rounding of the residual": np.asarray(floor),
        }
    )
    yield compare("‖f(z_k) − z_k‖ at the worst k", entries[1:], allowed, float(entries[0]))


def _rate(of: Monotone, alpha: float, forward_backward: bool) -> float:
    """ρ, raised by its own dozen roundings."""
    a, b = 2.0 * alpha * of.mu, (alpha * of.lipschitz) ** 2
    squared = 1.0 - a + b if forward_backward else 1.0 - 2.0 * a / (1.0 + a + b)
    return float(np.sqrt(max(squared, 0.0) + 12 * FLOAT64.unit * (1.0 + a + b)))


def _first_error_and_rounding(
    deq: Subject, problem: Problem, start: Array, z: Array, alpha: float, forward_backward: bool
) -> tuple[float, float, float]:
    """``‖u₀ − u*‖₂`` at most, for u₀ = z₀ and u what is iterated; what rounding may do to u in one sweep, and to f.

    ``u* = z*`` for forward–backward, ``(1−α)z* + α(Wz* + Ux + b)`` for Peaceman–Rachford. With R the size of iterates,
    at most that of u* and the first error, and h that of ``Ux + b``: forming W and evaluating f rounds by
    ``2(m + d + 8) u (‖|W|‖R + h)``, a sweep by α times that and R. A linear system ``I + α(I − W)`` is solved for y,
    ``‖y‖ ≤ R + αh``, with ``3m u √m ‖|L||U|‖ ‖y‖`` (Higham, Theorem 9.4; by an inverse, Theorem 14.1): its own inverse
    is no larger than 1.
    """
    P, Q, U, b = (problem.block(name) for name in ("P", "Q", "U", "b"))
    mu, unit = float(problem.block("mu")), Arithmetic.of(deq.dtype, deq.claims.computes_in.get(deq.dtype)).unit
    m, d = U.shape
    W = MonotoneCell().weight(problem.theta)
    size = float(np.linalg.norm((1.0 + mu) * np.eye(m) + np.abs(P).T @ np.abs(P) + np.abs(Q) + np.abs(Q).T))
    offset = problem.x @ U.T + b
    outside = float(np.linalg.norm(np.abs(problem.x) @ np.abs(U).T + np.abs(b), axis=1).max(initial=0.0))
    last = z if forward_backward else (1.0 - alpha) * z + alpha * (z @ W.T + offset)
    first = float(np.linalg.norm(start - last, axis=1).max(initial=0.0)) * (1.0 + 2.0**-30)
    reach = first + float(np.linalg.norm(last, axis=1).max(initial=0.0))
    each = 2 * (m + d + 8) * unit
    rounding, floor = each * (reach + alpha * (size * reach + outside)), each * (size * reach + outside + reach)
    if not forward_backward:
        lower, upper = scipy.linalg.lu(np.eye(m) + alpha * (np.eye(m) - W), permute_l=True)
        growth = float(np.linalg.norm(np.abs(lower) @ np.abs(upper)))
        rounding += 2.0 * unit * (reach + alpha * outside) * (3 * m * m**0.5 * growth + alpha * (m + 6) * size)
    return first, rounding, floor
