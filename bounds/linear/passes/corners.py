r"""Intervals over a hull of few boxes: forward linear bounds whose columns are the boxes.

An input is a mixture of points of the boxes. Each node h carries numbers for every box v such that

.. math:: \sum_v \lambda_v l_v \le h(x) \le \sum_v \lambda_v u_v

where :math:`\lambda` are the shares of x. Affine operations take each box as if it were alone, functions by planes
that serve all boxes. So the cost is that of intervals of a few more inputs, where backward bounds take a row for each
neuron.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bounds.linear.network import Network, largest
from bounds.numerics import accumulated_error, underflow
from bounds.operations.node import Node, entries
from bounds.relaxations.base import Planes
from bounds.sets.balls import Interval
from bounds.sets.hulls import HullOfBoxes

MOST = 8  # boxes of a hull: three parameters have as many corners
# Thickness of boxes, as a share of the hull, up to which it does not matter that coefficients are not added up.
THIN = 2.0**-12

Boxes = list[Interval]


def hull_of_few(network: Network) -> HullOfBoxes | None:
    """The set, if it is a hull of so few boxes that these pay and no node mixes inputs."""
    ball = network.ball
    if not isinstance(ball, HullOfBoxes) or ball.radius > 0 or ball.lower.shape[1] > MOST:
        return None
    return ball if all(node.batch == 0 for node in network.nodes.values()) else None


def has_thin_corners(network: Network) -> bool:
    """Whether the boxes are also so thin that their thickness, which goes forward without signs, costs nothing."""
    ball = hull_of_few(network)
    if ball is None:
        return False
    thickness, hull = (ball.upper - ball.lower).flatten(1), network.hull_of(ball)
    return bool((thickness.amax(1) <= THIN * (hull.upper - hull.lower).flatten(1).amax(1)).all())


def corner_intervals(network: Network) -> Mapping[str, Interval]:
    """Intervals of all nodes over a hull of few boxes; none for other sets."""
    ball = hull_of_few(network)
    return {} if ball is None else _Propagation(network.without_intervals(), ball).network.intervals


class _Propagation:
    """Boxes of all nodes, by choice of planes, and the intervals that follow from them."""

    def __init__(self, network: Network, ball: HullOfBoxes) -> None:
        self.network = network
        self.ball = ball
        self.boxes: dict[str, list[Boxes]] = {}
        for name, node in network.nodes.items():
            network.propagate(name)
            self.boxes[name] = self._of(node)
            interval = network.intervals[name]
            for boxes in self.boxes[name]:
                lower, upper = (
                    torch.stack(sides) for sides in zip(*((one.lower, one.upper) for one in boxes), strict=True)
                )
                interval = network.meet(interval, Interval(lower.amin(0), upper.amax(0)))
            network.intervals[name] = network.unless_overflowing(name, interval)

    def _of(self, node: Node) -> list[Boxes]:
        network = self.network
        if node.operation == "input":
            ball, shape = self.ball, node.value.shape[1:]
            sides = zip(ball.lower.unbind(1), ball.upper.unbind(1), strict=True)
            return [[Interval(low.reshape(-1, *shape), high.reshape(-1, *shape)) for low, high in sides]]
        parents = [self.boxes[parent] for parent in node.parents]
        count = max(map(len, parents))
        parents = [boxes * (count // len(boxes)) for boxes in parents]
        if node.name in network.rules:
            return [
                [network.affine_interval(node.name, each) for each in zip(*choice, strict=True)]
                for choice in zip(*parents, strict=True)
            ]
        planes = [network.planes(node.name, parallel=parallel) for parallel in (False, True)]
        if planes[0] is planes[1]:
            planes = planes[:1] * count
        elif count == 1:
            parents = [boxes * 2 for boxes in parents]
        return [
            [self._bent(node.name, own, each) for each in zip(*choice, strict=True)]
            for own, *choice in zip(planes, *parents, strict=True)
        ]

    def _bent(self, name: str, planes: Planes, parents: Sequence[Interval]) -> Interval:
        """Through the planes around a function; slopes above 0 keep the sides."""
        function, value = self.network.functions[name], self.network.nodes[name].value
        upper = planes.upper_intercept
        lower = torch.zeros_like(upper) if planes.lower_intercept is None else planes.lower_intercept
        size = torch.maximum(lower.abs(), upper.abs())
        terms = 0
        for box, low, high in zip(parents, planes.lower_slopes, planes.upper_slopes, strict=True):
            under, over = function.beside(box.lower), function.beside(box.upper)
            lower = lower + function.combined(low.clamp(min=0) * under + low.clamp(max=0) * over)
            upper = upper + function.combined(high.clamp(min=0) * over + high.clamp(max=0) * under)
            steepest = torch.maximum(low.abs(), high.abs())
            size = size + function.combined(steepest * function.beside(largest(box).abs()))
            terms += entries(under) // max(1, entries(value))
        error = self._error(name, terms, size)
        # Nothing is known where an end of a parent is infinite.
        return Interval(
            (lower - error).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),
            (upper + error).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf),
        )

    def _error(self, name: str, terms: int, size: Tensor) -> Tensor:
        network = self.network
        if network.sound == "real":
            return torch.zeros_like(size)
        relative = 2 * accumulated_error(terms + 32, size.dtype)
        error = relative * size * (1 + relative) + underflow(size.dtype)
        return error + network.deployed_error(name) if network.sound == "deployed" else error
