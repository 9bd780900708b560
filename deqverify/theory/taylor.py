"""The remainder of the objective's first-order Taylor expansion, bounded (theory: taylor)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deqverify.dtypes import Array
from deqverify.theory.closed_form import ClosedForm


def remainder(exact: ClosedForm, step: Mapping[str, Array]) -> float:
    """A bound on ``|L(θ + d) − L(θ) − ⟨∇L, d⟩|`` for a step d in some of A, B and Phi.

    With ``V = 1/(1−γ) = ‖U⁻¹‖₁`` and ω the largest spread of a column of dA, the softmax along the whole segment has
    ``‖S′‖₁ ≤ ω/2`` (mean deviation) and ``‖S″‖₁ ≤ ω²/2`` (twice a variance). Hence for every data point, in the 1-norm,

        ``‖z‖ ≤ V‖φ + tdφ‖``,  ``‖z′‖ ≤ V(γω/2 ‖z‖ + ‖dφ‖)``,  ``‖z″‖ ≤ V(γω‖z′‖ + γω²/2 ‖z‖)``,

    and row by row ``|F′| ≤ b′‖z‖ + b‖z′‖``, ``|F″| ≤ 2b′‖z′‖ + b‖z″‖``, b and b′ the largest entries of that row of B,
    on the segment, and of dB. The mean value theorem gives ``Σ |ΔF| spread(|ΔF|) + ½ Σ |∂L/∂F| |F″|``.
    """
    problem = exact.problem
    V = 1.0 / (1.0 - problem.gamma)
    dA, dB, dPhi = (np.asarray(step.get(block, np.zeros_like(getattr(problem, block)))) for block in ("A", "B", "Phi"))
    turn = problem.gamma * float(np.ptp(dA, axis=0).max())
    dphi = np.abs(dPhi).sum(axis=0)
    z = V * (np.abs(problem.Phi).sum(axis=0) + dphi)
    dz = V * (turn / 2 * z + dphi)
    ddz = V * (turn * dz + turn**2 / (2 * problem.gamma) * z)
    db = np.abs(dB).max(axis=1)[:, None]
    b = np.abs(problem.B).max(axis=1)[:, None] + db
    moved = db * z + b * dz
    curved = 2 * db * dz + b * ddz
    spread = problem.loss.spread(exact.F, problem.Y, moved)
    return float(np.sum(moved * spread) + 0.5 * np.sum(np.abs(exact.dF) * curved))
