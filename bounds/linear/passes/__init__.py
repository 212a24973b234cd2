"""Backward passes: coefficients from a node to the input, and their minima over the set."""
