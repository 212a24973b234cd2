"""Names of files."""

import math

from bounds.sets.orders import Order


def file_name(norm: Order) -> str:
    """A norm, or the set of perturbations in its place, in the name of a file.

    >>> file_name(2), file_name(math.inf), file_name("rotation -10..10, degrees")
    ('l2', 'linf', 'rotation_-10..10_degrees')
    """
    if isinstance(norm, str):
        return "_".join(norm.replace(",", "").split())
    return "linf" if norm == math.inf else f"l{norm:g}"
