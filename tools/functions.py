"""How far a framework's elementary functions are from the truth, in units of rounding (halves of a unit in the last
place): ``python -m tools.functions --device cuda``. What ``Framework.function_error`` and ``Claims.function_error``
must say (docs/theory.md#rounding-of-a-cell) is measured here, on the machine at hand.

The truth is Arb's for float64, and float64's for float32, which is good to 10⁻⁸ of a float32's unit. Points are drawn
where cells go: magnitudes evenly on a logarithmic scale, and evenly around 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
import numpy as np
from flint import arb, ctx

from deqverify.dtypes import Array
from deqverify.frameworks import framework

FUNCTIONS = ("tanh", "exp", "log", "sqrt")  # all that cells use
LARGEST = {"tanh": 20.0, "exp": 80.0, "log": 1e30, "sqrt": 1e30}
SMALLEST = 1e-8
BITS = 120


def points(function: str, count: int, rng: np.random.Generator) -> Array:
    """(count,) where ``function`` is defined and its value is a normal number of float32."""
    far = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST[function]), count // 2))
    near = rng.uniform(0.5, 2.0, count - count // 2)
    magnitude = np.concatenate([far, near])
    return magnitude if function in ("log", "sqrt") else magnitude * rng.choice([-1.0, 1.0], count)


def worst(name: str, function: str, dtype: str, device: str, count: int, seed: int = 0) -> tuple[float, float]:
    """The largest error of ``function`` in units of rounding, and the point where it was seen. ``name``: of a
    framework. ValueError where it has no such device."""
    bridge = framework(name)
    narrow = np.dtype(dtype)
    x = points(function, count, np.random.default_rng(seed)).astype(narrow).astype(float)
    with bridge.computing(dtype):
        there = bridge.native(x, dtype, device)
        seen = bridge.to_numpy(_of(name, function)(there))
    units = _errors(function, x, seen, dtype) / (np.finfo(narrow).eps / 2)
    at = int(np.argmax(units))
    return float(units[at]), float(x[at])


def _errors(function: str, x: Array, seen: Array, dtype: str) -> Array:
    """Relative errors, (count,); 0 where both are 0, as log is at 1."""
    if dtype == "float32":
        true = getattr(np, function)(x)
        with np.errstate(invalid="ignore"):
            return np.where(seen == true, 0.0, np.abs(seen - true) / np.abs(true))
    return np.array(list(_against_arb(function, x, seen)))


def _against_arb(function: str, x: Array, seen: Array) -> Iterator[float]:
    before, ctx.prec = ctx.prec, BITS
    try:
        for point, value in zip(x.tolist(), seen.tolist(), strict=True):
            true = getattr(arb(point), function)()
            off = abs(float((arb(value) - true).mid()))
            yield off and off / abs(float(true.mid()))
    finally:
        ctx.prec = before


def _of(name: str, function: str) -> Callable[[Any], Any]:
    """``function`` of the framework ``name``, as cells call it; under JAX compiled."""
    if name == "jax":
        import jax
        import jax.numpy as jnp

        return jax.jit(getattr(jnp, function))
    if name == "torch":
        import torch

        return getattr(torch, function)
    return getattr(np, function)


@click.command()
@click.option("--framework", "names", multiple=True, default=("numpy", "torch", "jax"), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--points", "count", type=int, default=100_000, show_default=True, help="Of each function and dtype.")
def main(names: tuple[str, ...], device: str, count: int) -> None:
    """The worst error of each elementary function, in units of rounding, and where."""
    for name in names:
        if name == "numpy" and device != "cpu":
            continue
        for dtype in ("float64", "float32"):
            for function in FUNCTIONS:
                error, at = worst(name, function, dtype, device, count)
                click.echo(f"{name:6} {device:5} {dtype:8} {function:5} {error:7.2f} at {at!r}")


if __name__ == "__main__":
    main()
