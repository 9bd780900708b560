"""Faults: implementations broken on purpose, each in one way, as a small override of a sound one.

They prove that the laws bite: what no law kills shows that a law is missing. Each says what is wrong, where such a
defect was seen, which laws must be violated, and which of these is the root cause that a report should name. As a
target a fault is written ``fault[row-softmax]``.

Private: what of it is public stands in ``deqverify`` itself.
"""

from deqverify.faults.registry import DEFECTS, PLAUSIBLE, SUBTLETY, Fault, fault, faults, make

__all__ = ["DEFECTS", "PLAUSIBLE", "SUBTLETY", "Fault", "fault", "faults", "make"]
