"""Devices: what their names mean, and whether this machine has them."""

from __future__ import annotations

import re
from importlib.util import find_spec


def cuda_present() -> bool:
    """Whether PyTorch sees a CUDA device, or JAX."""
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return True
    if find_spec("jax") is None:
        return False
    import jax

    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:  # JAX's word for a platform that is not there
        return False


def check_device(device: str, remote: bool = False) -> None:
    """ValueError for what is no device's name, and for CUDA where neither PyTorch nor JAX sees it, unless ``remote``:
    that of another machine is meant."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device: {device!r} is not known; use cpu, cuda or cuda:1 (a number)")
    if device != "cpu" and not remote and not cuda_present():
        raise ValueError("device: no CUDA device is seen here; use cpu, or a build of PyTorch or JAX for your GPU")
