"""What may differ, and by how much: the allowed errors of an implementation, for any cell.

:class:`BallErrors` makes them of ball arithmetic; :class:`deqverify.bounds.Budget` has them in closed form for the
linear-softmax cell. Either is a :class:`deqverify.bounds.Bound`, a sum of named terms.
"""

from __future__ import annotations

from deqverify.errors.balls import BallErrors
from deqverify.oracle.objective import Objective

__all__ = ["BallErrors", "Objective"]
