"""Bounds of another library, as a second opinion: which engine is asked for, and what each can serve.

May import the ground modules of ``bounds``, ``sets`` and ``graph``.
"""
