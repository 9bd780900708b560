"""The judge of the linear-softmax cell: closed forms and the bounds of :mod:`deqverify.bounds`, transposed to data
points first; enclosures by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property

import numpy as np

from deqverify.bounds import Bound, Budget, Errors
from deqverify.claims import Accuracy, Claims
from deqverify.dtypes import Array
from deqverify.errors.judge import Direction
from deqverify.oracle import Oracle
from deqverify.problem import SoftmaxProblem
from deqverify.tangent_errors import TangentErrors
from deqverify.theory.closed_form import ClosedForm

MOST_FOR_ORACLE = 32
"""Up to this size a derivative in ball arithmetic takes less than a second."""


class SoftmaxJudge:
    """Magnitudes are 1-norms of data points for states, maximum norms for adjoints: the norms that contract."""

    def __init__(self, problem: SoftmaxProblem, claims: Claims, dtype: str, cotangent: Array | None = None):
        self.problem, self.claims, self.dtype = problem, claims, dtype
        exact = ClosedForm(problem, None if cotangent is None else cotangent.T)
        self.bounds = Budget(exact, claims, dtype)
        self.exact = exact

    @cached_property
    def z(self) -> Array:
        return self.exact.Z.T

    @cached_property
    def adjoint(self) -> Array:
        return self.exact.adjoint.T

    @cached_property
    def pulled(self) -> dict[str, Array]:
        return {name: self.exact.block_gradient[name] for name in self.problem.pulled_blocks}

    @cached_property
    def gradient(self) -> dict[str, Array]:
        return self.exact.block_gradient

    @cached_property
    def in_range(self) -> bool:
        return self.bounds.in_range

    def states(self, difference: Array) -> Array:
        return np.asarray(np.abs(difference).sum(axis=1))

    def adjoints(self, difference: Array) -> Array:
        return np.asarray(np.abs(difference).max(axis=1, initial=0.0))

    @cached_property
    def z_error(self) -> Bound:
        return self.bounds.bound(lambda e: e.z)

    @property
    def z_own(self) -> Array:
        return self.bounds.theory.z

    @cached_property
    def adjoint_error(self) -> Bound:
        return self.bounds.bound(lambda e: e.adjoint_from(0.0))

    def pulled_error(self, block: str, given: Array | None = None) -> Bound:
        if given is not None:
            return self._by_block(lambda e: e.pulled(given.T))[block]
        return self._pulled_errors[block]

    @cached_property
    def _pulled_errors(self) -> dict[str, Bound]:
        return self._by_block(lambda e: e.pulled())

    @cached_property
    def _gradient_errors(self) -> dict[str, Bound]:
        return self._by_block(lambda e: e.gradient)

    def _by_block(self, of: Callable[[Errors], dict[str, Array]]) -> dict[str, Bound]:
        all_blocks = cache(of)

        def one(name: str) -> Bound:
            return self.bounds.bound(lambda errors: all_blocks(errors)[name])

        found = {name: one(name) for name in all_blocks(self.bounds.rounding)}
        return {"x" if name == "Phi" else name: _turned(bound, name) for name, bound in found.items()}

    def pulled_own(self, block: str) -> Array:
        own = self.bounds.theory.pulled()["Phi" if block == "x" else block]
        return own.T if block == "x" else own

    def tangent(self, direction: Direction) -> tuple[Array, Bound]:
        given = {"A": direction["A"], "Phi": direction["x"].T, "gamma": direction["gamma"]}
        value = TangentErrors(self.bounds.theory, given).dZ.value.T
        error = self.bounds.bound(lambda e: TangentErrors(e, given).dZ.error)
        return value, _turned(error, "Phi")

    @property
    def start_error(self) -> Bound:
        """``Errors.adjoint_residual``: an unrolling leaves just that of its adjoint."""
        return self.bounds.bound(Errors.adjoint_residual)

    def gradient_error(self, block: str) -> Bound:
        return self._gradient_errors[block]

    @property
    def value_error(self) -> Bound:
        return self.bounds.bound(lambda e: e.value)

    @property
    def value_size(self) -> float:
        return float(np.sum(self.problem.loss.value_terms(self.exact.F, self.problem.Y)))

    @cached_property
    def _oracle(self) -> Oracle:
        return Oracle(self.problem)

    def error(self, z: Array) -> Array:
        return np.asarray(self._oracle.error(z.T).sum(axis=0))

    @property
    def enclosure_rounding(self) -> Array:
        return np.asarray(4 * self.problem.m * 2.0**-53 * self.states(self.z))

    def stretch(self, claim: Accuracy) -> float:
        """``‖U‖ ≤ 1 + γm`` in any of the norms."""
        return 1.0 + self.problem.gamma * self.problem.m

    def evaluation_floor(self, z: Array) -> Array:
        errors, size = self.bounds.rounding, self.states(z)
        rounding = errors.solve_rounding * (size + self.states(self.problem.x)) + errors.underflow
        return np.asarray(rounding + 2 * self.bounds.arithmetic.storage * size)

    def residual(self, z: Array) -> Array:
        return self._oracle.residual(z.T).T

    def adjoint_residual(self, adjoint: Array) -> Array:
        return self._oracle.adjoint_residual(adjoint.T, self.exact.cotangent).T

    def certificate(self, z: Array) -> tuple[Array, Bound]:
        """``‖φ + γSẑ − ẑ‖₁/(1−γ)`` and ``Errors.certificate`` (theory: certificate)."""
        found = self.states(self.residual(z)) * self.bounds.rounding.amplification
        return found, self.bounds.bound(lambda e: e.certificate)

    def adjoint_certificate(self, adjoint: Array) -> tuple[Array, Bound]:
        """``‖c + γSᵀΛ̂ − Λ̂‖_∞/(1−γ)`` and ``Errors.adjoint_certificate`` (theory: certificate)."""
        found = self.adjoints(self.adjoint_residual(adjoint)) * self.bounds.rounding.amplification
        return found, self.bounds.bound(Errors.adjoint_certificate)

    def residual_floor(self, claim: Accuracy) -> Array:
        errors, z = self.bounds.rounding, self.states(self.z)
        rounding = errors.solve_rounding * (z + self.states(self.problem.x)) + errors.underflow
        return np.asarray(rounding + 2 * self.bounds.arithmetic.storage * z)

    def adjoint_floor(self, claim: Accuracy) -> Array:
        errors, peak = self.bounds.rounding, self.adjoints(self.adjoint)
        rounding = errors.solve_rounding * (peak + self.adjoints(self.exact.cotangent.T)) + errors.underflow
        wider = {"1": float(self.problem.m), "max": 1.0}.get(claim.norm, self.problem.m**0.5)  # than the maximum norm
        return np.asarray(wider * (rounding + 2 * self.bounds.arithmetic.storage * peak))

    def objective(self) -> tuple[float, float]:
        found = self._oracle.objective()
        value = found.value.item()
        return value, found.radius.item() + 2.0**-52 * abs(value)

    def off_second(
        self, found: Direction, first: Direction, second: Direction
    ) -> dict[str, tuple[float, Bound, float]]:
        """``TangentErrors.second`` weighted by |e|, against mixed central differences."""
        turned = (
            {"Phi" if k == "x" else k: d.T if k == "x" else d for k, d in a.items()} for a in (found, first, second)
        )
        said, d, e = turned
        exact, answer = TangentErrors(self.bounds.theory, d).second, {}
        for block, weights in e.items():
            allowed = self.bounds.bound(
                lambda errors, k=block: np.sum(TangentErrors(errors, d).second[k].error * np.abs(e[k]))  # type: ignore[misc]
            )
            accuracy = 1e-3 * float(allowed.total)
            true = self._oracle.second_derivative(self.exact.cotangent, d, {block: weights}, accuracy)
            size = float(np.sum(np.abs(exact[block].value * weights)))
            own = accuracy + 2.0**-52 * abs(true) + np.size(weights) * 2.0**-53 * size
            allowed = allowed + Bound({"rounding of the oracle's number and the inner product": np.asarray(own)})
            answer["x" if block == "Phi" else block] = abs(float(np.sum(said[block] * weights)) - true), allowed, size
        return answer

    def off_slope(self, gradient: Direction, direction: Direction, accuracy: float) -> tuple[float, float]:
        if max(self.problem.m, self.problem.n) > MOST_FOR_ORACLE:
            return self._off_closed_form(gradient, direction)
        turned = {"Phi" if k == "x" else k: d.T if k == "x" else d for k, d in direction.items()}
        true = self._oracle.derivative(turned, accuracy=accuracy)
        claimed = sum(float(np.sum(gradient[block] * d)) for block, d in direction.items())
        return abs(claimed - true), accuracy + 2.0**-52 * abs(true)

    def _off_closed_form(self, gradient: Direction, direction: Direction) -> tuple[float, float]:
        exact, own = self.gradient, self.bounds.theory.gradient
        distance = abs(sum(float(np.sum((gradient[block] - exact[block]) * d)) for block, d in direction.items()))
        errors = {"x" if k == "Phi" else k: e.T if k == "Phi" else e for k, e in own.items()}
        error = sum(float(np.sum(errors[block] * np.abs(d))) for block, d in direction.items())
        count = sum(np.size(d) for d in direction.values())
        return distance, error + count * 2.0**-53 * distance


def _turned(bound: Bound, name: str) -> Bound:
    """A bound on Φ's gradient as one on x's."""
    return Bound({key: np.asarray(term).T for key, term in bound.terms.items()}) if name == "Phi" else bound
