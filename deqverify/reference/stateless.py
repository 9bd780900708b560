"""What all references share: an answer depends on the arguments alone."""

from __future__ import annotations

from typing import Self

from deqverify.cells import LinearSoftmaxCell
from deqverify.claims import Claims

STATELESS = Claims(
    cells=(LinearSoftmaxCell.name,), threads=True, copies=True, pickles=True, modes=True, evaluation_gradient=True
)
"""The claims of a layer of the linear-softmax cell without state; ``dataclasses.replace`` adds the others."""

LINEAR = (LinearSoftmaxCell.name, "linear")
"""The cells that a direct solve treats."""


class Stateless:
    """A layer that neither training and evaluation mode nor earlier calls change."""

    def mode(self, training: bool) -> Self:
        """The modes do not differ."""
        return self
