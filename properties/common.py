"""What several families draw and compute."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.bounds import Bound, Budget
from deqverify.comparison import Fact
from deqverify.dtypes import Array, round_to
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.strategies import problems
from deqverify.strategies.arrays import draw_signal
from deqverify.strategies.problems import scales
from deqverify.theory.closed_form import ClosedForm

Extra = Callable[[Problem], SearchStrategy[Any]]


@st.composite
def cases(draw: DrawFn, base: SearchStrategy[Problem], **extras: Extra) -> dict[str, Any]:
    """A problem, and what depends on its sizes: each extra is a function from the problem to a strategy."""
    problem = draw(base)
    return {"problem": problem} | {name: draw(extra(problem)) for name, extra in extras.items()}


def any_problem(
    least_m: int = 1, least_n: int = 1, **extras: Extra
) -> Callable[[Subject], SearchStrategy[dict[str, Any]]]:
    """Draws problems of every regime in the subject's dtype, and the extras.

    The least sizes are raised where a law says nothing below them: softmax gradients at m = 1, neighbours at n = 1.
    """
    return lambda deq: cases(problems(deq.dtype, least_m=least_m, least_n=least_n), **extras)


def budget(deq: Subject, problem: Problem, cotangent: Array | None = None) -> Budget:
    """The bounds for ``deq`` on ``problem``."""
    return Budget(ClosedForm(problem, cotangent), deq.claims, deq.dtype)


def cotangents(deq: Subject) -> Extra:
    """Cotangents (m, n) of every scale, numbers of the subject's dtype."""

    return lambda problem: _scaled(problem.m, problem.n, deq.dtype)


@st.composite
def _scaled(draw: DrawFn, m: int, n: int, dtype_name: str) -> Array:
    return round_to(draw_signal(draw, (m, n), 1.0) * 2.0 ** draw(scales(dtype_name)), dtype_name)


def finite(what: str, array: Array) -> Fact:
    """That ``array`` holds numbers only."""
    good = bool(np.isfinite(array).all())
    return Fact(f"{what} is finite", good, "all entries are" if good else f"got {array.tolist()}", informative=False)


def own_rounding(what: str, size: Array | float) -> Bound:
    """The rounding of the law's own float64 evaluation, ``size`` being operations × unit roundoff × magnitude."""
    return Bound({f"rounding of {what} in float64": np.asarray(size)})


def global_random_state(deq: Subject) -> dict[str, str]:
    """Digests of every global random state, by module."""
    return {
        "random": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "numpy.random": hashlib.sha256(repr(np.random.get_state(legacy=False)).encode()).hexdigest(),
        deq.framework.name: deq.framework.random_state(),
    }
