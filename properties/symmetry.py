"""What moves with the inputs: equilibria and gradients of images on the torus, of graphs and of sets of tokens
(theory: shifts, theory: relabelling)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from deqverify.properties.common import Draws, any_problem, finite, judged, large_problem, own_rounding
from hypothesis import strategies as st

from deqverify.bounds import FLOAT64, Bound
from deqverify.cells.attention import AttentionCell
from deqverify.cells.conv import ConvCell
from deqverify.cells.graph import GraphCell
from deqverify.comparison import Fact, Measurement, compare
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law

CONV, GRAPH, ATTENTION = ConvCell.name, GraphCell.name, AttentionCell.name
WRONG, WRONG_GRADIENT = "wrong equilibrium", "wrong gradient"
PLACES = "The answer depends on where the data stand or in which order they came: the same content, another model."
LEARNS_PLACES = "Training learns places and orders of which the model knows nothing."

Move = Callable[[Array], Array]


def _moved(bound: Bound, move: Move) -> Bound:
    """What bounds entries moves with them; a norm of each data point stays what it is."""
    return Bound({name: move(term) if np.ndim(term) > 1 else term for name, term in bound.terms.items()})


def _one_equilibrium(first: Judge, second: Judge, move: Move) -> bool:
    """Whether both judges mean the same one: without a certificate there may be several, and each is right."""
    allowed = first.z_error + _moved(second.z_error, move)
    return bool(np.all(first.states(first.z - move(second.z)) <= allowed.total))


def _compared(what: str, distance: Array, errors: tuple[Bound, Bound], size: Array) -> Measurement:
    own = own_rounding("the comparison", FLOAT64.unit * 4 * size)
    return compare(what, distance, errors[0] + errors[1] + own, size)


def _states(deq: Subject, problem: Problem, ahead: Problem, move: Move) -> Iterator[Measurement | Fact]:
    """That ``ahead``, which is ``problem`` moved, has the moved equilibrium."""
    moved, still = deq.equilibrium(ahead), deq.equilibrium(problem)
    for z in (moved, still):
        yield finite("ẑ", z)
    truths = judged(deq, ahead, near=moved), judged(deq, problem, near=still)
    if _one_equilibrium(*truths, move):
        errors = truths[0].z_error, _moved(truths[1].z_error, move)
        distance, size = truths[0].states(moved - move(still)), truths[0].states(truths[0].z)
        yield _compared("|ẑ of what was moved − ẑ moved|", distance, errors, size)


def _gradients(
    deq: Subject, problem: Problem, ahead: Problem, move: Move, cotangent: Array, also: dict[str, Move]
) -> Iterator[Measurement | Fact]:
    """That a moved cotangent gives the moved gradient in x, the same one in parameters, and ``also`` moved ones."""
    answers = deq.solve(ahead), deq.solve(problem)
    moved, still = deq.pull(answers[0], move(cotangent)), deq.pull(answers[1], cotangent)
    truths = (
        judged(deq, ahead, move(cotangent), near=answers[0].z),
        judged(deq, problem, cotangent, near=answers[1].z),
    )
    if not all(truth.in_range for truth in truths) or not _one_equilibrium(*truths, move):
        return
    for block in problem.pulled_blocks:
        yield finite(f"pull: {block}", moved[block])
        yield finite(f"pull: {block}", still[block])
        turn = {"x": move, **also}.get(block, _stay)
        errors = truths[0].pulled_error(block), _moved(truths[1].pulled_error(block), turn)
        what = f"|pull of what was moved − pull moved|, in {block}"
        distance = np.abs(moved[block] - turn(still[block]))
        yield _compared(what, distance, errors, np.abs(truths[0].pulled[block]))


def _stay(array: Array) -> Array:
    return array


def _places(problem: Problem) -> int:
    """How many pixels, nodes or tokens a data point has."""
    return math.prod(problem.state[1:]) if problem.cell.name == CONV else problem.state[0]


def _several(draws: Draws) -> Draws:
    """Of those ``draws`` the ones with two pixels, nodes or tokens, or more: one alone has nowhere to go."""
    return lambda deq: draws(deq).filter(lambda drawn: _places(drawn["problem"]) > 1)


def _shifts(problem: Problem) -> st.SearchStrategy[int]:
    """A shift as one number, rows · width + columns; never none where the image has two pixels."""
    return st.integers(1, max(1, _places(problem) - 1))


def _shifted(problem: Problem, shift: int) -> tuple[Problem, Move]:
    by = divmod(shift % _places(problem), problem.state[2])

    def move(array: Array) -> Array:
        return np.roll(array, by, axis=(2, 3))

    return problem.with_blocks(x=move(problem.x)), move


def _orders(problem: Problem) -> st.SearchStrategy[list[int]]:
    """Orders of nodes or tokens; the simplest is the reverse, and none leaves all in place where there are two."""
    many = range(_places(problem))
    return st.permutations(many).map(lambda order: order if order != list(many) else order[::-1])


def _reordered(problem: Problem, order: list[int]) -> tuple[Problem, Move]:
    def move(array: Array) -> Array:
        return array[:, order]

    return problem.with_blocks(x=move(problem.x)), move


def _relabelled(problem: Problem, order: list[int]) -> tuple[Problem, Move, dict[str, Move]]:
    """Nodes in another order, the graph with them."""

    def both(matrix: Array) -> Array:
        return matrix[np.ix_(order, order)]

    ahead, move = _reordered(problem, order)
    return ahead.with_blocks(adjacency=both(problem.block("adjacency"))), move, {"adjacency": both}


@law(
    about=CONV,
    statement="an image shifted on the torus has the shifted equilibrium",
    source="theory: shifts",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake=PLACES,
    draws=_several(any_problem(CONV, shift=_shifts)),
    large=large_problem(CONV, shift=_shifts),
)
def shift(deq: Subject, problem: Problem, shift: int) -> Iterator[Measurement | Fact]:
    """Inputs and states (n, c, h, w) rolled by whole pixels, over the edge.

    Bound: ``BallErrors.z_error`` of both. Catches padding that is not circular, and axes that are exchanged.
    """
    yield from _states(deq, problem, *_shifted(problem, shift))


@law(
    about=CONV,
    statement="a cotangent shifted with its image has the shifted gradient in x, and the same one in kernel and gain",
    source="theory: shifts",
    needs=("pull",),
    rests_on=("gradient-theta", "gradient-x"),
    anomaly=WRONG_GRADIENT,
    at_stake=LEARNS_PLACES,
    draws=_several(any_problem(CONV, cotangent=True, shift=_shifts)),
)
def shift_gradient(deq: Subject, problem: Problem, cotangent: Array, shift: int) -> Iterator[Measurement | Fact]:
    """Cotangents (n, c, h, w) rolled as x is.

    Bound: ``BallErrors.pulled`` of both. Catches a backward convolution that pads otherwise than the forward one.
    """
    yield from _gradients(deq, problem, *_shifted(problem, shift), cotangent, {})


@law(
    about=GRAPH,
    statement="(PÂPᵀ, Px) ↦ Pz* for every order P of the nodes",
    source="theory: relabelling",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake=PLACES,
    draws=_several(any_problem(GRAPH, order=_orders)),
    large=large_problem(GRAPH, order=_orders),
)
def node_order(deq: Subject, problem: Problem, order: list[int]) -> Iterator[Measurement | Fact]:
    """Nodes of x (n, nodes, d) and of the adjacency matrix Â in another order.

    Bound: ``BallErrors.z_error`` of both. Catches nodes that are told apart by their number, and a node axis taken for
    the one of features.
    """
    yield from _states(deq, problem, *_relabelled(problem, order)[:2])


@law(
    about=GRAPH,
    statement="with nodes in another order P the gradients become P∂x and P∂ÂPᵀ, and stay what they are in W, U and b",
    source="theory: relabelling",
    needs=("pull",),
    rests_on=("gradient-theta", "gradient-x"),
    anomaly=WRONG_GRADIENT,
    at_stake=LEARNS_PLACES,
    draws=_several(any_problem(GRAPH, cotangent=True, order=_orders)),
)
def node_order_gradient(
    deq: Subject, problem: Problem, cotangent: Array, order: list[int]
) -> Iterator[Measurement | Fact]:
    """Cotangents (n, nodes, f) in another order, as x is.

    Bound: ``BallErrors.pulled`` of both. Catches messages that go back along the wrong edges of a directed graph, and
    nodes that no gradient reaches.
    """
    ahead, move, also = _relabelled(problem, order)
    yield from _gradients(deq, problem, ahead, move, cotangent, also)


@law(
    about=ATTENTION,
    statement="tokens in another order have the same states in that order",
    source="theory: relabelling",
    needs=("equilibrium",),
    rests_on=("existence",),
    anomaly=WRONG,
    at_stake=PLACES,
    draws=_several(any_problem(ATTENTION, order=_orders)),
    large=large_problem(ATTENTION, order=_orders),
)
def token_order(deq: Subject, problem: Problem, order: list[int]) -> Iterator[Measurement | Fact]:
    """Inputs (n, tokens, d) in another order. Undecided where the two solves end at different equilibria.

    Bound: ``BallErrors.z_error`` of both. Catches masks and positions left in, and a softmax along the other axis.
    """
    yield from _states(deq, problem, *_reordered(problem, order))


@law(
    about=ATTENTION,
    statement="a cotangent reordered with its tokens has the reordered gradient in x, and the same one in Q, K and V",
    source="theory: relabelling",
    needs=("pull",),
    rests_on=("gradient-theta", "gradient-x"),
    anomaly=WRONG_GRADIENT,
    at_stake=LEARNS_PLACES,
    draws=_several(any_problem(ATTENTION, cotangent=True, order=_orders)),
)
def token_order_gradient(
    deq: Subject, problem: Problem, cotangent: Array, order: list[int]
) -> Iterator[Measurement | Fact]:
    """Cotangents (n, tokens, d) in another order, as x is.

    Bound: ``BallErrors.pulled`` of both. Catches a mask in the backward pass alone.
    """
    yield from _gradients(deq, problem, *_reordered(problem, order), cotangent, {})
