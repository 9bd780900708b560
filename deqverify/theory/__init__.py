"""What is true, in float64 NumPy and SciPy (docs/theory.md). Nothing here ever sees an implementation."""
