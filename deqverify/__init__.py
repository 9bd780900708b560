"""deqverify: property-based verification of deep equilibrium models."""
