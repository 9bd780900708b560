"""What is true, in float64 NumPy and SciPy (docs/theory.md). Nothing here ever sees an implementation.

Private: what of it is public stands in ``deqverify`` itself.
"""
