"""Devices: what their names mean, and whether this machine has them."""

from __future__ import annotations

import re
from importlib.util import find_spec


def cuda_present() -> bool:
    """Whether PyTorch sees a CUDA device."""
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def check_device(device: str, remote: bool = False) -> None:
    """ValueError for what is no device's name, and for CUDA where PyTorch sees none, unless ``remote``: that of another
    machine is meant."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device: {device!r} is not known; use cpu, cuda or cuda:1 (a number)")
    if device != "cpu" and not remote and not cuda_present():
        raise ValueError("device: PyTorch sees no CUDA device here; use cpu, or a build of PyTorch for your GPU")
