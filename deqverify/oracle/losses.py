"""Losses in ball arithmetic: a ball that holds the loss of every output in the balls given, kinks included."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
from flint import arb

from deqverify.dtypes import Array
from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Loss, Poisson, PseudoHuber, Squared


def loss_value(loss: Loss, F: list[list[arb]], Y: Array) -> arb:
    """``Σ_i ℓ(F_:i, Y_:i)`` for outputs F, p rows of n balls, and targets Y (p, n)."""
    if isinstance(loss, CrossEntropy):
        return _cross_entropy(loss, F, Y)
    entry = _entry_of(loss)
    pairs = (pair for row, targets in zip(F, rows(Y), strict=True) for pair in zip(row, targets, strict=True))
    return sum((entry(f, y) for f, y in pairs), arb(0))


def _entry_of(loss: Loss) -> Callable[[arb, arb], arb]:
    """ℓ of one output and one target, for a loss that is a sum over entries."""
    if isinstance(loss, Squared):
        return lambda f, y: _square(f - y)
    if isinstance(loss, PseudoHuber):
        return lambda f, y: _pseudo_huber(arb(loss.delta), f - y)
    if isinstance(loss, LogCosh):
        return lambda f, y: _log_cosh(f - y)
    if isinstance(loss, Logistic):
        return lambda f, y: _softplus(f) - y * f + arb(loss.ridge) * f * f
    if isinstance(loss, Poisson):
        return lambda f, y: f.exp() - y * f + (y * y.log() - y if y > 0 else 0) + arb(loss.ridge) * f * f
    if isinstance(loss, HingeSquared):
        return lambda f, y: _square(_positive(1 - y * f)) + arb(loss.ridge) * f * f
    raise TypeError(f"loss: the oracle does not know {loss!r}")


def _square(x: arb) -> arb:
    """A product: ``x**2`` is NaN for a ball that holds both signs."""
    return x * x


def _pseudo_huber(delta: arb, r: arb) -> arb:
    return _square(r) / ((1 + _square(r / delta)).sqrt() + 1)


def _log_cosh(r: arb) -> arb:
    """Either form is exact at every r, the first narrow near 0; far out the sign of the midpoint keeps it in range."""
    if abs(r.mid()) < 1:
        return (2 * _square((r / 2).sinh())).log1p()
    size = r if r.mid() > 0 else -r
    return size + (-2 * size).exp().log1p() - arb.const_log2()


def _softplus(f: arb) -> arb:
    """``log(1 + exp f) = f + log(1 + exp(−f))``, by the sign of the midpoint, exact either way."""
    return f + (-f).exp().log1p() if f.mid() > 0 else f.exp().log1p()


def _positive(x: arb) -> arb:
    """``max(0, x)``; a ball about zero gives one that holds every value between 0 and its upper end."""
    return x.max(arb(0))


def _cross_entropy(loss: CrossEntropy, F: list[list[arb]], Y: Array) -> arb:
    total = arb(0)
    for column, targets in zip(zip(*F, strict=True), rows(Y.T), strict=True):
        log_sum = _log_sum_exp(list(column))
        for f, y in zip(column, targets, strict=True):
            total += y * (log_sum - f) + arb(loss.ridge) * f * f
    return total


def _log_sum_exp(column: list[arb]) -> arb:
    top = max(f.mid() for f in column)
    total = sum(((f - top).exp() for f in column), arb(0))
    if total > 0:
        return top + total.log()
    # The balls are so wide that their exponentials may be zero: between the largest and log p above it.
    half = arb(len(column)).log() / 2
    return reduce(arb.max, column) + half + arb(0, half.abs_upper())


def rows(array: Array) -> list[list[arb]]:
    """The rows of ``array`` as lists of balls; a number is one row of one."""
    return [[arb(x) for x in row] for row in np.atleast_2d(array).tolist()]
