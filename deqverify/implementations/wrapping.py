"""What wrapping a layer of somebody else's takes in any framework: packing of states and inputs, and refusals that say
what was seen, what was expected, and the line to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deqverify.cells.base import Shape
from deqverify.claims import Accuracy, Claims
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

LARGEST_STATE = 1024
"""Entries of a state up to which the oracle inverts I − ∂f/∂z, a dense matrix."""

REAL = (
    "expected real numbers: a layer of complex ones is judged as one of twice as many real ones, with "
    "torch.view_as_real and torch.view_as_complex, or jnp.stack([z.real, z.imag], -1), in a function around it"
)

_SOLVED = 1e-2
"""An equation is taken to be solved by an answer that is off by no more, relative to its size."""

CLAIMS = Claims(
    Accuracy(1e-6), Accuracy(1e-6), status=False, starts=False, empty=False, where="the defaults of deqverify.wrap_…"
)
"""What is taken to be claimed by a layer that says nothing: the usual tolerance, and nothing that few layers offer."""


@dataclass(frozen=True)
class Packing:
    """Several arrays (n, *shape) as one: a single one is left as it is, more become (n, entries), one after another."""

    shapes: tuple[Shape, ...]

    def packed(self, arrays: Sequence[Any]) -> Any:
        if len(arrays) == 1:
            return arrays[0]
        xp = array_namespace(arrays[0])
        flat = [xp.reshape(a, (a.shape[0], math.prod(a.shape[1:]))) for a in arrays]
        return xp.concat(flat, axis=1)

    def parts(self, array: Any) -> list[Any]:
        if len(self.shapes) == 1:
            return [array]
        xp, found, begin = array_namespace(array), [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            found.append(xp.reshape(array[:, begin : begin + size], (array.shape[0], *shape)))
            begin += size
        return found

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> Packing:
        return cls(tuple(tuple(a.shape[1:]) for a in arrays))


def own_claims(claims: Claims | None, cell: str | None, usual: Claims = CLAIMS) -> Claims:
    """The usual claims, but for what ``claims`` say, on the user's own cell alone."""
    return replace(claims.over(usual) if claims else usual, cells=(cell,) if cell else ())


def check_example(shapes: Sequence[Shape]) -> None:
    """That inputs are there, and that their first axes, the data points, agree."""
    if not shapes:
        raise ValueError("example: holds no array; give the inputs of one call, example=x or example=(x, y)")
    if any(not shape for shape in shapes):
        raise ValueError(
            "example: holds a number, which has no data points; expected an axis for them: example=x[None], or close "
            "over it: cell=lambda z, x: f(z, x, number)"
        )
    counts = {shape[0] for shape in shapes}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"example: inputs of shapes {_listed(shapes)} have {' and '.join(map(str, sorted(counts)))} data points; "
            "expected one number, that of the first axis: move it there, x.movedim(axis, 0), and close over what "
            "belongs to all data points: cell=lambda z, x: f(z, x, graph)"
        )


def check_floating(dtypes: Sequence[Any]) -> None:
    """That inputs are arrays of floating-point numbers; ``dtypes`` are theirs, or the types of what are none."""
    for given in map(str, dtypes):
        if given in ("dict", "list"):
            raise TypeError(
                f"example: is a {given}; expected an array, or several inputs in a tuple, example=(x, context), for a "
                "layer that takes them one by one; write a function around a layer that wants them in a dictionary"
            )
        if "complex" in given:
            raise TypeError(f"example: holds {given}; {REAL}")
        if "float" not in given.rpartition(".")[2] or given == "float":
            raise TypeError(
                f"example: holds {given}; expected arrays of floating-point numbers, in which there is a gradient: "
                "wrap what comes after the embedding, and close over the rest: cell=lambda z, x: f(z, x, index)"
            )


def check_points(states: Sequence[Any], n: int, move: str) -> None:
    """That what the layer returned are states of n data points."""
    for shape in (tuple(array.shape) for array in states):
        if not shape or shape[0] != n:
            there = [axis for axis, size in enumerate(shape) if size == n]
            fix = f"return {move.format(there[0])}" if there else "return one state for each data point"
            raise ValueError(
                f"example: for {n} data points the layer returned a state of shape {shape}; expected ({n}, …), data "
                f"points first: {fix}"
            )


def check_states(states: Sequence[Any], images: Sequence[Any], call: str) -> None:
    """That what the cell makes of states are states of their shapes."""
    given, mapped = ([tuple(array.shape) for array in arrays] for arrays in (states, images))
    if len(given) != len(mapped):
        raise ValueError(
            f"cell: {call} returned {_number(mapped)}, and the layer a state of {_number(given)}; expected the same "
            "parts from both, and nothing else: where the layer returns more than its state, say which part it is, "
            "state=lambda out: out[0]"
        )
    for first, second in zip(given, mapped, strict=True):
        if first != second:
            raise ValueError(
                f"cell: {call} maps a state of shape {first} to one of shape {second}; expected {first}, one step of "
                "the iteration z ← f(z, x) whose fixed point the layer returns: cell=layer.f, without the head that "
                "comes after it; an example of other sizes than the layer was built for shows in the same way"
            )
    entries = sum(math.prod(shape[1:]) for shape in given)
    if entries > LARGEST_STATE:
        raise ValueError(
            f"example: a state has {entries} entries, and the oracle inverts a dense matrix of that size; expected at "
            f"most {LARGEST_STATE}: give a smaller example, example=x[:3, :, :8, :8] for images of 8 × 8 pixels"
        )


def check_equation(image: Callable[[Array, Array], Array], x: Array, z: Array, call: str) -> None:
    """That the layer's answer z (n, *state) does not solve another equation of the cell far better than
    ``z = f(z, x)``: one whose cell returns the residual, or takes its arguments the other way round. ``image(x, z)`` is
    the cell's; ``call`` is it as the user writes it. Whether z solves its own equation is for laws to say."""
    size = float(np.linalg.norm(z))

    def solves(off: Array) -> bool:
        return float(np.linalg.norm(off)) <= _SOLVED * size

    if solves((found := image(x, z)) - z) or not np.isfinite(found).all():
        return
    if solves(found) and not solves(image(x, 1.5 * z)):  # a dead ReLU's is zero anywhere
        raise ValueError(
            f"cell: at what the layer returns {call} is {float(np.abs(found).max()):.2g} at most, and that is "
            f"{float(np.abs(z).max()):.2g}; expected one step of the iteration z ← f(z, x), whose fixed point it "
            "is, and not its residual: add z to what it returns"
        )
    if x.shape == z.shape and solves(image(z, x) - z):
        raise ValueError(
            f"cell: {call} does not return the equilibrium at the one that the layer returns, and does with z and x "
            "exchanged; expected the state before the inputs: cell=lambda z, x: f(x, z), with the parameters first in "
            "JAX"
        )


def check_same(first: Array, second: Array, what: str, why: str) -> None:
    """That the same call gave the same, but for rounding of sums in another order: in float32 far below a thousandth of
    the largest entry. What is drawn anew in each call, as dropout, moves entries by their own size."""
    if not np.allclose(first, second, rtol=1e-3, atol=1e-3 * float(np.abs(first).max(initial=0.0)), equal_nan=True):
        off = float(np.abs(first - second).max())
        raise ValueError(f"{what}: two calls with the same arguments differ by {off:.2g}; expected one answer: {why}")


def sees_others(alone: Array, among: Array) -> bool:
    """Whether a data point's ``f(z, x)``, in float64, depends on the others: by more than sums in another order
    do, even in a module that computes in float32 inside, some dozen units of 6e-8."""
    return float(np.abs(alone - among).max(initial=0.0)) > 1e-5 * float(np.abs(among).max(initial=0.0))


def _number(shapes: Sequence[Shape]) -> str:
    return f"{len(shapes)} array{'s' if len(shapes) != 1 else ''} of shape {_listed(shapes)}"


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join(str(tuple(shape)) for shape in shapes) or "()"
