"""The order of work, the time that is left, and what a budget allows."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from certify.evaluation.budget.costs import Cost, Key
from certify.evaluation.budget.meter import Clock
from certify.evaluation.units import Unit, cheap_first

GROWTH = 2  # times as many inputs at once as before, at most, of a method that no probe measured
SUMMED = 0.03  # of the time gone, after which the time left is summed up anew
RISK = 2  # times as long as the longest piece so far may take what nobody measured


class Timing(NamedTuple):
    """The clock, the moment of the start, and the seconds that may be spent."""

    clock: Clock
    started: float
    budget: float = math.inf

    @property
    def deadline(self) -> float:
        """The moment at which everything should be over."""
        return self.started + self.budget

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return math.isfinite(self.budget)


class Turn(NamedTuple):
    """A unit that may be worked on until a moment."""

    unit: Unit
    until: float


class _Measured(NamedTuple):
    """Work on one method and norm so far."""

    seconds: float = 0.0
    foretold: float = 0.0  # by the probe
    rows: int = 0
    largest: int = 0  # piece
    last: float = math.nan  # seconds of an input in the last piece


class Schedule:
    """Units that are still to be done, and how long they take.

    Methods come in their order, or from cheap to dear. With a budget, each may spend an equal share of what is left,
    and what it does not need goes to those after it. So every method gets some inputs, and the dearest lose most. What
    did not fit into its share is tried again at the end, when all that is left may be spent.

    Args:
        units: to be done, in order.
        costs: by method and norm, as a probe measured them.
        timing: clock, start and budget.
        thrifty: whether the cheapest method comes first, and of its units that from which most is to be gained.
        rows_of: inputs of a unit that will have to be run.
        gain: what running a unit may narrow.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        costs: Mapping[Key, Cost],
        timing: Timing,
        *,
        thrifty: bool = False,
        rows_of: Callable[[Unit], int] = lambda unit: unit.rows.stop - unit.rows.start,
        gain: Callable[[Unit], float] = lambda unit: 0.0,
    ) -> None:
        self.timing = timing
        self._costs, self._rows_of, self._gain, self._thrifty = costs, rows_of, gain, thrifty
        self._waiting: dict[Key, dict[str, Unit]] = defaultdict(dict)
        for unit in units:
            self._waiting[key_of(unit)][unit.name] = unit
        self._left = -math.inf, math.nan  # the moment when it was last summed up, and seconds
        self._measured: dict[Key, _Measured] = defaultdict(_Measured)
        self._longest = 0.0

    def __iter__(self) -> Iterator[Turn]:
        """Turns of units; :meth:`finish` has to be told of those that came to their end."""
        for last in (False, True) if self.timing.limited else (True,):
            keys = [key for key, units in self._waiting.items() if units]
            if self._thrifty:
                keys.sort(key=self._price)
            for i, key in enumerate(keys):
                now, deadline = self.timing.clock(), self.timing.deadline
                until = deadline if last else now + (deadline - now) / (len(keys) - i)
                units = list(self._waiting[key].values())
                for unit in sorted(units, key=lambda unit: -self._gain(unit)) if self._thrifty else units:
                    yield Turn(unit, until)

    def rows_within(self, unit: Unit, rows: int, until: float) -> int:
        """Number of inputs of a unit, of those that are open, to run at once so that they end in time; 0 for none."""
        if not self.timing.limited:
            return rows
        key, now = key_of(unit), self.timing.clock()
        before = self._measured[key]
        known = key in self._costs and self._costs[key].measured
        if not known and not before.rows:  # a first input shows how long one takes
            fits = now + RISK * self._longest <= self.timing.deadline
            return (1 if unit.method.divisible else rows) * fits
        most = rows if known else min(rows, GROWTH * before.largest)
        if not unit.method.divisible:
            return rows * (now + self.seconds_of(key, rows) <= until)
        while most and now + self.seconds_of(key, most) > until:
            most //= 2
        return most

    def ran(self, unit: Unit, rows: int, seconds: float) -> None:
        """So many inputs of a unit were run at once."""
        key, self._longest = key_of(unit), max(self._longest, seconds)
        before, foretold = self._measured[key], self._foretold(key, rows)
        self._measured[key] = _Measured(
            before.seconds + seconds,
            before.foretold + foretold,
            before.rows + rows,
            max(before.largest, rows),
            seconds / max(rows, 1),
        )

    def finish(self, unit: Unit) -> None:
        """The unit needs no further turn."""
        del self._waiting[key_of(unit)][unit.name]

    def waiting(self) -> list[Unit]:
        """Units that are not finished."""
        return [unit for units in self._waiting.values() for unit in units.values()]

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.timing.clock() - self.timing.started

    def seconds_left(self) -> float | None:
        """Seconds that the rest takes, at most what is left of the budget; None where it is unknown."""
        now, waiting = self.timing.clock(), any(self._waiting.values())
        if not waiting or now - self._left[0] >= SUMMED * self.elapsed():  # a sum over all units is long
            self._left = now, sum(self.seconds_of(key_of(unit), self._rows_of(unit)) for unit in self.waiting())
        seconds = max(self._left[1] - (now - self._left[0]), 0.0) if waiting else 0.0
        rest = max(self.timing.deadline - self.timing.clock(), 0.0)
        if math.isnan(self._left[1]):
            return rest if self.timing.limited else None
        return min(seconds, rest)

    def seconds_of(self, key: Key, rows: int) -> float:
        """Seconds of so many inputs, as the probe foretold and corrected by what was measured since; NaN if unknown."""
        if rows == 0:
            return 0.0
        foretold = self._foretold(key, rows)
        if math.isnan(foretold):
            return self._measured[key].last * rows
        return foretold * self._correction(key)

    def _correction(self, key: Key) -> float:
        """Time of work in units of what was foretold: of this method and norm, else of the method, else of all."""
        known = {other: each for other, each in self._measured.items() if each.rows and each.foretold > 0}
        same = [each for other, each in known.items() if other[0] == key[0]]
        nearest = [known[key]] if key in known else same or list(known.values())
        if not nearest:
            return 1.0
        return sum(each.seconds for each in nearest) / sum(each.foretold for each in nearest)

    def _foretold(self, key: Key, rows: int) -> float:
        cost = self._costs.get(key)
        return math.nan if cost is None or not cost.measured else max(cost.seconds_of(rows), 1e-9)

    def _price(self, key: Key) -> tuple[float, int, bool]:
        """Seconds of all units of a method and norm; of those that nobody knows, what is mostly cheap comes first."""
        units = list(self._waiting[key].values())
        seconds = sum(self.seconds_of(key, self._rows_of(unit)) for unit in units)
        return (math.inf if math.isnan(seconds) else seconds), *cheap_first(units[0].method, key[1])


def key_of(unit: Unit) -> Key:
    """The method and norm of a unit."""
    return unit.method.name, unit.norm
