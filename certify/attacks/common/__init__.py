"""Threat models, projections onto sets of one's own and counted passes, which all attacks share.

May import ``bounds``, models and results.
"""
