"""Words for numbers, the same everywhere."""

import math


def norm_name(norm: float) -> str:
    """A norm as a reader writes it.

    >>> norm_name(2), norm_name(math.inf)
    ('l2', 'l∞')
    """
    return "l∞" if norm == math.inf else f"l{norm:g}"
