"""Layers as people write them, to be wrapped: correct ones, which are to be spared, and broken twins."""
