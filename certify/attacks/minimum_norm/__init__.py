"""Attacks that look for the nearest adversarial example, each its idea alone.

May import ``common`` and ``search``.
"""
