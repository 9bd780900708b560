"""The judge of a layer whose cell was not given: what it says is held against what it says elsewhere (theory: opaque).

Nothing is known of where the equilibrium is. Its gradient is compared with differences of its own answers, with an
estimate of their noise; two answers to one question are compared with each other. Of the claimed accuracy is taken that
no solve amplifies it more than a thousandfold, which is a contraction at .999.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from deqverify.bounds import Bound
from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.dtypes import Array, dtype
from deqverify.errors.judge import Direction
from deqverify.oracle.estimated import ENDS, SAFETY, central, length_beside, signs, units
from deqverify.wrapped_problem import WrappedProblem

AMPLIFIED = 1e3

STEPS = tuple(2.0**-k for k in (5, 8, 11, 14, 17))
"""Differences are taken at each of them and at its half; the one of the smallest estimated error is used."""


class ObservedJudge:
    """What laws ask of a problem that need no cell; :data:`deqverify.needs.NEEDS` keeps the others away."""

    def __init__(
        self,
        problem: WrappedProblem,
        claims: Claims,
        dtype_name: str,
        cotangent: Array | None = None,
        near: Array | None = None,
    ):
        self.problem, self.claims, self.dtype = problem, claims, dtype_name
        self._functions, self._given, self._near = problem._cell.functions, cotangent, near
        self._widest = "float64" if "float64" in claims.dtypes else dtype_name

    def _answer(self, theta: Mapping[str, Array], x: Array, name: str) -> Array:
        return self._functions.answer(theta, x, name)

    @cached_property
    def z(self) -> Array:
        return self._near if self._near is not None else self._answer(self.problem.theta, self.problem.x, self.dtype)

    @cached_property
    def _moved(self) -> Array:
        """What rounding in the dtype does to the answer, sampled."""
        plain, off = self._answer(self.problem.theta, self.problem.x, self._widest), np.zeros(self.z.shape)
        for moved in units(self.dtype, {**self.problem.theta, "x": self.problem.x}):
            off = np.maximum(off, np.abs(self._answer(moved, moved.pop("x"), self.dtype) - plain))
        return SAFETY * np.maximum(off, dtype(self.dtype).unit_roundoff * np.abs(plain))

    def _claimed(self, claim: Accuracy, size: Array) -> Array:
        """A thousand times what the claim allows of arrays of ``size``, for every entry."""
        if claim.exact:
            return np.zeros(size.shape)
        whole = float(np.sqrt(np.sum(size**2)))
        return np.full(size.shape, AMPLIFIED * (claim.atol + claim.rtol * (whole + claim.eps)))

    @cached_property
    def z_error(self) -> Bound:
        return Bound(
            {
                f"estimated rounding in {self.dtype}": self._moved,
                "claimed solver accuracy, a thousandfold": self._claimed(self.claims.forward, np.abs(self.z)),
            }
        )

    @cached_property
    def _slopes(self) -> tuple[Array, Array]:
        """F and ``∂L/∂F``, (p, n)."""
        F = self.problem.B @ self.z.reshape(self.problem.n, -1).T
        return F, self.problem.loss.gradient(F, self.problem.Y)

    @cached_property
    def cotangent(self) -> Array:
        return self._given if self._given is not None else (self.problem.B.T @ self._slopes[1]).T.reshape(self.z.shape)

    @cached_property
    def pulled(self) -> dict[str, Array]:
        if self.claims.backward is None:
            return {}
        return self._functions.answer_pull(self.problem.theta, self.problem.x, self.cotangent, self.dtype)

    @cached_property
    def _pulled_off(self) -> dict[str, Array]:
        off = {name: np.zeros(np.shape(value)) for name, value in self.pulled.items()}
        given = {**self.problem.theta, "x": self.problem.x, "cotangent": self.cotangent}
        for moved in units(self.dtype, given):
            x, cotangent = moved.pop("x"), moved.pop("cotangent")
            for name, value in self._functions.answer_pull(moved, x, cotangent, self.dtype).items():
                off[name] = np.maximum(off[name], np.abs(value - self.pulled[name]))
        return off

    def pulled_error(self, block: str, given: Array | None = None) -> Bound:
        """``given``, an error of the cotangent, is carried as the whole gradient is by the whole cotangent."""
        value, off = np.abs(self.pulled[block]), self._pulled_off[block]
        share = 0.0 if given is None else float(np.max(given)) / (float(np.abs(self.cotangent).max()) or 1.0)
        allowed = self._claimed(self.claims.forward, value) + self._claimed(self.claims.backward or DIRECT, value)
        unit = dtype(self.dtype).unit_roundoff
        rounding = SAFETY * np.maximum(off, unit * value) + share * AMPLIFIED * float(value.max(initial=0.0))
        name = f"estimated rounding in {self.dtype}"
        return Bound({name: rounding, "claimed solver accuracy, a thousandfold": allowed})

    def pulled_own(self, block: str) -> Array:
        return np.zeros(np.shape(self.pulled[block]))

    @cached_property
    def gradient(self) -> dict[str, Array]:
        return {**self.pulled, "B": self._slopes[1] @ self.z.reshape(self.problem.n, -1)}

    @cached_property
    def _off_by_outputs(self) -> dict[str, float]:
        """About what rounding in F does to the gradient in each block, which is most of it where F is zero but for
        rounding: what the layer makes of the cotangent's part of it, beside the cotangent, for two patterns of signs.
        """
        slopes = self.problem.loss.spread(*self._outputs, self._F_rounding)
        off = (np.abs(self.problem.B).T @ slopes).T.reshape(self.z.shape)
        largest = dict.fromkeys(self.pulled, 0.0)
        for pattern in (np.ones(off.shape), signs("outputs", off.shape)):
            cotangent = self.cotangent + pattern * off
            found = self._functions.answer_pull(self.problem.theta, self.problem.x, cotangent, self.dtype)
            for name, value in self.pulled.items():
                change = np.abs(np.nan_to_num(found[name] - value, nan=np.inf))
                largest[name] = max(largest[name], float(change.max(initial=0.0)))
        return largest

    def gradient_error(self, block: str) -> Bound:
        if block != "B":
            off = np.full(np.shape(self.pulled[block]), SAFETY * self._off_by_outputs[block])
            return self.pulled_error(block) + Bound({"estimated effect of rounding in the outputs": off})
        dF, e = np.abs(self._slopes[1]), self.z_error.total.reshape(self.problem.n, -1)
        spread = self.problem.loss.spread(*self._outputs, self._F_error)
        size = np.abs(self.z).reshape(self.problem.n, -1)
        return Bound({"estimated effect of the equilibrium's error": dF @ e + spread @ (size + e)})

    @property
    def _outputs(self) -> tuple[Array, Array]:
        return self._slopes[0], self.problem.Y

    @cached_property
    def _F_rounding(self) -> Array:
        """What rounding does to F, (p, n)."""
        B, n = np.abs(self.problem.B), self.problem.n
        z, moved = (array.reshape(n, -1).T for array in (np.abs(self.z), self._moved))
        return np.asarray(B @ moved + (B.shape[1] + 2) * dtype(self.dtype).unit_roundoff * (B @ z))

    @cached_property
    def _F_error(self) -> Array:
        claimed = self._claimed(self.claims.forward, np.abs(self.z)).reshape(self.problem.n, -1).T
        return np.asarray(self._F_rounding + np.abs(self.problem.B) @ claimed)

    @cached_property
    def in_range(self) -> bool:
        finite = np.isfinite(self.z).all() and all(np.isfinite(value).all() for value in self.pulled.values())
        return bool(finite and np.isfinite(self._moved).all())

    def states(self, difference: Array) -> Array:
        return np.abs(difference)

    @property
    def z_own(self) -> Array:
        return 2.0**-53 * np.abs(self.z)

    def off_slope(self, gradient: Direction, direction: Direction, accuracy: float) -> tuple[float, float]:
        """Against central differences of the layer's own answers, their noise estimated."""
        said = sum(float(np.sum(gradient[block] * d)) for block, d in direction.items())
        if not (length := length_beside(direction, {name: self.problem.block(name) for name in direction})):
            return abs(said), 0.0
        best = (0.0, np.inf)
        noise = self._noise(direction, 2.0**-30 / length)
        middle = self._value(direction, 0.0)
        for step in STEPS:
            h = step / length
            slope, error = central({k: self._value(direction, k * h) for k in ENDS}, middle, h)
            error += 8.0 * noise / h
            if error < best[1]:  # false for NaN
                best = slope, error
        return (abs(said - best[0]), float(best[1])) if np.isfinite(best[1]) else (0.0, np.inf)

    def _noise(self, direction: Direction, spacing: float) -> float:
        """Of L as a function of the step: from the highest differences of seven values close together (Moré and Wild
        2011, Estimating Computational Noise), and at least what the claimed accuracy of a solve leaves open."""
        values = np.array([self._value(direction, k * spacing) for k in range(-3, 4)])
        level = 0.0
        for order in range(1, 7):
            values = np.diff(values)
            # The variance of an order-k difference of independent noise is (2k)!/(k!)² times that of the noise.
            scale = np.sqrt(float(np.prod([(order + j) / j for j in range(1, order + 1)])))
            if order >= 3:
                level = max(level, float(np.sqrt(np.mean(values**2))) / scale)
        claim = self._claimed(self.claims.forward, np.abs(self.z)) / AMPLIFIED
        left = float(np.sum(np.abs(self.cotangent) * claim))
        return level + left

    def _value(self, direction: Direction, step: float) -> float:
        problem = self.problem
        moved = {name: problem.block(name) + step * d for name, d in direction.items()}
        theta = {name: moved.get(name, value) for name, value in problem.theta.items()}
        z = self._answer(theta, moved.get("x", problem.x), self._widest)
        F = moved.get("B", problem.B) @ z.reshape(problem.n, -1).T
        return float(problem.loss.value(F, problem.Y))
