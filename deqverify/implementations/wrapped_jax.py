"""``wrap_jax``: a function of JAX, or an Equinox module, with parameters of its own becomes a layer like any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqverify.cells import Cell, Certificate, Parts
from deqverify.cells.base import Theta
from deqverify.cells.wrapped import WrappedCell
from deqverify.claims import Claims
from deqverify.dtypes import Array
from deqverify.frameworks.jax_bridge import computing
from deqverify.implementations.jax_base import JaxLayer
from deqverify.implementations.wrapping import (
    CLAIMS,
    Packing,
    check_equation,
    check_example,
    check_floating,
    check_points,
    check_same,
    check_states,
    own_claims,
    sees_others,
)

_LEAST_BATCH = 4
"""The oracle asks for so many data points at least, which saves compiling for fewer."""


def wrap_jax(
    function: Callable[..., Any],
    params: Any,
    cell: Callable[..., Any] | None = None,
    *,
    example: Any,
    claims: Claims | None = None,
    state: Callable[[Any], Any] | None = None,
    certificate: Callable[[dict[str, Array]], Certificate | None] | None = None,
    name: str | None = None,
) -> WrappedJax:
    """``function`` as an implementation: ``params`` are its own, and are drawn around what they are.

    ``function(params, x)`` returns the equilibrium, data points first, of ``z = cell(params, z, x)``: an array or any
    pytree of arrays. ``params`` is any pytree; an Equinox module is one: ``wrap_jax(Model.__call__, model,
    cell=Model.step, example=x)``. Its arrays of floating-point numbers are judged, all else stays what it is. The other
    arguments are those of :func:`deqverify.wrap_torch`. Both functions are compiled, unless
    ``Claims(compiles=False)`` is claimed.

    Raises TypeError or ValueError, with what was seen, what was expected and the line to change, for what is no such
    layer.
    """
    for what, given in (("function", function), ("cell", cell)):
        if not callable(given) and not (given is None and what == "cell"):
            raise TypeError(
                f"{what}: got {given!r}; expected a function, wrap_jax(function, params, cell=f, example=x) with "
                "function(params, x) and f(params, z, x)"
            )
    inputs = example if isinstance(example, tuple) else (example,)
    check_floating([getattr(given, "dtype", type(given).__name__) for given in inputs])
    check_example([tuple(given.shape) for given in inputs])
    label = name or getattr(function, "__qualname__", type(function).__name__).removesuffix(".__call__")
    claims = own_claims(claims, f"cell of {label}", replace(CLAIMS, compiles=True))
    calls = JaxCalls(function, params, cell, inputs, state, claims)
    z = _examined(calls, claims)
    packed = np.asarray(calls.inputs.packed([np.asarray(given, dtype=np.float64) for given in inputs]))
    own = WrappedCell(claims.cells[0], calls.own, packed, z, calls, calls.coupled, cell is not None, certificate)
    return WrappedJax(calls, claims, own, label)


class JaxCalls:
    """The user's functions as functions of θ, x and z, each one packed array or named ones."""

    def __init__(self, function: Any, params: Any, cell: Any, example: tuple[Any, ...], state: Any, claims: Claims):
        self.function, self.cell, self.example, self._state = function, cell, example, state or (lambda out: out)
        paths, self._tree = jax.tree_util.tree_flatten_with_path(params)
        self._leaves = [leaf for _, leaf in paths]
        self._places = {
            jax.tree_util.keystr(path, simple=True, separator=".") or "params": place
            for place, (path, leaf) in enumerate(paths)
            if jnp.issubdtype(getattr(leaf, "dtype", np.int64), jnp.floating)
        }
        self.own = {name: np.asarray(self._leaves[k], dtype=np.float64) for name, k in self._places.items()}
        self.inputs, self.states = Packing.of(example), Packing(())
        self.state_tree: Any = None
        self.coupled, self.compiles = not claims.separable, claims.compiles
        compiled = jax.jit if claims.compiles else _plain
        self._image, self._pull, self._push = compiled(self.f), compiled(self._pulled), compiled(self._pushed)
        self._jacobian, self._layer, self._layer_pull = (
            compiled(function) for function in (self._rows, self.layer, self._layer_pulled)
        )

    @property
    def stacks(self) -> bool:
        return False

    def params(self, theta: Theta) -> Any:
        """The user's pytree with ``theta`` for its arrays."""
        leaves = list(self._leaves)
        for name, place in self._places.items():
            leaves[place] = theta[name]
        return jax.tree.unflatten(self._tree, leaves)

    def returned(self, theta: Theta, inputs: Sequence[Any], **options: Any) -> Any:
        """The equilibrium that the function returns, as it returns it."""
        return self._state(self.function(self.params(theta), *inputs, **options))

    def stepped(self, theta: Theta, state: Any, inputs: Sequence[Any]) -> Any:
        """What the cell makes of a state, as it returns it."""
        return self.cell(self.params(theta), state, *inputs)

    def layer(self, theta: Theta, x: Any, **options: Any) -> Any:
        """The equilibrium that the function returns, packed."""
        return self.states.packed(jax.tree.leaves(self.returned(theta, self.inputs.parts(x), **options)))

    def rebuilt(self, z: Any) -> Any:
        return jax.tree.unflatten(self.state_tree, self.states.parts(z))

    def f(self, theta: Theta, x: Any, z: Any) -> Any:
        """The cell, packed."""
        return self.states.packed(jax.tree.leaves(self.stepped(theta, self.rebuilt(z), self.inputs.parts(x))))

    def _pulled(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Any:
        return jax.vjp(self.f, theta, x, z)[1](cotangent)

    def _pushed(self, theta: Theta, x: Any, z: Any, tangent: Any) -> Any:
        return jax.jvp(self.f, (theta, x, z), tangent)[1]

    def _rows(self, theta: Theta, x: Any, z: Any) -> Any:
        """Row k of each data point's Jacobian, from unit k of all of them at once where none sees another; (s, n, s),
        or (ns, ns) where they do."""
        pull = jax.vjp(lambda z: self.f(theta, x, z), z)[1]
        s = math.prod(z.shape[1:])
        if self.coupled:
            units = jnp.eye(z.size, dtype=z.dtype).reshape(z.size, *z.shape)
            return jax.vmap(pull)(units)[0].reshape(z.size, z.size)
        units = jnp.broadcast_to(jnp.eye(s, dtype=z.dtype)[:, None], (s, len(z), s)).reshape(s, *z.shape)
        return jax.vmap(pull)(units)[0].reshape(s, len(z), s)

    # The oracle's view, in NumPy.

    def _native(self, theta: Theta, dtype: str, *arrays: Array) -> tuple[Any, ...]:
        """Arrays of JAX with the first data point repeated up to a number that is asked for often."""
        made = [jnp.asarray(self._filled(array), dtype=dtype) for array in arrays]
        return {name: jnp.asarray(theta[name], dtype=dtype) for name in self._places}, *made

    def _filled(self, array: Array) -> Array:
        n = len(array)
        if self.coupled or not n:
            return array
        wanted = max(_LEAST_BATCH, 1 << (n - 1).bit_length())
        return np.concatenate([array, np.repeat(array[:1], wanted - n, axis=0)])

    def image(self, theta: Theta, x: Array, z: Array, dtype: str) -> Array:
        with computing(dtype):
            return _numpy(self._image(*self._native(theta, dtype, x, z)))[: len(z)]

    def pull(self, theta: Theta, x: Array, z: Array, cotangent: Array, dtype: str) -> Parts:
        n = len(z)
        with computing(dtype):
            given = self._native(theta, dtype, x, z, cotangent)
            dtheta, dx, dz = self._pull(*given[:-1], given[-1].at[n:].set(0.0))
            return Parts({name: _numpy(g) for name, g in dtheta.items()}, _numpy(dx)[:n], _numpy(dz)[:n])

    def push(self, theta: Theta, x: Array, z: Array, tangent: Parts) -> Array:
        with computing("float64"):
            given = self._native(theta, "float64", x, z)
            return _numpy(self._push(*given, self._native(tangent.theta, "float64", tangent.x, tangent.z)))[: len(z)]

    def jacobian(self, theta: Theta, x: Array, z: Array) -> Array:
        with computing("float64"):
            rows = _numpy(self._jacobian(*self._native(theta, "float64", x, z)))
        return rows[None] if self.coupled else np.swapaxes(rows, 0, 1)[: len(z)]

    def _layer_pulled(self, theta: Theta, x: Any, cotangent: Any) -> Any:
        return jax.vjp(self.layer, theta, x)[1](cotangent)

    def answer(self, theta: Theta, x: Array, dtype: str) -> Array:
        with computing(dtype):
            return _numpy(self._layer(*self._native(theta, dtype, x)))[: len(x)]

    def answer_pull(self, theta: Theta, x: Array, cotangent: Array, dtype: str) -> dict[str, Array]:
        n = len(x)
        with computing(dtype):
            given = self._native(theta, dtype, x, cotangent)
            dtheta, dx = self._layer_pull(*given[:-1], given[-1].at[n:].set(0.0))
            return {**{name: _numpy(g) for name, g in dtheta.items()}, "x": _numpy(dx)[:n]}


class WrappedJax(JaxLayer):
    """The user's function as a layer; its gradient comes from ``jax.vjp``."""

    whole = True
    """It takes no other cell, nor a probe in its own."""

    def __init__(self, calls: JaxCalls, claims: Claims, cell: WrappedCell | None, name: str):
        self._calls, self.claims, self.cell, self.name = calls, claims, cell, name

    def solve(self, cell: Cell, theta: Theta, x: Any, z0: Any) -> Any:
        return self._calls.layer(theta, x, **({"z0": self._calls.rebuilt(z0)} if self.claims.starts else {}))


def _examined(calls: JaxCalls, claims: Claims) -> Array:
    """The function's answer to the example in the first dtype, (n, *state), after all that can be wrong with a wrapping
    was looked for."""
    n = len(calls.example[0])
    for name in dict.fromkeys((*claims.dtypes, "float64")):  # the oracle asks the cell there
        with computing(name):
            theta = {key: jnp.asarray(value, dtype=name) for key, value in calls.own.items()}
            parts = [jnp.asarray(np.asarray(given), dtype=name) for given in calls.example]
            if name in claims.dtypes:
                with _asking("function(params, x)", calls):
                    out = _shapes(calls, calls.returned, theta, parts)
                given = _arrays(out, "function(params, x)", "state=lambda out: out[0]", name)
                calls.state_tree, calls.states = jax.tree.structure(out), Packing.of(given)
                check_points(given, n, "jnp.moveaxis(z, {}, 0)")
            out = jax.tree.unflatten(calls.state_tree, [jnp.zeros(each.shape, name) for each in given])
            mapped = given
            if calls.cell is not None:
                with _asking("cell(params, z, x)", calls):
                    image = _shapes(calls, calls.stepped, theta, out, parts)
                mapped = _arrays(image, "cell(params, z, x)", "return z alone", name)
            check_states(given, mapped, "cell(params, z, x)")
    x = np.asarray(calls.inputs.packed([np.asarray(each, dtype=np.float64) for each in calls.example]))
    z = calls.answer(calls.own, x, claims.dtypes[0])
    if calls.cell is not None:
        if not calls.coupled and n > 1:
            _check_points(calls, x, z)
        check_equation(lambda x, z: calls.image(calls.own, x, z, "float64"), x, z, "cell(params, z, x)")
    return z


def _shapes(calls: JaxCalls, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns: its shapes and dtypes alone where it may be compiled, which costs no compiling."""
    return jax.eval_shape(function, *arguments) if calls.compiles else function(*arguments)


def _check_points(calls: JaxCalls, x: Array, z: Array) -> None:
    among = calls.image(calls.own, x, z, "float64")
    check_same(
        calls.image(calls.own, x, z, "float64"), among, "cell", "give it its key as an argument that is closed over"
    )
    if sees_others(calls.image(calls.own, x[:1], z[:1], "float64"), among[:1]):
        raise ValueError(
            f"cell: f(params, z, x) of the first data point beside itself is another than among {len(z)}; expected the "
            "same, since separate data points are claimed: the first axis counts something else, jnp.moveaxis(x, axis, "
            "0), or one data point is meant, jax.vmap(f, (None, 0, 0)); or claim that they are not, "
            "Claims(separable=False)"
        )


@contextmanager
def _asking(what: str, calls: JaxCalls) -> Iterator[None]:
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            f"function: {what} looks at values in Python while it is compiled; expected jax.lax.while_loop in place of "
            f"while, or claims=Claims(compiles=False). JAX says: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        shapes = " and ".join(str(tuple(each.shape)) for each in calls.example)
        raise ValueError(
            f"example: {what} raised {type(error).__name__}: {error}, for inputs of shape {shapes}; expected inputs "
            "that it takes, data points first, (n, …): example=jnp.moveaxis(x, axis, 0), or of the size that it "
            "was built for, and functions called as function(params, *example) and cell(params, z, *example)"
        ) from error


def _arrays(out: Any, what: str, fix: str, dtype: str) -> list[Any]:
    leaves = jax.tree.leaves(out)
    for leaf in leaves:
        if not jnp.issubdtype(getattr(leaf, "dtype", np.int64), jnp.floating):
            raise TypeError(
                f"{what.partition('(')[0]}: {what} returned {jax.tree.map(_described, out)}; expected the state "
                f"and nothing else, an array or a pytree of arrays, data points first: {fix}"
            )
        if str(leaf.dtype) != dtype:
            raise TypeError(
                f"{what.partition('(')[0]}: {what} is {leaf.dtype} for parameters and inputs in {dtype}; expected "
                f"{dtype}: write astype(x.dtype) in place of a dtype of its own"
            )
    return leaves


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}{tuple(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__


def _plain(function: Any) -> Any:
    return partial(function)


def _numpy(array: Any) -> Array:
    return np.array(np.asarray(array), dtype=np.float64)
