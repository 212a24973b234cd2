"""Votes that are counted exactly instead of sampled.

May import ``drawing``.
"""
