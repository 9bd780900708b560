"""Modules that take long to import and that most processes do without: imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

from deqverify import clock


def imported(module: str) -> Any:
    """The module called ``module``. Importing it does not count against an example, whose clock would otherwise leave
    it half imported to all that follow."""
    with clock.uncounted():
        return importlib.import_module(module)
