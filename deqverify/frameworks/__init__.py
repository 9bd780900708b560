"""Frameworks: the protocol of one, and the bridges to NumPy, PyTorch and JAX, each imported when it is first used.

Private: what of it is public stands in ``deqverify`` itself.
"""

from __future__ import annotations

from functools import lru_cache

from deqverify.frameworks.base import Framework
from deqverify.importing import imported

_BRIDGES = {
    "numpy": "deqverify.frameworks.numpy_bridge:NumpyFramework",
    "torch": "deqverify.frameworks.torch_bridge:TorchFramework",
    "jax": "deqverify.frameworks.jax_bridge:JaxFramework",
}

FRAMEWORKS = tuple(_BRIDGES)
"""The names of the known ones."""


@lru_cache(maxsize=len(_BRIDGES))
def framework(name: str) -> Framework:
    """The bridge to the framework called ``name``. ValueError, listing the known ones, for another name."""
    if name not in _BRIDGES:
        raise ValueError(f"framework: {name!r} is not known; use one of {', '.join(FRAMEWORKS)}")
    module, _, bridge = _BRIDGES[name].partition(":")
    made: Framework = getattr(imported(module), bridge)()
    return made


__all__ = ["FRAMEWORKS", "Framework", "framework"]
