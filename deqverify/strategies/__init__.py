"""Hypothesis strategies, public: problems of every regime, and what a law draws beside a problem."""

from deqverify.drawing import contraction_factors, signals
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
