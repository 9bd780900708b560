"""Gradients that are right one by one and lead training elsewhere."""
