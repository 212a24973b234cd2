"""Noisy inputs and the votes under them.

May import no other room of ``certify.smoothing``.
"""
