"""What is true, in float64 NumPy and SciPy (THEORY.md). Nothing here ever sees an implementation."""
