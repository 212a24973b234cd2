"""Problems for searches: graphs of small networks, boxes, and a check that recomputes outputs."""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch
from oracles.networks import dense
from torch import Tensor, nn

from bounds import Graph, capture
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.search.branch_and_bound import search
from bounds.search.input_splits import split_inputs
from bounds.search.neuron_splits import split_neurons
from bounds.search.problem import Problem, SearchResult, problem_of
from bounds.sets.balls import Box

Case = tuple[Tensor, Tensor]
ALONE = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def box(*sides: tuple[float, float]) -> Box:
    """One box, by the sides of each input."""
    lower, upper = torch.tensor(sides, dtype=torch.float64).T
    return Box(lower[None].clone(), upper[None].clone())


@cache
def rectifiers(seed: int, slope: float = 0.0, *sizes: int) -> tuple[nn.Sequential, Graph]:
    """A random network of (leaky) rectifiers with two inputs and outputs, unless sizes say something else."""
    sizes = sizes or (2, 5, 4, 2)
    model = dense(nn.LeakyReLU(slope) if slope else nn.ReLU(), *sizes, seed=100 * seed)
    return model.eval(), capture(model, torch.zeros(1, sizes[0], dtype=torch.float64))


class Check:
    """Confirms candidates in the dtype of the model; remembers how many it saw.

    Attributes:
        seen: candidates so far.
    """

    def __init__(self, model: nn.Module, cases: Sequence[Case]) -> None:
        self.model, self.cases, self.seen = model, cases, 0
        weight = next(model.parameters(), None)
        self.dtype = torch.float64 if weight is None else weight.dtype

    def __call__(self, candidates: Tensor) -> Tensor | None:
        self.seen += len(candidates)
        with torch.no_grad():
            y = self.model(candidates.to(self.dtype)).flatten(1).double()
        for rows, offsets in self.cases:
            met = (y @ rows.double().T <= offsets.double()).all(1)
            if met.any():
                return candidates[met][:1]
        return None


def problem(
    model: nn.Module, graph: Graph, where: Box, cases: Sequence[Case], *, sound: str = "rounding", seconds: float = 20.0
) -> Problem:
    """A problem with a deadline from now."""
    return problem_of(graph, where, cases, time.monotonic() + seconds, sound, Check(model, cases))


def refined(given: Problem, steps: int = 0) -> Network:
    """The network over the whole box, with intervals as the search finds them."""
    return RefinedNetwork(Network(given.graph, given.box, sound=given.sound), tighten=True, steps=steps).refine()


def by_inputs(given: Problem) -> SearchResult:
    """A search that cuts the box alone."""
    with torch.no_grad():
        return split_inputs(given)


def by_neurons(given: Problem) -> SearchResult:
    """A search that splits neurons alone."""
    with torch.no_grad():
        return split_neurons(given, refined(given))


def by_both(given: Problem) -> SearchResult:
    """The search that chooses by itself."""
    cases = list(zip(given.rows, given.offsets, strict=True))
    return search(given.graph, given.box, cases, deadline=given.deadline, sound=given.sound, check=given.check)


SEARCHES: dict[str, Callable[[Problem], SearchResult]] = {"inputs": by_inputs, "neurons": by_neurons, "both": by_both}


def dense_minimum(model: nn.Module, where: Box, row: Tensor, *, zooms: int = 6) -> tuple[float, float]:
    """The least value of ``row @ y`` on grids that close in around the best of several regions, and about the largest.

    For boxes of two inputs of any shape.
    """
    shape, lower, upper = where.lower.shape[1:], where.lower.flatten(), where.upper.flatten()

    def values(low: Tensor, high: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        axes = [torch.linspace(float(a), float(b), steps, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        x = torch.cartesian_prod(*axes)
        with torch.no_grad():
            return x, model(x.view(-1, *shape)).flatten(1) @ row

    x, found = values(lower, upper, 120)
    blocks = found.view(8, 15, 8, 15).transpose(1, 2).flatten(0, 1).flatten(1)
    places = x.view(8, 15, 8, 15, 2).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    least = math.inf
    for block in blocks.amin(1).topk(6, largest=False).indices.tolist():
        best, reach = places[block, blocks[block].argmin()], (upper - lower) / 40
        for _ in range(zooms):
            near, there = values(torch.maximum(lower, best - reach), torch.minimum(upper, best + reach), 21)
            best, reach = near[there.argmin()], reach / 5
            least = min(least, float(there.min()))
    return least, float(found.max())
