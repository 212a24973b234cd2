"""Places where a network can be split: the functions of one variable, their neurons, and the points to split at."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.linear.network import Network
from bounds.operations.node import entries
from bounds.relaxations.base import Planes
from bounds.relaxations.piecewise import PiecewiseFunction
from bounds.relaxations.relu import ReLURelaxation
from bounds.relaxations.scalar import ScalarFunction


@dataclass(frozen=True)
class Span:
    """The neurons of one function among those of all functions.

    Attributes:
        name: of the function.
        start: of its neurons.
        end: behind them.
        shape: of one row of the node.
    """

    name: str
    start: int
    end: int
    shape: tuple[int, ...]

    def of(self, values: Tensor) -> Tensor:
        """The part (N, *shape) of values (N, total) of all neurons."""
        return values[:, self.start : self.end].reshape(len(values), *self.shape)


def scalar_function(network: Network, span: Span) -> ScalarFunction:
    """The function of a span."""
    function = network.functions[span.name]
    assert isinstance(function, ScalarFunction)  # by which spans are found
    return function


def spans_of(network: Network) -> list[Span]:
    """The functions of one variable that tell inputs apart, in order."""
    found: list[Span] = []
    for name in network.order:
        node = network.nodes[name]
        if isinstance(network.functions.get(name), ScalarFunction) and node.batch == 0 and len(node.parents) == 1:
            start = found[-1].end if found else 0
            found.append(Span(name, start, start + entries(node.value), tuple(node.value.shape[1:])))
    return found


def gaps(network: Network, span: Span, planes: Planes, coefficients: Tensor, values: tuple[Tensor, Tensor]) -> Tensor:
    """Parts of a bound that may be lost between a function and its plane, (2, N, *shape); 0 where no split helps.

    The first are the largest within the interval, the second those at a point.

    Args:
        network: with the intervals of the domains.
        span: of the function.
        planes: around it.
        coefficients: of the function in the bound; below 0 they meet the upper plane.
        values: of the parent and of the function at the point.
    """
    function, (interval,) = scalar_function(network, span), network.parents(span.name)
    (low,), (high,) = planes.lower_slopes, planes.upper_slopes
    below = torch.zeros_like(high) if planes.lower_intercept is None else planes.lower_intercept
    above = planes.upper_intercept
    gap = torch.maximum(*((high - low) * end + above - below for end in (interval.lower, interval.upper)))
    if isinstance(function, ReLURelaxation):  # its planes meet at the ends, and the upper one leaves it at 0
        gap = torch.where(coefficients < 0, above, gap)
    x, y = values
    here = torch.where(coefficients < 0, high * x + above - y, y - low * x - below).clamp(min=0)
    lost = torch.stack([gap, here]) * coefficients.abs()
    lost = lost.nan_to_num(nan=0.0, posinf=torch.finfo(gap.dtype).max)
    return torch.where(can_be_split(network, span), lost, 0.0)


def can_be_split(network: Network, span: Span) -> Tensor:
    """Whether a function bends within the interval of each neuron, (N, *shape) bool."""
    function, (interval,) = scalar_function(network, span), network.parents(span.name)
    point = split_points(network, span)
    return (interval.lower < point) & (point < interval.upper) & function.unstable(interval)[0]


def split_points(network: Network, span: Span) -> Tensor:
    """The point to split each neuron at, a number of float32: the kink next to the middle of its interval, or this."""
    function, (interval,) = scalar_function(network, span), network.parents(span.name)
    middle = (interval.lower + (interval.upper - interval.lower) / 2).clamp(-1e30, 1e30)
    best = middle.float().to(middle.dtype)
    if not isinstance(function, PiecewiseFunction):
        return best
    distance = torch.full_like(middle, torch.inf)
    for piece in function.pieces[:-1]:
        kink = torch.full_like(middle, piece.end)
        off = (kink - middle).abs()
        exact = torch.tensor(piece.end, dtype=torch.float32, device="cpu").item() == piece.end
        nearer = (interval.lower < kink) & (kink < interval.upper) & (off < distance) & exact
        best, distance = torch.where(nearer, kink, best), torch.where(nearer, off, distance)
    return best
