# second-order × jaxopt[gmres,vmap,tight] float64: the derivative of the gradient is right, or is refused with an error.
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


x = jnp.asarray(np.array([[0.0]]), jnp.float64)
A = jnp.asarray(np.array([[-1.4685650677847162]]), jnp.float64)
gamma = jnp.asarray(np.array(0.75), jnp.float64)
z0 = jnp.asarray(np.array([[0.0]]), jnp.float64)
c = jnp.asarray(np.array([[-2.2392325434504524e+16]]), jnp.float64)  # the gradient of a loss in z
d = (jnp.asarray(np.array([[-0.7998592415460721]]), jnp.float64), jnp.asarray(np.array([[0.09024710967540499]]), jnp.float64), jnp.asarray(np.array(-0.24890417094591666), jnp.float64),)  # a direction in x and the parameters

z, said = solve(f, z0, x, A, gamma)


def slope(x, A, gamma):
    z, pull = jax.vjp(lambda x, A, gamma: solve(f, z0, x, A, gamma)[0], x, A, gamma)
    return sum((g * e).sum() for g, e in zip(pull(c), d))


found = jax.grad(slope, argnums=tuple(range(3)))(x, A, gamma)
seen = float(found[2])
print("the library says:", said)
print('expected, ∂⟨∂⟨c, z⟩, d⟩/∂gamma:', 2.8657133501592973e+17)
print("seen:", seen)
