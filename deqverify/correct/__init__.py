"""Correct implementations, each written differently, and correct but odd ones: what no law may reject.

They prove that the laws bite nothing but bugs, as :mod:`deqverify.faults` proves that they bite. Each says in a
sentence what is different about it, and its claims are derived: a direct method claims rounding alone; an iteration
measures its own residual by the claim's rule and reports where the rule is not met. As a target one is written
``correct[qr]``; ``python -m tools.quiet correct N`` tries every law on all of them.

Private: what of it is public stands in ``deqverify`` itself.
"""

from deqverify.correct.registry import GROUPS, Correct, correct, implementations, make

__all__ = ["GROUPS", "Correct", "correct", "implementations", "make"]
