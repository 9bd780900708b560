"""The reference made fast: for each problem the quickest of four methods, its answer certified or direct."""

from deqverify.reference.fast.api import solve, vjp

__all__ = ["solve", "vjp"]
