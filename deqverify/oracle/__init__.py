"""Answers obtained another way: rigorous enclosures in ball arithmetic (python-flint's Arb).

Private: what of it is public stands in ``deqverify`` itself.

:class:`Polished` serves any cell, with :func:`derivative` for difference quotients; :class:`Oracle` serves the
linear-softmax cell through one linear solve.
"""

from __future__ import annotations

from deqverify.oracle.closed import Direction, Enclosure, Oracle, OracleError
from deqverify.oracle.differences import derivative
from deqverify.oracle.objective import Objective
from deqverify.oracle.polished import Polished

__all__ = ["Direction", "Enclosure", "Objective", "Oracle", "OracleError", "Polished", "derivative"]
