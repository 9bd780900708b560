"""What several families draw and compute."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.bounds import Bound, Budget
from deqverify.cells import LinearSoftmaxCell
from deqverify.comparison import Fact, Measurement, compare
from deqverify.drawing import draw_signal, scales
from deqverify.dtypes import Array, dtype, round_to
from deqverify.errors.judge import Judge, judge
from deqverify.frameworks import framework
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.registry import cells_of
from deqverify.strategies import cell_problems, problems, problems_of, signals
from deqverify.strategies.problems import LARGE_REGIMES
from deqverify.theory.closed_form import ClosedForm

EVALUATIONS = 60
"""A training law calls the implementation at most this often an example."""

Extra = Callable[[Any], SearchStrategy[Any]]
"""From a problem to a strategy."""

PAIRS = st.sampled_from(
    [(a, b) for a in (1, 2, 3, -1, -2, -3, 0) for b in (1, 2, 3, -1, -2, -3, 0) if (a, b) != (0, 0)]
)
"""Weights of a combination of two; both zero would say nothing."""


@st.composite
def cases(draw: DrawFn, base: SearchStrategy[Problem], **extras: Extra) -> dict[str, Any]:
    """A problem, and what depends on its sizes: each extra is a function from the problem to a strategy."""
    problem = draw(base)
    return {"problem": problem} | {name: draw(extra(problem)) for name, extra in extras.items()}


Draws = Callable[[Subject], SearchStrategy[dict[str, Any]]]


def any_problem(
    about: str = "any", least_m: int = 1, least_n: int = 1, cotangent: bool = False, **extras: Extra
) -> Draws:
    """Draws problems of every regime of the cells that a law is ``about``, in the subject's dtype, and the extras;
    with ``cotangent`` one of those too, (n, *state).

    The least sizes are raised where a law says nothing below them: softmax gradients at m = 1, neighbours at n = 1.
    """

    def draws(deq: Subject) -> SearchStrategy[dict[str, Any]]:
        also = {"cotangent": cotangents(deq)} if cotangent else {}
        return cases(problems_for(deq, about, least_m, least_n), **also, **extras)

    return draws


def problems_for(
    deq: Subject, about: str = "any", least_m: int = 1, least_n: int = 1, largest_gamma: float = 1 - 1e-6
) -> SearchStrategy[Problem]:
    """Problems of the cells that ``deq`` is judged on and a law is ``about``; of its own cell, where it brings one."""
    if deq.own_cell is not None:
        return cell_problems(deq.own_cell, deq.dtype, least_n)
    return problems_of(cells_of(about, deq), deq.dtype, least_m, least_n, largest_gamma)


def softmax_problem(least_m: int = 1, least_n: int = 1, cotangent: bool = False, **extras: Extra) -> Draws:
    """As :func:`any_problem`, of the linear-softmax cell alone."""
    return any_problem(SOFTMAX, least_m, least_n, cotangent, **extras)


SOFTMAX = LinearSoftmaxCell.name

WIDER = ("float64", "float32")
"""The dtypes in which a bound can tell at m = 300; it grows with m."""


def large_problem(
    about: str = "any", dtypes: Collection[str] = WIDER, least_n: int = 1, cotangent: bool = False, **extras: Extra
) -> Callable[[Subject], SearchStrategy[dict[str, Any]] | None]:
    """Draws problems of the cells that a law is ``about``, in ``dtypes`` only: of the linear-softmax cell with up to
    300 states or data points, where that is among them, else with states as large as cells draw them.

    Where each shape is compiled, of the last of the others alone.
    """

    def draws(deq: Subject) -> SearchStrategy[dict[str, Any]] | None:
        names = cells_of(about, deq)
        if deq.dtype not in dtypes or deq.own_cell is not None or not names:
            return None
        base: SearchStrategy[Problem]
        if SOFTMAX in names:
            base = problems(deq.dtype, size_regimes=LARGE_REGIMES, least_n=least_n)
        else:
            some = names[-1:] if deq.claims.compiles else names
            base = st.sampled_from(some).flatmap(lambda name: cell_problems(name, deq.dtype, least_n, large=True))
        also = {"cotangent": cotangents(deq)} if cotangent else {}
        return cases(base, **also, **extras)

    return draws


def judged(deq: Subject, problem: Problem, cotangent: Array | None = None, near: Array | None = None) -> Judge:
    """The judge of ``deq`` on ``problem``, for a cotangent (n, *state) or the objective's; ``near`` its own answer.

    Where no certificate says that there is one equilibrium, another solver may stand at another: without ``near`` it is
    asked once more where it does. A whole model, which cannot be asked, is taken to stand where Newton's method from
    zero ends.
    """
    if near is None and problem.certificate is None and deq.is_layer:
        with suppress(TargetFailure):
            near = deq.solve(problem).z
    return judge(problem, deq.claims, deq.dtype, cotangent, near)


def several(deq: Subject, problem: Problem) -> bool:
    """Whether an answer may be right at one equilibrium and another answer at another: nothing says that there is one,
    and a cell is there to tell them apart."""
    return problem.certificate is None and (deq.own_cell is None or deq.own_cell.given)


def budget(deq: Subject, problem: SoftmaxProblem, cotangent: Array | None = None) -> Budget:
    """The bounds for ``deq`` on a problem of the linear-softmax cell, in columns: cotangents are (m, n) here."""
    return Budget(ClosedForm(problem, cotangent), deq.claims, deq.dtype)


def cotangents(deq: Subject) -> Extra:
    """Cotangents (n, *state) of every scale, numbers of the subject's dtype; in some the data points are of very
    different sizes."""

    return lambda problem: _scaled(problem.states, deq.dtype)


APART = (0, 0, 0, 0, 13, 27)
"""The cotangents of two data points beside each other differ by two to this power: what is small in a batch is no less
somebody's."""


@st.composite
def _scaled(draw: DrawFn, shape: tuple[int, ...], dtype_name: str) -> Array:
    values = draw_signal(draw, shape, 1.0) * 2.0 ** draw(scales(dtype_name))
    if len(shape) > 1 and shape[0] > 1:
        apart = draw(st.sampled_from(APART))
        apart = min(apart, 4) if dtype(dtype_name).largest < 2.0**100 else apart
        values = values * 2.0 ** (-apart * (np.arange(shape[0]) % 3)).reshape(-1, *[1] * (len(shape) - 1))
    return round_to(values, dtype_name)


def rounded_signals(deq: Subject, shape: tuple[int, ...]) -> SearchStrategy[Array]:
    """Arrays of ``shape`` whose entries are numbers of the subject's dtype; they shrink to ones."""
    return signals(shape, background=1.0).map(lambda array: round_to(array, deq.dtype))


@st.composite
def directions(draw: DrawFn, values: Mapping[str, Array]) -> dict[str, Array]:
    """An array for each of ``values``, of its shape; they shrink to ones."""
    return {name: draw_signal(draw, np.shape(value), 1.0) for name, value in values.items()}


def in_columns(direction: Mapping[str, Array]) -> dict[str, Array]:
    """Blocks of the linear-softmax cell in the symbols of docs/theory.md, x (n, m) as Φ (m, n)."""
    return {"Phi" if block == "x" else block: d.T if block == "x" else d for block, d in direction.items()}


def scale_of(array: Array) -> float:
    """A power of two near the largest entry: multiplying by it rounds nothing."""
    largest = float(np.abs(array).max(initial=0.0))
    return 2.0 ** np.floor(np.log2(largest)) if largest else 1.0


def finite(what: str, array: Array) -> Fact:
    """That ``array`` holds numbers only."""
    good = bool(np.isfinite(array).all())
    return Fact(f"{what} is finite", good, "all entries are" if good else f"got {array.tolist()}", informative=False)


def own_rounding(what: str, size: Array | float) -> Bound:
    """The rounding of the law's own float64 evaluation, ``size`` being operations × unit roundoff × magnitude."""
    return Bound({f"rounding of {what} in float64": np.asarray(size)})


NOT_TIGHT = "the theorem's inequality is far from tight (theory: rate): the reference never comes near it."
"""Why the laws of the theorem's inequalities are loose."""


def squared_length(gradient: dict[str, Array]) -> float:
    return float(np.sum(gradient["A"] ** 2) + np.sum(gradient["B"] ** 2))


def usable(gradient: dict[str, Array]) -> Iterator[Fact]:
    for block in ("A", "B"):
        yield finite(f"∂L/∂{block}", gradient[block])


def theory_squared(bounds: Budget) -> float:
    """Rounding of gᵀDg in float64: the route through W solves with U four times where the gradient solves twice."""
    theory, exact = bounds.theory, bounds.exact.gradient
    return 4 * sum(float(np.sum(2 * np.abs(exact[k]) * e + e**2)) for k, e in theory.gradient.items() if k in "AB")


def loss_rounding(bounds: Budget) -> float:
    """Rounding of L in float64: what the error of F makes of it, a dozen roundings an entry, and the sum's own."""
    return float(bounds.theory.value)


@dataclass(frozen=True)
class Point:
    """The implementation's gradient at a float64 point: ``slope`` is ``‖∇L‖`` there, ``error`` bounds ``‖ĝ − ∇L‖``."""

    gradient: dict[str, Array]
    bounds: Budget
    slope: float
    error: float


def visit(deq: Subject, here: SoftmaxProblem) -> Point:
    """Asks for the gradient at ``here`` as the subject rounds it; the error includes what that rounding moves."""
    rounded = deq.rounded(here)
    _, found = deq.value_and_grad(rounded)
    gradient = {block: found[block] for block in ("A", "B")}
    bounds = budget(deq, rounded)
    exact, seen = ClosedForm(here).gradient, bounds.exact.gradient
    errors = bounds.claimed.gradient
    moved = sum(float(np.sum((np.abs(exact[k] - seen[k]) + errors[k]) ** 2)) for k in gradient)
    return Point(gradient, bounds, float(np.sqrt(squared_length(exact))), float(np.sqrt(moved)))


class NoDirection(Exception):
    """A gradient that is not finite: an integrator would look for a step for ever."""

    def __init__(self, gradient: dict[str, Array]):
        super().__init__("the gradient is not finite")
        self.gradient = gradient


def direction(point: Point) -> Array:
    """The gradient in A and B as one vector; :class:`NoDirection` where it is not finite."""
    along = packed(point.gradient["A"], point.gradient["B"])
    if not np.isfinite(along).all():
        raise NoDirection(point.gradient)
    return along


def short_of(what: str, promised: Array | float, gradient: dict[str, Array], bounds: Budget, own: float) -> Measurement:
    """That ``‖∂L/∂A‖² + ‖∂L/∂B‖²`` is at least ``promised`` (one number or several), whose own rounding is ``own``."""
    shortfall = np.maximum(0.0, np.asarray(promised) - squared_length(gradient))
    allowed = bounds.squared("A", "B") + own_rounding(what, own)
    return compare(f"{what} − ‖∂L/∂A‖² − ‖∂L/∂B‖²", shortfall, allowed, squared_length(bounds.exact.gradient))


def packed(A: Array, B: Array) -> Array:
    """A and B, or their gradients, as one vector."""
    return np.concatenate([A.ravel(), B.ravel()])


def unpacked(problem: SoftmaxProblem, state: Array) -> SoftmaxProblem:
    split = problem.m**2
    return replace(problem, A=state[:split].reshape(problem.A.shape), B=state[split:].reshape(problem.B.shape))


@contextmanager
def other_random_states(deq: Subject) -> Iterator[None]:
    """In this context the global random states are some numbers on: where every call seeds one, and nobody draws in
    between, it looks untouched otherwise."""
    before = random.getstate()
    random.random()
    try:
        with framework("numpy").other_random_state(), deq.framework.other_random_state():
            yield
    finally:
        random.setstate(before)


def global_random_state(deq: Subject) -> dict[str, str]:
    """Digests of every global random state, by module."""
    return {
        "random": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "numpy": framework("numpy").random_state(),
        deq.framework.name: deq.framework.random_state(),
    }
