"""Gate of a run: what it is held to, and whether it passes.

Import from the modules.
"""
