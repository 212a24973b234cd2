"""Costs of an evaluation: seconds, passes and memory of each method in each norm."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bounds.sets.orders import Order
from certify.durations import in_words
from certify.promises import Promise
from certify.report import norm_name
from certify.sizes import size_in_words

if TYPE_CHECKING:
    import pandas as pd

UNIT_SECONDS = 30.0  # of work that a kill may lose

Key = tuple[str, Order]  # the name of a method, and a norm


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one method in one norm.

    Attributes:
        method: its name.
        norm: order of the norm.
        inputs: that the evaluation has.
        probed: inputs that were measured; 0 where the numbers are those of another norm, or there are none.
        fixed: seconds of a unit of work, whatever its size; NaN where nothing was measured.
        per_input: seconds of each input.
        rows_per_unit: inputs of a unit of work.
        forward_passes: of the model, of each input. Bounds walk through the network in their own way, and run the
            model itself only for its prediction.
        backward_passes: gradients of the model, of each input.
        peak_memory: bytes that a unit holds at its peak; None where that cannot be told.
        promise: of its results; None where there are none.
        status: ``""``, ``"unsupported"`` or ``"left out"``.
        reason: why it is left out.
    """

    method: str
    norm: Order
    inputs: int
    probed: int = 0
    fixed: float = math.nan
    per_input: float = math.nan
    rows_per_unit: int = 1
    forward_passes: float = math.nan
    backward_passes: float = math.nan
    peak_memory: int | None = None
    promise: Promise | None = None
    status: str = ""
    reason: str = ""

    @property
    def key(self) -> Key:
        """The method and the norm."""
        return self.method, self.norm

    @property
    def measured(self) -> bool:
        """Whether the method is to be run, and its time is known."""
        return not self.status and not math.isnan(self.per_input)

    def seconds_of(self, rows: int) -> float:
        """Seconds of one unit of so many inputs."""
        return self.fixed + rows * self.per_input if rows else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of all inputs; 0 where the method is left out, NaN where it was not measured."""
        units = math.ceil(self.inputs / self.rows_per_unit)
        return 0.0 if self.status else units * self.fixed + self.inputs * self.per_input


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """Costs of an evaluation by method and norm, measured on a few inputs; see :func:`certify.estimate_cost`.

    Attributes:
        costs: one for each method in each norm.
        probe_seconds: that the measurement took.
    """

    costs: tuple[Cost, ...]
    probe_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of everything that was measured."""
        return sum(cost.seconds for cost in self.costs if not math.isnan(cost.seconds))

    def sizes(self, seconds: float = UNIT_SECONDS) -> dict[str, int]:
        """Inputs of a unit by the name of the method, so that none takes longer, but for single inputs that do."""
        found: dict[str, int] = {}
        for cost in self.costs:
            slow = cost.per_input > 0 and cost.seconds_of(cost.rows_per_unit) > seconds
            fit = max(1, int((seconds - cost.fixed) / cost.per_input)) if slow else cost.rows_per_unit
            found[cost.method] = min(fit, found.get(cost.method, fit))
        return found

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per method and norm.

        Columns method, norm, inputs, probed, seconds (of all inputs), seconds_per_input, forward_passes,
        backward_passes (of all inputs), peak_memory (bytes), status and reason.
        """
        import pandas as pd

        columns = ["method", "norm", "inputs", "probed", "seconds", "seconds_per_input"]
        columns += ["forward_passes", "backward_passes", "peak_memory", "status", "reason"]
        rows = [
            [cost.method, cost.norm, cost.inputs, cost.probed, cost.seconds, cost.seconds / cost.inputs]
            + [0.0 if cost.status else passes * cost.inputs for passes in (cost.forward_passes, cost.backward_passes)]
            + [math.nan if cost.peak_memory is None else float(cost.peak_memory), cost.status, cost.reason]
            for cost in self.costs
        ]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        """A table for readers."""
        import pandas as pd

        measured = [cost for cost in self.costs if cost.measured]
        shown = pd.DataFrame(
            {
                "method": [cost.method for cost in measured],
                "norm": [norm_name(cost.norm) for cost in measured],
                "inputs": [cost.inputs for cost in measured],
                "time": [in_words(cost.seconds) for cost in measured],
                "per input": [in_words(cost.seconds / cost.inputs) for cost in measured],
                "forward passes": [_count(cost.forward_passes * cost.inputs) for cost in measured],
                "backward passes": [_count(cost.backward_passes * cost.inputs) for cost in measured],
                "peak memory": [
                    "-" if cost.peak_memory is None else size_in_words(cost.peak_memory) for cost in measured
                ],
            }
        )
        probed = max((cost.probed for cost in self.costs), default=0)
        total = (
            f"about {in_words(self.seconds)} in all, by a probe of {probed} inputs in {in_words(self.probe_seconds)}"
        )
        table = shown.to_string(index=False) if measured else "nothing was measured"
        apart = [f"{cost.method} in {norm_name(cost.norm)}: {cost.reason}" for cost in self.costs if cost.reason]
        return "\n".join([table, total, *apart])


def _count(number: float) -> str:
    return "unknown" if math.isnan(number) else f"{number:,.0f}"
