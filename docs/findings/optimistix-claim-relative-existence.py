# existence × optimistix[claim=relative] float64: what the residual of ẑ proves of ‖ẑ − z*‖ is within the claimed accuracy.
# With optimistix 0.1.0, jax 0.10.2, numpy 2.4.6.
import numpy as np
import jax
import jax.numpy as jnp
from optimistix import ImplicitAdjoint, FixedPointIteration, fixed_point


def solve(f, z0, x, *theta):
    solver = FixedPointIteration(rtol=1e-05, atol=1e-05)
    found = fixed_point(lambda z, args: f(z, *args), solver, z0, (x, *theta), max_steps=256, throw=False, adjoint=ImplicitAdjoint())
    return found.value, found.result


jax.config.update("jax_enable_x64", True)


def f(z, x, A, gamma):  # the cell linear-softmax
    E = jnp.exp(A - jnp.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = jnp.asarray(np.array([[7.450580596923828e-09, 7.450580596923828e-09]]), jnp.float64)
A = jnp.asarray(np.array([[0.0, 0.0], [0.0, 0.0]]), jnp.float64)
gamma = jnp.asarray(np.array(0.9), jnp.float64)
z0 = jnp.asarray(np.array([[0.0, 0.0]]), jnp.float64)

z, said = solve(f, z0, x, A, gamma)
seen = float(z[0, 0])
print("the library says:", said)
print('expected, z[0, 0]:', 7.450580596923825e-08)
print("seen:", seen)
