"""CLEVER and other estimates by extreme values, which prove nothing.

May import the ground modules of ``bounds`` and ``sets``.
"""
