"""Word of a run while it goes on: a bar on a terminal, plain lines elsewhere."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certify.evaluation.callbacks import Callback, FinishedUnit


def teller() -> "Callback":
    """A callback that tells of every unit, with the time that is gone and what is left.

    What is left is weighed by the measured costs of methods: a bar that counts units would not know that the last ones
    are the dear ones.
    """
    from tqdm import tqdm

    if not sys.stderr.isatty():
        return lambda unit: print(line(unit), file=sys.stderr, flush=True)
    bar = tqdm(bar_format="{percentage:3.0f}% |{bar}| {postfix}", dynamic_ncols=True)

    def advance(unit: "FinishedUnit") -> None:
        bar.total, bar.n = unit.units, unit.done
        bar.set_postfix_str(line(unit), refresh=True)
        if unit.done == unit.units:
            bar.close()

    return advance


def line(unit: "FinishedUnit") -> str:
    """One line on a finished unit.

    >>> from certify import FinishedUnit
    >>> about = {"name": "ibp/2/0-5", "method": "ibp", "norm": 2.0, "kind": "certificate", "rows": [], "seconds": 0.5}
    >>> line(FinishedUnit(**about, done=3, units=8, restored=False, elapsed=83.0, seconds_left=351.0))
    '[3/8] ibp/2/0-5: 1 min 23 s gone, about 5 min 51 s left'
    """
    from certify.durations import in_words

    start = f"[{unit.done}/{unit.units}] {unit.name}"
    if unit.restored:
        return f"{start}: done earlier"
    left = "" if unit.seconds_left is None else f", about {in_words(unit.seconds_left)} left"
    return f"{start}: {in_words(unit.elapsed)} gone{left}"
