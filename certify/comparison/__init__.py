"""Several models, or several methods, on the same inputs: curves, paired tests, trade-offs.

May import evaluations and all below them.
"""
