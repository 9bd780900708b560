"""Weights of a few bits: how far quantising A moves the equilibrium, and what a layer that quantises A gives (theory:
quantised)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from deqverify.properties.common import (
    SOFTMAX,
    finite,
    judged,
    own_rounding,
    rounded_signals,
    softmax_problem,
)
from hypothesis import strategies as st

from deqverify.bounds import FLOAT64, Bound
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, to_grid
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import law
from deqverify.theory.closed_form import ClosedForm

BITS = (8, 6, 10, 12, 4, 16, 3, 2)
"""Of the grids that A is quantised to, the everyday one first."""


@law(
    about=SOFTMAX,
    statement="quantising A to A_q moves ẑ by at most γ/(1−γτ)·‖(S_q − S)z*‖₁, hence γ/(1−γ) times that norm",
    source="theory: quantised, theory: zero-mass; Chen et al. 2023, arXiv 2302.03390",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly="weights that are nearly the same have states far apart",
    at_stake="A model that is stored in a few bits, or trained so, is another one than its weights say.",
    draws=softmax_problem(least_m=2, bits=lambda problem: st.sampled_from(BITS)),
)
def perturbation(deq: Subject, problem: SoftmaxProblem, bits: int) -> Iterator[Measurement | Fact]:
    """A (m, m) as drawn and on a grid of ``bits`` bits, ẑ (n, m) of both: the softmax of what is quantised still has
    columns that sum to one, so ``z*(A_q) − z*(A) = γU_q⁻¹(S_q − S)z*``, whose right side has no mass.

    τ is that of S_q. Bound: the theorem's, ``Errors.z`` at both, and the rounding of the theorem's in float64. Catches
    weights that are no softmax of A's columns, and a solver whose answer jumps where A hardly moves.
    """
    coarse = replace(problem, A=to_grid(problem.A, bits))
    z, moved = deq.equilibrium(problem), deq.equilibrium(coarse)
    yield finite("ẑ(A)", z)
    yield finite("ẑ(A_q)", moved)
    here, there = judged(deq, problem), judged(deq, coarse)
    exact, quantised = ClosedForm(problem), ClosedForm(coarse)
    pushed = np.abs((quantised.S - exact.S) @ exact.Z).sum(axis=0)
    factor = problem.gamma / (1.0 - quantised.zero_mass_rate)
    theorem = Bound({"the theorem's movement": factor * pushed})
    own = own_rounding("(S_q − S)z*", factor * _push_rounding(exact, quantised, here.z_own))
    allowed = theorem + here.z_error + there.z_error + own
    yield compare("‖ẑ(A_q) − ẑ(A)‖₁", here.states(moved - z), allowed, here.states(here.z))


def _push_rounding(exact: ClosedForm, quantised: ClosedForm, z_error: Array) -> Array:
    """Of ``‖(S_q − S)z*‖₁`` for each data point, (n,): an entry of a softmax is off by ``(m + 4 + max A − A)u`` times
    itself, as in ``Errors.softmax``; m products are summed, then m entries, and the factor before them takes three
    roundings; columns of ``S_q − S`` have a 1-norm of at most 2."""
    m, unit = exact.problem.m, FLOAT64.unit
    spread = sum(c.S * (3 * m + 8 + c.problem.A.max(axis=0) - c.problem.A) for c in (exact, quantised))
    return np.asarray(unit * (spread @ np.abs(exact.Z)).sum(axis=0) + 2.0 * z_error)


@law(
    about=SOFTMAX,
    statement="ẑ and its pull at any A are those at the quantised A_q: the gradient goes straight through",
    source="theory: quantised; Bengio et al. 2013, arXiv 1308.3432",
    needs=("pull", "grid"),
    rests_on=("existence", "gradient-theta", "gradient-x"),
    anomaly="answers of other weights than the quantised ones",
    at_stake="Training moves the weights by a gradient that belongs to another model than the one that is evaluated.",
    draws=lambda deq: softmax_problem(
        least_m=2, cotangent=True, weights=lambda problem: rounded_signals(deq, problem.A.shape)
    )(deq),
)
def straight_through(
    deq: Subject, problem: SoftmaxProblem, cotangent: Array, weights: Array
) -> Iterator[Measurement | Fact]:
    """``weights`` (m, m) in place of A, not on the grid; ẑ (n, m), and the gradients in A, γ and x for a cotangent.

    They are no differences of the layer's own values, which are constant between jumps. Bound: ``Errors.z`` and
    ``Errors.pulled`` at A_q. Catches weights that are cut off instead of rounded, a gradient that is taken at A itself,
    and one that is zero beyond some size of A.
    """
    real = replace(problem, A=weights)
    asked = deq.rounded(real)
    answer = deq.solve(real)
    found = deq.pull(answer, cotangent)
    truth = judged(deq, asked, cotangent)
    yield finite("ẑ", answer.z)
    own = own_rounding("z*(A_q)", truth.z_own)
    yield compare("‖ẑ(A) − z*(A_q)‖₁", truth.states(answer.z - truth.z), truth.z_error + own, truth.states(truth.z))
    if not truth.in_range:
        return
    for block in asked.pulled_blocks:
        yield finite(f"the gradient in {block}", found[block])
        allowed = truth.pulled_error(block) + own_rounding("the closed form", truth.pulled_own(block))
        off = np.abs(found[block] - truth.pulled[block])
        yield compare(f"the gradient in {block} at A, less that at A_q", off, allowed, np.abs(truth.pulled[block]))
