"""Fixed problems for benchmarks, the same bits on every machine and for ever, and how near an answer to one came.

Once published a problem never changes (a test keeps their digests), so that times can be compared across years. Entries
are made of Philox's raw 64-bit words, whose stream NumPy promises to keep, by integer arithmetic: each is the sum of a
word's four 16-bit fields, centred, times 2⁻¹⁵. That is a bell curve of standard deviation 1.155 on dyadic
numbers of 18 bits, exact in float32 too, and free of any libm.

The true answers of the linear-softmax cell are computed in extended precision: float64 LU of U, refined by residuals in
NumPy's longdouble until they lie within what bounds.py allows that precision. Their own error is stated by the same
bounds (:attr:`Truth.doubt`), and a test holds it against the ball-arithmetic oracle. Beyond ``WORK`` multiplications,
longdouble having no BLAS, the float64 closed form stands in, with a doubt to match. Of every other cell the truth
is Newton's method in float64 with a dense adjoint, and its doubt an estimate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from deqverify.bounds import FLOAT64, Arithmetic, Errors
from deqverify.cells import LinearSoftmaxCell, cells
from deqverify.dtypes import Array
from deqverify.losses import Squared
from deqverify.problem import CellProblem, Problem, SoftmaxProblem
from deqverify.reference.newton import NewtonLayer
from deqverify.theory.closed_form import ClosedForm

OUTPUTS = 4
SOFTMAX = LinearSoftmaxCell.name
KINDS = ("mixing", "sticky")
FIXED_CELLS = (
    SOFTMAX,
    "linear",
    "tanh",
    "sigmoid",
    "relu",
    "relu-gao",
    "monotone",
    "graph",
    "attention",
    "conv",
    "lattice",
)
_STICKINESS = 12.0

WORK = 3e8
_WIDE = np.longdouble
_EXTENDED = Arithmetic(float(np.finfo(_WIDE).eps) / 2, 0.0, FLOAT64.tiny, FLOAT64.largest, FLOAT64.norm_floor)


@dataclass(frozen=True)
class FixedProblem:
    """Width ``m``, data points ``n``, γ, a kind and a cell.

    "mixing": bell-shaped logits; S forgets its start within a few products. "sticky": 12 is added along a cyclic
    permutation, so that S is nearly one, τ ≈ 1, and nothing is gained by correcting the mass (theory: zero-mass).
    A problem holds the data points of every smaller n of the same m. Other cells have the kind "mixing" alone, about m
    numbers in a state, and weights that contract at γ by their certificate, where the cell has one
    (:func:`_parameters`). ValueError for sizes below one, unknown kinds and unknown cells.
    """

    m: int
    n: int
    gamma: float
    kind: str = "mixing"
    cell: str = SOFTMAX

    def __post_init__(self) -> None:
        if self.m < 1 or self.n < 1:
            raise ValueError(f"m, n: a fixed problem has at least one state and one data point, got {self.m}, {self.n}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not known; use one of {', '.join(KINDS)}")
        if self.cell not in FIXED_CELLS:
            raise ValueError(f"cell: {self.cell!r} has no fixed problem; use one of {', '.join(FIXED_CELLS)}")
        if self.cell != SOFTMAX and self.kind != KINDS[0]:
            raise ValueError(f"kind: the cell {self.cell} has the kind {KINDS[0]} alone, got {self.kind!r}")

    def __str__(self) -> str:
        cell = "" if self.cell == SOFTMAX else f"{self.cell} "
        return f"{cell}{self.kind} m={self.m} n={self.n} γ={self.gamma:.10g}"

    def problem(self, dtype: str = "float64") -> Problem:
        """The problem, every value representable in ``dtype``."""
        return _made(self, dtype)


@lru_cache(maxsize=2)
def _made(fixed: FixedProblem, dtype: str) -> Problem:
    if fixed.cell != SOFTMAX:
        return _of_cell(fixed).rounded_to(dtype)
    m, n = fixed.m, fixed.n
    A = bell((m, m), 0, m)
    if fixed.kind == "sticky":
        A[np.arange(m), (np.arange(m) + 1) % m] += _STICKINESS
    B = bell((OUTPUTS, m), 1, m) * _unit(m)
    problem = SoftmaxProblem(A, B, bell((n, m), 2, m).T, bell((n, OUTPUTS), 3, m).T, fixed.gamma, Squared())
    return problem if dtype == "float64" else problem.rounded_to(dtype)


def _of_cell(fixed: FixedProblem) -> CellProblem:
    cell = cells()[fixed.cell]
    theta, shape = _parameters(fixed.cell, fixed.m, fixed.gamma)
    x = bell((fixed.n, *shape), 2, fixed.m)
    size = int(np.prod(cell.state(theta, shape)))
    B = bell((OUTPUTS, size), 1, fixed.m) * _unit(size)
    return CellProblem(cell, theta, x, B, bell((fixed.n, OUTPUTS), 3, fixed.m).T, Squared())


def _parameters(cell: str, m: int, gamma: float) -> tuple[dict[str, Array], tuple[int, ...]]:
    """θ, and the shape of one data point's x, of a cell with about ``m`` numbers in a state."""
    if cell in ("graph", "attention"):
        width = min(m, 8)
        places = max(1, m // width)
        if cell == "attention":
            return {name: _weight(width, 4 + k, gamma) for k, name in enumerate("QKV")}, (places, width)
        i, j = np.indices((places, places))
        ring = (i == j) | ((i - j) % places == 1) | ((j - i) % places == 1)
        adjacency = ring / ring.sum(axis=1)[0]
        return {"adjacency": adjacency, "W": _weight(width, 4, gamma), "U": np.eye(width), "b": bell((width,), 5, m)}, (
            places,
            width,
        )
    if cell == "conv":
        channels = min(m, 4)
        side = max(1, int((m // channels) ** 0.5))
        kernel = np.stack([_weight(channels, 4 + k, gamma / 9) for k in range(9)], axis=-1)
        return {"K": kernel.reshape(channels, channels, 3, 3), "gain": np.ones(channels)}, (channels, side, side)
    if cell == "lattice":
        # Entries below 4 bound the vector field's slope by max|V| + 2 + 2 √(32 + δ) < 18: times dt/2 that is 1.1 γ, and
        # less wherever a site holds less than the most that it can.
        sites = max(1, m // 2)
        return {"V": bell((sites,), 4, m), "beta": np.ones(()), "dt": np.asarray(gamma / 8)}, (sites, 2)
    W, dense = _weight(m, 4, gamma), {"U": bell((m, m), 5, m) * _unit(m), "b": bell((m,), 6, m)}
    theta: dict[str, Array] = {
        "linear": {"A": W, "U": dense["U"]},
        "sigmoid": {"W": 4 * W, **dense},
        "relu-gao": {"A": W / gamma * np.sqrt(m), "gamma": np.asarray(gamma), **dense},
        "monotone": {"P": W / 2, "Q": bell((m, m), 7, m) * _unit(m) / 2, "mu": np.asarray(1 - gamma), **dense},
    }.get(cell, {"W": W, **dense})
    return theta, (m,)


def _weight(m: int, which: int, gamma: float) -> Array:
    """``γ/4`` times the sum of four cyclic shifts, rows and columns with the same signs: its maximum, 1- and 2-norm and
    its spectral radius are γ."""
    signs = np.where(bell((m,), which, m) < 0.0, -1.0, 1.0)
    shifts = sum(np.roll(np.eye(m), shift, axis=1) for shift in (0, 1, 5, 11))
    return np.asarray(signs[:, None] * shifts * signs * (0.25 * gamma))


def _unit(size: int) -> float:
    """The power of two next to ``1/√size``: sums of so many terms become of size one, and stay dyadic."""
    return float(2.0 ** -round(np.log2(size) / 2))


def bell(shape: tuple[int, ...], which: int, m: int) -> Array:
    """Entries of ``shape`` from the stream of array number ``which`` of width ``m``."""
    words = np.random.Philox(key=np.array([which, m], dtype=np.uint64)).random_raw(int(np.prod(shape)))
    fields = words.view(np.uint16).reshape(*shape, 4)
    return (fields.sum(axis=-1, dtype=np.int64) - 2 * 65535) * 2.0**-15


def digest(problem: Problem) -> str:
    """SHA-256 of a problem's arrays, little-endian, the first 16 digits."""
    found = hashlib.sha256()
    if isinstance(problem, SoftmaxProblem):
        arrays = [problem.A, problem.B, problem.Phi, problem.Y, np.array([problem.gamma])]
    else:
        arrays = [*problem.theta.values(), problem.x, problem.B, problem.Y]
    for array in arrays:
        found.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Truth:
    """z* and the gradients in the parameters that are judged and in x, by name and data points first, and bounds on
    their own relative errors."""

    values: dict[str, Any]
    doubt: dict[str, float]


@dataclass(frozen=True)
class Achieved:
    """Relative residual and errors of one answer; a quantity that was not computed is None.

    ``residual`` is ``‖f(ẑ) − ẑ‖₂/‖f(ẑ)‖₂`` of the worst data point, in float64; ``z`` and ``x`` the relative 2-norm
    error of the worst data point, ``theta`` that of the worst parameter, of A in the linear-softmax cell.
    """

    residual: float | None
    z: float | None
    theta: float | None = None
    x: float | None = None
    doubt: float = 0.0

    @property
    def worst(self) -> float:
        """The largest error; NaN counts as infinite."""
        errors = [error for error in (self.z, self.theta, self.x) if error is not None]
        return max(float("inf") if np.isnan(error) else error for error in errors)


@lru_cache(maxsize=4)
def truth(problem: Problem) -> Truth:
    """The reference answers of ``problem`` (by identity: problems are immutable)."""
    return _softmax(problem) if isinstance(problem, SoftmaxProblem) else _polished(problem)


def _softmax(problem: SoftmaxProblem) -> Truth:
    exact = ClosedForm(problem)
    wide = problem.m**2 * problem.n <= WORK and _EXTENDED.unit < FLOAT64.unit
    errors = Errors(exact, _EXTENDED if wide else FLOAT64)
    values = _refined(exact, errors) if wide else {"z": exact.Z, "A": exact.gradient["A"], "x": exact.adjoint}
    gradient = errors.gradient
    doubt = {
        "z": float(np.max(errors.z / _norms(exact.Z.T))),
        "A": float(np.linalg.norm(gradient["A"]) / (np.linalg.norm(exact.gradient["A"]) or 1.0)),
        "x": float(np.max(_norms(gradient["Phi"].T) / _norms(exact.adjoint.T))),
    }
    return Truth(values | {name: values[name].T for name in ("z", "x")}, doubt)


def _polished(problem: Problem) -> Truth:
    """Newton's method until rounding stops it. Estimated: a few roundings, as a condition number of up to
    ``2/(1 − rate)`` makes of them."""
    solution, pull = NewtonLayer("numpy").vjp(problem.cell, problem.theta, problem.x)
    z = solution.z
    rows = z.reshape(len(z), -1)
    dF = problem.loss.gradient(problem.B @ rows.T, problem.Y)
    found = pull((dF.T @ problem.B).reshape(z.shape))
    values = {"z": z, **found.theta, "x": found.x}
    amplified = 2.0 / max(1.0 - problem.rate, 1e-3)  # without a certificate the rate is 1, which says nothing
    return Truth(values, dict.fromkeys(values, 64 * FLOAT64.unit * amplified))


def achieved(problem: Problem, z: Array | None, gradient: dict[str, Array] | None = None) -> Achieved:
    """How near z (n, *state) and the gradients, by name, came to the truth, each where it is given."""
    known = truth(problem)
    residual, error = (None, None) if z is None else _of_state(problem, z, known)
    if gradient is None:
        return Achieved(residual, error, doubt=known.doubt["z"])
    names = [name for name in known.values if name not in ("z", "x")]
    theta = max(_relative(gradient[name], known.values[name]) for name in names)
    return Achieved(residual, error, theta, _worst_point(gradient["x"], known.values["x"]), max(known.doubt.values()))


def _of_state(problem: Problem, z: Array, known: Truth) -> tuple[float, float]:
    f = problem.cell.step(problem.theta, problem.x)(z)
    return _worst_point(z, f), _worst_point(z, known.values["z"])


def _relative(found: Array, expected: Any) -> float:
    size = float(np.linalg.norm(np.asarray(expected, dtype=np.float64)))
    return float(np.linalg.norm((found - expected).astype(np.float64))) / (size or 1.0)


def _worst_point(found: Array, expected: Any) -> float:
    sizes = _norms(expected)
    return float(np.max(_norms(found - expected) / np.where(sizes > 0.0, sizes, 1.0)))


def _refined(exact: ClosedForm, errors: Errors) -> dict[str, Any]:
    """z, ∂L/∂A and ∂L/∂Φ in extended precision. ArithmeticError where refinement does not reach its bound."""
    problem = exact.problem
    A = problem.A.astype(_WIDE)
    E = np.exp(A - A.max(axis=0))
    S = E / E.sum(axis=0)
    K = _WIDE(problem.gamma) * S
    Z = _solve(K, problem.Phi.astype(_WIDE), exact.solve, lambda r: np.abs(r).sum(axis=0), errors.solve_rounding)
    B = problem.B.astype(_WIDE)
    c = B.T @ problem.loss.gradient(B @ Z, problem.Y)
    adjoint = _solve(K.T, c, exact.solve_transposed, lambda r: np.abs(r).max(axis=0), errors.solve_rounding)
    SM = S * (_WIDE(problem.gamma) * (adjoint @ Z.T))
    return {"z": Z, "A": SM - S * SM.sum(axis=0), "x": adjoint}


def _solve(K: Any, rhs: Any, solve: Any, norm: Any, rounding: float) -> Any:
    x, r = np.zeros_like(rhs), rhs
    for corrections in range(8):
        x = x + solve(r.astype(np.float64))
        r = rhs + K @ x - x
        # The bound is wide enough at large m to hold for plain float64, which judges no float64 answer.
        if corrections and np.all(norm(r) <= rounding * (norm(x) + norm(rhs))):
            return x
    raise ArithmeticError("truth: iterative refinement does not reach extended precision; γ is too near one")


def _norms(states: Any) -> Array:
    """2-norms of the data points (n, *state), in float64, scaled against overflow."""
    rows = np.asarray(states).reshape(len(states), -1)
    top = np.abs(rows).max(axis=1, initial=0.0)
    top = np.where(top > 0, top, 1)
    return np.asarray(top * np.sqrt(((rows / top[:, None]) ** 2).sum(axis=1)), dtype=np.float64)
