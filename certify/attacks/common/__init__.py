"""Norms, projections and threat models that all attacks share.

May import ``bounds``, models and results.
"""
