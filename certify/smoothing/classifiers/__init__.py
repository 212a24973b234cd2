"""Smoothed classifiers and what their votes prove.

May import ``drawing``, ``derandomized`` and ``noises``.
"""
