"""The configuration of a run, and the models and data that it names.

May import ``methods``, ``reference`` and the ground modules of ``certify``, and all of ``bounds``.
"""
