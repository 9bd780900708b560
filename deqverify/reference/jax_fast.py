"""The fast reference in JAX: one LU a problem for both passes, the adjoint written out, all of it compiled.

JAX's own derivative of ``jnp.linalg.solve`` uses the LU again too, but goes back through U and the softmax one array at
a time. Here the pull is one product and one pass over S (theory: gradient), and the slow mode is taken out of the
system, as in ``reference/fast/direct.py``: with q = 1/m, ``U'z = x + γμq`` for ``U' = I − γS + γq1ᵀ`` and the mass
``μ = 1ᵀx/(1−γ)``; its transpose gives ``λ = v + s1``, ``v = U'⁻ᵀc``, ``s = γqᵀv/(1−γ)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax.linalg import lu, triangular_solve

from deqverify.cells import LinearSoftmaxCell
from deqverify.cells.base import Theta
from deqverify.implementations.jax_base import JaxLayer
from deqverify.reference.stateless import STATELESS, Stateless


def solve(A: Any, x: Any, gamma: Any) -> Any:
    """The equilibria ``z = γSz + x``, S the softmax of every column of A: (n, m) like x, one data point a row.

    A (m, m), x (n, m), γ in (0, 1) a number or an array without axes; float64 (in JAX's 64-bit mode) or float32. Legal
    under ``jax.jit``, ``jax.vmap`` and ``jax.vjp``, twice too; ``jax.jvp`` is not. Shapes that do not go together raise
    ValueError. The values of γ are not looked at, since they may be traced: beyond (0, 1) there may be no equilibrium.
    """
    A, x = jnp.asarray(A), jnp.asarray(x)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        raise ValueError(f"A: expected (m, m) with m ≥ 1, got {A.shape}; use jax.vmap for many problems")
    if x.ndim != 2 or x.shape[1] != A.shape[0]:
        raise ValueError(f"x: expected (n, {A.shape[0]}) to go with A, got {x.shape}")
    if jnp.ndim(gamma):
        raise ValueError(f"gamma: one problem takes one number, got shape {jnp.shape(gamma)}")
    dtype = jnp.result_type(A, x)
    return _solve(A.astype(dtype), x.astype(dtype), jnp.asarray(gamma, dtype))


def _forward(A: Any, x: Any, gamma: Any) -> tuple[Any, Any]:
    """z, and what the pull needs: S, the factors of U' with their rows' order, z and γ."""
    m = A.shape[0]
    S = jax.nn.softmax(A, axis=0)
    factors, _, order = lu(jnp.eye(m, dtype=A.dtype) + (gamma / m - gamma * S))
    mass = x.sum(axis=1, keepdims=True) * (gamma / (1 - gamma) / m)
    right = (x + mass).T[order]
    lower = triangular_solve(factors, right, left_side=True, lower=True, unit_diagonal=True)
    z = triangular_solve(factors, lower, left_side=True, lower=False).T
    return z, (S, factors, order, z, gamma)


def _pull(kept: Any, c: Any) -> tuple[Any, Any, Any]:
    """``∂A``, ``∂x = λ`` and ``∂γ`` for a cotangent c (n, m).

    With ``T = S∘(vᵀz)`` and its column sums t: ``∂A = γ(T − St)``, ``∂γ = 1ᵀt + Σ s·1ᵀz``. The softmax Jacobian
    annihilates what is constant in λ (theory: slow-mode): the mean of v goes to s, so that it rounds nothing.
    """
    S, factors, order, z, gamma = kept
    m = S.shape[0]
    upper = triangular_solve(factors, c.T, left_side=True, lower=False, transpose_a=True)
    found = triangular_solve(factors, upper, left_side=True, lower=True, unit_diagonal=True, transpose_a=True)
    v = found[jnp.argsort(order)].T
    mean = v.sum(axis=1, keepdims=True) / m
    v, s = v - mean, mean / (1 - gamma)  # mean + γ mean/(1−γ)
    T = S * jnp.matmul(v.T, z, precision="highest")  # on a GPU the default has 10 bits
    t = T.sum(axis=0)
    return gamma * (T - S * t), v + s, t.sum() + (s * z.sum(axis=1, keepdims=True)).sum()


@jax.custom_vjp
def _solve(A: Any, x: Any, gamma: Any) -> Any:
    return _forward(A, x, gamma)[0]


_solve.defvjp(_forward, _pull)


class JaxFast(Stateless, JaxLayer):
    """``reference[fast,jax]``: :func:`solve` as a layer; no start is used."""

    name = "reference[fast,jax]"
    claims = replace(
        STATELESS,
        starts=False,
        second_order=True,
        compiles=True,
        devices=("cpu", "cuda"),
        where="deqverify/reference/jax_fast.py",
    )

    def solve(self, cell: Any, theta: Theta, x: Any, z0: Any) -> Any:
        if not isinstance(cell, LinearSoftmaxCell):
            raise TypeError(
                f"cell: the fast reference solves the LinearSoftmaxCell, not {cell!r}; use 'reference[jax]'"
            )
        z = solve(theta["A"], x, theta["gamma"])
        return z, jnp.isfinite(z).all()
