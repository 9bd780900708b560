"""What may differ from the truth, and by how much: from closed forms (:class:`deqverify.bounds.Budget`) where a cell
has them, from ball arithmetic for every other. :func:`judge` knows which.

Private: what of it is public stands in ``deqverify`` itself.
"""

from __future__ import annotations

from deqverify.errors.balls import BallErrors
from deqverify.errors.judge import Judge, judge
from deqverify.oracle.objective import Objective

__all__ = ["BallErrors", "Judge", "Objective", "judge"]
