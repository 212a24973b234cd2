"""Bounds by two engines, and a search for points that refute either."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.engines.auto_lirpa import METHODS as THEIRS
from bounds.engines.auto_lirpa import Bounded, copied, margin_functions
from bounds.engines.choice import AUTO_LIRPA, OWN
from bounds.engines.library import library
from bounds.errors import InvalidInput, UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture
from bounds.linear.intervals import ibp
from bounds.linear.margins import margin_bounds
from bounds.linear.methods import METHODS, alpha_crown, crown, crown_ibp, fast_lin
from bounds.models import frozen
from bounds.numerics import ieee_arithmetic
from bounds.second_opinion.points import PointSearch
from bounds.second_opinion.result import EngineBounds, EngineComparison
from bounds.sets.balls import Interval, PerturbationSet, perturbation_set
from bounds.sets.uniform import run_seed

WITHOUT_STEPS: dict[str, Callable[..., Interval]] = {
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "fast_lin": fast_lin,
    "crown": crown,
}
ROUNDING = 1e-9  # of the largest output of a row: a point refutes a bound that it exceeds by more


@isolated
@ieee_arithmetic()
def compare_engines(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor | None = None,
    *,
    methods: Sequence[str] = ("ibp", "crown_ibp", "crown"),
    steps: int = 20,
    samples: int = 200,
    generator: Generator | None = None,
) -> EngineComparison:
    """Bounds of our engine and of auto_LiRPA next to each other; a bound that a point of the set exceeds is flagged.

    Both engines compute in float64 and leave rounding errors out, whatever the dtype of the model: what a point refutes
    is then a mistake of a method, not of rounding. That no bound is refuted proves none of them. An engine that cannot
    serve the model or the set says why. Where auto_LiRPA is missing, our bounds are held against points alone, and
    the result says so.

    Args:
        model: see :func:`bounds.crown`; it is copied, and left as it was.
        ball: N perturbation sets that know their points, see :meth:`bounds.PerturbationSet.contains`.
        labels: (N,) class indices for bounds of margins; None for bounds of outputs.
        methods: see :func:`bounds.margin_bounds`.
        steps: of ascent, for ``"alpha_crown"``.
        samples: random points of each set. Besides these, gradients are followed for each output and margin.
        generator: source of random points.

    Raises:
        UnsupportedLayer: the model cannot be captured.
        InvalidInput: a bad argument.

    Example:
        >>> import torch, bounds
        >>> ball = bounds.LpBall(torch.zeros(1, 2), 0.1, low=None, high=None)
        >>> bounds.compare_engines(torch.nn.Linear(2, 2), ball).refuted
        []
    """
    perturbation_set(ball)
    methods = [checks.one_of("methods", method, METHODS) for method in checks.several("methods", methods)]
    checks.at_least("steps", steps, 0)
    checks.at_least("samples", samples, 0)
    seed, ball = run_seed(generator), ball.double()
    graph, network = capture(model, ball.center), copied(model, torch.float64)
    functions = None if labels is None else margin_functions(graph, ball.center, labels)
    draw = torch.Generator(ball.center.device).manual_seed(seed)
    with frozen(network):
        met = _values_met(network, graph, ball, functions, samples, draw)
    version, missing = "", ""
    try:
        version = str(library().__version__)
    except InvalidInput as error:
        missing = str(error)
    found = []
    for method in dict.fromkeys(methods):
        own = partial(_own, graph, ball, labels, method, steps)
        other = partial(_other, model, graph, ball, functions, method, steps)
        found += [met.judged(OWN, method, own), met.judged(AUTO_LIRPA, method, other)]
    return EngineComparison(bounds=tuple(found), least=met.least, largest=met.largest, version=version, missing=missing)


Bounding = Callable[[], Interval]


def _own(graph: Graph, ball: PerturbationSet, labels: Tensor | None, method: str, steps: int) -> Bounding:
    """Our bounds; of margins, lower ones alone."""
    if labels is not None:
        return lambda: _from_below(margin_bounds(graph, ball, labels, method, steps=steps, sound="real"))
    if method == "alpha_crown":
        return lambda: alpha_crown(graph, ball, steps, sound="real")
    return lambda: WITHOUT_STEPS[method](graph, ball, sound="real")


def _other(
    model: Source | Graph, graph: Graph, ball: PerturbationSet, functions: Tensor | None, method: str, steps: int
) -> Bounding:
    """Bounds of auto_LiRPA."""
    if method not in THEIRS:
        raise InvalidInput(f"engine='auto_lirpa' knows the methods {', '.join(THEIRS)}, got {method!r}")
    bounded = Bounded(model, graph, ball, steps=steps)
    return lambda: bounded(method, functions)


def _from_below(lower: Tensor) -> Interval:
    return Interval(lower, torch.full_like(lower, math.inf))


@dataclass(frozen=True, eq=False)
class _Met:
    """Values that the network takes in the sets.

    Attributes:
        least: (N, K), of outputs or margins.
        largest: likewise, of outputs; None for margins.
        slack: (N, 1), how far rounding may lead a value beyond a bound.
    """

    least: Tensor
    largest: Tensor | None
    slack: Tensor

    def judged(self, engine: str, method: str, prepare: Callable[[], Bounding]) -> EngineBounds:
        """The bounds of an engine, and which of them are refuted; or why there are none."""
        try:
            bounding = prepare()
            began = _now(self.least)
            found = bounding()
            seconds = _now(self.least) - began
        except (UnsupportedLayer, InvalidInput) as error:
            return EngineBounds(engine=engine, method=method, refusal=str(error))
        lower, upper = found.lower.detach().flatten(1), found.upper.detach().flatten(1)
        beyond = lower - self.least
        if self.largest is not None:
            beyond = torch.maximum(beyond, self.largest - upper)
        refuted = beyond > self.slack
        return EngineBounds(
            engine=engine,
            method=method,
            lower=lower,
            upper=None if self.largest is None else upper,
            width=float(((self.least if self.largest is None else upper) - lower).mean()),
            refuted=refuted,
            excess=float(torch.where(refuted, beyond, 0.0).amax()),
            seconds=seconds,
        )


def _values_met(
    network: nn.Module,
    graph: Graph,
    ball: PerturbationSet,
    functions: Tensor | None,
    samples: int,
    generator: Generator,
) -> _Met:
    """The values that are found."""
    with torch.no_grad():
        values = graph.bind(ball.center)["output"].value.reshape(len(ball.center), -1)
    identity = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    both = torch.cat([identity, -identity]).expand(len(values), -1, -1)
    rows = both if functions is None else functions
    found = PointSearch(network, ball, rows, one_by_one=graph.one_by_one).least(samples, generator)
    size = torch.cat([values, found], 1).abs().nan_to_num(0.0, 0.0, 0.0).amax(1, keepdim=True)
    least, largest = (found, None) if functions is not None else found.chunk(2, 1)
    return _Met(least, None if largest is None else -largest, ROUNDING * size)


def _now(like: Tensor) -> float:
    """The time, once a device has done all that it was told to."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()
