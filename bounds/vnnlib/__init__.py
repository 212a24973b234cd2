"""Properties of networks: VNN-LIB files read into boxes of inputs and sets of unsafe outputs, and written back.

May import the ground modules of ``bounds`` and ``bounds.sets`` alone.
"""
