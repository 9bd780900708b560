"""What a seed draws, made independent of the modules that are loaded.

One draw in twenty of Hypothesis is a constant, half of these from the source of local modules that were imported by
then: so every edit, and every import, changes what a seed draws. Here those are left out. The others stay.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis.internal.conjecture import providers

_LOCK = threading.Lock()
_names: dict[str, Any] = vars(providers)
_inside = 0
_theirs: dict[str, Any] = {}
_ours: dict[str, Any] = {}
if "_get_local_constants" in _names:  # older versions draw no such constants
    _ours = {"_get_local_constants": _names["Constants"], "CONSTANTS_CACHE": type(_names["CONSTANTS_CACHE"])(1024)}


@contextmanager
def without_local_constants() -> Iterator[None]:
    """What Hypothesis draws in this context holds no constants from the source of local modules. It may be nested, and
    entered by several threads; while one is inside, it is so for all.

    Hypothesis has no setting for this. So its source of local constants is put aside, and with it the cache of
    constants that fit a choice, which knows them.
    """
    global _inside
    with _LOCK:
        _inside += 1
        if _inside == 1:
            _theirs.update({name: _names[name] for name in _ours})
            _names.update(_ours)
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                _names.update(_theirs)
