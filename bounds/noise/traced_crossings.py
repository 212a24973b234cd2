"""Exact first changes of a prediction along lines, for networks that are linear in pieces."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import UnsupportedLayer
from bounds.graph.captured import Graph
from bounds.graph.capturing import capture
from bounds.models import frozen
from bounds.noise.crossings import Crossings, absolute_cosine, checked_rays, predicted_labels, unit_directions
from bounds.numerics import per_row
from bounds.operations.affine import affine
from bounds.operations.functions import function_of
from bounds.operations.node import Node
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.piecewise import PiecewiseFunction

STEP = 1e-11  # share of the limit by which a line is followed beyond a kink, to be on the next piece


@isolated
def traced_crossings(
    model: nn.Module,
    x: Tensor,
    *,
    directions: int,
    limit: float | Tensor,
    along: Tensor | None = None,
    batch_size: int = 1000,
    generator: torch.Generator | None = None,
) -> Crossings:
    """Distances to the first change of the prediction along uniformly random lines, both ways, without a miss.

    Lines are followed from kink to kink of a network of affine, piecewise linear and maximum operations, in float64
    whatever the model's dtype. Pieces shorter than 1e-11 of the limit may be passed over. A line costs about three
    forward passes for each piece, of which there can be as many as neurons.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        directions: M, lines through each input; with equal generators and batch sizes those of
            :func:`bounds.random_crossings`.
        limit: l_2 distance up to which lines are followed: a number, or (N,).
        along: (N, *D) directions with which the cosine of each line is recorded.
        batch_size: rays that are followed together, two for a line.
        generator: source of the directions.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the model returns no (N, K) logits, or such that are not finite at an input.
        UnsupportedLayer: an operation is not linear in pieces, or ``torch.export`` cannot follow the model.
    """
    limits = checked_rays(x, directions, limit, along, batch_size)
    generator = checks.generator(generator, x.device)
    distance, cosine, evaluations = [limits[:0]], [limits[:0]], 0
    with frozen(model), torch.no_grad():
        label = predicted_labels(model, x, batch_size)
        graph = capture(model, x.new_zeros(1, *x.shape[1:]))
        rays = torch.arange(len(x) * directions, device=x.device)
        for part in rays.split(batch_size // 2) if len(rays) else ():
            rows = part // directions
            lines = unit_directions(x[rows], generator)
            found, steps = _first_changes(graph, x[rows].double(), lines.double(), label[rows], limits[rows])
            distance.append(found)
            evaluations += steps
            if along is not None:
                cosine.append(absolute_cosine(lines, along[rows]))
    shape = len(x), directions
    return Crossings(
        label=label,
        distance=torch.cat(distance).view(shape),
        cosine=None if along is None else torch.cat(cosine).view(shape),
        limit=limits,
        evaluations=evaluations,
    )


def _first_changes(graph: Graph, origins: Tensor, lines: Tensor, label: Tensor, limits: Tensor) -> tuple[Tensor, int]:
    """Distances (R,) of the first change on either side, infinite where there is none, and the pieces evaluated."""
    count = len(lines)
    origins, label = torch.cat([origins, origins]), torch.cat([label, label])
    lines, reach = torch.cat([lines, -lines]), torch.cat([limits, limits])
    place, distance = torch.zeros_like(reach), torch.full_like(reach, math.inf)
    open_, evaluations = torch.ones_like(label, dtype=torch.bool), 0
    nodes = graph.bind(origins)
    while open_.any():
        at = place + STEP * torch.cat([limits, limits])
        value, slope, kink = _piece(nodes, origins + per_row(at, lines) * lines, lines)
        evaluations += len(lines)
        margin, rate = (part.gather(1, label[:, None]) - part for part in (value, slope))
        # The label itself, with margin and rate 0, is never passed.
        ahead = torch.where((rate < 0) | (margin < 0), margin.clamp(min=0) / -rate, math.inf)
        ahead = torch.where(margin < 0, 0.0, ahead).amin(1)
        changed = open_ & (ahead <= kink) & (at + ahead <= reach)
        distance = torch.where(changed, at + ahead, distance)
        # No side is followed farther than to where the other one changed.
        reach = torch.minimum(reach, distance.view(2, count).amin(0).repeat(2))
        place = at + kink
        open_ = open_ & ~changed & (place < reach)
    return distance.view(2, count).amin(0), evaluations


def _piece(nodes: dict[str, Node], points: Tensor, lines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and their slopes along the lines, (R, K), and how far away the next kink is, (R,)."""
    values: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    kink = points.new_full((len(points),), math.inf)
    for name, node in nodes.items():
        if node.operation == "input":
            values[name], slopes[name] = (part.reshape(node.value.shape) for part in (points, lines))
            continue
        parents = tuple(values[parent] for parent in node.parents)
        rates = tuple(slopes[parent] for parent in node.parents)
        values[name] = node.function(*parents)
        rule = affine(node)
        if rule is not None:
            slopes[name] = node.function(*rates) - rule.at_zero(node, rates)[0]
        else:
            slopes[name], ahead = _bent(node, parents[0], rates[0])
            kink = torch.minimum(kink, ahead)
    return values["output"].flatten(1), slopes["output"].flatten(1), kink


def _bent(node: Node, value: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of the output where the input has a value and a rate, and how far, (R,), it stays the same."""
    function = function_of(node)
    if isinstance(function, Maximum):
        top = value.amax(function.dims, keepdim=True)
        slope = torch.where(value == top, rate, -math.inf).amax(function.dims, keepdim=True)
        gaps = [torch.where(rate > slope, (top - value) / (rate - slope), math.inf)]
        slope = slope if function.keepdim else slope.squeeze(function.dims)
    elif isinstance(function, PiecewiseFunction) and all(piece.curvature == 0 for piece in function.pieces):
        slope = torch.zeros_like(value)
        for piece in function.pieces:  # from left to right
            slope = torch.where(value >= piece.start, piece.derivative(value), slope)
        gaps = [(piece.start - value) / rate for piece in function.pieces[1:]]
        slope = slope * rate
    else:
        raise UnsupportedLayer(
            f"{node.operation} is not linear in pieces; it stands at {node.origin}. Use random_crossings, which needs "
            f"forward passes alone"
        )
    ahead = [torch.where(gap > 0, gap, math.inf).reshape(len(gap), -1).amin(1) for gap in gaps]
    return slope, torch.stack(ahead).amin(0)
