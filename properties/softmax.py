"""What is true of the linear-softmax cell alone: of its equilibrium and of its pull (theory: equilibrium,
theory: equivariance, theory: gauge, theory: euler)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from deqverify.properties.common import (
    SOFTMAX,
    budget,
    cases,
    finite,
    judged,
    large_problem,
    own_rounding,
    softmax_problem,
)
from hypothesis import strategies as st

from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, dtype
from deqverify.errors.judge import along, astray
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import law
from deqverify.strategies import problems

WRONG = "wrong equilibrium"
WRONG_GRADIENT = "wrong gradient"


@law(
    about=SOFTMAX,
    statement="1ᵀẑ = 1ᵀφ/(1−γ) for every data point",
    source="theory: mass",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly="wrong equilibrium: mass is not conserved",
    at_stake="The weights do not sum to one along the axis they should: another model is being solved.",
    draws=softmax_problem(),
    large=large_problem(SOFTMAX),
)
def mass(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """The columns of S sum to one, so summing ``z = γSz + φ`` fixes the mass of z exactly.

    Bound: ``Errors.z``, since ``|1ᵀ(ẑ − z*)| ≤ ‖ẑ − z*‖₁``. Catches a row softmax, which the eigenvalue bound
    (theory: floor) survives.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    truth = judged(deq, problem)
    expected = problem.x.sum(axis=1) / (1.0 - problem.gamma)
    size, phi = truth.states(truth.z), truth.states(problem.x)
    own = own_rounding("the sums", (problem.m + 2) * 2.0**-53 * (size + phi / (1 - problem.gamma)))
    yield compare("|1ᵀẑ − 1ᵀφ/(1−γ)|", np.abs(z.sum(axis=1) - expected), truth.z_error + own, size)


@law(
    about=SOFTMAX,
    statement="φ ≥ 0 implies z* ≥ φ ≥ 0, entry by entry",
    source="theory: positivity",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake="The sign of a state is not what the model says; anything read as a probability or an amount is not one.",
    loose=(
        "eliminating in U, an M-matrix with dominant columns, the reference only adds products of nonnegative numbers "
        "to φ and divides by at most one: rounding does not take ẑ below φ."
    ),
    draws=lambda deq: cases(problems(deq.dtype, feature_regimes=("nonnegative",))),
)
def positivity(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """``U⁻¹ = Σ γᵏSᵏ ≥ I`` entrywise, so nonnegative features (n, m) give states at least as large.

    Bound: ``Errors.z`` below φ. Catches a wrong sign of γS, and solvers that overshoot.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    truth = judged(deq, problem)
    shortfall = np.maximum(problem.x - z, 0.0).max(axis=1, initial=0.0)
    yield compare("max(φ − ẑ, 0)", shortfall, truth.z_error, truth.states(truth.z))


def _same(
    what: str, deq: Subject, problem: SoftmaxProblem, first: Array, second: Array
) -> Iterator[Measurement | Fact]:
    """That two answers (n, m) to one problem agree: each is within ``Errors.z`` of the equilibrium."""
    yield finite("ẑ", first)
    yield finite("ẑ", second)
    truth = judged(deq, problem)
    size = truth.states(truth.z)
    own = own_rounding("the comparison", problem.m * 2.0**-53 * size)
    yield compare(what, truth.states(first - second), 2 * truth.z_error + own, size)


@law(
    about=SOFTMAX,
    statement="(PAPᵀ, Pφ) ↦ Pz* for every permutation matrix P",
    source="theory: equivariance",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake="The order of the features changes the model.",
    draws=softmax_problem(least_m=2, order=lambda problem: st.permutations(range(problem.m))),
)
def permutation(deq: Subject, problem: SoftmaxProblem, order: list[int]) -> Iterator[Measurement | Fact]:
    """Renaming the states renames the equilibrium and nothing else.

    Bound: twice ``Errors.z``. Catches wrong axes: softmax, transposition, broadcasting along the wrong one.
    """
    z = deq.equilibrium(problem)
    renamed = replace(problem, A=problem.A[np.ix_(order, order)], Phi=problem.Phi[order], B=problem.B[:, order])
    yield from _same("‖ẑ(PAPᵀ, Pφ) − Pẑ‖₁", deq, renamed, deq.equilibrium(renamed), z[:, order])


def _on_grid(deq: Subject, problem: SoftmaxProblem) -> SoftmaxProblem:
    """A on a grid coarse enough that an integer of magnitude 32 can be added without rounding."""
    spacing = 2.0**-2 if dtype(deq.dtype).significand < 16 else 2.0**-8
    return replace(problem, A=np.clip(np.round(problem.A / spacing) * spacing, -16, 16))


OVERFLOWS = 1024.0
"""No dtype holds e to this power: exp 709 ends float64."""


@law(
    about=SOFTMAX,
    statement="adding a constant to a column of A changes nothing",
    source="theory: equivariance",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake="The weights are not a softmax of the columns of A.",
    loose=(
        "the reference subtracts each column's maximum, which takes the shift out exactly; a softmax that rounds it is "
        "forgiven."
    ),
    draws=softmax_problem(
        shift=lambda problem: st.lists(st.integers(-32, 32), min_size=problem.m, max_size=problem.m),
    ),
)
def column_shift(deq: Subject, problem: SoftmaxProblem, shift: list[int]) -> Iterator[Measurement | Fact]:
    """``A + 1cᵀ`` for integers c (m,), added without rounding, has the same softmax and the same equilibrium; raised by
    1024 all over, where the exponential of every dtype overflows, it has a finite one.

    Undecided where ẑ(A) is wrong itself. Bound: twice ``Errors.z``. Catches an exponential that overflows, and logits
    that are clipped.
    """
    plain = _on_grid(deq, problem)
    shifted = replace(plain, A=plain.A + np.array(shift, dtype=float))
    z = deq.equilibrium(plain)
    if astray(judged(deq, plain), z):
        return
    yield from _same("‖ẑ(A + 1cᵀ) − ẑ(A)‖₁", deq, plain, deq.equilibrium(shifted), z)
    raised = replace(plain, A=plain.A + OVERFLOWS).rounded_to(deq.dtype)
    yield finite(f"ẑ(A + {OVERFLOWS:g})", deq.equilibrium(raised))


@law(
    about=SOFTMAX,
    statement="1ᵀ ∂L/∂A = 0: adding a constant to a column of A changes nothing",
    source="theory: gauge",
    needs=("pull",),
    rests_on=("gradient-theta",),
    anomaly=WRONG_GRADIENT,
    at_stake="Training drifts along directions that the model cannot see.",
    draws=softmax_problem(cotangent=True),
)
def gauge(deq: Subject, problem: SoftmaxProblem, cotangent: Array) -> Iterator[Measurement | Fact]:
    """The columns of the gradient in A sum to zero for every cotangent c (n, m), however exact the adjoint is.

    Bound: ``Errors.gauge``, which scales with M = γΛZᵀ and not with the gradient. Catches a softmax Jacobian that is
    missing or taken along rows.
    """
    found = deq.pull(deq.solve(problem), cotangent)
    bounds = budget(deq, problem, cotangent.T)
    if not bounds.in_range:
        return
    yield finite("∂L/∂A", found["A"])
    sums = np.abs(found["A"].sum(axis=0))
    size = np.abs(bounds.exact.softmax_product).sum(axis=0)
    allowed = bounds.bound(lambda e: e.gauge(e.adjoint_from(0.0)))
    yield compare("|1ᵀ ∂L/∂A|", sums, allowed, size)


@law(
    about=SOFTMAX,
    statement="⟨Φ, ∂L/∂Φ⟩ = ⟨F, dF⟩",
    source="theory: euler (z* is homogeneous of degree one in Φ)",
    needs=("gradient",),
    rests_on=("gradient-x",),
    anomaly=WRONG_GRADIENT,
    at_stake="The adjoint equation is not solved: gradients of everything below the equilibrium are wrong.",
    draws=softmax_problem(),
)
def euler(deq: Subject, problem: SoftmaxProblem) -> Iterator[Measurement | Fact]:
    """Both sides are the derivative of L when all features grow together; only the left one needs the adjoint.

    The right side is a closed form in float64. Bound: ``Errors.gradient["Phi"]`` weighted by |Φ|, and the closed
    form's own errors. Catches one-step gradients and adjoints that stopped early.
    """
    _, gradient = deq.value_and_grad(problem)
    truth, bounds = judged(deq, problem), budget(deq, problem)
    if not truth.in_range:
        return
    yield finite("∂L/∂x", gradient["x"])
    exact, theory = bounds.exact, bounds.theory
    right = float(np.sum(exact.F * exact.dF))
    own = np.sum(theory.F * np.abs(exact.dF)) + np.sum(theory.dF * (np.abs(exact.F) + theory.F))
    own = own + problem.p * problem.n * 2.0**-53 * np.sum(np.abs(exact.F * exact.dF))
    allowed = along(truth, {"x": problem.x}) + own_rounding("⟨F, dF⟩", own)
    left = float(np.sum(problem.x * gradient["x"]))
    size = max(abs(right), float(np.sum(np.abs(exact.F * exact.dF))))
    yield compare("|⟨Φ, ∂L/∂Φ⟩ − ⟨F, dF⟩|", abs(left - right), allowed, size)
