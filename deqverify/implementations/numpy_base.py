"""NumPy: how problems become native arrays, and the readout with its derivative written out."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses import Loss


class NumpyFramework:
    """The bridge between problems (float64, columns) and NumPy layers (their dtype, rows)."""

    name = "numpy"

    def native(self, values: Any, dtype: str, device: str) -> Any:
        return np.array(values, dtype=dtype)

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

    def random_state(self) -> str:
        return hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest()
