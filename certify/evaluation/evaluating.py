"""The evaluation itself: its arguments are checked, its work is planned, run, and put together."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.sets.orders import Order
from certify.distribution.engines import Engine
from certify.distribution.shards import Shard
from certify.durations import seconds_of
from certify.evaluation.arguments import asked_evaluation
from certify.evaluation.benches import engine_of, run_elsewhere
from certify.evaluation.budget.costs import CostEstimate
from certify.evaluation.budget.known import known_batches, known_sizes
from certify.evaluation.budget.meter import Clock
from certify.evaluation.budget.probe import LEAST_BUDGET, PROBE_SHARE, Asking, probe_costs
from certify.evaluation.budget.row_memory import rows_of_passes
from certify.evaluation.budget.schedule import Timing
from certify.evaluation.callbacks import Callback
from certify.evaluation.evaluation import Evaluation, stored_results
from certify.evaluation.labelled import Inputs
from certify.evaluation.storage.run_directory import RunDirectory
from certify.evaluation.summaries.cross_sections import (
    bytes_of_planes,
    inputs_with_planes,
    planes_of,
    read_planes,
    write_planes,
)
from certify.evaluation.summaries.groups import Groups, digest_of_groups, stated_groups
from certify.evaluation.work import Plan, Work
from certify.methods import STANDARD, Problem
from certify.methods.sets.kinds import Changes, Transformations
from certify.models import probed_once
from certify.report.inputs.planes import CROSS_SECTIONS, Plane
from certify.sizes import bytes_of

Progress = Callable[[str, int, int], None]  # name of the unit just finished, units done, units in all


@isolated
def evaluate(
    model: nn.Module,
    x: Inputs,
    labels: Tensor | None = None,
    *,
    norms: Sequence[float] | float = (2, math.inf),
    transformations: Transformations = (),
    changes: Changes = (),
    methods: Asking = STANDARD,
    low: Limit = 0.0,
    high: Limit = 1.0,
    seed: int = 0,
    batch_size: int = 1000,
    first_index: int = 0,
    on_grid: bool | None = None,
    output: Path | str | None = None,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    groups: Groups | None = None,
    callback: Callback | None = None,
    classes: Sequence[str] = (),
    budget: str | float | None = None,
    costs: CostEstimate | None = None,
    clock: Clock = time.perf_counter,
    features: Sequence[str] = (),
    cross_sections: int = CROSS_SECTIONS,
    shard: Shard | str | None = None,
    engine: Engine | str | None = None,
    memory: str | int | None = None,
) -> Evaluation:
    """Run every method on the same inputs, in every norm and for every set of perturbations it serves.

    Certificates of the model itself and of the smoothed classifier, estimates if :class:`certify.methods.Clever` is
    asked for, and re-checked adversarial examples of the model, each in its own rows. A method that cannot treat the
    model gives rows of status ``"unsupported"``; the others go on.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row.
        x: (N, *D), floating, finite, inside the box; or a ``Dataset`` or ``DataLoader`` of torch, see
            :func:`certify.collect`.
        labels: (N,) correct classes. None for those of a data set or loader, and for the predictions of the model
            where ``x`` is a tensor: then all results are about these, and nothing counts as misclassified.
        norms: orders of norms, at least 1, or one of them; 0 counts changed entries. With
            transformations or changes, also none.
        transformations: of :mod:`certify.semantic` with their ranges, or with noise on top as
            :class:`certify.semantic.TransformationSet`; several or one. Each stands in the place of a norm, and radii
            and distances are in its unit. Where no method for them is named, all of them run with their defaults.
        changes: features or words that may change, and how many of them: :class:`certify.ChangedFeatures` or
            :class:`certify.ChangedWords`, several or one. They stand in the place of a norm likewise, and radii and
            distances are numbers of changes. The box bounds the inputs, and not what features change to.
        methods: settings from :mod:`certify.methods`, or names of methods for their defaults, several or one; by
            default smoothing, interval bounds and the minimum-norm attack. Or one of the presets ``"quick"``,
            ``"standard"`` and ``"thorough"``, which hold methods of every kind, alone or with settings that replace
            those of the same name. Of a preset, what cannot be done for the model or a norm is left out.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        seed: run seed of all random draws.
        batch_size: rows of a forward pass, at most.
        first_index: place of the first input in its data set, where ``x`` is a part of one. The noise of an input
            is that of its place, so that parts together give the votes of the whole. Searches share draws within
            units of work, at most 100 inputs: parts that are cut at multiples of 100 give the whole run, row by row.
        on_grid: whether all inputs of the whole data set are 8-bit, which decides how noise is drawn. None asks
            the inputs at hand, so say it where they are a part.
        output: run directory. Every finished unit of work is stored at once; if the directory holds a part of
            the same run, only the rest is computed.
        source: where model and data came from, for the manifest.
        progress: called after every unit.
        groups: the group of each input, whole numbers or texts (N,), or ``"label"`` for the classes. Groups determine
            no result; they stand in the rows, for :meth:`Evaluation.by_group`, page and exports.
        callback: called with every finished unit, also with those that ``output`` held already, once it is stored; see
            :class:`certify.FinishedUnit`. An exception ends the evaluation; with ``output`` it can be continued.
        classes: names of the classes in the order of their labels, for the page; empty if they have none.
        budget: time for everything from this call on, such as ``"30m"`` or ``"1h30m"``, or in seconds. Cheap methods
            come first, inputs whose certificate meets a witness are not run again, and what does not fit has rows of
            status ``"left out"``. With ``output``, a later call goes on with these.
        costs: as :func:`certify.estimate_cost` measured them for the same arguments. None measures them where a budget
            or a preset needs them. With a budget they also limit the time of a unit of work.
        clock: seconds since any moment, by which time and budget are counted.
        features: names of the entries of an input in their order, likewise.
        cross_sections: number of inputs through which the page shows a plane with the classes of the model, at most;
            each takes 1681 rows of forward passes, at the end, and an adversarial example. It changes no result.
        shard: ``"i/n"`` for one of n parts of the units, such as ``"2/8"``, with all inputs given to each;
            :func:`certify.merge` puts the parts together.
        engine: where units run: an engine of :mod:`certify.distribution`, or ``"processes"`` or ``"ray"`` for its
            defaults. None for this process. It changes no result; units are stored as they are done.
        memory: what the work may take besides the model, the inputs given as a tensor, and what the process held
            before, such as ``"4GB"``, or in bytes. Batches and units are cut to fit, by what a row is counted to take:
            ``batch_size`` is then a most. Each worker of an engine has as much. None for no limit.

    Raises:
        InvalidInput: a bad argument; a memory into which a method does not fit with a single input.
        InvalidModel: see :func:`certify.models.probe`.
        ManifestMismatch: ``output`` holds another run.
        InvalidConfiguration: ``output`` cannot be written.
    """
    checks.at_least("cross_sections", cross_sections, 0)
    started, most = clock(), math.inf if budget is None else seconds_of("budget", budget)
    part, elsewhere = Shard.of(shard), engine_of(engine)
    if budget is not None and not (part.whole and elsewhere is None):
        raise InvalidInput(
            f"budget must be None with a shard or an engine: one process keeps the time, got {budget!r}, so leave it "
            "out, or run in one process"
        )
    with probed_once():
        allowed = None if memory is None else bytes_of("memory", memory)
        asked = (model, x, labels, norms, methods, (low, high), seed, batch_size, first_index, on_grid)
        sets = {"transformations": transformations, "changes": changes}
        task = asked_evaluation(*asked, allowed, known_batches(output, allowed), sets)
        members = stated_groups(groups, task.problem.y, len(task.problem.x))
        if not part.whole:
            costs = None  # by which methods may be left out, in one shard and not in another
        elif costs is None and (budget is not None or task.choice.preset) and most >= LEAST_BUDGET:
            costs = probe_costs(task, clock, PROBE_SHARE * most, output)
        told = ({} if budget is None else {"budget": budget}) | dict(source or {})
        plan = Plan.of(task, costs, known_sizes(output), most)
        manifest = plan.manifest(told) | digest_of_groups(members) | ({} if part.whole else {"shard": str(part)})
        named = {"classes": classes, "features": features}
        manifest |= {key: [str(name) for name in names] for key, names in named.items() if names}
        plan = replace(plan, units=part.part(plan.units))
        run = None if output is None else RunDirectory.open(output, manifest)
        stored, tensors = ([], {}) if run is None else stored_results(run)
        work = Work(plan, Timing(clock, started, most), costs, {record["unit"]: record for record in stored}, tensors)
        stated = {key: manifest[key] for key in ("versions", "device", "weights_sha256")}
        compute = None if elsewhere is None else partial(run_elsewhere, task=task, stated=stated, engine=elsewhere)
        with closing(work.finished(members, run, compute)) as finished:  # which ends the workers, whatever happens
            for unit in finished:
                if progress is not None:
                    progress(unit.name, unit.done, unit.units)
                if callback is not None:
                    callback(unit)
        records = [work.records[unit.name] for unit in plan.units if unit.name in work.records]
        evaluation = Evaluation(manifest if run is None else run.manifest, records, tensors)
        count = cross_sections if part.whole else 0
        return replace(evaluation, planes=_planes(evaluation, task.problem, task.norms, count, run))


def _planes(
    evaluation: Evaluation, problem: Problem, norms: Sequence[Order], count: int, run: RunDirectory | None
) -> list[Plane]:
    """Cross sections through so many inputs, those that the run holds already or new ones."""
    indices = inputs_with_planes(evaluation.records, evaluation.tensors, count)
    planes = [] if run is None else read_planes(run.path)
    if [plane.index for plane in planes] != indices:
        rows = rows_of_passes(problem.model, problem.x, problem.batch_size, problem.memory, bytes_of_planes(problem))
        planes = planes_of(replace(problem, batch_size=rows), evaluation.records, evaluation.tensors, norms, indices)
        if run is not None:
            write_planes(run.path, planes)
    return planes
