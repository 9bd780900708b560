"""The reference made fast: for each problem the quickest of four methods, its answer certified or direct.

Private: what of it is public stands in ``deqverify`` itself.
"""

from deqverify.reference.fast.api import solve, vjp

__all__ = ["solve", "vjp"]
