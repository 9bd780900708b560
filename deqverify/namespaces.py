"""The array API namespace of an array, looked up by its type: asking anew takes as long as a small matrix product."""

from __future__ import annotations

from typing import Any

import array_api_compat

_KNOWN: dict[type, Any] = {}


def array_namespace(array: Any) -> Any:
    """The functions for arrays like ``array``, as ``array_api_compat.array_namespace`` has them. TypeError for what is
    no array."""
    kind = type(array)
    if kind not in _KNOWN:
        _KNOWN[kind] = array_api_compat.array_namespace(array)
    return _KNOWN[kind]
