"""The reference in JAX: one solve with ``U = I − K``, differentiable any number of times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from deqverify.cells import LinearCell
from deqverify.cells.base import Theta
from deqverify.implementations.jax_base import JaxLayer
from deqverify.reference.stateless import LINEAR, STATELESS, Stateless


class JaxDirect(Stateless, JaxLayer):
    """Solves a linear cell directly, ``z = U⁻¹f(0)``; no start is used. JAX solves once more for the adjoint, with the
    same LU transposed."""

    name = "reference[jax]"
    claims = replace(
        STATELESS,
        cells=LINEAR,
        starts=False,
        second_order=True,
        compiles=True,
        devices=("cpu", "cuda"),
        where="deqverify/reference/jax_direct.py",
    )
    jvp = JaxLayer.forward_mode

    def solve(self, cell: LinearCell, theta: Theta, x: Any, z0: Any) -> Any:  # type: ignore[override]
        with jax.default_matmul_precision("highest"):  # on a GPU the default has 10 bits
            K = cell.matrix(theta)
            z = jnp.linalg.solve(jnp.eye(K.shape[0], dtype=K.dtype) - K, cell.offset(theta, x).T).T
        return z, jnp.isfinite(z).all()
