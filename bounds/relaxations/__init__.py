"""Lines and planes below and above nonlinear functions.

May import the ground modules of ``bounds`` and ``sets``.
"""
