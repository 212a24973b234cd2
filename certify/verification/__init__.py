"""Certified radii and verdicts of the network itself.

May import ``bounds``, the results of ``certify`` and attacks of minimum norm.
"""
