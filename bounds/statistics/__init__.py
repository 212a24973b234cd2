"""Confidence bounds on probabilities, for fixed and for sequential samples.

May import the ground modules of ``bounds`` alone.
"""
