"""The cost models in use, one a dtype, device and thread count: measured where someone did, the default elsewhere."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from deqverify.reference.fast.cost import CostModel
from deqverify.reference.fast.defaults import DEFAULTS

_in_use: dict[tuple[str, str, str], CostModel] = {}


def key(dtype: torch.dtype, device: str) -> tuple[str, str, str]:
    """What a model is valid for."""
    return str(dtype).removeprefix("torch."), device, str(torch.get_num_threads() if device == "cpu" else 0)


def use(model: CostModel) -> None:
    """Takes ``model`` for what it was measured on, from now on, in this process."""
    _in_use[model.where["dtype"], model.where["device"], model.where["threads"]] = model
    _find.cache_clear()


def reset() -> None:
    """Forgets what :func:`use` was given."""
    _in_use.clear()
    _find.cache_clear()


def model_for(tensor: Tensor) -> CostModel:
    """The model in use for the dtype, device and number of threads of ``tensor``'s operations."""
    return _find(tensor.dtype, tensor.device.type, torch.get_num_threads())


@lru_cache(maxsize=64)
def _find(dtype: torch.dtype, device: str, threads: int) -> CostModel:
    name, _, count = key(dtype, device)
    return _in_use.get((name, device, count)) or DEFAULTS["cpu" if device == "cpu" else "cuda", name]
