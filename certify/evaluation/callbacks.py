"""Word of each finished unit of an evaluation, for progress, logs and trackers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bounds.sets.orders import Order, order_of


@dataclass(frozen=True, eq=False, kw_only=True)
class FinishedUnit:
    """A unit of work of an evaluation that is done: some inputs, one method, one norm.

    Attributes:
        name: of the unit.
        method: its name.
        norm: order of the norm, or the name of a set of perturbations.
        kind: ``"certificate"``, ``"estimate"``, ``"witness"``, ``"noise"``, ``"unsupported"`` or ``"left out"``.
        rows: one mapping per input, in plain numbers, as the run stores them.
        seconds: that it took.
        done: units done so far, with this one.
        units: units in all.
        restored: whether an earlier run had stored it, so that nothing was computed.
        elapsed: seconds since the evaluation began.
        seconds_left: that the rest takes, weighed by the measured costs of methods, and at most what is left of a
            budget; None as long as the cost of a method that is still to come is unknown.
    """

    name: str
    method: str
    norm: Order
    kind: str
    rows: Sequence[Mapping[str, Any]]
    seconds: float
    done: int
    units: int
    restored: bool
    elapsed: float = 0.0
    seconds_left: float | None = None

    @classmethod
    def of(
        cls,
        record: Mapping[str, Any],
        done: int,
        units: int,
        restored: bool,
        elapsed: float = 0.0,
        seconds_left: float | None = None,
    ) -> Self:
        """The unit of a record."""
        shared = {name: record[name] for name in ("method", "kind", "rows", "seconds")}
        name, norm = record["unit"], order_of(record["norm"])
        return cls(
            name=name,
            norm=norm,
            done=done,
            units=units,
            restored=restored,
            elapsed=elapsed,
            seconds_left=seconds_left,
            **shared,
        )


Callback = Callable[[FinishedUnit], None]
