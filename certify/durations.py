"""Durations as people write and read them."""

import math
import re

from bounds import checks
from bounds.errors import InvalidInput

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
WRITTEN = re.compile(r"\s*(?=\S)" + "".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit}\s*)?" for unit in UNITS), re.IGNORECASE)


def seconds_of(name: str, given: object) -> float:
    """Seconds of a duration, given as such or in words.

    >>> seconds_of("budget", "1h30m"), seconds_of("budget", "90s"), seconds_of("budget", 2.5)
    (5400.0, 90.0, 2.5)

    Raises:
        InvalidInput: something else, or not above 0.
    """
    number = given
    if isinstance(given, str):
        found = WRITTEN.fullmatch(given)
        if found is not None:
            number = sum(float(part) * unit for part, unit in zip(found.groups(), UNITS.values(), strict=True) if part)
        elif re.fullmatch(r"\s*\d+(\.\d+)?\s*", given):
            number = float(given)
    try:
        return checks.positive(name, number)  # type: ignore[arg-type]  # which refuses others
    except InvalidInput as error:
        raise InvalidInput(
            f'{name} must be a duration above 0 such as "90s", "2m" or "1h30m", or seconds, got {given!r}'
        ) from error


def in_words(seconds: float) -> str:
    """A duration with the digits that matter.

    >>> in_words(0.034), in_words(4.26), in_words(83), in_words(5000)
    ('0.03 s', '4.3 s', '1 min 23 s', '1 h 23 min')
    """
    if math.isnan(seconds) or math.isinf(seconds):
        return "an unknown time"
    if seconds < 59.5:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"
