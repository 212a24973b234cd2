"""Bounds of two engines next to each other, held against values that the network takes.

May import the ground modules of ``bounds``, ``sets``, ``graph``, ``engines`` and ``linear``.
"""
