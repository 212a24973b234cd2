"""Costs of an evaluation before it starts: seconds, passes and memory of each method, measured on a few inputs."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import BoundsError
from certify.durations import in_words
from certify.evaluation.arguments import Asked, asked
from certify.evaluation.labelled import Inputs
from certify.evaluation.meter import Clock, Spent, metered
from certify.evaluation.units import Outcome, Pair, joined, outcome_of, pairs_of, refused
from certify.methods import STANDARD, CompleteSearch, Method, Problem
from certify.models import frozen, probed_once
from certify.promises import Promise
from certify.report import norm_name

if TYPE_CHECKING:
    import pandas as pd

PROBE_SHARE = 0.2  # of a budget, that the probe may take
PROBED = 4  # inputs that are measured
AGAIN = 5.0  # seconds up to which an input is measured once more, when all is loaded
SHORT = 1.0  # seconds up to which it is measured with others
UNIT_SECONDS = 30.0  # of work that a kill may lose
COMPLETE_SECONDS = 2.0  # for which complete search is tried
PAYS = 1.01  # times the radius of linear bounds that complete search has to prove of some input
BEYOND = 0.9  # of its time, after which a search counts as cut off

Asking = Sequence[Method | type[Method] | str] | Method | type[Method] | str
Key = tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one method in one norm.

    Attributes:
        method: its name.
        norm: order of the norm.
        inputs: that the evaluation has.
        probed: inputs that were measured; 0 where the method was not tried.
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
    norm: float
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

        Columns method, norm, inputs, probed, seconds, forward_passes, backward_passes (of all inputs), peak_memory
        (bytes), status and reason.
        """
        import pandas as pd

        columns = ["method", "norm", "inputs", "probed", "seconds", "forward_passes", "backward_passes", "peak_memory"]
        rows = [
            [cost.method, cost.norm, cost.inputs, cost.probed, cost.seconds]
            + [0.0 if cost.status else passes * cost.inputs for passes in (cost.forward_passes, cost.backward_passes)]
            + [math.nan if cost.peak_memory is None else float(cost.peak_memory), cost.status, cost.reason]
            for cost in self.costs
        ]
        return pd.DataFrame(rows, columns=[*columns, "status", "reason"])

    def __str__(self) -> str:
        """A table for readers."""
        import pandas as pd

        measured = [cost for cost in self.costs if cost.probed and not cost.status]
        shown = pd.DataFrame(
            {
                "method": [cost.method for cost in measured],
                "norm": [norm_name(cost.norm) for cost in measured],
                "inputs": [cost.inputs for cost in measured],
                "time": [in_words(cost.seconds) for cost in measured],
                "forward passes": [_count(cost.forward_passes * cost.inputs) for cost in measured],
                "backward passes": [_count(cost.backward_passes * cost.inputs) for cost in measured],
                "peak memory": [_bytes(cost.peak_memory) for cost in measured],
            }
        )
        probed = max((cost.probed for cost in self.costs), default=0)
        total = (
            f"about {in_words(self.seconds)} in all, by a probe of {probed} inputs in {in_words(self.probe_seconds)}"
        )
        table = shown.to_string(index=False) if measured else "nothing was measured"
        apart = [f"{cost.method} in {norm_name(cost.norm)}: {cost.reason}" for cost in self.costs if cost.reason]
        return "\n".join([table, total, *apart])


@isolated
def estimate_cost(
    model: nn.Module,
    x: Inputs,
    labels: Tensor | None = None,
    *,
    norms: Sequence[float] | float = (2, math.inf),
    methods: Asking = STANDARD,
    low: Limit = 0.0,
    high: Limit = 1.0,
    seed: int = 0,
    batch_size: int = 1000,
    clock: Clock = time.perf_counter,
) -> CostEstimate:
    """Time, passes and memory that an evaluation will take, measured on at most four inputs.

    Every method runs on inputs that are classified correctly, in every norm. Time is measured, and so are passes of
    the model, by hooks. Of methods that repeat the same work many times, the probe does a part: smoothing has at
    most 1000 draws, CLEVER five batches, complete search two seconds; their numbers are multiplied.

    The arguments are those of :func:`certify.evaluate`, which takes the result as ``costs``.

    Returns:
        The costs; methods that cannot treat the model have a reason in place of numbers.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    with probed_once():
        task = asked(model, x, labels, norms, methods, (low, high), seed, batch_size)
        return probe_costs(task, clock)


def probe_costs(
    task: Asked, clock: Clock, limit: float = math.inf, finished: Collection[Key] = frozenset()
) -> CostEstimate:
    """Costs of what is asked for.

    Args:
        task: the problem and the methods.
        clock: seconds.
        limit: seconds that the probe may take; what it does not reach stays unmeasured.
        finished: methods and norms of which nothing is left to do.
    """
    started, costs, longest = clock(), [], 0.0
    small = _few_inputs(task)
    best: dict[float, Tensor] = {}
    for method, norm in pairs_of(task.choice.methods, task.norms):
        about = Cost(method=method.name, norm=norm, inputs=len(task.problem.x), rows_per_unit=method.rows_per_unit)
        begun = clock()
        if (method.name, norm) in finished:
            costs.append(replace(about, status="left out", reason=""))
        elif begun - started + longest > limit:
            costs.append(replace(about, reason="not measured, as the probe took its share of the budget"))
        else:
            lenient = method.name in task.choice.lenient
            costs.append(_cost_of((method, norm), task, small, about, clock, best if lenient else None))
            longest = max(longest, clock() - begun)
    return CostEstimate(costs=tuple(costs), probe_seconds=clock() - started)


def _few_inputs(task: Asked) -> Problem:
    """The problem of some inputs, spread over all that are classified correctly if there are any."""
    problem = task.problem
    right = (task.logits.argmax(1) == problem.y).nonzero()[:, 0]
    places = right if len(right) else torch.arange(len(problem.x), device=problem.x.device)
    chosen = places[torch.linspace(0, len(places) - 1, min(PROBED, len(places)), device=places.device).round().long()]
    return replace(problem, x=problem.x[chosen], y=problem.y[chosen], first_index=0, stated_on_grid=problem.on_grid)


def _cost_of(
    pair: Pair, task: Asked, small: Problem, about: Cost, clock: Clock, best: dict[float, Tensor] | None
) -> Cost:
    """The cost of a method in a norm; ``best`` holds the radii that methods of a preset proved of the few inputs."""
    method, norm = pair
    short, factor = method.shortened()
    if isinstance(short, CompleteSearch):
        short = msgspec.structs.replace(short, timeout=min(short.timeout, COMPLETE_SECONDS))

    def run(rows: slice, settings: Method = short) -> tuple[Outcome, Spent]:
        with frozen(task.problem.model), metered(task.problem.model, small.x.device, clock) as spent:
            found = outcome_of(settings, small, rows, norm, task.norms)
        return found, spent

    try:
        tried = _tried(run, len(small.x), apart=method.one_by_one)
        half, more = method.shortened(0.5)
        passes = _work(run(slice(0, 1))[1], run(slice(0, 1), half)[1], factor, more) if factor > 1 else None
    except BoundsError as error:
        if not refused(error, best is not None):
            raise
        return replace(about, status="unsupported", reason=str(error), probed=1)
    cost = tried.cost(about, factor)
    if passes is not None:
        cost = replace(cost, forward_passes=passes[0], backward_passes=passes[1])
    if isinstance(method, CompleteSearch):
        cost = _with_timeouts(cost, method, [one.seconds for one in tried.singles])
    if best is not None:
        cost = _if_it_pays(cost, method, tried.outcome, best)
    return cost


def _work(whole: Spent, half: Spent, factor: float, more: float) -> tuple[float, float]:
    """Passes of one input with all its work, from probes that have a part of it; what is done but once stays so."""
    found = []
    for name in ("forward", "backward"):
        first, second = getattr(whole, name), getattr(half, name)
        each = (first - second) / (1 / factor - 1 / more) if more > factor else factor * first
        found.append(first + each * (1 - 1 / factor))
    return found[0], found[1]


@dataclass(frozen=True)
class _Tried:
    """Measurements of a method."""

    outcome: Outcome
    singles: list[Spent]  # of inputs alone
    together: Spent | None = None  # of several at once
    rows: int = 1  # that are several

    def cost(self, about: Cost, factor: float) -> Cost:
        """The cost of a unit as a line through both measurements; ``factor`` times the work of each input."""
        count = len(self.singles)
        one = sum(spent.seconds for spent in self.singles) / count
        memory = max((spent.memory for spent in self.singles if spent.memory is not None), default=None)
        each, passes, rows = one, self.singles, count
        if self.together is not None and self.rows > 1:
            each = max((self.together.seconds - one) / (self.rows - 1), 0.02 * one)
            if memory is not None and self.together.memory is not None:
                grown = max(self.together.memory - memory, 0) / (self.rows - 1)
                memory = int(memory + grown * (about.rows_per_unit - 1))
            passes, rows = [self.together], self.rows
        return replace(
            about,
            probed=rows,
            fixed=max(one - each, 0.0),
            per_input=factor * each,
            forward_passes=factor * sum(spent.forward for spent in passes) / rows,
            backward_passes=factor * sum(spent.backward for spent in passes) / rows,
            peak_memory=memory,
            promise=self.outcome.promise,
        )


def _tried(run: Callable[[slice], tuple[Outcome, Spent]], count: int, *, apart: bool) -> _Tried:
    """One input, once more when all is loaded, and where that is quick all of them."""
    outcome, spent = run(slice(0, 1))
    if spent.seconds <= AGAIN:
        outcome, spent = run(slice(0, 1))
    if count == 1 or (spent.seconds > SHORT and not apart):
        return _Tried(outcome, [spent])
    if apart:
        found = [(outcome, spent), *_while_short(run, count)]
        return _Tried(joined([one for one, _ in found]), [one for _, one in found])
    outcome, together = run(slice(0, count))
    return _Tried(outcome, [spent], together, count)


def _while_short(run: Callable[[slice], tuple[Outcome, Spent]], count: int) -> Iterator[tuple[Outcome, Spent]]:
    """Inputs one by one, until some seconds are over."""
    seconds = 0.0
    for row in range(1, count):
        found = run(slice(row, row + 1))
        yield found
        seconds += found[1].seconds
        if seconds > 2 * SHORT:
            return


def _with_timeouts(cost: Cost, method: CompleteSearch, seconds: Sequence[float]) -> Cost:
    """The cost where searches that were cut off go on to their time limit."""
    whole = [method.timeout if one >= BEYOND * min(COMPLETE_SECONDS, method.timeout) else one for one in seconds]
    return replace(cost, fixed=0.0, per_input=sum(whole) / len(whole))


def _if_it_pays(cost: Cost, method: Method, outcome: Outcome, best: dict[float, Tensor]) -> Cost:
    """The cost; of complete search that proves no more than what is cheaper, the reason to leave it out."""
    promise = outcome.promise
    if promise.kind != "certificate" or promise.alpha > 0:
        return cost
    radius = torch.tensor([detail["certified_radius"] for detail in outcome.details], dtype=torch.float64)
    known = best.get(cost.norm)
    if isinstance(method, CompleteSearch) and known is not None and cost.per_input >= BEYOND * COMPLETE_SECONDS:
        some = min(len(known), len(radius))
        if not bool((radius[:some] > PAYS * known[:some]).any()):
            told = f"in {in_words(min(COMPLETE_SECONDS, method.timeout))} it proves no more than cheaper methods of "
            return replace(cost, status="left out", reason=f"does not pay: {told}{some} inputs that were tried")
    if known is None or len(radius) == len(known):
        best[cost.norm] = radius if known is None else torch.maximum(radius, known)
    return cost


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _bytes(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 2**20:.0f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"
