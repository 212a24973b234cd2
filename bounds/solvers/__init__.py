"""Bounds by linear, mixed-integer and semidefinite programmes, whose multipliers are checked.

May import every room of ``bounds`` up to ``linear``.
"""
