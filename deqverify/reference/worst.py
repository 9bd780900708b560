"""The worst honest implementation: it answers exactly, then errs by as much as it claims, in the direction that hurts.

No law may reject it. A reference keeps more than it claims, so that quiet examples on it say little of a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from deqverify.cells import Cell, LinearCell, cells
from deqverify.cells.base import Theta
from deqverify.cells.probed import PROBE, ProbedCell, probed
from deqverify.claims import Accuracy
from deqverify.dtypes import Array
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.reference.newton import NewtonLayer
from deqverify.reference.stateless import STATELESS, Stateless

SHARE = 0.999
"""How much of its claim the error takes; the rest keeps its own rounding from exceeding it."""

MOST_GROWTH = 2.0**20
"""How many times the answer an error may be where the claim excludes nothing: it stays a number of the dtype."""

ROUNDS = 40
"""A claim is relative to the answer that is given: so often the error follows it. A few rounds do, but where the claim
excludes hardly anything."""

Direction = Literal["constant", "entry", "signs", "random"]
Passes = Literal["forward", "backward", "both"]
Answers = Callable[[Array], Array]


class WorstHonest(Stateless):
    """Solves any cell in float64 and adds an error whose residual is 99.9 % of the claim, in NumPy.

    ``direction`` is that of the residual: the same in every entry, one entry, the signs of the largest row of
    ``(I − J)⁻¹`` (of its transpose in the backward pass), J the Jacobian ∂f/∂z at the equilibrium, or drawn from a
    fixed seed. The answer with that residual is found by Newton's method, or directly where f is linear in z.
    ``passes`` says which of the two errs; the other claims what it claims and keeps it exactly. The adjoint is that of
    the state that is given. Where an equilibrium or an answer with the residual is not found, the first is reported,
    and the exact answer given for the second.
    """

    framework = "numpy"

    def __init__(self, accuracy: Accuracy, direction: Direction = "constant", passes: Passes = "both"):
        self.accuracy, self.direction, self.passes = accuracy, direction, passes
        self.name = f"reference[worst,{direction},{passes}]: {accuracy}"
        self.claims = replace(
            STATELESS, cells=tuple(cells()), forward=accuracy, backward=accuracy, starts=False, where=__name__
        )

    def vjp(self, cell: Cell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        wide = {name: np.asarray(value, dtype=np.float64) for name, value in theta.items()}
        inputs = np.asarray(x, dtype=np.float64)
        with np.errstate(all="ignore"):
            z, status = self._state(cell, wide, inputs)

        def pull(cotangent: Any) -> Cotangents:
            c = np.asarray(cotangent, dtype=np.float64)
            with np.errstate(all="ignore"):
                adjoint = self._adjoint(cell, wide, inputs, z, c)
                found = cell.pull(wide, inputs, z, adjoint)
            rounded = {name: np.asarray(value, dtype=x.dtype) for name, value in found.theta.items()}
            return Cotangents(rounded, found.x.astype(x.dtype), _status(adjoint))

        return Solution(z.astype(x.dtype), status), pull

    def _state(self, cell: Cell, theta: Theta, x: Array) -> tuple[Array, Status]:
        shape = (len(x), *cell.state(theta, x.shape[1:]))
        if isinstance(cell, LinearCell):
            systems = _systems(cell, theta, x, np.zeros(shape))
            found = self._linear(systems, _flat(cell.offset(theta, x)), self.passes != "backward").reshape(shape)
            return found, _status(found)
        solution, _ = NewtonLayer("numpy").vjp(cell, theta, x)
        exact, step = solution.z, cell.step(theta, x)
        if self.passes == "backward" or solution.status is not Status.CONVERGED or not exact.size:
            return exact, solution.status

        def solved(shift: Array) -> Array:
            """The state whose residual ``f(z) − z`` is −``shift``; the exact one where none is found."""
            moved, _ = NewtonLayer("numpy").vjp(*_shifted(cell, theta, shift.reshape(shape)), x, exact)
            good = [status is Status.CONVERGED for status in moved.statuses or []]
            return np.where(np.array(good)[:, None], _flat(moved.z), _flat(exact))

        def image(state: Array) -> Array:
            return _flat(step(state.reshape(shape)))

        found = self._erred(_flat(exact), _systems(cell, theta, x, exact), solved, image).reshape(shape)
        return found, Status.CONVERGED

    def _adjoint(self, cell: Cell, theta: Theta, x: Array, z: Array, cotangent: Array) -> Array:
        systems = np.swapaxes(_systems(cell, theta, x, z), 1, 2)
        return self._linear(systems, _flat(cotangent), self.passes != "forward").reshape(cotangent.shape)

    def _linear(self, systems: Array, right: Array, errs: bool) -> Array:
        """``systems⁻¹ right``, (n, s), with the error where it ``errs``."""
        exact = _solved(systems, right)
        if not errs or not np.isfinite(exact).all():
            return exact
        return self._erred(exact, systems, None, lambda answer: right + answer - _product(systems, answer))

    def _erred(self, exact: Array, systems: Array, solved: Answers | None, image: Answers) -> Array:
        """``exact`` with the error, (n, s): ``solved`` gives the answer whose residual is the negative of its argument,
        None where f is linear, and ``image`` is f."""
        claim = self.accuracy
        if claim.exact or not exact.size:
            return exact
        d = self._direction(systems, exact.shape)
        error = d if claim.of == "value" else _solved(systems, d)
        if not np.isfinite(error).all():
            return exact
        grown = error - _product(systems, error)  # of f: f(z + te) = f(z) + tJe, to first order
        sign = np.where(np.sum(grown * exact, axis=1) < 0.0, -1.0, 1.0)  # an error that grows f allows itself more
        d, error, unit = d * sign[:, None], error * sign[:, None], claim.norms(d.T)
        size = np.abs(exact).max() + claim.atol + claim.eps
        most = MOST_GROWTH * size / max(1.0, float(np.abs(grown).max()))

        def answer(t: Array) -> Array:
            """The t of each data point, one for all of a batch."""
            if claim.of == "value" or solved is None:
                return exact + t[:, None] * error
            return solved(t[:, None] * d)

        def allowed(given: Array) -> Array:
            return np.minimum(most, SHARE * claim.allows(claim.norms(image(given).T)) / unit)

        t, given = np.zeros(len(exact)), exact
        for _ in range(ROUNDS):
            last, t = t, allowed(given)
            given = answer(t)
            if np.all(np.abs(t - last) <= 2.0**-40 * t):
                break
        kept = t <= allowed(given) * (1.0 + 2.0**-40)  # what the claim allows must not have shrunk on the way
        if claim.of == "residual":  # Newton's method may stop short of it; beside it the residual's own rounding
            rounding = (exact.shape[1] + 8) * 2.0**-53 * (np.abs(given) + np.abs(image(given)))
            wrong = claim.norms((image(given) - given).T) - claim.norms(rounding.T)
            kept &= wrong <= claim.allows(claim.norms(image(given).T))
        kept = np.broadcast_to(kept.all() if claim.per == "batch" else kept, kept.shape)
        return np.where(kept[:, None], given, exact)

    def _direction(self, systems: Array, shape: tuple[int, int]) -> Array:
        """Where the error lies, (n, s), the largest entry of each data point 1."""
        s = shape[1]
        if self.direction == "signs":
            inverse = np.stack([_solved(system[None], np.eye(s)).T for system in systems])
            rows = np.nan_to_num(np.abs(inverse).sum(axis=2)).argmax(axis=1)
            d = np.where(inverse[np.arange(len(systems)), rows] < 0.0, -1.0, 1.0)
        elif self.direction == "entry":
            d = (np.arange(s) == s - 1).astype(np.float64)
        elif self.direction == "random":
            d = np.random.default_rng(s).uniform(-1.0, 1.0, s)
        else:
            d = np.ones(s)
        return np.array(np.broadcast_to(d, shape))


def worst(*options: str) -> WorstHonest:
    """``reference[worst,…]``: a direction, a pass, and the claim as ``rtol=``, ``atol=``, ``eps=``, ``per=``,
    ``norm=``, ``of=``; ``rtol=1e-6``, "constant" and "both" by default. ValueError for anything else."""
    chosen: dict[str, Any] = {}
    claim: dict[str, Any] = {}
    for option in options:
        name, _, value = option.partition("=")
        if option in get_args(Direction):
            chosen["direction"] = option
        elif option in get_args(Passes):
            chosen["passes"] = option
        elif value and name in ("rtol", "atol", "eps"):
            claim[name] = float(value)
        elif value and name in ("per", "norm", "of"):
            claim[name] = value
        else:
            known = ", ".join([*get_args(Direction), *get_args(Passes), "rtol=1e-6", "atol=", "eps=", "per=", "norm="])
            raise ValueError(f"reference[worst] has no option {option!r}; use some of {known}")
    return WorstHonest(Accuracy(**claim) if claim else Accuracy(1e-6), **chosen)


def _shifted(cell: Cell, theta: Theta, shift: Array) -> tuple[Any, Theta]:
    """The cell ``f + shift``."""
    if isinstance(cell, ProbedCell):
        return cell, {**theta, PROBE: theta[PROBE] + shift}
    return probed(cell), {**theta, PROBE: shift}


def _systems(cell: Cell, theta: Theta, x: Array, z: Array) -> Array:
    """``I − J`` of every data point, (n, s, s), or one for all where f is linear in z, (1, s, s)."""
    s = math.prod(z.shape[1:])
    if isinstance(cell, LinearCell):
        return (np.eye(s) - cell.matrix(theta))[None]
    return np.eye(s) - np.asarray(dense(unit_pulls(cell, theta, x, z), len(z)), dtype=np.float64)


def _solved(systems: Array, right: Array) -> Array:
    """Each data point's system solved, (n, s); NaN where it is singular."""
    found = np.full(right.shape, np.nan)
    for i, system in enumerate(systems):
        points = slice(None) if len(systems) == 1 else slice(i, i + 1)
        try:
            found[points] = np.linalg.solve(system, right[points].T).T
        except np.linalg.LinAlgError:
            continue
    return found


def _product(systems: Array, answer: Array) -> Array:
    return np.asarray((systems @ answer[..., None])[..., 0])


def _flat(states: Array) -> Array:
    """(n, s)."""
    return states.reshape(len(states), math.prod(states.shape[1:]))


def _status(array: Array) -> Status:
    return Status.CONVERGED if np.isfinite(array).all() else Status.DIVERGED
