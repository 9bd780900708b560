"""Cells: maps whose fixed point is wanted, each written once over the array API, one module a cell.

Public: what ``__all__`` lists.

The ``CELL`` of every module here is known by its name: a new file is a new cell, and no other file changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import lru_cache

from deqverify.cells.base import Cell, Certificate, Contraction, LinearCell, Monotone, Parts, Theta
from deqverify.cells.linear_softmax import LinearSoftmaxCell


@lru_cache(maxsize=1)
def cells() -> dict[str, Cell]:
    """Every cell by name, the linear-softmax one first."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    found = [module.CELL for module in modules if hasattr(module, "CELL")]
    found.sort(key=lambda cell: (not isinstance(cell, LinearSoftmaxCell), cell.name))
    return {cell.name: cell for cell in found}


def check_cells(names: Iterable[str]) -> None:
    """ValueError, with the known ones, for a name that no cell has."""
    for name in names:
        if name not in cells():
            raise ValueError(f"cell: {name!r} is not one of {', '.join(cells())}")


__all__ = [
    "Cell",
    "Certificate",
    "Contraction",
    "LinearCell",
    "LinearSoftmaxCell",
    "Monotone",
    "Parts",
    "Theta",
    "cells",
    "check_cells",
]
