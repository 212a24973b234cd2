"""Images under transformations: enclosures over pieces of the parameters, as hulls of boxes.

May import the ground modules of ``bounds`` and its sets alone.
"""
