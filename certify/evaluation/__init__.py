"""All methods on the same inputs, as one table and as a run on disk.

May import every room of ``certify`` but the command line.
"""
