"""The three questions that laws ask of a problem, whatever its cell: what is true, how far an implementation with these
claims in this dtype may be from it, and what an independent oracle says.

:func:`judge` answers with closed forms on the linear-softmax cell, with estimates on one that the user wrote, and with
balls on every other. Arrays have data points first, (n, *state); θ's gradients are shaped as θ. A *magnitude* is what
a bound on states is stated for: the 1-norm of each data point where closed forms serve, each entry where balls do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np

from deqverify.bounds import Bound
from deqverify.claims import Accuracy, Claims
from deqverify.dtypes import Array
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.wrapped_problem import WrappedProblem

Direction = Mapping[str, Array]
"""Some blocks, each with an array of its shape."""


class Judge(Protocol):
    """What is true of a problem, and what ``claims`` in a dtype leave open."""

    claims: Claims
    dtype: str

    @property
    def z(self) -> Array:
        """Equilibria, (n, *state)."""

    @property
    def adjoint(self) -> Array:
        """``Λ = (I − ∂f/∂z)⁻ᵀc`` for the cotangent, (n, *state)."""

    @property
    def pulled(self) -> dict[str, Array]:
        """What a pull of the cotangent gives in every parameter and in x."""

    @property
    def gradient(self) -> dict[str, Array]:
        """The objective's gradient in every block; asked only where no cotangent was given."""

    @property
    def in_range(self) -> bool:
        """Whether there is a verdict: an equilibrium was enclosed, and nothing comes near the dtype's range."""

    def states(self, difference: Array) -> Array:
        """The magnitudes of a difference of states, as :attr:`z_error` bounds them."""

    def adjoints(self, difference: Array) -> Array:
        """The magnitudes of a difference of adjoints, as :attr:`adjoint_error` bounds them."""

    @property
    def z_error(self) -> Bound:
        """Of the magnitudes of ``ẑ − z*``."""

    @property
    def z_own(self) -> Array:
        """The rounding of :attr:`z` itself, as magnitudes."""

    @property
    def adjoint_error(self) -> Bound:
        """Of the magnitudes of ``Λ̂ − Λ``."""

    def pulled_error(self, block: str, given: Array | None = None) -> Bound:
        """Of the gradient that a pull gives in ``block``, entry by entry; the cotangent is off by ``given``."""

    def pulled_own(self, block: str) -> Array:
        """The rounding of :attr:`pulled` itself."""

    def tangent(self, direction: Direction) -> tuple[Array, Bound]:
        """The equilibrium's derivative along ``direction``, in every parameter and x, (n, *state), and what an
        implementation's may be off by, entry by entry."""

    @property
    def start_error(self) -> Bound:
        """Of the magnitudes, as those of adjoints, of what a pull says of a start: of any start where f is linear, of
        one that is an answer elsewhere."""

    def gradient_error(self, block: str) -> Bound:
        """Of the objective's gradient in ``block``, entry by entry."""

    @property
    def value_error(self) -> Bound:
        """Of L, without axes."""

    @property
    def value_size(self) -> float:
        """The size of what L is summed from."""

    @property
    def enclosure_rounding(self) -> Array:
        """The rounding of :meth:`error` itself."""

    def stretch(self, claim: Accuracy) -> float:
        """At least ‖I − ∂f/∂z‖ in the norm of ``claim``, and of its transpose: the residual of an error of size 1."""

    def evaluation_floor(self, z: Array) -> Array:
        """What rounding may make of the residual of z, as an implementation evaluates it, (n,), in the 1-norm."""

    def error(self, z: Array) -> Array:
        """Upper bounds on the magnitudes of ``z − z*`` for a finite candidate."""

    def residual(self, z: Array) -> Array:
        """``f(z) − z``, (n, *state), for a finite candidate: rounded no more than its own last bit."""

    def adjoint_residual(self, adjoint: Array) -> Array:
        """``c + (∂f/∂z)ᵀΛ̂ − Λ̂`` for a finite candidate, likewise."""

    def certificate(self, z: Array) -> tuple[Array, Bound]:
        """What z's own residual proves of its error, and what that may be."""

    def adjoint_certificate(self, adjoint: Array) -> tuple[Array, Bound]:
        """The same for a candidate for Λ."""

    def residual_floor(self, claim: Accuracy) -> Array:
        """What rounding may leave of the residual of each data point in the norm of ``claim``, (n,)."""

    def adjoint_floor(self, claim: Accuracy) -> Array:
        """The same for the adjoint's residual."""

    def objective(self) -> tuple[float, float]:
        """L, and an upper bound on the error of that number."""

    def off_second(
        self, found: Direction, first: Direction, second: Direction
    ) -> dict[str, tuple[float, Bound, float]]:
        """For the derivative ``found`` along ``first`` of what a pull gives, in each block of ``second``, e: how far
        ``⟨found, e⟩`` is from an oracle's number, its bound, that number's own error included, and the size of what is
        compared. Without blocks where nothing is known."""

    def off_slope(self, gradient: Direction, direction: Direction, accuracy: float) -> tuple[float, float]:
        """``|⟨ĝ − ∇L, d⟩|`` for an implementation's gradient ĝ, and an upper bound on the error of that number: near
        ``accuracy`` at the most, or near the rounding of its summands."""


def judge(
    problem: Problem, claims: Claims, dtype: str, cotangent: Array | None = None, near: Array | None = None
) -> Judge:
    """The judge of ``problem`` for an implementation with ``claims`` in ``dtype``.

    ``cotangent`` (n, *state) takes the place of the objective's. ``near`` is an implementation's own answer: where no
    certificate says that there is one equilibrium, that beside it is the one that is meant.
    """
    if isinstance(problem, SoftmaxProblem):
        from deqverify.errors.softmax import SoftmaxJudge

        return SoftmaxJudge(problem, claims, dtype, cotangent)
    if isinstance(problem, WrappedProblem):
        if not problem._cell.given:
            from deqverify.errors.observed import ObservedJudge

            return cast(Judge, ObservedJudge(problem, claims, dtype, cotangent, near))
        from deqverify.errors.estimated_judge import EstimatedJudge

        # Of a wrapped layer no second derivative is asked, nor a gradient in its start (deqverify.needs).
        return cast(Judge, EstimatedJudge(problem, claims, dtype, cotangent, near))
    from deqverify.errors.any_cell import BallJudge
    from deqverify.errors.certified import MOST_FOR_BALLS, CertifiedJudge

    if np.prod(problem.state) > MOST_FOR_BALLS:
        return CertifiedJudge(problem, claims, dtype, cotangent, near)
    return BallJudge(problem, claims, dtype, cotangent, near)


def weighed(found: Array, true: Array, off: Array, bound: Bound, weights: Array) -> tuple[float, Bound, float]:
    """``|⟨found − true, d⟩|``, its bound and its size, from those entry by entry; ``true`` is off by ``off``."""
    size = np.abs(weights)
    terms = {name: np.asarray(np.sum(term)) for name, term in (bound * size).terms.items()}
    scale = float(np.sum(size * np.abs(true)))
    own = np.sum(size * off) + (np.size(weights) + 4) * 2.0**-53 * (scale + np.sum(size * np.abs(found)))
    terms["rounding of the oracle's number and the inner product in float64"] = np.asarray(own)
    return abs(float(np.sum((found - true) * weights))), Bound(terms), scale


def along(judge: Judge, direction: Direction) -> Bound:
    """Of ``⟨∇L, d⟩``, without axes: ``Σ |d|e``, and the rounding of its own sum in float64 (theory: propagation)."""
    total = Bound({"rounding of the inner product": np.asarray(0.0)})
    for block, d in direction.items():
        error = judge.gradient_error(block) * np.abs(d)
        total = total + Bound({name: np.asarray(np.sum(term)) for name, term in error.terms.items()})
    size = sum(float(np.sum(np.abs(d * judge.gradient[block]))) for block, d in direction.items())
    count = sum(np.size(d) for d in direction.values())
    return total + Bound({"rounding of the inner product": np.asarray(count * 2.0**-53 * size)})


def astray(judge: Judge, z: Array) -> bool:
    """Whether z is beyond its bound, or not finite; the rounding of what it is compared with is forgiven."""
    return not np.all(judge.states(z - judge.z) <= judge.z_error.total + judge.z_own)


def gradient_astray(judge: Judge, block: str, gradient: Array) -> bool:
    """Whether what was pulled in ``block`` is beyond its bound, likewise."""
    allowed = judge.pulled_error(block).total + judge.pulled_own(block)
    return not np.all(np.abs(gradient - judge.pulled[block]) <= allowed)
