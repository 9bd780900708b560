"""What a claimed accuracy, or a residual accepted by its norm, allows of an error, entry by entry (theory:
krawczyk)."""

from __future__ import annotations

import numpy as np

from deqverify.bounds import Arithmetic
from deqverify.claims import Accuracy
from deqverify.dtypes import Array


def claimed(claim: Accuracy, arithmetic: Arithmetic, inverse: Array, answer: Array, image: Array) -> Array:
    """At least what the claim adds to the error of each entry, (n, s).

    The claim holds a residual r to ``‖r‖_p ≤ a + b‖f(ẑ)‖_p``, f(ẑ) being the implementation's own: at most
    ``‖answer‖ + ‖image‖``, ``answer`` the true one and ``image`` a bound on ``|f(ẑ) − answer|``, both (n, s). Entry k
    of the error is row k of ``inverse`` (n, s, s) times r, at most ``‖M_k:‖_q ‖r‖_p`` with 1/p + 1/q = 1. A claim over
    the batch allows each data point all of it. A claim on the value is one on the error itself, no entry of which
    exceeds its p-norm. A 2-norm is summed with rounding, and says nothing where its squares underflow.
    """
    n, s = answer.shape
    if claim.exact or not answer.size:
        return np.zeros((n, s))
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = claim.norms(answer.T) + claim.norms(image.T)
        root = claim.root_count((s, n)) if claim.norm == "rms" else 1.0
        allowed = root * claim.allows(sizes) * (1.0 + (n * s + 4) * arithmetic.unit)
        if claim.norm in ("2", "rms"):
            allowed = allowed + arithmetic.norm_floor
        rows = np.ones((n, s)) if claim.of == "value" else _dual(claim.norm, inverse)
        found = rows * allowed[:, None]
    return np.where(np.isnan(found), np.inf, found)


def spread(inverse: Array, residual: Array, more: float = 0.0) -> Array:
    """``‖M_k:‖₂(‖residual‖₂ + more)``, (n, s): what a residual whose 2-norm is at most that of ``residual`` (n, s) does
    to each entry, however it is spread over them."""
    largest = residual.max(axis=1, keepdims=True, initial=0.0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        size = largest * np.sqrt(np.sum((residual / largest) ** 2, axis=1, keepdims=True))
        found = _dual("2", inverse) * (np.where(largest > 0.0, size, 0.0) + more)
    return np.where(np.isnan(found), np.inf, found)


def accepted(arithmetic: Arithmetic, inverse: Array, rounding: Array) -> Array:
    """What a solver of an equation that is not linear adds to the error of each entry, (n, s), if nothing but
    ``rounding`` (n, s), a bound on that of one residual, is claimed: :func:`spread`.

    No step of it is the last one: it stops where the norm of its residual is one that rounding alone may have, however
    that is spread over the entries, and where the squares in it underflow (theory: rounding-of-a-cell).
    """
    return spread(inverse, rounding, arithmetic.unseen)


def _dual(norm: str, inverse: Array) -> Array:
    """``‖M_k:‖_q`` of every row, (n, s)."""
    size = np.abs(inverse)
    if norm == "1":
        return np.asarray(size.max(axis=-1))
    return np.asarray(size.sum(axis=-1) if norm == "max" else np.sqrt(np.sum(size**2, axis=-1)))
