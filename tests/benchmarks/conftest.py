"""pytest-benchmark 5.3 reads ``node._nodeid``, which pytest 9.2 no longer has; ``nodeid`` is the same."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not hasattr(item, "_nodeid"):
            item._nodeid = item.nodeid  # type: ignore[attr-defined]
