"""Statements about the certified accuracy of a whole data set.

May import ``drawing``, ``derandomized`` and ``noises``.
"""
