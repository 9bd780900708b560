"""The reference DEQ: direct, one LU used again transposed."""

from __future__ import annotations

from typing import Any


def reference(framework: str = "torch") -> Any:
    """``reference`` (PyTorch) or ``reference[numpy]``; ValueError for another framework."""
    if framework == "numpy":
        from deqverify.reference.numpy_direct import NumpyDirect

        return NumpyDirect()
    if framework == "torch":
        from deqverify.reference.torch_direct import TorchDirect

        return TorchDirect()
    raise ValueError(f"the reference is written in numpy and torch, not {framework!r}")
