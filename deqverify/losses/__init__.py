"""Losses: a sum over data points of a convex function of the outputs, each with what the theory asks of it.

Public: what ``__all__`` lists.
"""

from deqverify.losses.base import Loss
from deqverify.losses.counts import Poisson
from deqverify.losses.labels import CrossEntropy, HingeSquared, Logistic
from deqverify.losses.regression import LogCosh, PseudoHuber, Squared

__all__ = ["CrossEntropy", "HingeSquared", "LogCosh", "Logistic", "Loss", "Poisson", "PseudoHuber", "Squared"]
