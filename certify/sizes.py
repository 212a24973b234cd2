"""Sizes of memory as people write and read them."""

import re

from bounds import checks
from bounds.errors import InvalidInput

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def bytes_of(name: str, given: object) -> int:
    """Bytes of a size, given as such or in words.

    >>> bytes_of("memory", "4GB"), bytes_of("memory", "1.5 GiB"), bytes_of("memory", 64)
    (4000000000, 1610612736, 64)

    Raises:
        InvalidInput: something else, or below one byte.
    """
    number = given
    if isinstance(given, str) and (found := WRITTEN.fullmatch(given)) and found[2].upper() in UNITS:
        number = int(float(found[1]) * UNITS[found[2].upper()])
    try:
        return checks.at_least(name, number, 1)  # type: ignore[arg-type]  # which refuses others
    except InvalidInput as error:
        raise InvalidInput(f'{name} must be a size such as "4GB" or "512MiB", or bytes, got {given!r}') from error


def size_in_words(count: int) -> str:
    """A size with the digits that matter.

    >>> size_in_words(3_500), size_in_words(120_000_000), size_in_words(6_710_000_000)
    ('3.50 KB', '120 MB', '6.71 GB')
    """
    unit = next((unit for unit in ("GB", "MB") if count >= UNITS[unit]), "KB")
    number = count / UNITS[unit]
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{digits}f} {unit}"
