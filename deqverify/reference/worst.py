"""The worst honest implementation: it answers exactly, then errs by as much as it claims, in the direction that hurts.

No law may reject it. A reference keeps more than it claims, so that quiet examples on it say little of a bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import scipy.linalg

from deqverify.cells import LinearCell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy
from deqverify.dtypes import Array
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status
from deqverify.reference.stateless import STATELESS, Stateless

SHARE = 0.999
"""How much of its claim the error takes; the rest keeps its own rounding from exceeding it."""

MOST_GROWTH = 2.0**20
"""How many times the answer an error may be where the claim excludes nothing: it stays a number of the dtype."""

Direction = Literal["constant", "entry", "signs", "random"]
Passes = Literal["forward", "backward", "both"]


class WorstHonest(Stateless):
    """Solves a linear cell in float64 and adds an error whose residual is 99.9 % of the claim, in NumPy.

    ``direction`` is that of the residual: the same in every entry, one entry, the signs of the largest row of ``U⁻¹``
    (of ``U⁻ᵀ`` in the backward pass), or drawn from a fixed seed. ``passes`` says which of the two errs; the other
    claims what it claims and keeps it exactly.
    """

    framework = "numpy"

    def __init__(self, accuracy: Accuracy, direction: Direction = "constant", passes: Passes = "both"):
        self.accuracy, self.direction, self.passes = accuracy, direction, passes
        self.name = f"reference[worst,{direction},{passes}]: {accuracy}"
        self.claims = replace(STATELESS, forward=accuracy, backward=accuracy, starts=False, where=__name__)

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        wide = {name: np.asarray(value, dtype=np.float64) for name, value in theta.items()}
        K = cell.matrix(wide)
        U = np.eye(len(K)) - K
        z = self._solve(U, np.asarray(x, dtype=np.float64).T, self.passes != "backward").T

        def pull(cotangent: Any) -> Cotangents:
            adjoint = self._solve(U.T, np.asarray(cotangent, dtype=np.float64).T, self.passes != "forward").T
            found = cell.pullback(wide, z, adjoint)
            rounded = {name: np.asarray(value, dtype=x.dtype) for name, value in found.items()}
            return Cotangents(rounded, adjoint.astype(x.dtype), _status(adjoint))

        return Solution(z.astype(x.dtype), _status(z)), pull

    def _solve(self, U: Array, right: Array, errs: bool) -> Array:
        """``U⁻¹ right``, (m, n), with the error where it ``errs``."""
        if not right.size:
            return right.copy()
        factors = scipy.linalg.lu_factor(U, check_finite=False)
        exact: Array = scipy.linalg.lu_solve(factors, right, check_finite=False)
        if not errs or self.accuracy.exact or not np.isfinite(exact).all():
            return exact
        d = self._direction(U, right.shape)
        error = d if self.accuracy.of == "value" else scipy.linalg.lu_solve(factors, d, check_finite=False)
        image = error - U @ error  # of f: f(z + te) = f(z) + tKe
        sign = np.where(np.sum(image * exact, axis=0) < 0.0, -1.0, 1.0)  # an error that grows f allows itself more
        return exact + error * (sign * self._most(exact, d, sign * image))

    def _most(self, exact: Array, d: Array, image: Array) -> Array:
        """The t of each data point (one for all of a batch) with which ``t‖d‖`` is its share of what is allowed."""
        claim, unit = self.accuracy, self.accuracy.norms(d)
        size = np.abs(exact).max() + claim.atol + claim.eps
        most = MOST_GROWTH * size / max(1.0, float(np.abs(image).max()))

        def step(t: Array) -> Array:
            return np.minimum(most, SHARE * claim.allows(claim.norms(exact + t * image)) / unit)

        t = np.zeros(exact.shape[1])
        for _ in range(40):  # a few do, but where the claim excludes hardly anything
            t = step(t)
        short = t <= step(t) * (1.0 + 2.0**-40)  # what the claim allows must not have shrunk on the way
        return np.where(short.all() if claim.per == "batch" else short, t, 0.0)

    def _direction(self, U: Array, shape: tuple[int, ...]) -> Array:
        """Where the error lies, (m, n), its largest entry 1."""
        m = shape[0]
        if self.direction == "entry":
            d = (np.arange(m) == m - 1).astype(np.float64)
        elif self.direction == "signs":
            inverse = np.linalg.inv(U)
            d = np.where(inverse[np.abs(inverse).sum(axis=1).argmax()] < 0.0, -1.0, 1.0)
        elif self.direction == "random":
            d = np.random.default_rng(m).uniform(-1.0, 1.0, m)
        else:
            d = np.ones(m)
        return np.repeat(d[:, None], shape[1], axis=1)


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


def _status(array: Array) -> Status:
    return Status.CONVERGED if np.isfinite(array).all() else Status.DIVERGED
