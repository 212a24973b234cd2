"""The work of an evaluation: its plan, and the units one after the other."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor

from bounds.errors import BoundsError
from certify.durations import in_words
from certify.evaluation.arguments import Asked
from certify.evaluation.callbacks import FinishedUnit
from certify.evaluation.costs import UNIT_SECONDS, Cost, CostEstimate, Key
from certify.evaluation.groups import Group, with_groups
from certify.evaluation.left_out import NOT_SERVED, OUT_OF_BUDGET, is_left_out
from certify.evaluation.manifest import manifest_of
from certify.evaluation.meter import Clock
from certify.evaluation.run_directory import RunDirectory
from certify.evaluation.schedule import Schedule, key_of
from certify.evaluation.thrift import Ledger
from certify.evaluation.units import (
    Outcome,
    Unit,
    joined,
    outcome_of,
    record_of,
    refused,
    units_of,
    without_result,
)
from certify.promises import Promise
from certify.report.columns import LEFT_OUT

LOGGER = logging.getLogger("certify")
PARTS = 20  # units of work in a budget, at least: the last one may miss its time by as much as it takes


class Timing(NamedTuple):
    """The clock, the moment of the start, and the seconds that may be spent."""

    clock: Clock
    started: float
    budget: float


@dataclass(frozen=True)
class Plan:
    """Units of work of what is asked for.

    Attributes:
        task: the problem and the methods.
        sizes: inputs of a unit, by the name of the method.
        units: in order.
    """

    task: Asked
    sizes: Mapping[str, int]
    units: Sequence[Unit]

    @classmethod
    def of(cls, task: Asked, costs: CostEstimate | None, known: Mapping[str, int] | None, budget: float) -> Self:
        """Units that take half a minute at most, or a small part of the budget.

        Args:
            task: the problem and the methods.
            costs: what a probe measured.
            known: sizes of the units of the run that is continued, which stay.
            budget: seconds.
        """
        measured = {} if costs is None else costs.sizes(min(UNIT_SECONDS, budget / PARTS))
        whole = {method.name: method.rows_per_unit for method in task.choice.methods}
        fit = {
            method.name: min(measured.get(method.name, whole[method.name]), whole[method.name])
            for method in task.choice.methods
            if method.divisible
        }
        sizes = whole | fit | {name: size for name, size in (known or {}).items() if name in whole}
        problem = task.problem
        units = units_of(task.choice.methods, task.norms, len(problem.x), problem.first_index, sizes)
        return cls(task, sizes, units)

    def manifest(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a run of this plan."""
        task = self.task
        found = manifest_of(
            task.problem, task.logits, task.choice.methods, task.norms, len(self.units), self.sizes, source
        )
        if task.choice.preset:
            found["configuration"] |= {"preset": task.choice.preset, NOT_SERVED: list(task.choice.notes)}
        return found


def known_sizes(output: Path | str) -> dict[str, int] | None:
    """Sizes of the units of the run in a directory, by the name of the method; None if there is no run."""
    if not (Path(output) / "manifest.json").exists():
        return None
    plan = RunDirectory.read(output).manifest["configuration"].get("plan") or {}
    return {name: int(part["rows_per_unit"]) for name, part in plan.items()}


class Work:
    """Units one after the other; ``records`` and ``tensors`` hold what is done.

    Args:
        plan: the units.
        timing: clock and budget.
        costs: what a probe measured; None without one.
        records: of an earlier run, by unit.
        tensors: likewise.
    """

    def __init__(
        self,
        plan: Plan,
        timing: Timing,
        costs: CostEstimate | None,
        records: dict[str, dict[str, Any]],
        tensors: dict[str, dict[str, Tensor]],
    ) -> None:
        self.plan, self.records, self.tensors = plan, records, tensors
        task = plan.task
        self._task, self._base = task, task.base
        self._costs: dict[Key, Cost] = {} if costs is None else {cost.key: cost for cost in costs.costs}
        self._promises = {key: cost.promise for key, cost in self._costs.items() if cost.promise is not None}
        self._thrifty = math.isfinite(timing.budget) or bool(task.choice.preset)
        self._ledger = Ledger(self._base, task.problem.y.tolist(), task.problem.first_index)
        names = {unit.name for unit in plan.units}
        self._stored = [name for name, record in records.items() if name in names and not is_left_out(record)]
        for name in self._stored:
            self._note(records[name])
        self._schedule = Schedule(
            [unit for unit in plan.units if unit.name not in self._stored],
            self._costs,
            timing.clock,
            started=timing.started,
            budget=timing.budget,
            rows_of=lambda unit: len(self._open(unit)),
            gain=self._gain,
        )

    def finished(self, members: Sequence[Group] | None, run: RunDirectory | None) -> Iterator[FinishedUnit]:
        """Every unit once it is stored: those of an earlier run, those that are done now, those that are left out."""
        done, total = 0, len(self.plan.units)
        first = self._task.problem.first_index

        def stored(unit: Unit, outcome: Outcome, seconds: float) -> FinishedUnit:
            record = with_groups(record_of(unit, self._task.problem, self._base, outcome, seconds), members, first)
            self.records[unit.name], self.tensors[unit.name] = record, outcome.tensors
            self._note(record)
            if run is not None:
                run.append(record, outcome.tensors)
            return self._told(unit.name, done, restored=False)

        for unit in self.plan.units:
            if unit.name in self._stored:
                done += 1
                yield self._told(unit.name, done, restored=True)
        for unit in self._schedule:
            done += 1
            rows, started = len(self._open(unit)), self._schedule.clock()
            outcome = self._outcome(unit)
            seconds = self._schedule.clock() - started
            self._schedule.done(unit, rows, seconds)
            yield stored(unit, outcome, seconds)
        for unit in self._schedule.left_out:
            done += 1
            unknown = Promise(kind=LEFT_OUT)
            reason = self._costs[key_of(unit)].reason if key_of(unit) in self._costs else ""
            reason = f"{OUT_OF_BUDGET} ({reason})" if reason else OUT_OF_BUDGET
            yield stored(unit, without_result(unit, self._promises.get(key_of(unit), unknown), LEFT_OUT, reason), 0.0)
        assert done == total

    def _outcome(self, unit: Unit) -> Outcome:
        """The outcome for all rows of a unit; rows whose answer is known are not run."""
        problem, cost = self._task.problem, self._costs.get(key_of(unit))
        if cost is not None and cost.status:
            return without_result(unit, Promise(kind=cost.status), cost.status, cost.reason)
        settled = self._settled(unit)
        try:
            return joined(
                [
                    Outcome(self._promises[key_of(unit)], [settled[part.start]], {})
                    if part.start in settled
                    else outcome_of(unit.method, problem, part, unit.norm, self._task.norms)
                    for part in _parts(unit.rows, settled)
                ]
            )
        except BoundsError as error:
            if not refused(error, unit.method.name in self._task.choice.lenient):
                raise
            return without_result(unit, Promise(kind="unsupported"), "unsupported", str(error))

    def _settled(self, unit: Unit) -> dict[int, dict[str, Any]]:
        if not self._thrifty:
            return {}
        return self._ledger.settled(unit.method, self._promises.get(key_of(unit)), unit.norm, unit.rows)

    def _open(self, unit: Unit) -> list[int]:
        """Places of the rows that have to be run."""
        cost = self._costs.get(key_of(unit))
        if cost is not None and cost.status:
            return []
        settled = self._settled(unit)
        return [place for place in range(unit.rows.start, unit.rows.stop) if place not in settled]

    def _gain(self, unit: Unit) -> float:
        """How much of the distances in a unit is open, for certificates; 0 for all others."""
        promise = self._promises.get(key_of(unit))
        if promise is None or promise.kind != "certificate" or promise.subject != "base":
            return 0.0
        places = range(unit.rows.start, unit.rows.stop)
        return sum(self._ledger.open_share(unit.norm, place, promise.arithmetic) for place in places)

    def _note(self, record: Mapping[str, Any]) -> None:
        self._ledger.note(record)
        if record["kind"] not in ("unsupported", LEFT_OUT) and record.get("promise"):
            self._promises.setdefault((record["method"], float(record["norm"])), Promise(**record["promise"]))

    def _told(self, name: str, done: int, *, restored: bool) -> FinishedUnit:
        elapsed, left = self._schedule.elapsed(), self._schedule.seconds_left()
        if not restored:
            rest = "" if left is None else f", about {in_words(left)} left"
            LOGGER.info("[%d/%d] %s: %s done%s", done, len(self.plan.units), name, in_words(elapsed), rest)
        return FinishedUnit.of(self.records[name], done, len(self.plan.units), restored, elapsed, left)


def _parts(rows: slice, settled: Mapping[int, object]) -> list[slice]:
    """The rows in runs of open ones, and each settled one by itself."""
    parts: list[slice] = []
    for place in range(rows.start, rows.stop):
        if parts and place not in settled and parts[-1].stop == place and parts[-1].start not in settled:
            parts[-1] = slice(parts[-1].start, place + 1)
        else:
            parts.append(slice(place, place + 1))
    return parts
