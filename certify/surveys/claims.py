"""Claims of the literature about a model: the figure, its interval, and whether the claim holds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


def verdict_of(interval: tuple[float, float], *, low: float = -math.inf, high: float = math.inf) -> str:
    """Whether a figure that is known up to an interval lies between two numbers.

    ``"holds"`` if all of the interval does, ``"does not hold"`` if none of it does, else ``"undecided"``; NaN decides
    nothing.

    >>> verdict_of((0.6, 0.8), low=0.5), verdict_of((0.1, 0.2), low=0.5), verdict_of((0.4, 0.6), low=0.5)
    ('holds', 'does not hold', 'undecided')
    """
    lower, upper = interval
    if lower >= low and upper <= high:
        return HOLDS
    return FAILS if upper < low or lower > high else OPEN


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, and what one model says about it.

    Attributes:
        claim: in words.
        source: where it is made.
        model: name of the model.
        figure: what was measured.
        interval: of the figure.
        low: the claim is that the figure is at least this,
        high: and at most this.
        unit: what the figure is, in words.
    """

    claim: str
    source: str
    model: str
    figure: float
    interval: tuple[float, float]
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    @property
    def verdict(self) -> str:
        """``"holds"``, ``"does not hold"`` or ``"undecided"``, see :func:`verdict_of`."""
        return verdict_of(self.interval, low=self.low, high=self.high)


def claims_table(claims: Sequence[Claim]) -> "pd.DataFrame":
    """Claims as a table, one row each, with the ends of the interval and the verdict."""
    import pandas as pd

    rows = [
        {
            "claim": each.claim,
            "source": each.source,
            "model": each.model,
            "unit": each.unit,
            "figure": each.figure,
            "lower": each.interval[0],
            "upper": each.interval[1],
            "verdict": each.verdict,
        }
        for each in claims
    ]
    return pd.DataFrame(rows, columns=["claim", "source", "model", "unit", "figure", "lower", "upper", "verdict"])
