"""Answers obtained another way: rigorous enclosures in ball arithmetic (python-flint's Arb).

:class:`Oracle` serves the linear-softmax cell through one linear solve.
"""

from __future__ import annotations

from deqverify.oracle.closed import Direction, Enclosure, Oracle, OracleError

__all__ = ["Direction", "Enclosure", "Oracle", "OracleError"]
