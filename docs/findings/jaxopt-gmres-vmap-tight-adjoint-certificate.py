# adjoint-certificate × jaxopt[gmres,vmap,tight] float64: what the residual of Λ̂ proves of ‖Λ̂ − Λ‖ is within the claimed accuracy.
# With jaxopt 0.8.5, jax 0.10.2, numpy 2.4.6.
import numpy as np
import jax
import jax.numpy as jnp
from functools import partial

import jax
from jaxopt import FixedPointIteration
from jaxopt.linear_solve import solve_gmres


def solve(f, z0, x, *theta):
    solver = FixedPointIteration(f, maxiter=5000, tol=1e-12, implicit_diff_solve=partial(solve_gmres, tol=1e-12))
    z, state = jax.vmap(lambda z, x: solver.run(z, x, *theta))(z0[:, None], x[:, None])
    return z[:, 0], {'error': state.error}


jax.config.update("jax_enable_x64", True)


def f(z, x, A, gamma):  # the cell linear-softmax
    E = jnp.exp(A - jnp.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = jnp.asarray(np.array([[1.0]]), jnp.float64)
A = jnp.asarray(np.array([[0.0]]), jnp.float64)
gamma = jnp.asarray(np.array(0.5), jnp.float64)
z0 = jnp.asarray(np.array([[0.0]]), jnp.float64)
c = jnp.asarray(np.array([[1.3877787807814457e-17]]), jnp.float64)  # the gradient of a loss in z

z, pull, said = jax.vjp(lambda x, A, gamma: solve(f, z0, x, A, gamma), x, A, gamma, has_aux=True)
found = pull(c)
seen = float(found[0][0, 0])
print("the library says:", said)
print('expected, ∂⟨c, z⟩/∂x[0, 0]:', 2.7755575615628914e-17)
print("seen:", seen)
