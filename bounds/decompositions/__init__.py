"""ATen operations written as simpler ones that bounds have rules for.

May import the ground of ``bounds`` alone.
"""
