"""The order of work, the time that is left, and what a budget allows."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from certify.evaluation.costs import Cost, Key
from certify.evaluation.meter import Clock
from certify.evaluation.units import Unit


class Schedule:
    """Units that are still to be done, and how long they take.

    Without a budget they keep their order. With one, methods come from cheap to dear. Each may spend an equal share of
    what is left, and what it does not need goes to those after it. So every method gets some inputs, and the dearest
    lose most. What did not fit into its share is tried again at the end, when all that is left may be spent.

    Args:
        units: to be done, in order.
        costs: by method and norm, as a probe measured them.
        clock: seconds.
        started: the moment from which the budget counts.
        budget: seconds; infinite for none.
        rows_of: inputs of a unit that will have to be run.
        gain: what running a unit may narrow; the units of one method come in falling order of it.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        costs: Mapping[Key, Cost],
        clock: Clock,
        *,
        started: float,
        budget: float = math.inf,
        rows_of: Callable[[Unit], int] = lambda unit: unit.rows.stop - unit.rows.start,
        gain: Callable[[Unit], float] = lambda unit: 0.0,
    ) -> None:
        self.clock, self.started, self.deadline = clock, started, started + budget
        self._costs, self._rows_of, self._gain = costs, rows_of, gain
        self._waiting: dict[Key, list[Unit]] = defaultdict(list)
        for unit in units:
            self._waiting[key_of(unit)].append(unit)
        self._order = [unit.name for unit in units]
        self._seen: dict[Key, tuple[float, float, int]] = {}  # seconds measured and foretold, rows
        self.left_out: list[Unit] = []

    def __iter__(self) -> Iterator[Unit]:
        """Units to be done now; :meth:`done` must be told of each. At the end, ``left_out`` has the others."""
        if math.isinf(self.deadline):
            for key in list(self._waiting):
                yield from self._all(key, math.inf)
            return
        for last in (False, True):
            keys = sorted((key for key, units in self._waiting.items() if units), key=self._price)
            for i, key in enumerate(keys):
                now = self.clock()
                share = self.deadline - now if last else (self.deadline - now) / (len(keys) - i)
                yield from self._all(key, now + share)
        self.left_out = sorted(
            (unit for units in self._waiting.values() for unit in units), key=lambda unit: self._order.index(unit.name)
        )
        self._waiting.clear()

    def done(self, unit: Unit, rows: int, seconds: float) -> None:
        """A unit is done, of which so many rows were run."""
        key = key_of(unit)
        self._waiting[key].remove(unit)
        foretold = self._foretold(key, rows)
        before = self._seen.get(key, (0.0, 0.0, 0))
        self._seen[key] = before[0] + seconds, before[1] + foretold, before[2] + rows

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def seconds_left(self) -> float | None:
        """Seconds that the rest takes, at most what is left of the budget; None where it is unknown."""
        seconds = sum(self._seconds(unit) for units in self._waiting.values() for unit in units)
        left = min(seconds, max(self.deadline - self.clock(), 0.0))
        return None if math.isnan(seconds) and math.isinf(self.deadline) else left if not math.isnan(left) else None

    def _all(self, key: Key, until: float) -> Iterator[Unit]:
        """The units of a method and norm that fit into the time."""
        units: Iterable[Unit] = list(self._waiting[key])
        if not math.isinf(self.deadline):
            units = sorted(units, key=lambda unit: -self._gain(unit))  # which keeps the order of equals
        for unit in units:
            seconds = self._seconds(unit)
            if math.isinf(until) or self.clock() + seconds <= until:  # False where nothing is known
                yield unit

    def _seconds(self, unit: Unit) -> float:
        """Seconds of a unit, as foretold by the probe and corrected by what was measured since; NaN if unknown."""
        key, rows = key_of(unit), self._rows_of(unit)
        if rows == 0:
            return 0.0
        measured, foretold, seen = self._seen.get(key, (0.0, 0.0, 0))
        mine = self._foretold(key, rows)
        if not seen:
            return mine
        return measured / seen * rows if math.isnan(mine) or foretold <= 0 else mine * measured / foretold

    def _foretold(self, key: Key, rows: int) -> float:
        cost = self._costs.get(key)
        return math.nan if cost is None else cost.seconds_of(rows)

    def _price(self, key: Key) -> float:
        """Seconds of all units of a method and norm; those that nobody knows come last."""
        seconds = sum(self._seconds(unit) for unit in self._waiting[key])
        return math.inf if math.isnan(seconds) else seconds


def key_of(unit: Unit) -> Key:
    """The method and norm of a unit."""
    return unit.method.name, unit.norm
