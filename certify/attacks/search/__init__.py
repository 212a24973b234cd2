"""The search for the nearest adversarial example: its state, its driver, and the moves that attacks are made of.

May import ``common``.
"""
