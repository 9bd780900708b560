"""What all references share: an answer depends on the arguments alone."""

from __future__ import annotations

from typing import Self

from deqverify.claims import Claims

STATELESS = Claims(threads=True, copies=True, pickles=True, modes=True, evaluation_gradient=True)
"""The claims of a layer without state; ``dataclasses.replace`` adds the others."""


class Stateless:
    """A layer that neither training and evaluation mode nor earlier calls change."""

    def mode(self, training: bool) -> Self:
        """The modes do not differ."""
        return self
