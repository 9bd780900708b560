"""The baselines. Each raises where it finds something.

Each is written again in the manner of the repository that it is named after, with its sizes, steps and tolerances, on
the cells of this suite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.test_util import check_grads as jax_check_grads
from torch.testing._comparison import get_tolerances

from deqverify.reference.newton import NewtonLayer
from tools.rivals_instances import CannotAsk, Instance, has_graph, in_jax, in_torch, model_asked


def gradcheck(deq: Any, cell: str) -> None:
    """``torch.autograd.gradcheck`` with its defaults, float64."""
    function, tensors = in_torch(deq, Instance(cell, 3, 2))
    torch.autograd.gradcheck(function, tensors)


def gradgradcheck(deq: Any, cell: str) -> None:
    """``torch.autograd.gradgradcheck`` with its defaults, of layers whose graph may be differentiated twice."""
    if not has_graph(deq):
        raise CannotAsk("what it pulls back through is no graph of PyTorch's")
    function, tensors = in_torch(deq, Instance(cell, 3, 2))
    out = function(*tensors)
    try:
        first = torch.autograd.grad(out.sum(), tensors, create_graph=True, allow_unused=True)
        torch.autograd.grad(sum(g.sum() for g in first if g is not None), tensors, allow_unused=True)
    except RuntimeError as error:
        if not deq.claims.second_order:
            raise CannotAsk("no second derivative is claimed, and none is given") from error
    torch.autograd.gradgradcheck(function, tensors)


def check_grads(deq: Any, cell: str) -> None:
    """``jax.test_util.check_grads``, first order and reverse, since a layer behind a callback has no forward mode."""
    where = Instance(cell, 3, 2)
    with jax.enable_x64(True):
        function = in_jax(deq, where, "float64")
        values = where.values if hasattr(deq, "vjp") else model_asked(deq)[1]
        jax_check_grads(function, [jnp.asarray(value) for value in values], order=1, modes=["rev"])


def residual(deq: Any, cell: str) -> None:
    """``‖f(z) − z‖ ≤ 1e-3 ‖f(z)‖`` of every data point, what a careful user asserts; eight of them, ten states."""
    where = layer_on(deq, cell, 10, 8)
    z, _ = where.vjp(deq, where.values, deq.claims.dtypes[0])
    off = where.residual(z).reshape(len(z), -1)
    size = np.linalg.norm((where.residual(z) + z).reshape(len(z), -1), axis=1)
    assert np.all(np.linalg.norm(off, axis=1) <= 1e-3 * size), np.abs(off).max()


def like_jaxopt(deq: Any, cell: str) -> None:
    """google/jaxopt, tests/fixed_point_iteration_test.py: check_grads of a solve, reverse, with a step of 1e-4, in
    float32 (JAX's default), of two entries and of 200 states at a rate of ½. Rounding of 200 states over a step of 1e-4
    comes near check_grads' tolerance: as an author would, we take data on which a sound layer passes."""
    for m, n in ((2, 1), (200, 1)):
        where = layer_on(deq, cell, m, n, seed=2)
        function = in_jax(deq, where, "float32")
        with jax.enable_x64(False):
            values = [jnp.asarray(value, jnp.float32) for value in where.values]
            jax_check_grads(function, values, order=1, modes=["rev"], eps=1e-4)


def like_optimistix(deq: Any, cell: str) -> None:
    """patrick-kidger/optimistix, tests/test_fixed_point.py and tests/helpers.py: f(z) and z agree to 1e-4, and a
    derivative along normal directions agrees to 1e-3 with a one-sided difference of step √ε × the largest entry.
    Where the layer has no derivative along a tangent, its pull of a normal cotangent is held against it."""
    where, rng = layer_on(deq, cell, 5, 2), np.random.default_rng(1)
    if deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    if "float64" not in deq.claims.dtypes:
        raise CannotAsk("float64 is not claimed")
    values = where.values
    z, pull = where.vjp(deq, values, "float64")
    np.testing.assert_allclose(where.residual(z) + z, z, rtol=1e-4, atol=1e-4)
    along = [rng.standard_normal(np.shape(value)) for value in values]
    step = np.sqrt(np.finfo(np.float64).eps) * max(1.0, *(np.abs(value).max() for value in values))
    moved, _ = where.vjp(deq, [v + step * d for v, d in zip(values, along, strict=True)], "float64")
    slope, cotangent = (moved - z) / step, rng.standard_normal(z.shape)
    found = sum(float(np.sum(g * d)) for g, d in zip(pull(cotangent), along, strict=True))
    np.testing.assert_allclose(found, np.sum(cotangent * slope), rtol=1e-3, atol=1e-3)


def like_deep_equilibrium_networks(deq: Any, cell: str) -> None:
    """SciML/DeepEquilibriumNetworks.jl, test/layers_tests.jl: of 14 data points of two features in float32, z has its
    shape and is finite, no entry of the residual exceeds 1e-3, and gradients are finite; they are compared with
    nothing."""
    where = layer_on(deq, cell, 2, 14)
    z, pull = where.vjp(deq, where.values, "float32" if "float32" in deq.claims.dtypes else "float64")
    assert z.shape == (len(where.x), *where.cell.state(where.theta, where.x.shape[1:]))
    assert np.isfinite(z).all()
    assert np.abs(where.residual(z)).max() <= 1e-3
    if deq.claims.backward is not None:
        assert all(np.isfinite(g).all() for g in pull(2.0 * z))  # of the sum of squares


def like_torchopt(deq: Any, cell: str) -> None:
    """metaopt/torchopt, tests/test_implicit.py and tests/helpers.py: three steps of gradient descent at 1e-3 on a mean,
    of 8 data points and ten states, and the parameters compared with those that another implementation leads to, at 25
    times the tolerances of torch.testing. The other one here is a dense Newton method."""
    where = layer_on(deq, cell, 10, 8)
    if deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    dtype = deq.claims.dtypes[0]
    ends = []
    for layer in (deq, NewtonLayer("numpy")):
        values = where.values
        for _ in range(3):
            z, pull = where.vjp(layer, values, dtype)
            *parts, x = values
            values = [v - 1e-3 * g for v, g in zip(parts, pull(np.full_like(z, 1.0 / z.size)), strict=False)] + [x]
        ends.append(values[:-1])
    like = torch.zeros(1, dtype=getattr(torch, dtype))
    rtol, atol = (25.0 * tolerance for tolerance in get_tolerances(like, like, rtol=None, atol=None))
    for found, expected in zip(*ends, strict=True):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def layer_on(deq: Any, cell: str, m: int, n: int, seed: int = 0) -> Instance:
    if not hasattr(deq, "vjp"):
        raise CannotAsk("a whole model shows no equilibrium")
    return Instance(cell, m, n, seed)


BASELINES: dict[str, Callable[[Any, str], None]] = {
    "gradcheck": gradcheck,
    "gradgradcheck": gradgradcheck,
    "check_grads": check_grads,
    "residual 1e-3": residual,
    "like jaxopt": like_jaxopt,
    "like optimistix": like_optimistix,
    "like DEQs.jl": like_deep_equilibrium_networks,
    "like torchopt": like_torchopt,
}
