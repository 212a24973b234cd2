"""Names of files."""

import math


def file_name(norm: float) -> str:
    """A norm in the name of a file.

    >>> file_name(2), file_name(math.inf)
    ('l2', 'linf')
    """
    return "linf" if norm == math.inf else f"l{norm:g}"
