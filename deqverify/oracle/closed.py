"""Rigorous enclosures for problems of the linear-softmax cell, whose equilibrium one linear solve gives.

Nothing here uses an implicit-differentiation formula, and nothing is shared with an implementation: a softmax, a linear
solve and a loss, each a ball that provably contains the true value. Derivatives are central differences of the enclosed
objective at two steps. The precision doubles until an enclosure is as narrow as asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flint import arb, arb_mat, ctx

from deqverify.dtypes import Array
from deqverify.losses import Squared
from deqverify.oracle.losses import loss_value, rows
from deqverify.problem import SoftmaxProblem

BLOCKS = ("A", "B", "Phi", "gamma")
"""The blocks of the linear-softmax cell's gradient, in the symbols of the theory."""

Direction = Mapping[str, Array]
"""A direction in parameter space: some of the :data:`BLOCKS`."""

_FIRST_BITS = 128
_MOST_BITS = 1 << 14
_STEP_BITS = 84  # a step of 2⁻⁸⁴ ≈ 5e-26: truncation near 1e-50 relative, far below any dtype under test

_SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


class OracleError(ArithmeticError):
    """No enclosure as narrow as asked was found at the highest precision."""


@dataclass(frozen=True)
class Enclosure:
    """A ball in float64: ``|true − value| ≤ radius + 2⁻⁵³ |value|``, entry by entry.

    ``value`` is the midpoint, rounded to nearest; ``radius`` is rounded up, but 0 below the range of float64.
    """

    value: Array
    radius: Array


class Oracle:
    """Enclosures for one problem; matrices that are used again are kept, one set a precision."""

    def __init__(self, problem: SoftmaxProblem):
        self.problem = problem
        self._kept: dict[int, tuple[arb_mat, arb_mat]] = {}

    def softmax(self) -> Enclosure:
        """S, (m, m)."""
        return self._narrow(lambda: self._system()[0], lambda _: True)

    def equilibrium(self, relative: float = 2.0**-60) -> Enclosure:
        """z*, (m, n): each column's radii are at most ``relative`` times its largest entry."""
        Phi = self.problem.Phi
        if not Phi.size:
            return Enclosure(np.zeros(Phi.shape), np.zeros(Phi.shape))

        def narrow(e: Enclosure) -> bool:
            return bool(np.all(e.radius.max(axis=0) <= relative * np.abs(e.value).max(axis=0)))

        return self._narrow(lambda: self._system()[1].solve(_matrix(Phi)), narrow)

    def residual(self, Z: Array) -> Array:
        """``φ + γSẑ − ẑ`` for finite candidates Z (m, n): exact to the last bit of float64, or to
        2⁻¹⁰⁰ of the largest summand where they cancel."""
        if not Z.size:
            return np.zeros(Z.shape)

        def evaluate() -> arb_mat:
            return _matrix(self.problem.Phi) - self._system()[1] * _matrix(Z)

        return self._narrow(evaluate, _to_the_bit(_largest(self.problem.Phi, Z))).value

    def adjoint_residual(self, adjoint: Array, cotangent: Array) -> Array:
        """``c + γSᵀΛ̂ − Λ̂`` for finite candidates (m, n), likewise."""
        if not adjoint.size:
            return np.zeros(adjoint.shape)

        def evaluate() -> arb_mat:
            return _matrix(cotangent) - self._system()[1].transpose() * _matrix(adjoint)

        return self._narrow(evaluate, _to_the_bit(_largest(adjoint, cotangent))).value

    def error(self, Z: Array) -> Array:
        """Upper bounds on ``|ẑ − z*|`` for finite candidates Z, (m, n), good to 2⁻⁴⁰ of ``|z*|``."""
        star = self.equilibrium(2.0**-80)
        return np.abs(Z - star.value) + star.radius + 2.0**-53 * np.abs(star.value)

    def objective(self) -> Enclosure:
        """L, without axes."""
        return self._narrow(lambda: self._loss(self.problem, None, arb(0)), _to_the_bit(_largest(self.problem.Y) ** 2))

    def derivative(self, direction: Direction, accuracy: float) -> float:
        """``⟨∇L, direction⟩`` to within ``accuracy`` (absolute), or to 2⁻⁵² relative where that is wider.

        Central differences ``(L(θ + hd) − L(θ − hd))/2h`` at h and h/2; they differ by ¾ of the truncation at h, so
        their distance and both radii bound what is claimed. Where a loss is not smooth, a kink of its gradient within h
        turns ¾ into at least ½. Raises ValueError for an unknown block or a wrong shape.
        """
        _check_direction(self.problem, direction)
        step = _step(self.problem, direction)
        if step is None:
            return 0.0
        return self._agreed(lambda shift: self._difference(direction, step + shift), accuracy)

    def second_derivative(self, cotangent: Array, first: Direction, second: Direction, accuracy: float) -> float:
        """``D²⟨c, z*⟩[d, e]`` for a cotangent c (m, n) and directions in A, Phi and gamma, likewise.

        Mixed central differences of ``ψ = ⟨c, z*⟩``, ``(ψ(+d+e) − ψ(+d−e) − ψ(−d+e) + ψ(−d−e))/4hk``, at two steps.
        """
        for direction in (first, second):
            _check_direction(self.problem, direction)
        one, other = _step(self.problem, first), _step(self.problem, second)
        if one is None or other is None:
            return 0.0

        def mixed(shift: int) -> arb | None:
            h, k = arb(2) ** (one + shift), arb(2) ** (other + shift)
            try:
                corners = [s * t * self._functional(cotangent, first, s * h, second, t * k) for s, t in _SIGNS]
            except ZeroDivisionError:
                return None
            return sum(corners, arb(0)) / (4 * h * k)

        return self._agreed(mixed, accuracy)

    def _functional(self, cotangent: Array, first: Direction, h: arb, second: Direction, k: arb) -> arb:
        """``⟨c, z*⟩`` at ``θ + hd + ke``."""
        moved = {}
        for block in ("A", "Phi", "gamma"):
            once = _moved(getattr(self.problem, block), first, block, h)
            twice = _moved(np.zeros_like(getattr(self.problem, block)), second, block, k)
            moved[block] = [[x + y for x, y in zip(*pair, strict=True)] for pair in zip(once, twice, strict=True)]
        U = _identity_minus(moved["gamma"][0][0], _softmax(moved["A"]))
        z = U.solve(arb_mat(moved["Phi"])).entries()
        return sum((arb(c) * entry for c, entry in zip(cotangent.ravel().tolist(), z, strict=True)), arb(0))

    def _agreed(self, difference: Callable[[int], arb | None], accuracy: float) -> float:
        """The limit of ``difference(0)`` and ``difference(−1)``, at half the step, whose truncations differ fourfold:
        their distance and the radius bound what is claimed."""
        bits = 2 * _FIRST_BITS
        while bits <= _MOST_BITS:
            with ctx.workprec(bits):
                wide, fine = difference(0), difference(-1)
                if wide is not None and fine is not None:
                    slack = 2 * float((wide - fine).abs_upper()) + float(fine.rad())
                    if slack <= max(accuracy, 2.0**-60 * float(fine.abs_lower())):
                        return float(fine.mid())
            bits *= 2
        raise OracleError(f"no derivative to within {accuracy:.1e} at {_MOST_BITS} bits")

    def _difference(self, direction: Direction, exponent: int) -> arb | None:
        step = arb(2) ** exponent
        try:
            ahead = self._loss(self.problem, direction, step)
            behind = self._loss(self.problem, direction, -step)
        except ZeroDivisionError:  # flint could not prove U invertible at this precision
            return None
        return (ahead[0, 0] - behind[0, 0]) / (2 * step)

    def _narrow(self, evaluate: Callable[[], arb_mat], enough: Callable[[Enclosure], bool]) -> Enclosure:
        bits = _FIRST_BITS
        while bits <= _MOST_BITS:
            with ctx.workprec(bits):
                try:
                    enclosure = _enclosure(evaluate())
                except ZeroDivisionError:
                    enclosure = None
            if enclosure is not None and np.isfinite(enclosure.radius).all() and enough(enclosure):
                return enclosure
            bits *= 2
        raise OracleError(f"no enclosure as narrow as asked at {_MOST_BITS} bits")

    def _system(self) -> tuple[arb_mat, arb_mat]:
        """S and U at the present precision."""
        if ctx.prec not in self._kept:
            S = _softmax(rows(self.problem.A))
            self._kept[ctx.prec] = (S, _identity_minus(arb(self.problem.gamma), S))
        return self._kept[ctx.prec]

    def _loss(self, problem: SoftmaxProblem, direction: Direction | None, step: arb) -> arb_mat:
        moved = {block: _moved(getattr(problem, block), direction, block, step) for block in BLOCKS}
        if not problem.n:
            return arb_mat(1, 1, [arb(0)])
        if direction is None or not ({"A", "gamma"} & set(direction)):
            U = self._system()[1]
        else:
            U = _identity_minus(moved["gamma"][0][0], _softmax(moved["A"]))
        F = arb_mat(moved["B"]) * U.solve(arb_mat(moved["Phi"]))
        return arb_mat(1, 1, [loss_value(problem.loss, F.tolist(), problem.Y)])


def _softmax(A: list[list[arb]]) -> arb_mat:
    m = len(A)
    columns = []
    for j in range(m):
        top = max(A[i][j].mid() for i in range(m))  # subtracted for range; any number will do
        weights = [(A[i][j] - top).exp() for i in range(m)]
        total = sum(weights, arb(0))
        columns.append([w / total for w in weights])
    return arb_mat(m, m, [columns[j][i] for i in range(m) for j in range(m)])


def _identity_minus(gamma: arb, S: arb_mat) -> arb_mat:
    m = S.nrows()
    return arb_mat(m, m, [int(i == j) - gamma * S[i, j] for i in range(m) for j in range(m)])


def _matrix(array: Array) -> arb_mat:
    return arb_mat(rows(array))


def _moved(value: Array | float, direction: Direction | None, block: str, step: arb) -> list[list[arb]]:
    still = rows(np.asarray(value, dtype=np.float64))
    if direction is None or block not in direction:
        return still
    along = np.atleast_2d(direction[block]).tolist()
    return [[x + step * arb(d) for x, d in zip(row, drow, strict=True)] for row, drow in zip(still, along, strict=True)]


def _enclosure(matrix: arb_mat) -> Enclosure:
    height, width = matrix.nrows(), matrix.ncols()
    entries = matrix.entries()
    value = np.array([float(x.mid()) for x in entries]).reshape(height, width)
    radius = np.array([float(x.rad()) for x in entries]).reshape(height, width)
    return Enclosure(value, np.nextafter(radius, np.inf) if radius.any() else radius)


def _to_the_bit(scale: float) -> Callable[[Enclosure], bool]:
    """Narrow to float64's last bit, or to 2⁻¹⁰⁰ of ``scale``: a ball about an exact zero never narrows relatively."""
    return lambda e: bool(np.all(e.radius <= 2.0**-53 * np.abs(e.value) + 2.0**-100 * scale))


def _largest(*arrays: Array) -> float:
    return max(float(np.abs(a).max(initial=0.0)) for a in arrays)


def _check_direction(problem: SoftmaxProblem, direction: Direction) -> None:
    for block, along in direction.items():
        if block not in BLOCKS:
            raise ValueError(f"direction: {block!r} is not one of {', '.join(BLOCKS)}")
        if np.shape(along) != np.shape(getattr(problem, block)):
            raise ValueError(f"direction: {block} has shape {np.shape(along)}, the problem's {block} another")


def _step(problem: SoftmaxProblem, direction: Direction) -> int | None:
    """k such that 2^k is small against every block's own scale (1 − γ for γ); None for the zero direction.

    Small against 1 in the outputs too, the scale on which every loss but the squared one bends: among huge features a
    data point may be zero, and its output would jump from one side of the loss to the other. An exponent, since 2^k
    itself may lie below float64's range.
    """
    largest: list[int] = []
    for block, along in direction.items():
        length = _largest(along)
        if block == "gamma":
            scale = min(problem.gamma, 1.0 - problem.gamma)
        elif block == "A":
            scale = 1.0
        else:
            scale = _largest(getattr(problem, block)) or 1.0
        if length:
            largest.append(math.frexp(length)[1] - math.frexp(scale)[1] + 1)  # length/scale is below two to this power
    if largest and not isinstance(problem.loss, Squared):
        largest.append(math.frexp(_speed(problem, direction))[1])
    return -_STEP_BITS - max(largest) if largest else None


def _speed(problem: SoftmaxProblem, direction: Direction) -> float:
    """At least the derivative of every output: ``‖U⁻¹‖₁ = 1/(1−γ)``, and ``‖J_k d‖₁ ≤ 2‖d‖_∞`` for the softmax."""
    inverse = 1.0 / (1.0 - problem.gamma)
    B, Phi = _largest(problem.B), float(np.abs(problem.Phi).sum(axis=0).max(initial=0.0))
    Z = inverse * Phi
    length = {block: _largest(np.asarray(along)) for block, along in direction.items()}
    speed = length.get("B", 0.0) * Z + length.get("Phi", 0.0) * problem.m * inverse * B
    return speed + (2.0 * length.get("A", 0.0) + length.get("gamma", 0.0)) * inverse * B * Z
