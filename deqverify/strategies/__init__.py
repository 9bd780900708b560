"""Hypothesis strategies, public: problems of every regime, and what a law draws beside a problem."""

from deqverify.strategies.arrays import signals
from deqverify.strategies.problems import (
    contraction_factors,
    features,
    logits,
    loss_functions,
    problems,
    smooth_losses,
    targets,
    well_conditioned_problems,
)

__all__ = [
    "contraction_factors",
    "features",
    "logits",
    "loss_functions",
    "problems",
    "signals",
    "smooth_losses",
    "targets",
    "well_conditioned_problems",
]
