"""Interval and linear bound propagation: IBP, CROWN, alpha-CROWN, forward bounds, margins.

May import every room of ``bounds`` up to ``graph``.
"""
