"""Hypothesis strategies: problems of every regime, and what a law draws beside a problem.

Public: what ``__all__`` lists.
"""

from deqverify.drawing import contraction_factors, signals
from deqverify.strategies.any_cell import cell_problems, problems_of
from deqverify.strategies.problems import (
    features,
    logits,
    loss_functions,
    problems,
    smooth_losses,
    targets,
    well_conditioned_problems,
)

__all__ = [
    "cell_problems",
    "contraction_factors",
    "features",
    "logits",
    "loss_functions",
    "problems",
    "problems_of",
    "signals",
    "smooth_losses",
    "targets",
    "well_conditioned_problems",
]
