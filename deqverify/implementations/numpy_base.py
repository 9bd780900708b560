"""NumPy: how problems become native arrays, and the readout with its derivative written out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses import Loss


def keeps_subnormals(dtype: str) -> bool:
    """Whether products below the normal range are kept and not flushed to zero: a switch of the processor, which nobody
    can be asked for."""
    smallest = np.full(4, np.finfo(dtype).smallest_normal, dtype=dtype)
    return bool(np.all(smallest * np.asarray(0.5, dtype=dtype) > 0))


def stop_flushing() -> None:
    """Makes the processor keep subnormal numbers, where PyTorch is there to do it."""
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


class NumpyFramework:
    """The bridge between problems (float64, columns) and NumPy layers (their dtype, rows)."""

    name = "numpy"
    layouts = ("strided", "transposed", "reversed", "offset", "broadcast", "read-only")
    without_gradient: ClassVar[dict[str, Callable[[], AbstractContextManager[Any]]]] = {}

    def keeping_graph(self) -> AbstractContextManager[None]:
        """NumPy has no graph that a pull frees."""
        return nullcontext()

    def native(self, values: Any, dtype: str, device: str) -> Any:
        return np.array(values, dtype=dtype, order="C")

    def to_numpy(self, array: Any) -> Array:
        return np.array(array, dtype=np.float64)

    def readout(self, loss: Loss, z: Any, B: Any, Y: Any) -> tuple[float, Any, Any]:
        """``L``, ``∂L/∂z`` (n, m) and ``∂L/∂B`` (p, m) for states z (n, m), in the layer's dtype."""
        F = B @ z.T
        dF = loss.gradient(F, Y).astype(z.dtype)
        return float(loss.value(F, Y)), dF.T @ B, dF @ z

    def kind(self, array: Any) -> tuple[str, str]:
        """dtype and device of a native array."""
        return str(array.dtype), "cpu"

    def assign(self, array: Any, values: Any) -> None:
        """Writes ``values`` into a native array, in place."""
        array[...] = values

    def laid_out(self, array: Any, layout: str) -> Any:
        """A matrix of the same entries in one of ``layouts``; "broadcast" takes the first entry for all."""
        rows, columns = array.shape
        if layout == "broadcast":
            return np.broadcast_to(array[:1, :1], array.shape)
        if layout == "transposed":
            return np.asfortranarray(array)
        if layout == "read-only":
            kept = array.copy()
            kept.flags.writeable = False
            return kept
        view = {
            "strided": lambda: np.zeros((2 * rows, 2 * columns), array.dtype)[::2, 1::2],
            "reversed": lambda: np.zeros((rows, columns), array.dtype)[::-1, ::-1],
            "offset": lambda: np.zeros(rows * columns + 1, array.dtype)[1:].reshape(rows, columns),
        }[layout]()
        view[...] = array
        return view

    def settings(self) -> dict[str, Any]:
        """Global settings that are not a layer's to change, by name."""
        return {"numpy.geterr": np.geterr(), "subnormal numbers are kept": keeps_subnormals("float64")}

    def restore(self, settings: dict[str, Any]) -> None:
        """Makes the settings what they were."""
        np.seterr(**settings["numpy.geterr"])
        if settings["subnormal numbers are kept"]:
            stop_flushing()

    def random_state(self) -> str:
        return hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest()
