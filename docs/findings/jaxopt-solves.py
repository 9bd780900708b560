# solves × jaxopt float64: where the rate is ≤ 0.9 and inputs are of size one, both passes end in an answer, not in a report.
# With jaxopt 0.8.5, jax 0.10.2, numpy 2.4.6.
import numpy as np
import jax
import jax.numpy as jnp
from functools import partial

from jaxopt import FixedPointIteration
from jaxopt.linear_solve import solve_normal_cg


def solve(f, z0, x, *theta):
    solver = FixedPointIteration(f, maxiter=100, tol=1e-05, implicit_diff_solve=partial(solve_normal_cg, tol=1e-05))
    z, state = solver.run(z0, x, *theta)
    return z, {'error': state.error}


jax.config.update("jax_enable_x64", True)


def f(z, x, A, gamma):  # the cell linear-softmax
    E = jnp.exp(A - jnp.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = jnp.asarray(np.array([[1.0]]), jnp.float64)
A = jnp.asarray(np.array([[0.0]]), jnp.float64)
gamma = jnp.asarray(np.array(0.9), jnp.float64)
z0 = jnp.asarray(np.array([[0.0]]), jnp.float64)

z, said = solve(f, z0, x, A, gamma)
seen = float(z[0, 0])
print("the library says:", said)
print('expected, z[0, 0]:', 10.000000000000002)
print("seen:", seen)
