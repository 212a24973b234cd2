"""Attacks that look for any adversarial example within a given distance.

May import ``common`` and ``search``.
"""
