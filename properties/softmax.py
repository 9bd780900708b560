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
    rounded_signals,
    softmax_problem,
)
from hypothesis import strategies as st

from deqverify.bounds import FLOAT64, Bound, Errors
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array, dtype, round_to
from deqverify.errors.judge import along, astray
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.registry import law
from deqverify.strategies import problems, well_conditioned_problems
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.unhinged import Generator, Path, generator

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
    needs=("equilibrium", "any weights"),
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


def _flow_rounding(problem: SoftmaxProblem, flow: Generator, time: float, steps: int) -> float:
    """What float64 makes of ``exp(N time)[Bᵀ, Φ]`` and of so many steps beside it, over the growth ``exp(time ‖N‖)``
    and the start's size, to first order; τ = time ‖N‖, N has c rows, u = 2⁻⁵³.

    ``exp(N̂ time) − exp(N time)`` is at most ``time ‖N̂ − N‖``. N is made of products of entries of D and U⁻¹: their
    rounding is ``u‖|N|‖ ≤ u√c‖N‖``; and the errors of U⁻¹, columns of which are solves, count ‖D‖ times.
    Of the series, a product with N is off by ``cu|N|`` times the vector, in norm ``uc√c‖N‖`` times it, and scaling a
    term by two roundings: term k by ``k(c√c + 2)u τᵏ/k!``, in sum ``τ(c√c + 2)u`` times the growth; each of twenty
    additions rounds the sum once. A step adds its velocities, an eighth of the state together, and these to the
    state: five roundings of the state at most.
    """
    exact, unit = ClosedForm(problem), np.eye(problem.m)
    errors = Errors(exact, FLOAT64)
    of_inverse = errors.amplification * errors.solved(exact.solve(unit), unit, 0.0, dual=False)
    tau, root = time * flow.largest, flow.count**0.5
    series = tau * (flow.count * root + root + 2) + 20 + 5 * steps
    return FLOAT64.unit * series + time * flow.slope * float(np.linalg.norm(of_inverse))


@law(
    about=SOFTMAX,
    statement="with a constant ∂L/∂F, as of the unhinged loss, gradient flow moves (B, Φ) by one matrix exponential",
    source="theory: unhinged; Zhou et al. 2023, arXiv 2312.07841",
    needs=("pull",),
    rests_on=("existence", "gradient-x"),
    anomaly=WRONG_GRADIENT,
    at_stake="Features and readout are trained along another path than the loss's.",
    cost=6,
    draws=lambda deq: cases(
        well_conditioned_problems(deq.dtype), slope=lambda problem: rounded_signals(deq, problem.Y.shape)
    ),
)
def unhinged_flow(deq: Subject, problem: SoftmaxProblem, slope: Array) -> Iterator[Measurement | Fact]:
    """Two steps of the classical Runge–Kutta method in B (p, m) and Φ (m, n), A held fixed, ``slope`` D = ∂L/∂F (p, n):
    ∂L/∂B = DZᵀ from the equilibria, ∂L/∂Φ from a pull of BᵀD.

    Beside it stands the exponential of a symmetric matrix. Bound, in the Frobenius norm: the errors of Z through |D|
    and of the pull, what rounding B, Φ and BᵀD to the dtype moves, each times the step and its growth; the method's
    remainder; the exponential's rounding. Catches an adjoint that was solved for another cotangent or along another S
    than the equilibrium, also where both are right at the start alone.
    """
    flow = generator(problem, slope)
    if flow.largest == 0.0:
        return
    h = 0.125 / flow.largest
    here = start = Path.of(problem)
    error, tainted = Bound({}), False

    def velocity(at: Path) -> Path:
        nonlocal error, tainted
        asked = at.on(problem).rounded_to(deq.dtype)
        cotangent = round_to((asked.B.T @ slope).T, deq.dtype)
        found = deq.solve(asked)
        pulled = deq.pull(found, cotangent)
        truth = judged(deq, asked, cotangent)
        tainted |= not truth.in_range
        readout = truth.z_error * np.linalg.norm(slope, axis=0)
        terms = {f"{name}, in ∂L/∂B": np.asarray(np.sum(term)) for name, term in readout.terms.items()}
        of_x = truth.pulled_error("x").terms.items()
        terms |= {f"{name}, in ∂L/∂Φ": np.asarray(np.linalg.norm(term)) for name, term in of_x}
        moved = flow.largest * at.distance(Path.of(asked))
        moved += flow.inverse * float(np.linalg.norm(cotangent.T - asked.B.T @ slope))
        moved += (problem.n + 2) * FLOAT64.unit * float(np.linalg.norm(slope) * np.linalg.norm(found.z))  # of D Z
        terms["what rounding to the dtype moves"] = np.asarray(moved)
        error = error + Bound(terms)
        return Path(-slope @ found.z, -pulled["x"].T)

    for step in range(2):
        k1 = velocity(here)
        k2 = velocity(here + k1 * (h / 2))
        k3 = velocity(here + k2 * (h / 2))
        k4 = velocity(here + k3 * h)
        here = here + (k1 + k2 * 2 + k3 * 2 + k4) * (h / 6)
        if tainted or not here.finite:
            break
        time = (step + 1) * h
        growth, size = float(np.exp(time * flow.largest)), start.size
        remainder = (step + 1) * 0.125**5 / 120 * growth * size  # of the exponential's series, each step
        own = _flow_rounding(problem, flow, time, step + 1) * growth * size
        allowed = h * growth * error + own_rounding("the exponential and of the path", own)
        allowed = allowed + Bound({"remainder of the Runge–Kutta method": np.asarray(remainder)})
        true = flow.moved(start, time)
        what = f"‖[Bᵀ, Φ](T) − exp(NT)[Bᵀ, Φ](0)‖ at T‖N‖ = {time * flow.largest:.3g}"
        yield compare(what, here.distance(true), allowed, true.distance(start))
    yield Fact("B and Φ are finite along the path", tainted or here.finite, "numbers throughout", informative=False)
