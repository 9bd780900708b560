"""The bridge to JAX.

64-bit mode is a flag of JAX that changes what arrays are. Here it is on while something is computed in float64, in the
thread that computes, and otherwise what the user made it: the global flag is never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from deqverify import clock
from deqverify.dtypes import Array
from deqverify.frameworks.base import PROCESS_SETTINGS, Framework, Setting, dtype_name, unknown_layout
from deqverify.frameworks.numpy_bridge import NumpyFramework
from deqverify.losses import Loss

_NUMPY = NumpyFramework()

_RECORDING = ContextVar("a pull will be asked for", default=True)


def recording() -> bool:
    """Whether ``jax.vjp`` belongs around a solve now; if not, it is called plainly and its pull may raise."""
    return _RECORDING.get()


@contextmanager
def _no_vjp() -> Iterator[None]:
    token = _RECORDING.set(False)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def _forgive_compiling(event: str, seconds: float, **more: Any) -> None:
    if event.startswith("/jax/core/compile/"):  # tracing, lowering and compiling
        clock.forgive(seconds)


# Whoever compiles outside of `_compiled`, a user's own vjp or a single operation, the time is not the solver's.
jax.monitoring.register_event_duration_secs_listener(_forgive_compiling)


def computing(dtype: str) -> AbstractContextManager[Any]:
    """64-bit mode for float64; for any other dtype JAX as the user has set it."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


def _setting(name: str) -> Setting:
    return lambda: getattr(jax.config, name), lambda value: jax.config.update(name, value)


_NAMES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_default_device",
    "jax_disable_jit",
    "jax_debug_nans",
)


class JaxFramework(Framework):
    """JAX arrays, in their dtype and on their device."""

    name = "jax"
    layouts = ()
    mutable, because = False, "JAX arrays are immutable, and how they lie in memory is not a program's to choose"
    without_gradient: ClassVar = {"no vjp": _no_vjp}
    """A call without ``jax.vjp`` around it: some solvers stop elsewhere once they are differentiated."""
    global_settings: ClassVar = {name: _setting(name) for name in _NAMES} | PROCESS_SETTINGS

    def computing(self, dtype: str) -> AbstractContextManager[Any]:
        return computing(dtype)

    def function_error(self, dtype: str, device: str) -> float:
        """Measured: tanh is off by 6.9 in float64 (on a CPU) and by 4.7 in float32 (on both)."""
        return 8.0 if dtype in ("float64", "float32") else 0.0

    @contextmanager
    def precisely(self, dtype: str) -> Iterator[None]:
        """JAX multiplies float32 in TF32 on a GPU, with 10 bits, where nobody asks for more."""
        with computing(dtype), jax.default_matmul_precision("highest"):
            yield

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` under ``jax.jit``, its first argument static: compiled once for each and all shapes, and not on
        the time of the running example."""
        return _compiled(function)

    def native(self, values: Any, dtype: str, device: str) -> jax.Array:
        with computing(dtype):
            return jax.device_put(np.array(values, dtype=jnp.dtype(dtype), order="C"), _device(device))

    def like(self, values: Any, array: jax.Array) -> jax.Array:
        with computing(dtype_name(array.dtype)):
            (device,) = array.devices()
            return jax.device_put(np.array(values, dtype=array.dtype, order="C"), device)

    def to_numpy(self, array: jax.Array) -> Array:
        return np.array(np.asarray(array), dtype=np.float64)

    def kind(self, array: jax.Array) -> tuple[str, str]:
        (platform,) = {device.platform for device in array.devices()}
        return dtype_name(array.dtype), {"gpu": "cuda"}.get(platform, platform)

    def readout(self, loss: Loss, z: jax.Array, B: jax.Array, Y: jax.Array) -> tuple[float, Any, Any]:
        # By NumPy, derivative written out: differentiating each loss for each shape would be compiled, for seconds.
        wide = "float64" if dtype_name(z.dtype) == "float64" else "float32"
        value, dz, dB = _NUMPY.readout(loss, *(np.asarray(array).astype(wide) for array in (z, B, Y)))
        return value, self.like(dz, z), self.like(dB, B)

    def laid_out(self, array: jax.Array, layout: str) -> jax.Array:
        raise unknown_layout(layout, self.layouts)

    def random_state(self) -> str:
        return "JAX has none: keys are arguments"


@lru_cache(maxsize=64)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    jitted = jax.jit(function, static_argnums=0)
    known = set[
        int
    ]()  # as hashes: arguments may hold on to much, and of two with one hash the second compiles on the clock

    def call(*arguments: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(arguments[1:])
        kinds = [(getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf))) for leaf in leaves]
        key = hash((arguments[0], tree, jax.config.jax_enable_x64, *kinds))
        if key not in known:
            with clock.uncounted():
                jitted.lower(*arguments).compile()  # kept by JAX
            known.add(key)
        return jitted(*arguments)

    return call


def _device(device: str) -> Any:
    """JAX's device called "cpu", "cuda" or "cuda:1". ValueError where JAX sees none."""
    platform, _, number = device.partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"device: JAX sees no {device} here ({error}); use cpu, or a build of JAX for it") from None


def named_leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a pytree by name: a dictionary of arrays as it is, ``{"cell": {"W": …}}`` as ``{"cell.W": …}``."""
    if isinstance(tree, Mapping) and not any(isinstance(value, Mapping | list | tuple) for value in tree.values()):
        return dict(tree)
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
