"""Noise distributions: which radius follows from a probability.

May import ``drawing`` and ``derandomized``.
"""
