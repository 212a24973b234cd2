"""The work of an evaluation: its plan, and the units one after the other."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from bounds.errors import BoundsError
from bounds.sets.orders import order_of
from certify.durations import in_words
from certify.evaluation.arguments import Asked
from certify.evaluation.budget.costs import UNIT_SECONDS, Cost, CostEstimate, Key
from certify.evaluation.budget.operations import unit_sizes_of
from certify.evaluation.budget.schedule import Schedule, Timing, key_of
from certify.evaluation.budget.thrift import Ledger
from certify.evaluation.callbacks import FinishedUnit
from certify.evaluation.checkpoints import Checkpoints
from certify.evaluation.left_out import NOT_SERVED, OUT_OF_BUDGET, is_left_out
from certify.evaluation.storage.manifest import manifest_of
from certify.evaluation.storage.run_directory import RunDirectory
from certify.evaluation.summaries.groups import Group, with_groups
from certify.evaluation.units import (
    Found,
    Unit,
    UnitOutcome,
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
HELD = 2**26  # bytes of the tensors of a run that are held in memory besides the disk, at most
OF_TENSORS = 0.1  # of the memory of an evaluation, for these
PARTS = 20  # units of work in a budget, at least: the last one may miss its time by as much as it takes


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
        """Units of a size that the model and the methods decide, and the memory; with a budget, also the clock.

        Without a budget, results have the same bits however fast the machine was when it was probed.

        Args:
            task: the problem and the methods.
            costs: what a probe measured.
            known: sizes of the units of the run that is continued, which stay.
            budget: seconds.
        """
        measured = {} if costs is None or math.isinf(budget) else costs.sizes(min(UNIT_SECONDS, budget / PARTS))
        whole = unit_sizes_of(task.choice.methods, task.problem.model, task.problem.x[:1])
        fit = {
            method.name: min(measured.get(method.name, whole[method.name]), whole[method.name])
            for method in task.choice.methods
            if method.divisible
        }
        allowed = {name: min(fit.get(name, whole[name]), size) for name, size in task.allowance.unit_sizes.items()}
        sizes = dict(whole) | fit | allowed | {name: size for name, size in (known or {}).items() if name in whole}
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


Compute = Callable[[Sequence[Unit]], Iterator[tuple[Unit, Found]]]


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
        self._thrifty = timing.limited  # what a method states must not depend on who is asked before
        self._seconds: dict[str, float] = defaultdict(float)  # of units that have begun
        self._held = 0  # bytes of tensors
        self._checkpoints = Checkpoints(None)
        self._ledger = Ledger(self._base, task.problem.y.tolist(), task.problem.first_index)
        names = {unit.name for unit in plan.units}
        self._stored = [name for name, record in records.items() if name in names and not is_left_out(record)]
        for name in self._stored:
            self._note(records[name])
        self._parts: dict[str, dict[int, UnitOutcome]] = defaultdict(dict)  # of units, by the place of their first row
        self._schedule = Schedule(
            [unit for unit in plan.units if unit.name not in self._stored],
            self._costs,
            timing,
            thrifty=self._thrifty,
            rows_of=lambda unit: len(self._open(unit)),
            gain=self._gain,
        )

    def finished(
        self, members: Sequence[Group] | None, run: RunDirectory | None, compute: Compute | None = None
    ) -> Generator[FinishedUnit, None, None]:
        """Every unit once it is stored: those of an earlier run, those that are done now, those that are left out.

        Args:
            members: groups of inputs.
            run: where units are stored; None for nowhere.
            compute: gives units and their results as they are done elsewhere; None to run them here.
        """
        done, first = 0, self._task.problem.first_index
        self._checkpoints = Checkpoints(run, self._stored)
        for unit in self.plan.units:
            if unit.name in self._stored:
                done += 1
                yield self._told(unit.name, done, restored=True)
        for unit, (found, tensors) in self._here() if compute is None else self._there(compute):
            record, before = with_groups(found, members, first), self.records.get(unit.name)
            if before is None or _missing(record) < _missing(before):  # else an earlier run knew as much
                self.records[unit.name], self.tensors[unit.name] = record, tensors
                self._note(record)
                if run is not None:
                    self._store(run, record, tensors)
            done += 1
            yield self._told(unit.name, done, restored=False)

    def _store(self, run: RunDirectory, record: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Append a unit to the run; of a large one, let go of its tensors, which the disk has now."""
        run.append(record, tensors)
        self._checkpoints.drop(record["unit"])
        self._held += sum(value.nbytes for value in tensors.values())
        memory = self._task.problem.memory
        if self._held > (HELD if memory is None else min(HELD, memory * OF_TENSORS)):
            self.tensors[record["unit"]] = run.tensors(record["unit"], mapped=True)

    def _here(self) -> Iterator[tuple[Unit, Found]]:
        for unit, outcome in self._outcomes():
            seconds = self._seconds.pop(unit.name, 0.0)
            yield unit, (record_of(unit, self._task.problem, self._base, outcome, seconds), outcome.tensors)

    def _there(self, compute: Compute) -> Iterator[tuple[Unit, Found]]:
        clock = self._schedule.timing.clock
        before = clock()
        for unit, found in compute(self._schedule.waiting()):
            now = clock()
            self._schedule.ran(unit, unit.rows.stop - unit.rows.start, now - before)  # several run at once
            self._schedule.finish(unit)
            before = now
            yield unit, found

    def _outcomes(self) -> Iterator[tuple[Unit, UnitOutcome]]:
        """Units as they come to their end, with their outcomes for all rows."""
        for unit, until in self._schedule:
            refusal = self._refusal(unit) or self._advance(unit, until)
            if refusal is not None or not self._open(unit):
                self._schedule.finish(unit)
                yield unit, refusal or self._whole(unit)
        for unit in self._schedule.waiting():
            self._schedule.finish(unit)
            yield unit, self._whole(unit)

    def _refusal(self, unit: Unit) -> UnitOutcome | None:
        """The outcome for a method that the probe could not run, or would not; None for others."""
        cost = self._costs.get(key_of(unit))
        if cost is None or not cost.status:
            return None
        return without_result(unit, Promise(kind=cost.status), cost.status, cost.reason)

    def _advance(self, unit: Unit, until: float) -> UnitOutcome | None:
        """Run inputs of a unit as far as the time goes; what is written instead where the method cannot."""
        clock = self._schedule.timing.clock
        try:
            while places := self._open(unit):
                rows = self._schedule.rows_within(unit, len(places), until)
                if rows == 0:
                    break
                started = clock()
                for part in _runs(places[:rows]):
                    with self._checkpoints.of(unit) as before:
                        found = outcome_of(unit.method, self._task.problem, part, unit.norm, self._task.norms)
                    self._seconds[unit.name] += before
                    self._parts[unit.name][part.start] = found
                    self._promises.setdefault(key_of(unit), found.promise)
                seconds = clock() - started
                self._seconds[unit.name] += seconds
                self._schedule.ran(unit, rows, seconds)
        except BoundsError as error:
            if not refused(error, unit.method.name in self._task.choice.lenient):
                raise
            return without_result(unit, Promise(kind="unsupported"), "unsupported", str(error))
        return None

    def _whole(self, unit: Unit) -> UnitOutcome:
        """The outcome of all rows of a unit: those that were run, those that need not be, and those left out."""
        parts, settled = self._parts.pop(unit.name, {}), self._settled(unit)
        promise = self._promises.get(key_of(unit), Promise(kind=LEFT_OUT))
        if parts:
            promise = next(iter(parts.values())).promise
        found, place = [], unit.rows.start
        while place < unit.rows.stop:
            if place in parts:
                found.append(parts[place])
            elif place in settled:
                found.append(UnitOutcome(promise, [settled[place]], {}))
            else:
                found.append(without_result(unit, promise, LEFT_OUT, OUT_OF_BUDGET, rows=1))
            place += len(found[-1].details)
        return joined(self._with_tensors(found, unit.rows))

    def _with_tensors(self, parts: list[UnitOutcome], rows: slice) -> list[UnitOutcome]:
        """The parts; those without the tensors that others have get the clean inputs and logits in their place."""
        drawn = next((part.tensors for part in parts if "right" in part.tensors), None)
        if drawn is not None:  # of rows that were left out, nothing is right, at no distance
            own = {"right": torch.zeros_like(drawn["right"][:1]), "distance": drawn["distance"][:1] * math.nan}
            return [part._replace(tensors=part.tensors or own) for part in parts]
        if not any("clean" in part.tensors for part in parts):
            return parts
        place, found = rows.start, []
        for part in parts:
            here = slice(place, place + len(part.details))
            clean, logits = self._task.problem.x[here].cpu(), self._task.logits[here].cpu()
            own = {"clean": clean, "adversarial": clean, "logits": logits, "adversarial_logits": logits}
            found.append(part._replace(tensors=part.tensors or own))
            place += len(part.details)
        return found

    def _settled(self, unit: Unit) -> dict[int, dict[str, Any]]:
        if not self._thrifty:
            return {}
        return self._ledger.settled(unit.method, self._promises.get(key_of(unit)), unit.norm, unit.rows)

    def _open(self, unit: Unit) -> list[int]:
        """Places of the rows that have to be run."""
        cost = self._costs.get(key_of(unit))
        if cost is not None and cost.status:
            return []
        closed = set(self._settled(unit))
        for start, part in self._parts[unit.name].items():
            closed.update(range(start, start + len(part.details)))
        return [place for place in range(unit.rows.start, unit.rows.stop) if place not in closed]

    def _gain(self, unit: Unit) -> float:
        """The part of the distances in a unit that is open, for certificates; 0 for all others."""
        promise = self._promises.get(key_of(unit))
        if promise is None or promise.kind != "certificate" or promise.subject != "base":
            return 0.0
        places = range(unit.rows.start, unit.rows.stop)
        return sum(self._ledger.open_share(unit.norm, place, promise.arithmetic) for place in places)

    def _note(self, record: Mapping[str, Any]) -> None:
        self._ledger.note(record)
        if record["kind"] not in ("unsupported", LEFT_OUT) and record.get("promise"):
            self._promises.setdefault((record["method"], order_of(record["norm"])), Promise(**record["promise"]))

    def _told(self, name: str, done: int, *, restored: bool) -> FinishedUnit:
        elapsed, left = self._schedule.elapsed(), self._schedule.seconds_left()
        if not restored:
            rest = "" if left is None else f", about {in_words(left)} left"
            LOGGER.info("[%d/%d] %s: %s done%s", done, len(self.plan.units), name, in_words(elapsed), rest)
        return FinishedUnit.of(self.records[name], done, len(self.plan.units), restored, elapsed, left)


def _missing(record: Mapping[str, Any]) -> int:
    return sum(row["status"] == LEFT_OUT for row in record["rows"])


def _runs(places: Sequence[int]) -> list[slice]:
    """Places in order as slices of consecutive ones."""
    parts: list[slice] = []
    for place in places:
        if parts and parts[-1].stop == place:
            parts[-1] = slice(parts[-1].start, place + 1)
        else:
            parts.append(slice(place, place + 1))
    return parts
