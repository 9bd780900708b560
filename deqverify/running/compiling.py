"""What JAX compiles for one job is compiled once: processes that jobs run in, and later runs, find it in a folder.

It lies with the user's own caches and not beside counterexamples, which people hand to each other: what is in it is
run as it is. What was compiled on another make of processor may not run on this one, so each has a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""What a user sets who wants it to lie elsewhere, or who does without: an empty text."""


def kept_compiled() -> dict[str, str]:
    """Environment variables for processes in which JAX shall keep what it compiles; none where there is no JAX, where
    the user has said where, or where the folder cannot be written."""
    if VARIABLE in os.environ or find_spec("jax") is None:
        return {}
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "deqverify" / "jax" / _processor()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        return {}
    everything = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {VARIABLE: str(folder), **everything}


def _processor() -> str:
    """The make of this machine's processor, as a name for a folder: its instructions, where the system lists them."""
    told = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
