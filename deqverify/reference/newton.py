"""The reference for any cell: Newton's method with a dense adjoint, one source for NumPy, PyTorch and JAX.

The Jacobian ``J_i = ∂f/∂z`` of every data point, (s, s), comes from pulling the s unit cotangents back, in a batch of
n·s. What is computed of arrays is computed in their framework and dtype; steps are chosen in NumPy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import device

from deqverify.cells import Cell, cells
from deqverify.cells.base import Parts, Theta
from deqverify.cells.probed import PROBE
from deqverify.dtypes import Array, round_to
from deqverify.dtypes import dtype as known_dtype
from deqverify.frameworks import Framework, framework
from deqverify.frameworks.base import rows
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status, worst
from deqverify.namespaces import array_namespace
from deqverify.reference.stateless import STATELESS, Stateless

MAX_ITERATIONS = 100
"""Newton's method needs half a dozen where f is smooth; the rest is for kinks."""

SHORTEST = 2.0**-10
"""The shortest part of Newton's step that is tried."""

SMALL = 2.0**-250
"""A root of a sum of squares above it has lost nothing to those below the smallest normal number, 2⁻¹⁰²²."""


Image = Callable[[Array], Array]
Correction = Callable[[Array, Array], Array]


class NewtonLayer(Stateless):
    """``z ← z + t (I − J)⁻¹(f(z) − z)`` from z₀ or zero, in every data point on its own.

    t is the largest of 1, ½, …, 2⁻¹⁰ by which the residual's 2-norm falls to ``1 − t/2`` of itself; where none is
    (a kink, a singular ``I − J``) Picard's step ``z ← f(z)`` is taken instead. A data point is CONVERGED where no t is
    any more, and the residual at most ``√u ‖f‖``, or zero: next to an equilibrium Newton's step squares the residual,
    so that what stops it there is rounding. Below ``(s + 8) u (‖z‖ + ‖f‖)``, which rounding one evaluation may leave,
    the full step alone is tried. CAPPED: neither. DIVERGED: not finite.

    The pull solves ``(I − J)ᵀλ = c`` and applies the cell's own (Bai, Kolter & Koltun 2019, arXiv 1909.01377, theorem
    1). Memory is n·s² numbers, or s² where J is the same for all data points, which share one factorisation then.
    """

    def __init__(self, framework: str, max_iterations: int = MAX_ITERATIONS):
        self.framework, self.max_iterations = framework, max_iterations
        self.name = "reference[newton]"
        self.claims = replace(
            STATELESS,
            cells=tuple(cells()),
            devices=("cpu",) if framework == "numpy" else ("cpu", "cuda"),
            compiles=framework == "jax",
            where="deqverify/reference/newton.py",
        )

    def vjp(self, cell: Cell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        theta, x, z0 = {name: _plain(value) for name, value in theta.items()}, _plain(x), _plain(z0)
        solution = self._solve(cell, theta, x, z0)

        def pull(cotangent: Any) -> Cotangents:
            found = self._compute(_pulled, cell, theta, x, solution.z, _plain(cotangent))
            return Cotangents(found.theta, found.x, self._status(found.z))

        return solution, pull

    def jvp(self, cell: Cell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """``dz = (I − J)⁻¹((∂f/∂θ)dθ + (∂f/∂x)dx)``."""
        solution = self._solve(cell, theta, x, None)
        return solution, self._compute(_pushed, cell, theta, x, solution.z, dict(tangent[0]), tangent[1])

    def start_gradient(self, cell: Cell, theta: Theta, x: Any, z0: Any, cotangent: Any) -> Any:
        """Zero: the equilibrium does not depend on where it was looked for."""
        bridge = framework(self.framework)
        with bridge.computing(bridge.kind(z0)[0]):
            return array_namespace(z0).zeros_like(_plain(z0))

    def limited(self, max_iterations: int) -> NewtonLayer:
        """The same layer, its cap lowered; the adjoint has none."""
        lowered = copy.copy(self)
        lowered.max_iterations = min(self.max_iterations, max_iterations)
        return lowered

    def _solve(self, cell: Cell, theta: Theta, x: Any, z0: Any) -> Solution:
        shape = (x.shape[0], *cell.state(theta, tuple(x.shape[1:])))
        dtype = framework(self.framework).kind(x)[0]
        u, entries = known_dtype(dtype).unit_roundoff, math.prod(shape[1:])
        with framework(self.framework).precisely(dtype), np.errstate(all="ignore"):
            z = np.zeros(shape) if z0 is None else self._numpy(z0)
            z, statuses, iterations, residual = _newton(
                z,
                *self._at(cell, theta, x),
                partial(round_to, name=dtype),
                u=u,
                floor=(entries + 8) * u,
                max_iterations=self.max_iterations,
            )
            found = framework(self.framework).like(z, x)
            return Solution(found, worst(statuses), iterations, residual, statuses=statuses)

    def _at(self, cell: Cell, theta: Theta, x: Any) -> tuple[Image, Correction]:
        """f(z), and Newton's step from z where f is known, for z (n, *state) in NumPy; in the framework's context."""
        bridge = framework(self.framework)
        if self.claims.compiles:
            padded = _Padded(bridge, cell, theta, x)

            def compiled(function: Callable[..., Any], *states: Array) -> Array:
                return bridge.to_numpy(padded(function, *(state.astype(x.dtype) for state in states)))

            return partial(compiled, _image), partial(compiled, _corrected)
        step, system, constant = cell.step(theta, x), None, hasattr(cell, "matrix")

        def correction(z: Array, f: Array) -> Array:
            nonlocal system
            if system is None or not constant:
                system = _matrix(cell, theta, x, bridge.like(z, x))
            return bridge.to_numpy(_solved(system, bridge.like(f - z, x)))

        return lambda z: bridge.to_numpy(step(bridge.like(z, x))), correction

    def _compute(self, function: Callable[..., Any], cell: Cell, theta: Theta, x: Any, z: Any, *others: Any) -> Any:
        """A function of this module at native z, with native results."""
        bridge = framework(self.framework)
        with bridge.precisely(bridge.kind(x)[0]):
            if not self.claims.compiles:
                return function(cell, theta, x, z, *others)
            found = _Padded(bridge, cell, theta, x)(function, z, *others)
            if not isinstance(found, Parts):
                return bridge.like(found, x)
            own = {name: bridge.like(value, x) for name, value in found.theta.items()}
            return Parts(own, bridge.like(found.x, x), bridge.like(found.z, x))

    def _numpy(self, array: Any) -> Array:
        return framework(self.framework).to_numpy(array)

    def _status(self, array: Any) -> Status:
        return Status.CONVERGED if np.isfinite(self._numpy(array)).all() else Status.DIVERGED


class _Padded:
    """Functions of this module where they are compiled, for as many data points as the next power of two, 4 at least: a
    shape takes a third of a second. The last one is repeated, with a cotangent and a tangent of zero. What comes back
    is NumPy, in the dtype."""

    def __init__(self, bridge: Framework, cell: Cell, theta: Theta, x: Any):
        self._compiled, self._cell, self._n = bridge.compiled, cell, x.shape[0]
        self._more = max(4, 2 ** math.ceil(math.log2(self._n))) - self._n if self._n else 0
        self._theta, self._x = self._padded(theta, True), self._padded(x, True)

    def __call__(self, function: Callable[..., Any], z: Any, *others: Any) -> Any:
        given = self._theta, self._x, self._padded(z, True), *map(self._padded, others)
        return self._cut(self._compiled(function)(self._cell, *given))

    def _padded(self, part: Any, repeated: bool = False) -> Any:
        if isinstance(part, dict):  # the probe alone is of every data point
            return {name: self._padded(value, repeated) if name == PROBE else value for name, value in part.items()}
        array = np.asarray(part)
        last = array[-1:] if repeated else np.zeros_like(array[-1:])
        return np.concatenate([array, np.repeat(last, self._more, axis=0)])

    def _cut(self, part: Any) -> Any:
        if isinstance(part, Parts):
            own = {name: self._cut(value) if name == PROBE else value for name, value in part.theta.items()}
            return Parts(own, self._cut(part.x), self._cut(part.z))
        return np.asarray(part)[: self._n]


def _newton(
    z: Array,
    image: Image,
    correction: Correction,
    rounded: Callable[[Array], Array],
    u: float,
    floor: float,
    max_iterations: int,
) -> tuple[Array, list[Status], int, float]:
    """z, the statuses of its data points, the corrections computed, and the largest residual; floor is a part of
    ``‖z‖ + ‖f‖``."""
    f = image(z)
    stopped, iterations = np.zeros(z.shape[0], dtype=bool), 0
    while True:
        residual, size, length = _norm(np.concatenate([f - z, f, z])).reshape(3, -1)
        low = residual <= floor * (length + size)
        moving = ~stopped & np.isfinite(residual)
        if iterations >= max_iterations or not moving.any():
            break
        iterations += 1
        d, t, waiting = correction(z, f), 1.0, moving
        moved, kept_z, kept_f = np.zeros_like(stopped), z.copy(), f.copy()
        while waiting.any() and t >= SHORTEST:
            tried = np.where(_each(waiting, z), rounded(z + t * d), z)
            found = image(tried)
            taken = waiting & (_norm(found - tried) <= (1.0 - t / 2) * residual) & (residual > 0.0)
            kept_z[taken], kept_f[taken] = tried[taken], found[taken]
            moved, waiting, t = moved | taken, waiting & ~taken & ~low, t / 2
        stuck = moving & ~moved
        stopped = stopped | (stuck & (low | (residual <= u**0.5 * size)))
        picard = stuck & ~stopped
        z, f = kept_z, kept_f
        if picard.any():
            z = np.where(_each(picard, z), f, z)
            f = np.where(_each(picard, z), image(z), f)
    finite = np.isfinite(residual)
    z = np.where(_each(finite, z), z, np.nan)  # instead of a finite start
    # What is low when the cap is reached may still be twice what rounding leaves: nobody tried to lower it.
    good = stopped | (residual == 0.0)
    statuses = [
        Status.DIVERGED if not able else Status.CONVERGED if done else Status.CAPPED
        for able, done in zip(finite, good, strict=True)
    ]
    return z, statuses, iterations, float(residual.max(initial=0.0))


def _norm(states: Array) -> Array:
    """The 2-norm of every data point, (n,)."""
    flat = rows(states)
    plain = np.sqrt(np.einsum("ij,ij->i", flat, flat))
    good = (plain > SMALL) & (plain < 1.0 / SMALL)
    if good.all() or not flat[~good].any():  # zeros are exact
        return np.asarray(plain)
    # Scaled by powers of two, so that no square is lost and none overflows.
    largest = np.abs(flat).max(axis=1, initial=0.0)
    exponent = np.frexp(np.where(np.isfinite(largest), largest, 1.0))[1]
    return np.asarray(np.ldexp(np.linalg.norm(np.ldexp(flat, -exponent[:, None]), axis=1), exponent))


def _each(mask: Any, z: Array) -> Any:
    """A mask of data points, (n,), that broadcasts against states."""
    return mask.reshape(-1, *[1] * (z.ndim - 1))


def _plain(array: Any) -> Any:
    """Without its graph: both passes are solved, not differentiated."""
    return array.detach() if hasattr(array, "detach") else array


# What is computed in the framework; compiled there, the cell is static.


def _image(cell: Cell, theta: Theta, x: Any, z: Any) -> Any:
    return cell.step(theta, x)(z)


def newton_correction(cell: Cell, theta: Theta, x: Any, z: Any) -> Any:
    """Newton's step from z: ``(I − J)⁻¹(f(z) − z)``, (n, *state)."""
    return _corrected(cell, theta, x, z, cell.step(theta, x)(z))


def _corrected(cell: Cell, theta: Theta, x: Any, z: Any, f: Any) -> Any:
    return _solved(_matrix(cell, theta, x, z), f - z)


def _pulled(cell: Cell, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
    """The gradients in θ and x, and λ."""
    xp = array_namespace(z)
    adjoint = _solved(xp.matrix_transpose(_matrix(cell, theta, x, z)), cotangent)
    return Parts(*cell.pull(theta, x, z, adjoint)[:2], adjoint)


def _pushed(cell: Cell, theta: Theta, x: Any, z: Any, dtheta: Theta, dx: Any) -> Any:
    along = cell.push(theta, x, z, Parts(dict(dtheta), dx, array_namespace(z).zeros_like(z)))
    return _solved(_matrix(cell, theta, x, z), along)


def _matrix(cell: Cell, theta: Theta, x: Any, z: Any) -> Any:
    """``I − J``, (n, s, s), or (s, s) where it is the same for all: row k of ``J_i`` is what the k-th unit cotangent
    pulls back to at data point i, where the cell has no quicker way."""
    xp, n, s = array_namespace(z), z.shape[0], math.prod(z.shape[1:])
    unit = xp.eye(s, dtype=z.dtype, device=device(z))
    # A CellWithJacobian, or a LinearCell: isinstance looks at every member, which takes longer.
    if hasattr(cell, "jacobian"):
        return unit - cell.jacobian(theta, x, z)
    if hasattr(cell, "matrix"):
        return unit - cell.matrix(theta)

    def repeated(array: Any) -> Any:
        wide = xp.broadcast_to(array[:, None, ...], (n, s, *array.shape[1:]))
        return xp.reshape(wide, (n * s, *array.shape[1:]))

    cotangents = xp.reshape(xp.broadcast_to(unit[None, ...], (n, s, s)), (n * s, *z.shape[1:]))
    pulled = cell.pull(theta, repeated(x), repeated(z), cotangents).z
    return unit - xp.reshape(pulled, (n, s, s))


def _solved(matrix: Any, right: Any) -> Any:
    """``matrix⁻¹ right`` in every data point, shaped like ``right`` (n, *state); NaN where it has none."""
    if not right.shape[0]:
        return right
    xp = array_namespace(right)
    try:
        if matrix.ndim == 2:
            return xp.reshape(xp.linalg.solve(matrix, rows(right).T).T, right.shape)
        return xp.reshape(xp.linalg.solve(matrix, rows(right)[..., None]), right.shape)
    except (np.linalg.LinAlgError, RuntimeError) as error:
        if "LinAlgError" not in type(error).__name__:
            raise
    if matrix.ndim == 2 or right.shape[0] == 1:
        return xp.nan * right
    return xp.concat([_solved(matrix[k : k + 1], right[k : k + 1]) for k in range(right.shape[0])])
