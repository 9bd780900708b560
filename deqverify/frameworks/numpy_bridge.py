"""The bridge to NumPy, its readout with the derivative written out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from deqverify.dtypes import Array
from deqverify.frameworks.base import PROCESS_SETTINGS, Framework, dtype_name, rows, unknown_layout
from deqverify.losses import Loss


class NumpyFramework(Framework):
    """Arrays of NumPy on the CPU. Nothing is recorded, so that there is no mode without gradients."""

    name = "numpy"
    layouts = ("strided", "transposed", "reversed", "offset", "broadcast", "read-only")
    mutable, because = True, ""
    without_gradient: ClassVar = {}
    global_settings = PROCESS_SETTINGS

    def function_error(self, dtype: str, device: str) -> float:
        """NumPy's tests allow exp 2.52 units in the last place; log was measured off by 4.3 of rounding."""
        return 5.0 if dtype == "float32" else 0.0

    def native(self, values: Any, dtype: str, device: str) -> Any:
        return np.array(values, dtype=dtype, order="C")

    def like(self, values: Any, array: Any) -> Any:
        return np.array(values, dtype=array.dtype, order="C")

    def to_numpy(self, array: Any) -> Array:
        return np.array(array, dtype=np.float64)

    def kind(self, array: Any) -> tuple[str, str]:
        return dtype_name(array.dtype), "cpu"

    def readout(self, loss: Loss, z: Any, B: Any, Y: Any) -> tuple[float, Any, Any]:
        states = rows(z)
        F = B @ states.T
        dF = loss.gradient(F, Y).astype(z.dtype)
        return float(loss.value(F, Y)), (dF.T @ B).reshape(z.shape), dF @ states

    def assign(self, array: Any, values: Any) -> None:
        array[...] = values

    def laid_out(self, array: Any, layout: str) -> Any:
        if layout not in self.layouts:
            raise unknown_layout(layout, self.layouts)
        shape, axes = array.shape, array.ndim
        if not axes:
            return array
        if layout == "broadcast":
            return np.broadcast_to(array[(slice(1),) * axes], shape)
        if layout == "transposed":
            return np.asfortranarray(array)
        if layout == "read-only":
            kept = array.copy()
            kept.flags.writeable = False
            return kept
        view = {
            "strided": lambda: np.zeros([2 * size for size in shape], array.dtype)[
                (*[slice(None, None, 2)] * (axes - 1), slice(1, None, 2))
            ],
            "reversed": lambda: np.zeros(shape, array.dtype)[(slice(None, None, -1),) * axes],
            "offset": lambda: np.zeros(math.prod(shape) + 1, array.dtype)[1:].reshape(shape),
        }[layout]()
        view[...] = array
        return view

    @contextmanager
    def other_random_state(self) -> Iterator[None]:
        before = np.random.get_state()
        np.random.random()
        try:
            yield
        finally:
            np.random.set_state(before)

    def random_state(self) -> str:
        found: dict[str, Any] = np.random.get_state(legacy=False)
        values = (*found["state"].values(), *found.values())
        # Bytes, since NumPy takes milliseconds to write an array of words.
        told = [
            v.tobytes() if isinstance(v, np.ndarray) else repr(v).encode() for v in values if not isinstance(v, dict)
        ]
        return hashlib.sha256(b"|".join(told)).hexdigest()
