"""Shares of inputs in words, and names of files."""

import math
from fractions import Fraction


def percent(share: float, up: bool = False) -> str:
    """A share in percent, a lower bound rounded down and an upper bound up.

    >>> percent(2 / 3), percent(2 / 3, up=True), percent(0.57), percent(1.0)
    ('66.6', '66.7', '57.0', '100.0')
    """
    exact = 1000 * Fraction(share).limit_denominator(10**7)  # the count over the number of inputs, not its float
    tenths = math.ceil(exact) if up else math.floor(exact)
    return f"{tenths / 10:.1f}"


def file_name(norm: float) -> str:
    """A norm in the name of a file.

    >>> file_name(2), file_name(math.inf)
    ('l2', 'linf')
    """
    return "linf" if norm == math.inf else f"l{norm:g}"
