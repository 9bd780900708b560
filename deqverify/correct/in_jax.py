"""What JAX offers for the same answers: compiled, over data points by ``vmap``, by its own implicit primitives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from deqverify.claims import DIRECT, Accuracy
from deqverify.correct.iterating import CONTRACTING
from deqverify.correct.registry import correct
from deqverify.implementations.jax_base import JaxLayer
from deqverify.reference.jax_direct import JaxDirect
from deqverify.reference.newton import NewtonLayer
from deqverify.reference.stateless import STATELESS


@correct("jax-eager")
class Eager(JaxDirect):
    """``jnp.linalg.solve`` without ``jax.jit`` around it."""

    claims = replace(JaxDirect.claims, compiles=False, where=__name__)


@correct("jax-vmap")
class OverPoints(JaxDirect):
    """Written for one data point, a solve of its own, and batched by ``jax.vmap``; compiled by ``jax.jit``."""

    claims = replace(JaxDirect.claims, where=__name__)

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            K = cell.matrix(theta)
            U = jnp.eye(K.shape[0], dtype=K.dtype) - K
            z = jax.vmap(lambda right: jnp.linalg.solve(U, right))(cell.offset(theta, x))
        return z, jnp.isfinite(z).all()


@correct("jax-custom-linear-solve")
class CustomLinearSolve(JaxDirect):
    """``jax.lax.custom_linear_solve``: JAX is given the product with U and an LU for U and for its transpose, and
    derives all else."""

    claims = replace(JaxDirect.claims, devices=("cpu",), where=__name__)

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        K = cell.matrix(theta)
        factors = jax.scipy.linalg.lu_factor(jax.lax.stop_gradient(jnp.eye(K.shape[0], dtype=K.dtype) - K))

        def by_lu(transposed: int) -> Any:
            return lambda product, right: jax.scipy.linalg.lu_solve(factors, right, trans=transposed)

        right = cell.offset(theta, x).T
        z = jax.lax.custom_linear_solve(lambda z: z - K @ z, right, by_lu(0), by_lu(1)).T
        return z, jnp.isfinite(z).all()


@correct("jax-newton")
def newton() -> NewtonLayer:
    """Newton's method in NumPy around what JAX compiles of any cell, with a dense adjoint."""
    return NewtonLayer("jax")


@correct("jax-custom-root")
class CustomRoot(JaxLayer):
    """``jax.lax.custom_root`` on any cell that contracts: Picard's iteration until the claim's own rule is met, and a
    dense solve for the derivative."""

    name = "custom root"
    tolerance = 1e-5
    claims = replace(
        STATELESS, cells=CONTRACTING, forward=Accuracy(tolerance), backward=DIRECT, compiles=True, where=__name__
    )
    most = 3000

    def mode(self, training: bool) -> Any:
        return self

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        step = cell.step(theta, x)

        def near(z: Any, f: Any) -> Any:
            residual, size = (jnp.linalg.norm(a.reshape(len(a), -1), axis=1) for a in (f - z, f))
            return (residual <= self.tolerance * size).all()

        def iterated(_: Any, z: Any) -> Any:
            def going(carried: Any) -> Any:
                z, f, count = carried
                return ~near(z, f) & (count < self.most)

            return jax.lax.while_loop(going, lambda carried: (carried[1], step(carried[1]), carried[2] + 1),
                                      (z, step(z), 0))[0]  # fmt: skip

        def dense(product: Any, right: Any) -> Any:
            # One data point does not see another: a unit in one entry of all of them gives a column of each system.
            n, state = right.shape[0], right.shape[1:]
            units = jnp.eye(right[0].size, dtype=right.dtype)
            columns = jax.vmap(lambda unit: product(jnp.broadcast_to(unit.reshape(state), right.shape)))(units)
            systems = jnp.moveaxis(columns.reshape(len(units), n, -1), 0, 2)
            return jnp.linalg.solve(systems, right.reshape(n, -1, 1)).reshape(right.shape)

        z = jax.lax.custom_root(lambda z: step(z) - z, z0, iterated, dense)
        return z, near(jax.lax.stop_gradient(z), step(jax.lax.stop_gradient(z)))


@correct("jax-vmap-on-any-cell")
class OverPointsOfAnyCell(CustomRoot):
    """The same written for one data point, and batched by ``jax.vmap``: the parameters are shared."""

    name = "custom root, vmapped"

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        alone = super().solve
        z, near = jax.vmap(lambda x, z0: alone(cell, theta, x[None], z0[None]))(x, z0)
        return z[:, 0], near.all()
