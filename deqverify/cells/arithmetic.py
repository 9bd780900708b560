"""What cells are made of and arrays of balls need care with.

An array of balls is a NumPy array of dtype object whose entries are Arb numbers; NumPy calls their own ``exp``,
``tanh`` and ``sqrt``. A comparison that a ball leaves open has no answer: where the sign of a ReLU's argument is open,
its slope is a ball that holds all of [0, 1], neither 0 nor an error (theory: balls).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.dual import Dual
from deqverify.inexact import Inexact
from deqverify.namespaces import array_namespace


def are_balls(array: Any) -> bool:
    """Whether ``array`` holds balls rather than numbers."""
    return isinstance(array, np.ndarray) and array.dtype == object


def relu(v: Any) -> Any:
    """``max(v, 0)``, entry by entry."""
    if isinstance(v, Inexact | Dual):
        return v.relu()
    if are_balls(v):
        return _entrywise(v, lambda ball: ball.max(ball * 0))
    xp = array_namespace(v)
    return xp.where(v <= 0, xp.zeros_like(v), v)  # NaN stays NaN


def gate(v: Any) -> Any:
    """The slope of :func:`relu`: 1 where v > 0, 0 elsewhere; for a ball that holds 0, a ball that holds [0, 1]."""
    if isinstance(v, Inexact | Dual):
        return v.gate()
    if are_balls(v):
        return _entrywise(v, _gate_of_ball)
    xp = array_namespace(v)
    return xp.where(v > 0, xp.ones_like(v), xp.zeros_like(v))


def _gate_of_ball(ball: Any) -> Any:
    one = type(ball)(1)
    if ball > 0:
        return one
    if ball <= 0:
        return 0 * one
    return type(ball)(0.5, 0.5)


def softmax(v: Any, axis: int) -> Any:
    """Exponentials divided by their sum along ``axis``; the shift that keeps them in range is held fixed, since it
    cancels and differentiating through it would only add rounding."""
    xp = array_namespace(v)
    if are_balls(v):
        shift = _entrywise(v, lambda ball: ball.mid()).max(axis=axis, keepdims=True)
    else:
        shift = xp.max(v.detach() if hasattr(v, "detach") else v, axis=axis, keepdims=True)
    e = xp.exp(v - shift)
    return e / xp.sum(e, axis=axis, keepdims=True)


def softmax_slope(s: Any, along: Any, axis: int) -> Any:
    """``s∘(along − Σ s∘along)``, s a softmax along ``axis``: its Jacobian, which is symmetric."""
    xp = array_namespace(s)
    return s * (along - xp.sum(s * along, axis=axis, keepdims=True))


def root(count: int, like: Any) -> Any:
    """√count beside ``like``: a ball that holds it where ``like`` holds balls, else a float, rounded."""
    return type(like.flat[0])(count).sqrt() if are_balls(like) else count**0.5


def identity_like(square: Any) -> Any:
    """The identity of the size, dtype and device of ``square``."""
    xp = array_namespace(square)
    return xp.triu(xp.tril(xp.ones_like(square)))


def _entrywise(array: Any, function: Any) -> Any:
    return np.frompyfunc(function, 1, 1)(array)
