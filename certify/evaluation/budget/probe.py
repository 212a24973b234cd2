"""Costs before the work starts, measured on a few inputs."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import BoundsError
from bounds.sets.orders import Order
from certify.durations import in_words, seconds_of
from certify.evaluation.arguments import Asked, asked_evaluation
from certify.evaluation.budget.costs import Cost, CostEstimate, Key
from certify.evaluation.budget.known import finished_pairs, known_batches
from certify.evaluation.budget.meter import Clock, Spent, metered
from certify.evaluation.labelled import Inputs
from certify.evaluation.units import Pair, UnitOutcome, cheap_first, joined, method_pairs, outcome_of, refused
from certify.methods import STANDARD, CompleteSearch, Method, Problem
from certify.methods.sets.kinds import Changes, Transformations
from certify.models import frozen, probed_once
from certify.sizes import bytes_of

PROBE_SHARE = 0.1  # of a budget, that the probe may take
LEAST_BUDGET = 60.0  # seconds of a budget that affords a probe; in a shorter one the work itself shows its cost
AGAIN = 10.0  # seconds up to which an input is measured once more, when all is loaded
SHORT = 1.0  # seconds up to which it is measured with others
PAYS = 1.01  # times the radius of linear bounds that complete search has to prove of some input
BEYOND = 0.9  # of its time, after which a search counts as cut off

Asking = Sequence[Method | type[Method] | str] | Method | type[Method] | str


@isolated
def estimate_cost(
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
    budget: str | float | None = None,
    output: Path | str | None = None,
    clock: Clock = time.perf_counter,
    memory: str | int | None = None,
) -> CostEstimate:
    """Time, passes and memory that an evaluation will take, measured on at most four inputs.

    Every method runs on inputs that are classified correctly, in every norm. Time is measured, and passes of the model
    are counted by hooks. Of methods that repeat the same work many times, the probe does a part: smoothing has at most
    1000 draws, CLEVER six batches, complete search two seconds for an input. Their numbers are extended to the whole.

    Args:
        model: as for :func:`certify.evaluate`, and so are the arguments up to ``first_index``.
        x: likewise.
        labels: likewise.
        norms: likewise.
        transformations: likewise.
        changes: likewise.
        methods: likewise.
        low: likewise.
        high: likewise.
        seed: likewise.
        batch_size: likewise.
        first_index: likewise.
        budget: of the evaluation, of which the probe takes a tenth: then it measures less, and of several norms one.
            None for a probe of everything.
        output: run directory; methods that are finished there are not measured.
        clock: seconds since any moment.
        memory: as for :func:`certify.evaluate`.

    Returns:
        The costs, which :func:`certify.evaluate` takes as ``costs``; methods that cannot treat the model have a reason
        in place of numbers.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    limit = math.inf if budget is None else PROBE_SHARE * seconds_of("budget", budget)
    with probed_once():
        allowed = None if memory is None else bytes_of("memory", memory)
        asked = (model, x, labels, norms, methods, (low, high), seed, batch_size, first_index, None)
        sets = {"transformations": transformations, "changes": changes}
        task = asked_evaluation(*asked, allowed, known_batches(output, allowed), sets)
        return probe_costs(task, clock, limit, output)


def probe_costs(task: Asked, clock: Clock, limit: float = math.inf, output: Path | str | None = None) -> CostEstimate:
    """Costs of what is asked for.

    Args:
        task: the problem and the methods.
        clock: seconds.
        limit: seconds that the probe may take; what it does not reach stays unmeasured.
        output: directory of a run in which some methods may be finished.
    """
    started, longest = clock(), 0.0
    finished = finished_pairs(task, output)
    pairs = [pair for pair in method_pairs(task.choice.methods, task.norms) if _key(pair) not in finished]
    probe = _Probe(task, clock, _Extent.within(limit))
    found: dict[Key, Cost] = {}
    for pair in sorted(pairs, key=_turn) if math.isfinite(limit) else pairs:
        begun = clock()
        if begun - started + longest <= limit:
            found[_key(pair)] = probe(pair)
            longest = max(longest, clock() - begun)
    costs = [found.get(_key(pair)) or _of_other_norm(probe.about(pair), found.values()) for pair in pairs]
    return CostEstimate(costs=tuple(costs), probe_seconds=clock() - started)


def _key(pair: Pair) -> Key:
    return pair[0].name, pair[1]


def _turn(pair: Pair) -> tuple[bool, int]:
    """A place in the order of a probe that may not reach everything: one norm of each method, from cheap to dear."""
    place, other = cheap_first(*pair)
    return other, place


def _of_other_norm(about: Cost, costs: Iterable[Cost]) -> Cost:
    """The cost as it is in another norm, where that is known."""
    like = next((cost for cost in costs if cost.method == about.method and cost.measured), None)
    if like is None:
        return replace(about, reason="not measured, as the probe took its share of the budget")
    return replace(like, norm=about.norm, probed=0, promise=None)


@dataclass(frozen=True)
class _Extent:
    """Thoroughness of a probe.

    Attributes:
        inputs: that are measured.
        share: of the draws of methods that repeat the same work.
        complete: seconds of complete search.
        passes: whether passes are counted with the same care.
    """

    inputs: int = 4
    share: float = 1.0
    complete: float = 2.0
    passes: bool = True

    @classmethod
    def within(cls, limit: float) -> "_Extent":
        """A probe that is short if there is a limit."""
        if math.isinf(limit):
            return cls()
        return cls(inputs=2, share=0.35, complete=min(2.0, limit / 10), passes=False)


class _Probe:
    """Runs methods on some inputs, spread over all that are classified correctly if there are any."""

    def __init__(self, task: Asked, clock: Clock, extent: _Extent) -> None:
        self.task, self.clock, self.extent = task, clock, extent
        problem = task.problem
        right = (task.logits.argmax(1) == problem.y).nonzero()[:, 0]
        places = right if len(right) else torch.arange(len(problem.x), device=problem.x.device)
        steps = torch.linspace(0, len(places) - 1, min(extent.inputs, len(places)), device=places.device)
        chosen = places[steps.round().long()]
        self.small: Problem = replace(
            problem, x=problem.x[chosen], y=problem.y[chosen], first_index=0, stated_on_grid=problem.on_grid
        )
        self.best: dict[Order, Tensor] = {}  # radii that methods of a preset proved, by norm

    def _at_once(self, method: Method) -> int:
        """Inputs that fit into the memory together; one alone where a run is continued, whose units nobody counts."""
        if self.task.problem.memory is None:
            return self.extent.inputs
        return self.task.allowance.unit_sizes.get(method.name, 1)

    def about(self, pair: Pair) -> Cost:
        """The cost before anything is measured."""
        return Cost(
            method=pair[0].name, norm=pair[1], inputs=len(self.task.problem.x), rows_per_unit=pair[0].rows_per_unit
        )

    def __call__(self, pair: Pair) -> Cost:
        """The cost of a method in a norm."""
        method, norm = pair
        lenient = method.name in self.task.choice.lenient
        short, factor = method.shortened(self.extent.share)
        if isinstance(short, CompleteSearch):
            short = msgspec.structs.replace(short, timeout=min(short.timeout, self.extent.complete))

        def run(rows: slice, settings: Method = short) -> tuple[UnitOutcome, Spent]:
            model = self.task.problem.model
            with frozen(model), metered(model, self.small.x.device, self.clock) as spent:
                found = outcome_of(settings, self.small, rows, norm, self.task.norms)
            return found, spent

        try:
            tried = _tried(run, min(len(self.small.x), self._at_once(method)), apart=method.one_by_one)
            cost = tried.cost(self.about(pair), factor)
            if factor > 1 and self.extent.passes:
                half, more = method.shortened(self.extent.share / 2)
                forward, backward = _passes(run(slice(0, 1))[1], run(slice(0, 1), half)[1], factor, more)
                cost = replace(cost, forward_passes=forward, backward_passes=backward)
        except BoundsError as error:
            if not refused(error, lenient):
                raise
            return replace(self.about(pair), status="unsupported", reason=str(error))
        if isinstance(method, CompleteSearch):
            cost = self._with_timeouts(cost, method, [one.seconds for one in tried.singles])
        return self._if_it_pays(cost, method, tried.outcome) if lenient else cost

    def _with_timeouts(self, cost: Cost, method: CompleteSearch, seconds: Sequence[float]) -> Cost:
        """The cost where searches that were cut off go on to their time limit."""
        cut = BEYOND * min(self.extent.complete, method.timeout)
        whole = [max(method.timeout, one) if one >= cut else one for one in seconds]
        return replace(cost, fixed=0.0, per_input=sum(whole) / len(whole))

    def _if_it_pays(self, cost: Cost, method: Method, outcome: UnitOutcome) -> Cost:
        """The cost; of complete search that proves no more than what is cheaper, the reason to leave it out."""
        promise = outcome.promise
        if promise.kind != "certificate" or promise.alpha > 0:
            return cost
        radius = torch.tensor([detail["certified_radius"] for detail in outcome.details], dtype=torch.float64)
        known = self.best.get(cost.norm)
        if isinstance(method, CompleteSearch):
            some = len(radius) if known is None else min(len(known), len(radius))
            slow = cost.per_input > self.extent.complete
            if known is not None and slow and not bool((radius[:some] > PAYS * known[:some]).any()):
                time_ = in_words(min(self.extent.complete, method.timeout))
                tried = f"in {time_} it proves no more than cheaper methods of {some} inputs that were tried"
                return replace(cost, status="left out", reason=f"does not pay: {tried}")
        elif known is None or len(known) <= len(radius):
            self.best[cost.norm] = radius if known is None else torch.maximum(radius[: len(known)], known)
        return cost


def _passes(whole: Spent, part: Spent, factor: float, more: float) -> tuple[float, float]:
    """Passes of one input with all its work, from probes that have two parts of it; what is done but once stays so.

    Args:
        whole: of a probe.
        part: of one with fewer draws.
        factor: how many times the work of the first all is.
        more: likewise of the second.
    """
    found = []
    for first, second in ((whole.forward, part.forward), (whole.backward, part.backward)):
        all_ = (first - second) / (1 / factor - 1 / more) if more > factor else factor * first
        found.append(first + all_ * (1 - 1 / factor))
    return found[0], found[1]


@dataclass(frozen=True)
class _Tried:
    """Measurements of a method."""

    outcome: UnitOutcome
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


def _tried(run: Callable[[slice], tuple[UnitOutcome, Spent]], count: int, *, apart: bool) -> _Tried:
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


def _while_short(run: Callable[[slice], tuple[UnitOutcome, Spent]], count: int) -> Iterator[tuple[UnitOutcome, Spent]]:
    """Inputs one by one, until some seconds are over."""
    seconds = 0.0
    for row in range(1, count):
        found = run(slice(row, row + 1))
        yield found
        seconds += found[1].seconds
        if seconds > 2 * SHORT:
            return
