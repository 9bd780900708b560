"""Cells: maps whose fixed point is wanted, each written once over the array API."""

from deqverify.cells.base import Cell, Contraction, LinearCell
from deqverify.cells.linear_softmax import LinearSoftmaxCell

__all__ = ["Cell", "Contraction", "LinearCell", "LinearSoftmaxCell"]
