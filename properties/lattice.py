"""What the implicit midpoint step of the Schrödinger lattice keeps: the norm, and the symplectic form (theory: norm,
theory: symplectic)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import any_problem, cotangents, finite, judged, own_rounding

from deqverify.bounds import FLOAT64, Arithmetic, Bound
from deqverify.cells.lattice import LatticeCell
from deqverify.claims import Accuracy
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law

LATTICE = LatticeCell.name


@law(
    about=LATTICE,
    statement="‖ẑ‖² − ‖ψ‖² = −2⟨(ψ+ẑ)/2, r⟩, so that the norm is kept as well as the residual r is small",
    source="theory: norm",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly="wrong equilibrium: the norm is not kept",
    at_stake="Particles appear or vanish: over many steps the solver's error is read as physics.",
    draws=any_problem(LATTICE),
)
def norm_kept(deq: Subject, problem: Problem) -> Iterator[Measurement | Fact]:
    """The drift of the norm in a step of ψ (n, sites, 2), with no solution consulted.

    Bound: twice the size of the midpoint times the residual that is claimed, in the dual norm, and what rounding leaves
    of it (``BallErrors``' residual floor); nothing is amplified. Catches explicit steps, the trapezoidal rule, and
    sweeps that stop early without saying so.
    """
    z = deq.equilibrium(problem)
    yield finite("ẑ", z)
    truth, claim = judged(deq, problem, near=z), deq.claims.forward
    u = ((problem.x + z) / 2).reshape(problem.n, -1)
    squares = np.sum((problem.x**2 + z**2).reshape(problem.n, -1), axis=1)
    drift = np.abs(np.sum(((z - problem.x) * (z + problem.x)).reshape(problem.n, -1), axis=1))
    floor = 2.0 * np.abs(u).max(axis=1, initial=0.0) * truth.residual_floor(claim)
    allowed = Bound({f"rounding in {deq.dtype}": floor, f"claimed: {claim}": _claimed(truth, claim, z, u)})
    own = own_rounding("the squares", (u.shape[1] + 4) * FLOAT64.unit * squares)
    yield compare("|‖ẑ‖² − ‖ψ‖²|", drift, allowed + own, np.sum(problem.x.reshape(problem.n, -1) ** 2, axis=1))


def _claimed(truth: Judge, claim: Accuracy, z: Array, u: Array) -> Array:
    """``2|⟨u, r⟩|`` for an r within the claim: ``‖u‖_q`` times what it allows in the p-norm, 1/p + 1/q = 1."""
    if claim.exact:
        return np.zeros(len(z))
    allows = claim.allows(claim.norms_of(z + truth.residual(z))) + Arithmetic.of(truth.dtype).norm_floor
    if claim.of == "value":  # an error e has a residual of up to ‖I − ∂f/∂z‖e
        allows = allows * truth.stretch(claim)
    if claim.norm == "max":
        return np.asarray(2.0 * np.abs(u).sum(axis=1) * allows)
    if claim.norm == "1":
        return np.asarray(2.0 * np.abs(u).max(axis=1, initial=0.0) * allows)
    root = claim.root_count(u.T.shape) if claim.norm == "rms" else 1.0
    return np.asarray(2.0 * root * np.sqrt(np.sum(u**2, axis=1)) * allows)


@law(
    about=LATTICE,
    statement="MᵀΩM = Ω for M = ∂z*/∂ψ: the pull-back keeps the symplectic form of two cotangents",
    source="theory: symplectic",
    needs=("pull",),
    rests_on=("gradient-x",),
    anomaly="wrong gradient",
    at_stake="Phase space is stretched or shrunk: Lyapunov exponents and long runs measure the solver.",
    draws=lambda deq: any_problem(LATTICE, cotangent=True, other=cotangents(deq))(deq),
)
def symplectic(deq: Subject, problem: Problem, cotangent: Array, other: Array) -> Iterator[Measurement | Fact]:
    """``⟨Mᵀa, ΩMᵀb⟩ = ⟨a, Ωb⟩`` in every data point, a a drawn cotangent (n, sites, 2) and b another one turned by Ω,
    which exchanges real and imaginary parts with a sign.

    Bound: ``BallErrors.pulled`` of both pulls, weighted by each other. Catches one-step gradients and adjoints that
    stopped early; a factor shows as its square.
    """
    pair = cotangent, _turned(other)
    answers = [deq.solve(problem) for _ in pair]
    found = [deq.pull(answer, c)["x"] for answer, c in zip(answers, pair, strict=True)]
    truths = [judged(deq, problem, c, near=answer.z) for answer, c in zip(answers, pair, strict=True)]
    if not all(truth.in_range for truth in truths):
        return
    for gradient in found:
        yield finite("∂x", gradient)
    first, second = (np.abs(truth.pulled["x"]) for truth in truths)
    errors = [truth.pulled_error("x") for truth in truths]
    allowed = _summed(errors[0], np.abs(_turned(second)) + np.abs(_turned(errors[1].total)))
    allowed = allowed + _summed(errors[1], np.abs(_turned(first)))
    sizes = _each(np.abs(found[0]) * np.abs(_turned(found[1]))) + _each(np.abs(pair[0]) * np.abs(_turned(pair[1])))
    own = own_rounding("both forms", (sizes.size + problem.x[0].size + 2) * FLOAT64.unit * sizes)
    distance = _each(found[0] * _turned(found[1])) - _each(pair[0] * _turned(pair[1]))
    size = _each(np.abs(pair[0]) * np.abs(_turned(pair[1])))
    yield compare("|⟨Mᵀa, ΩMᵀb⟩ − ⟨a, Ωb⟩|", np.abs(distance), allowed + own, size)


def _turned(b: Array) -> Array:
    """Ωb: (real, imaginary) becomes (imaginary, −real)."""
    return np.stack([b[..., 1], -b[..., 0]], axis=-1)


def _each(products: Array) -> Array:
    """Summed over each data point, (n,)."""
    return np.asarray(products.reshape(len(products), -1).sum(axis=1))


def _summed(bound: Bound, weights: Array) -> Bound:
    return Bound({name: _each(weights * term) for name, term in bound.terms.items()})
