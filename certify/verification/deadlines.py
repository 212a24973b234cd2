"""Times at which searches end, in seconds of ``time.monotonic()``."""

import math
import time


def deadline_after(timeout: float | None) -> float:
    """The time after so many seconds; infinite for None."""
    return math.inf if timeout is None else time.monotonic() + timeout


def share(deadline: float, waiting: int) -> float:
    """The end of the first of so many equal shares of the time that is left: what it leaves goes to the others."""
    now = time.monotonic()
    return now + max(deadline - now, 0.0) / waiting
