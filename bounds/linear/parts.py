"""Bounds of many inputs, found for so many at once as a memory budget allows."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.engines.choice import OWN
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture
from bounds.memory import MEMORY
from bounds.sets.balls import PerturbationSet

# Tensors of the size of all nodes that are held at the same time: intervals, offsets, lines and rounding errors. At
# most 13 were counted, and backward passes come on top, which have a budget of their own.
OF_ALL_NODES = 32
OF_ONE_LAYER = 32  # likewise where intervals go layer by layer; a convolution copies every value for all of its kernel

P = ParamSpec("P")
Bounds = TypeVar("Bounds")  # a tensor, or a dataclass of tensors; each has a row for each input


def within_memory(function: Callable[P, Bounds]) -> Callable[P, Bounds]:
    """A function ``(model, ball, *others, memory=, **settings)`` that bounds inputs apart where memory asks for it.

    Of the others, tensors have a row for each input. Where gradients reach the weights all inputs stay together:
    nothing would be freed between the parts. Where they reach nothing they are switched off.
    """
    whole = cast(Callable[..., Bounds], function)

    @wraps(function)
    def run(
        model: Source | Graph, ball: PerturbationSet, *others: object, memory: int = MEMORY, **settings: object
    ) -> Bounds:
        if settings.get("engine", OWN) != OWN or not isinstance(ball, PerturbationSet):
            return whole(model, ball, *others, memory=memory, **settings)
        checks.at_least("memory", memory, 1)
        checks.full_precision(ball.center)
        graph = capture(model, ball.center)

        def bound(part: PerturbationSet, *own: object) -> Bounds:
            return whole(graph, part, *own, memory=memory, **settings)

        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in graph.program.state_dict.values())
        moves = any(isinstance(part, Tensor) and part.requires_grad for part in vars(ball).values())
        with torch.set_grad_enabled(learns or (torch.is_grad_enabled() and moves)):  # lines cost less without
            if learns or not _divisible(ball, others):
                return bound(ball, *others)
            first = ball.center[:1]
            size = torch.float64.itemsize if settings.get("sound") != "real" else first.element_size()
            return by_inputs(bound, ball, others, memory // (OF_ALL_NODES * graph.entries(first) * size))

    return cast(Callable[P, Bounds], run)


def by_inputs(function: Callable[..., Bounds], ball: PerturbationSet, others: Sequence[object], at_once: int) -> Bounds:
    """A function ``(ball, *others)`` on at most so many inputs at once."""
    count = len(ball.center)
    parts = -(-count // max(1, at_once)) if _divisible(ball, others) else 1
    if parts <= 1:
        return function(ball, *others)
    found = []
    try:
        for index in torch.arange(count, device=ball.center.device).tensor_split(parts):
            own = [other[index.to(other.device)] if isinstance(other, Tensor) else other for other in others]
            found.append(function(ball.rows(index), *own))
    except InvalidInput:
        function(ball, *others)  # which names the row among all
        raise
    return _joined(found)


def layers_at_once(layers: Sequence[nn.Module], ball: PerturbationSet, memory: int) -> int:
    """Inputs to bound together where intervals go through a network layer by layer."""
    checks.at_least("memory", memory, 1)
    if torch.is_grad_enabled() and any(weight.requires_grad for layer in layers for weight in layer.parameters()):
        return len(ball.center)
    size = widest = float(ball.center[:1].numel())
    for layer in layers:
        if isinstance(layer, nn.Linear):
            size = layer.out_features
        elif isinstance(layer, nn.Conv2d):
            size *= layer.out_channels / (layer.in_channels * math.prod(layer.stride))
        widest = max(widest, size)
    return int(memory / (OF_ONE_LAYER * torch.float64.itemsize * max(1.0, widest)))


def _divisible(ball: object, others: Sequence[object]) -> bool:
    """Whether there are several inputs that can be taken apart; a set of one's own may not say how."""
    if not isinstance(ball, PerturbationSet) or len(ball.center) < 2 or type(ball).rows is PerturbationSet.rows:
        return False
    return all(len(other) == len(ball.center) for other in others if isinstance(other, Tensor) and other.ndim)


def _joined(found: list[Bounds]) -> Bounds:
    if isinstance(found[0], Tensor):
        return cast(Bounds, torch.cat(cast(list[Tensor], found)))
    columns = zip(*(vars(part).values() for part in found), strict=True)
    return type(found[0])(*(torch.cat(column) for column in columns))
