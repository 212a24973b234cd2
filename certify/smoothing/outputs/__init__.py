"""Smoothed regression and other outputs than a class.

May import every other room of ``certify.smoothing``.
"""
