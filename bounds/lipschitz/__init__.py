"""Proved Lipschitz constants of networks.

May import every room of ``bounds`` up to ``solvers``.
"""
