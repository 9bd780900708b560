"""Small cells that tests need, and honest implementations of any cell: in NumPy, in the dtype, no library asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from deqverify.cells import Cell, Parts, Theta
from deqverify.cells.arithmetic import gate, relu
from deqverify.claims import Accuracy
from deqverify.dtypes import Array
from deqverify.oracle.krawczyk import dense, unit_pulls


@dataclass(frozen=True)
class SmallRelu:
    """``f(z) = relu(Wz + x)``: W (m, m), x (n, m)."""

    name: ClassVar[str] = "small relu"

    def state(self, theta: Theta, inputs: tuple[int, ...]) -> tuple[int, ...]:
        return inputs

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        return lambda z: relu(z @ theta["W"].T + x)

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        v = cotangent * gate(z @ theta["W"].T + x)
        return Parts({"W": v.T @ z}, v, v @ theta["W"])


@dataclass(frozen=True)
class Grid:
    """``f(z) = tanh(WzV + x)`` on states of two axes: W (a, a), V (b, b), z and x (n, a, b)."""

    name: ClassVar[str] = "grid"

    def state(self, theta: Theta, inputs: tuple[int, ...]) -> tuple[int, ...]:
        return inputs

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        return lambda z: array_namespace(z).tanh(theta["W"] @ z @ theta["V"] + x)

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        xp, f = array_namespace(z), self.step(theta, x)(z)
        v = cotangent * (1 - f * f)
        back = xp.matrix_transpose(z)
        W = xp.sum(v @ theta["V"].T @ back, axis=0)
        V = xp.sum(back @ theta["W"].T @ v, axis=0)
        return Parts({"W": W, "V": V}, v, theta["W"].T @ v @ theta["V"].T)


class Answer(NamedTuple):
    """An implementation's z and Λ, (n, *state), and its pull-back."""

    z: Array
    adjoint: Array
    parts: Parts


class Given(NamedTuple):
    """A problem as an implementation sees it."""

    cell: Cell
    theta: Theta
    x: Any
    cotangent: Any

    def cast(self, dtype: str) -> Given:
        theta = {name: np.asarray(value, dtype=dtype) for name, value in self.theta.items()}
        return Given(self.cell, theta, np.asarray(self.x, dtype=dtype), np.asarray(self.cotangent, dtype=dtype))

    @property
    def f(self) -> Callable[[Any], Any]:
        return self.cell.step(self.theta, self.x)

    def jacobian(self, z: Any) -> Any:
        return dense(unit_pulls(self.cell, self.theta, self.x, z), len(z))

    def answer(self, z: Any, adjoint: Any) -> Answer:
        return Answer(z, adjoint, self.cell.pull(self.theta, self.x, z, adjoint))

    def adjoint(self, z: Any, cotangent: Any) -> Any:
        """A dense solve in the dtype of z."""
        J = np.swapaxes(self.jacobian(z), 1, 2)
        return solve(np.eye(J.shape[-1], dtype=z.dtype) - J, cotangent)

    def newton(self, z: Any, shift: Any = 0.0) -> Any:
        """z with ``f(z) − z = shift``."""
        for _ in range(30):
            J = self.jacobian(z)
            z = z + solve(np.eye(J.shape[-1], dtype=z.dtype) - J, self.f(z) - z - shift)
        return z


def solve(matrices: Any, right: Any) -> Any:
    flat = right.reshape(len(right), -1, 1)
    return np.linalg.solve(matrices, flat).reshape(right.shape)


def direct(given: Given, dtype: str) -> Answer:
    """Newton's method and a dense adjoint solve, all in ``dtype``."""
    cast = given.cast(dtype)
    z = cast.newton(np.zeros_like(cast.cotangent))
    return cast.answer(z, cast.adjoint(z, cast.cotangent))


def picard(given: Given, dtype: str, claim: Accuracy, most: int = 4000) -> Answer | None:
    """Sweeps until the claim is met, in both passes; None where it never is."""
    cast = given.cast(dtype)
    z = _swept(cast.f, np.zeros_like(cast.cotangent), claim, most)
    if z is None:
        return None
    back = lambda adjoint: cast.cotangent + cast.cell.pull(cast.theta, cast.x, z, adjoint).z  # noqa: E731
    adjoint = _swept(back, np.zeros_like(cast.cotangent), claim, most)
    return None if adjoint is None else cast.answer(z, adjoint)


def _swept(f: Callable[[Any], Any], z: Any, claim: Accuracy, most: int) -> Any:
    for _ in range(most):
        image = f(z)
        met = meets(claim, image, z)
        if met.all():
            return z
        z = np.where(met.reshape(-1, *[1] * (z.ndim - 1)), z, image)
    return None


def meets(claim: Accuracy, image: Any, z: Any) -> Any:
    """Which data points (n,) keep the claim, as it is written."""
    flat, wrong = (np.asarray(a, dtype=np.float64).reshape(len(z), -1).T for a in (image, image - z))
    return claim.norms(wrong) <= claim.allows(claim.norms(flat))


def worst(
    given: Given, dtype: str, claim: Accuracy, entry: int, exact: Array, share: float = 0.999, rounds: int = 4
) -> Answer:
    """The equilibrium ``exact`` plus an error whose residual is ``share`` of the claim, in the direction that moves one
    entry of the state most, and likewise the adjoint; found in float64, rounded to ``dtype``.

    A claim over the batch is spent on the first data point, one on the value on that entry.
    """
    s = exact[0].size
    M = np.linalg.inv(np.eye(s) - given.jacobian(exact))
    of_value = claim.of == "value"

    def spent(image: Array, rows: Array) -> Array:
        along = np.eye(s)[[entry] * len(exact)] if of_value else _dual(claim.norm, rows)
        if claim.per == "batch":
            along[1:] = 0.0
        return (share * _allowed(claim, image)[:, None] * along).reshape(exact.shape)

    z = exact
    for _ in range(rounds):
        off = spent(given.f(z), M[:, entry, :])
        z = exact + off if of_value else given.newton(exact, off)
    z = np.asarray(z, dtype=dtype).astype(np.float64)
    adjoint = true = given.adjoint(exact, given.cotangent)
    for _ in range(rounds):
        image = given.cotangent + given.cell.pull(given.theta, given.x, z, adjoint).z
        off = spent(image, M[:, :, entry])
        adjoint = true + off if of_value else given.adjoint(z, given.cotangent + off)
    return given.cast(dtype).answer(np.asarray(z, dtype=dtype), np.asarray(adjoint, dtype=dtype))


def _allowed(claim: Accuracy, image: Array) -> Array:
    flat = image.reshape(len(image), -1).T
    root = claim.root_count(flat.shape) if claim.norm == "rms" else 1.0
    return root * claim.allows(claim.norms(flat))


def _dual(norm: str, rows: Array) -> Array:
    """Unit vectors of the norm that the rows (n, s) grow most."""
    if norm == "max":
        return np.sign(rows)
    if norm == "1":
        return np.sign(rows) * (np.abs(rows) == np.abs(rows).max(axis=1, keepdims=True))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
