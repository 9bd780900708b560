"""In JAX: functions and an Equinox module, a while_loop to a tolerance, an implicit gradient by ``jax.custom_vjp``.
``broken`` names what is wrong with a twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np

from deqverify.implementations.wrapped_jax import WrappedJax, wrap_jax

TOLERANCE, CAP = 5e-7, 500

Cell = Callable[[Any, Any, Any], Any]


def _rows(tree: Any) -> Any:
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def iterated(step: Callable[[Any], Any], z: Any, cap: int = CAP) -> Any:
    """Until ``‖f(z) − z‖ ≤ TOLERANCE ‖f(z)‖`` for every data point."""

    def goes_on(state: Any) -> Any:
        z, image, k = state
        z, image = _rows(z), _rows(image)
        off, size = jnp.linalg.norm(image - z, axis=1), jnp.linalg.norm(image, axis=1)
        return (k < cap) & jnp.any(off > TOLERANCE * size)

    return jax.lax.while_loop(goes_on, lambda state: (state[1], step(state[1]), state[2] + 1), (z, step(z), 0))[1]


def implicit(f: Cell, start: Callable[[Any], Any], broken: str = "") -> Callable[[Any, Any], Any]:
    """``layer(params, x)``, the equilibrium of ``z = f(params, z, x)``."""

    @jax.custom_vjp
    def layer(params: Any, x: Any) -> Any:
        return iterated(lambda z: f(params, z, x), start(x), 3 if broken == "unconverged" else CAP)

    def forward(params: Any, x: Any) -> Any:
        z = layer(params, x)
        return z, (params, z, x)

    def backward(kept: Any, g: Any) -> Any:
        params, z, x = kept
        _, pull = jax.vjp(f, params, z, x)

        def step(y: Any) -> Any:
            if broken == "not transposed":
                return jax.tree.map(jnp.add, jax.jvp(lambda z: f(params, z, x), (z,), (y,))[1], g)
            return jax.tree.map(jnp.add, pull(y)[1], g)

        y = g if broken == "one-step" else iterated(step, g, 3 if broken == "truncated" else CAP)
        found = pull(y)
        return found[0], jax.tree.map(jnp.zeros_like, found[2]) if broken == "detached input" else found[2]

    layer.defvjp(forward, backward)
    return layer


def relu(params: Any, z: Any, x: Any) -> Any:
    return jax.nn.relu(z @ params["inner"]["W"].T + params["inner"]["b"] + x @ params["U"].T)


def group_norm(v: Any) -> Any:
    """Over the channels and sites of a data point."""
    axes = tuple(range(1, v.ndim))
    mean = v.mean(axes, keepdims=True)
    return (v - mean) / jnp.sqrt(((v - mean) ** 2).mean(axes, keepdims=True) + 1e-5)


def conv(params: Any, z: Any, x: Any) -> Any:
    image = jax.lax.conv_general_dilated(z, params["K"], (1, 1), "SAME")
    apart = jnp.asarray([0.5, -0.5], x.dtype)[:, None, None]  # of dark images the norm is a step without a fixed point
    return params["gain"][:, None, None] * group_norm(jnp.tanh(image) + x + apart)


class Attention(equinox.Module):
    """One head of attention with layer normalisation, tokens (n, 3, 4)."""

    query: Any
    key: Any
    value: Any
    norm: equinox.nn.LayerNorm
    broken: str = equinox.field(static=True)

    def __init__(self, key: Any, broken: str) -> None:
        self.query, self.key, self.value = (
            jax.random.normal(k, (4, 4)) * s for k, s in zip(jax.random.split(key, 3), (0.5, 0.5, 0.2), strict=True)
        )
        self.norm, self.broken = equinox.nn.LayerNorm(4), broken

    def step(self, z: Any, x: Any) -> Any:
        weights = jax.nn.softmax((z @ self.query) @ jnp.swapaxes(z @ self.key, 1, 2) / 2.0, axis=-1)
        apart = jnp.asarray([1.0, -1.0, 2.0, -2.0], x.dtype)  # as in the convolution
        return jax.vmap(jax.vmap(self.norm))(x + apart + weights @ (z @ self.value))

    def __call__(self, x: Any) -> Any:
        arrays, rest = equinox.partition(self, equinox.is_array)
        layer = implicit(lambda p, z, x: equinox.combine(p, rest).step(z, x), jnp.zeros_like, self.broken)
        return layer(arrays, x)


GRAPH = np.array([[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0]])


def graph(params: Any, z: Any, x: Any) -> Any:
    return jnp.tanh(jnp.asarray(GRAPH, z.dtype) @ (z @ params["W"]) + x @ params["U"])


def two_states(params: Any, z: Any, x: Any) -> Any:
    """A fine state (n, 4) and a coarse one (n, 2), by name."""
    a, b = z["fine"], z["coarse"]
    return {
        "fine": jnp.tanh(a @ params["fine"] + b @ params["up"] + x),
        "coarse": jnp.tanh(b @ params["coarse"] + a @ params["down"]),
    }


def regularised(params: Any, state: Any, x: Any) -> Any:
    """The equilibrium (n, 3) and ``‖(∂f/∂z)ᵀv‖²`` there, (n, 1)."""
    z, _ = state
    v = jnp.asarray([1.0, -1.0, 1.0], z.dtype)
    image, pull = jax.vjp(lambda z: jnp.tanh(z @ params["W"] + x), z)
    return image, (pull(jnp.broadcast_to(v, z.shape))[0] ** 2).sum(1, keepdims=True)


def _contracting(rng: Any, rate: float, *shape: int) -> Any:
    W = rng.standard_normal(shape)
    return jnp.asarray(rate * W / np.linalg.norm(W, 2), jnp.float32)


def _normal(rng: Any, *shape: int) -> Any:
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def _zeros(x: Any) -> Any:
    return jnp.zeros((len(x), 5), x.dtype)


def _both(x: Any) -> Any:
    return {"fine": jnp.zeros_like(x), "coarse": jnp.zeros((len(x), 2), x.dtype)}


TWINS = {
    "relu": ("one-step", "truncated"),
    "conv": ("unconverged", "one-step"),
    "attention": ("not transposed", "one-step"),
    "graph": ("detached input", "not transposed"),
    "two-states": ("unconverged", "truncated"),
    "regularised": ("regulariser detached", "one-step"),
}


def wrapped(name: str, broken: str = "", seed: int = 0, **options: Any) -> WrappedJax:
    """The example called ``name``, its weights and its inputs from ``seed``."""
    rng = np.random.default_rng(seed)
    if name == "relu":
        params: Any = {"inner": {"W": _contracting(rng, 0.7, 5, 5), "b": _normal(rng, 5)}, "U": _normal(rng, 5, 3)}
        return wrap_jax(implicit(relu, _zeros, broken), params, relu, example=_normal(rng, 4, 3), name=name, **options)
    if name == "conv":
        params = {"K": 0.05 * _normal(rng, 2, 2, 3, 3), "gain": jnp.ones(2)}
        layer, x = implicit(conv, jnp.zeros_like, broken), _normal(rng, 3, 2, 3, 3)
        return wrap_jax(layer, params, conv, example=x, name=name, **options)
    if name == "attention":
        model, x = Attention(jax.random.PRNGKey(seed), broken), _normal(rng, 4, 3, 4)
        return wrap_jax(Attention.__call__, model, Attention.step, example=x, name=name, **options)
    if name == "graph":
        params = {"W": _contracting(rng, 0.5, 2, 2), "U": _normal(rng, 2, 2)}
        layer, x = implicit(graph, jnp.zeros_like, broken), _normal(rng, 3, 4, 2)
        return wrap_jax(layer, params, graph, example=x, name=name, **options)
    if name == "two-states":
        shapes = {"fine": (4, 4), "coarse": (2, 2), "up": (2, 4), "down": (4, 2)}
        params = {key: _contracting(rng, 0.4, *shape) for key, shape in shapes.items()}
        layer, x = implicit(two_states, _both, broken), _normal(rng, 3, 4)
        return wrap_jax(layer, params, two_states, example=x, name=name, **options)
    params, x = {"W": _contracting(rng, 0.6, 3, 3)}, _normal(rng, 4, 3)

    def plain(params: Any, z: Any, x: Any) -> Any:
        return jnp.tanh(z @ params["W"] + x)

    inner = implicit(plain, jnp.zeros_like, broken)

    def layer_and_size(params: Any, x: Any) -> Any:
        z = inner(params, x)
        at = jax.lax.stop_gradient(z) if broken == "regulariser detached" else z
        return z, regularised(params, (at, None), x)[1]

    return wrap_jax(layer_and_size, params, regularised, example=x, name=name, **options)


def make(name: str, broken: str = "") -> WrappedJax:
    """The same as a target, ``tests.wrapped.jax_layers:make[relu,one-step]``."""
    return wrapped(name, broken)
