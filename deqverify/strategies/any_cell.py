"""Problems of drawn cells: the linear-softmax one most often, since most is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from deqverify.cells import LinearSoftmaxCell, cells
from deqverify.cells.wrapped import WrappedCell
from deqverify.drawing import draw_signal, size_up_to
from deqverify.losses import Poisson
from deqverify.problem import CellProblem, Problem
from deqverify.strategies.problems import draw_targets, loss_functions, problems
from deqverify.wrapped_problem import WrappedProblem

LARGEST_BATCH, MOST_OUTPUTS = 3, 3


@st.composite
def cell_problems(
    draw: DrawFn, cell: str | WrappedCell, dtype_name: str = "float64", least_n: int = 1, large: bool = False
) -> CellProblem:
    """A problem of the cell called ``cell``, or of the user's own, its values numbers of ``dtype_name``: at most three
    data points and three outputs, θ and x as the cell draws them; if ``large``, two data points with states beyond
    the sizes of others (:meth:`deqverify.cells.Cell.draw`). Shrinks to the cell's simplest instance, with B = 1,
    Y = 0, squared loss.
    """
    chosen = cells()[cell] if isinstance(cell, str) else cell
    made = CellProblem if isinstance(cell, str) else WrappedProblem
    n = draw(size_up_to(least_n, max(least_n, 2 if large else LARGEST_BATCH)))
    theta, x = chosen.draw(draw, dtype_name, n, large)
    p, entries = draw(size_up_to(1, MOST_OUTPUTS)), int(np.prod(chosen.state(theta, x.shape[1:])))
    B = draw_signal(draw, (p, entries), 1.0)
    loss = draw(loss_functions())
    if isinstance(loss, Poisson):
        B = B / 8.0  # exp of an output stays a moderate number
    return made(chosen, theta, x, B, draw_targets(draw, loss, p, n), loss).rounded_to(dtype_name)


def problems_of(
    names: Sequence[str], dtype_name: str, least_m: int = 1, least_n: int = 1, largest_gamma: float = 1 - 1e-6
) -> SearchStrategy[Problem]:
    """A problem of one of the cells called ``names``, every second time of the linear-softmax one where it is among
    them. ``least_m`` is a least width of that one alone, ``largest_gamma`` its largest γ."""
    return _of(tuple(names), dtype_name, least_m, least_n, largest_gamma)


@lru_cache(maxsize=256)
def _of(
    names: tuple[str, ...], dtype_name: str, least_m: int, least_n: int, largest_gamma: float
) -> SearchStrategy[Problem]:
    softmax = problems(dtype_name, largest_gamma, least_m=least_m, least_n=least_n)
    others = [name for name in names if name != LinearSoftmaxCell.name]
    if not others:
        return softmax
    if len(others) == len(names):
        return st.sampled_from(others).flatmap(lambda name: cell_problems(name, dtype_name, least_n))
    menu = [LinearSoftmaxCell.name] * len(others) + others
    return st.sampled_from(menu).flatmap(
        lambda name: softmax if name == LinearSoftmaxCell.name else cell_problems(name, dtype_name, least_n)
    )
