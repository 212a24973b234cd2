"""Units of work in other processes: what is sent there, and what is done there."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bounds.errors import InvalidInput
from bounds.sets.orders import Order
from certify.distribution.engines import Engine, Pool
from certify.distribution.parcels import can_be_sent
from certify.distribution.processes import Processes
from certify.distribution.ray import Ray
from certify.evaluation.arguments import Asked
from certify.evaluation.storage.manifest import surroundings, weights_digest
from certify.evaluation.units import Found, Unit, run_unit
from certify.methods import METHODS, Problem, Smoothing
from certify.models import probed_once
from certify.smoothing.drawing.distributions import Distribution
from certify.smoothing.drawing.division import NOISE_BLOCK, counted_by, pieces_of
from certify.smoothing.drawing.votes import Sampling, Stage

FEW = 4  # units per worker, below which draws of a unit are shared out as well


def engine_of(given: Engine | str | None) -> Engine | None:
    """The engine that a caller asks for by itself or by name.

    Raises:
        InvalidInput: no engine.
    """
    named: dict[str, Callable[[], Engine | None]] = {"here": lambda: None, "processes": Processes, "ray": Ray}
    if isinstance(given, str) and given in named:
        return named[given]()
    if given is not None and not isinstance(given, Engine):
        raise InvalidInput(
            f"engine must be one of {', '.join(named)}, or an engine such as certify.distribution.Processes(4), got "
            f"{given!r}"
        )
    return given


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench:
    """All that the units of one evaluation share, as workers hold it.

    Attributes:
        problem: with the model and without inputs, unless a method may look at all of them.
        norms: in which the distances of witnesses are stated.
        lenient: methods of a preset, see :func:`certify.evaluation.units.refused`.
        stated: what the manifest says of the versions, the device and the weights.
        make_model: makes the model on a device, where it cannot be sent.
        whole: whether the problem holds all inputs.
        known: what was looked at in this worker already.
    """

    problem: Problem
    norms: Sequence[Order]
    lenient: Collection[str]
    stated: Mapping[str, Any]
    make_model: Callable[[str], nn.Module] | None
    whole: bool
    known: dict[object, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device of this worker."""
        return self.problem.x.device

    def model(self) -> nn.Module:
        """The model, after making sure that it and this worker are those of the manifest.

        Raises:
            InvalidInput: something differs.
        """
        if "model" not in self.known:
            model = self.make_model(str(self.device)) if self.make_model else self.problem.model
            here = surroundings(self.device) | {"weights_sha256": weights_digest(model)}
            for key, value in self.stated.items():
                if here[key] != value:
                    raise InvalidInput(
                        f"engine: a worker has {key} {here[key]!r}, but the run has {value!r}: results would differ, "
                        "so give all machines the same"
                    )
            self.known["model"] = model
        found: nn.Module = self.known["model"]
        return found


class Part(NamedTuple):
    """A unit with its inputs."""

    unit: Unit
    x: Tensor
    y: Tensor
    first_index: int
    base: list[int]


class Draws(NamedTuple):
    """Votes to be counted: some draws of some inputs."""

    x: Tensor
    distribution: Distribution
    seed: int
    indices: range
    batch_size: int
    noise_group: int
    num_classes: int
    draws: int
    stage: Stage
    first_block: int


def run_part(bench: Bench, part: Part) -> Found:
    """The record and the tensors of a unit, in a worker."""
    problem = replace(bench.problem, model=bench.model())
    if not bench.whole:
        x, y = part.x.to(bench.device), part.y.to(bench.device)
        problem = replace(problem, x=x, y=y, first_index=part.first_index)
    with probed_once(bench.known):
        return run_unit(part.unit, problem, part.base, bench.norms, bench.lenient)


def count_draws(bench: Bench, part: Draws) -> Tensor:
    """Votes (N, K + 1), in a worker."""
    sampling = Sampling(
        model=bench.model(),
        x=part.x.to(bench.device),
        distribution=part.distribution,
        seed=part.seed,
        indices=part.indices,
        batch_size=part.batch_size,
        noise_group=part.noise_group,
    )
    with counted_by(None):
        return sampling.votes(part.num_classes, part.draws, part.stage, first_block=part.first_block).cpu()


def run_elsewhere(
    units: Sequence[Unit], task: Asked, stated: Mapping[str, Any], engine: Engine
) -> Iterator[tuple[Unit, Found]]:
    """The records and tensors of all units, in the order in which workers finish them."""
    if not units:
        return
    whole = any(type(unit.method) not in METHODS for unit in units)  # others may look at all inputs
    problem, base = task.problem, task.base
    bench = _bench(task, stated, engine.make_model, whole)
    with engine.pool(bench, problem.x.device) as pool:
        few = len(units) < FEW * pool.workers and pool.workers > 1
        shared_out = [unit for unit in units if few and isinstance(unit.method, Smoothing)]
        single = [unit for unit in units if unit not in shared_out]
        parts = (_part(unit, problem, base, whole) for unit in single)
        for place, found in pool.unordered(run_part, parts):
            yield single[place], found
        for unit in shared_out:
            with counted_by(partial(_count_in, pool)):
                found = run_unit(unit, problem, base, task.norms, task.choice.lenient)
            yield unit, found


def _bench(task: Asked, stated: Mapping[str, Any], make_model: Callable[[str], nn.Module] | None, whole: bool) -> Bench:
    problem = task.problem
    if make_model is None or can_be_sent(problem.model):
        sent, make_model = problem.model, None
    else:
        sent = nn.Identity()
    count = len(problem.x) if whole else 0
    frame = replace(problem, model=sent, x=problem.x[:count], y=problem.y[:count], stated_on_grid=problem.on_grid)
    return Bench(
        problem=frame,
        norms=task.norms,
        lenient=task.choice.lenient,
        stated=stated,
        make_model=make_model,
        whole=whole,
    )


def _part(unit: Unit, problem: Problem, base: Sequence[int], whole: bool) -> Part:
    rows = unit.rows
    if whole:
        return Part(unit, problem.x[:0], problem.y[:0], problem.first_index, list(base))
    moved = unit._replace(rows=slice(0, rows.stop - rows.start))
    x, y = problem.x[rows].cpu(), problem.y[rows].cpu()
    return Part(moved, x.clone(), y.clone(), problem.place(rows), list(base[rows]))  # a view would take all rows along


def _count_in(pool: Pool, sampling: Sampling, num_classes: int, draws: int, stage: Stage, first_block: int) -> Tensor:
    """Votes of a sampling, counted by the workers of a pool; here, where it cannot be cut."""
    rows = len(sampling.x) if sampling.chosen is None else len(sampling.chosen)
    alone = rows > 0 and sampling.noise_group == 1  # whether each input has draws of its own
    parts = list(_draws_of(sampling, num_classes, draws, stage, first_block, pool.workers)) if alone else []
    if len(parts) < 2:
        with counted_by(None):
            return sampling.votes(num_classes, draws, stage, first_block=first_block)
    votes = torch.zeros(rows, num_classes + 1, dtype=torch.int64, device="cpu")
    for place, counted in pool.unordered(count_draws, [part for _, part in parts]):
        votes[parts[place][0]] += counted
    return votes.to(sampling.x.device)


def _draws_of(
    sampling: Sampling, num_classes: int, draws: int, stage: Stage, first_block: int, workers: int
) -> Iterator[tuple[slice, Draws]]:
    """Parts of a call with the rows of the votes that each belongs to."""
    rows = range(len(sampling.x)) if sampling.chosen is None else sampling.chosen.tolist()
    # Rows that were chosen do not follow each other, so each is a part by itself.
    at_least = workers if sampling.chosen is None else max(workers, len(rows))
    for piece in pieces_of(len(rows), draws, sampling.batch_size, at_least):
        first, stop = rows[piece.rows.start], rows[piece.rows.stop - 1] + 1
        part = Draws(
            x=sampling.x[first:stop].cpu().clone(),
            distribution=sampling.distribution,
            seed=sampling.seed,
            indices=sampling.indices[first:stop],
            batch_size=sampling.batch_size,
            noise_group=sampling.noise_group,
            num_classes=num_classes,
            draws=piece.draws,
            stage=stage,
            first_block=first_block + piece.first // NOISE_BLOCK,
        )
        yield piece.rows, part
