"""Search for an unsafe input: samples, then projected gradient descent on all boxes, cases and restarts at once.

What is descended is by how much the worst inequality of a case is missed. Points are numbers that the network can be
given, inside of their box, and the network is evaluated in its own dtype, so that what is found there is what runs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bounds import Property
from certify.verification.deployed import Deployed
from certify.verification.representable import Representable
from certify.verification.unsafe_sets import Pair, UnsafeSets, losses, pairs_of

SAMPLES = 512  # of each box, fewer where there are many boxes
GRID = 4096  # points of a grid, where few entries vary
GRID_ENTRIES = 3
MEMORY = 2**27  # bytes that are kept of one pass for gradients
MOST_STARTS = 2**26  # entries of the best points of all pairs; of more pairs than these, the first are attacked
MOST_ROWS = 2048
ROUNDS = ((25, 8), (100, 16))  # steps, and starts of each pair of a box and a case
REFINING_STEPS = 10
FIRST_STEP, LAST_STEP = 0.5, 0.002  # as shares of the width of a box
MOMENTUM = 0.75
NEARLY = 1e-9  # by which a row may be missed that rounding of the loss may decide
CONFIRMED_AT_ONCE = 4  # points of a pass that are given to the replay, the best first

Witness = tuple[Tensor, Tensor]  # an input (1, *D) and the answer (1, K) to it
Confirm = Callable[[Tensor], Witness | None]  # of inputs (N, F) that seem to be unsafe


@dataclass(frozen=True, eq=False)
class Falsifier:
    """A search for an unsafe input of a network.

    Attributes:
        network: as it runs.
        prop: the property.
        points: inputs that the network can be given.
        confirm: replays inputs, and returns one that is unsafe, or None.
        deadline: in seconds of ``time.monotonic()``.
        generator: source of random points, or None for torch's own.
    """

    network: Deployed
    prop: Property
    points: Representable
    confirm: Confirm
    deadline: float
    generator: Generator | None

    def search(self) -> tuple[Witness | None, list[int]]:
        """An unsafe input, or None; and the boxes by how near they came to one, the nearest first."""
        empty = self.points.empty.tolist()
        pairs = [(box, case) for box, case in pairs_of(self.prop) if not empty[box]]
        pairs = pairs[: max(1, MOST_STARTS // self.prop.num_inputs)]
        nearest = torch.full((len(pairs),), torch.inf, dtype=torch.float64, device=self.network.device)
        boxes = torch.tensor([box for box, _ in pairs], dtype=torch.int64, device=self.network.device)
        starts = self._center(boxes)
        witness = self._sample(pairs, nearest, starts) if pairs else None
        for steps, restarts in ROUNDS:
            order = nearest.argsort(stable=True).tolist()
            restarts = max(2, min(restarts, MOST_ROWS // len(order))) if order else 1
            size = max(1, self.rows // restarts)
            for first in range(0, len(order), size):
                if witness is not None or self._is_over():
                    break
                chosen = torch.tensor(order[first : first + size], device=self.network.device)
                descent = _Descent(self, [pairs[place] for place in chosen.tolist()], starts[chosen], restarts)
                witness = descent.run(steps)
                nearest[chosen] = torch.minimum(nearest[chosen], descent.least)
                starts[chosen] = descent.best
        near = torch.full((len(self.prop.boxes),), torch.inf, dtype=torch.float64, device=self.network.device)
        near = near.scatter_reduce(0, boxes, nearest, "amin")
        return witness, near.argsort(stable=True).tolist()

    def refine(self, box: int, x: Tensor) -> Witness | None:
        """An unsafe input by a short descent from one input (1, F) of a box, or None."""
        pairs = [(box, case) for case in self.prop.boxes[box].cases][: self.rows]
        return _Descent(self, pairs, x.expand(len(pairs), -1), 1).run(REFINING_STEPS)

    def outputs(self, x: Tensor) -> Tensor:
        """Answers (N, K) to inputs (N, F)."""
        return self.network.outputs(x)

    def try_points(self, x: Tensor, missed: Tensor) -> Witness | None:
        """Replay the best of inputs (N, F) that miss no row, or so little that rounding may decide."""
        hits = (missed <= NEARLY).nonzero()[:, 0]
        if len(hits) == 0:
            return None
        best = hits[missed[hits].argsort(stable=True)[:CONFIRMED_AT_ONCE]]
        return self.confirm(x[best])

    def _is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def rows(self) -> int:
        """Inputs of one pass."""
        return max(4, min(MOST_ROWS, MEMORY // self.network.bytes))

    def _center(self, boxes: Tensor) -> Tensor:
        """Inputs (N, F) in the middle of boxes."""
        lower, upper = self.points.lower[boxes], self.points.upper[boxes]
        return self.points.inside(lower + (upper / 2 - lower / 2), boxes)

    @torch.no_grad()
    def _sample(self, pairs: Sequence[Pair], nearest: Tensor, starts: Tensor) -> Witness | None:
        """Random points, corners and, where few entries vary, a grid: the best of each pair become its start."""
        groups: dict[int, list[int]] = {}
        for place, (box, _) in enumerate(pairs):
            groups.setdefault(box, []).append(place)
        for box, places in groups.items():
            if self._is_over():
                return None
            sets = UnsafeSets.of([pairs[place][1] for place in places], self.network.device)
            for x in self._samples(box, max(4, SAMPLES // len(groups))):
                missed = sets.every(x, self.outputs(x))
                least, best = missed.min(1)
                index = torch.tensor(places, device=x.device)
                better = least < nearest[index]
                nearest[index] = torch.where(better, least, nearest[index])
                starts[index] = torch.where(better[:, None], x[best], starts[index])
                if (witness := self.try_points(x, missed.amin(0))) is not None:
                    return witness
        return None

    def _samples(self, box: int, count: int) -> Iterator[Tensor]:
        """Points of a box, in parts that fit a pass."""
        lower, upper = self.points.lower[box], self.points.upper[box]
        middle = self._center(torch.tensor([box], device=lower.device))
        half = count // 2
        shares = torch.rand(count, len(lower), dtype=lower.dtype, device=lower.device, generator=self.generator)
        shares[:half] = shares[:half].round()
        found = [middle, lower + shares * (upper - lower)]
        varying = (upper > lower).nonzero()[:, 0]
        if 0 < len(varying) <= GRID_ENTRIES and count >= SAMPLES // 16:
            ticks = int(GRID ** (1 / len(varying)) + 1e-9)
            sides = [torch.linspace(0, 1, ticks, dtype=lower.dtype, device=lower.device)] * len(varying)
            grid = middle.expand(ticks ** len(varying), -1).clone()
            grid[:, varying] = lower[varying] + torch.cartesian_prod(*sides).view(-1, len(varying)) * (
                upper[varying] - lower[varying]
            )
            found.append(grid)
        yield from self.points.inside(torch.cat(found), box).split(self.rows)


class _Descent:
    """Projected gradient descent of some pairs from several starts each.

    Args:
        search: what it is a part of.
        pairs: P boxes with a case of each.
        start: (P, F), the best point of each so far.
        restarts: number R of starts.
    """

    def __init__(self, search: Falsifier, pairs: Sequence[Pair], start: Tensor, restarts: int) -> None:
        self._search = search
        self._boxes = torch.tensor([box for box, _ in pairs], device=start.device)
        self._sets = UnsafeSets.of([case for _, case in pairs], start.device)
        self._lower, self._upper = search.points.lower[self._boxes], search.points.upper[self._boxes]
        self._width = self._upper - self._lower
        self.best = start.clone()
        self.least = torch.full((len(pairs),), torch.inf, dtype=torch.float64, device=start.device)
        shares = self._random(restarts)
        shares[1::2] = shares[1::2].round()  # corners
        self._x = self._lower + shares * self._width
        self._x[0] = start
        if restarts > 1:
            self._x[1] = search._center(self._boxes)

    def run(self, steps: int) -> Witness | None:
        """Descend; an unsafe input, or None."""
        velocity = torch.zeros_like(self._x)
        step = torch.full_like(self._x[:, :1, :1], FIRST_STEP)
        step[0] = FIRST_STEP / 10  # stays near the best so far
        step[1:2] = 1.0  # from the middle to the corner where the network would be lowest if it were linear
        shrink = (LAST_STEP / FIRST_STEP) ** (1 / steps)
        for _ in range(steps):
            self._x = self._search.points.inside(self._x, self._boxes)
            gradient, witness = self._evaluated()
            if witness is not None or self._search._is_over():
                return witness
            slope = gradient * self._width
            size = slope.abs().sum(2, keepdim=True)
            blind = ~((size > 0) & size.isfinite())
            slope = torch.where(blind, self._random(len(self._x)) - 0.5, slope / size)
            velocity = MOMENTUM * velocity + slope
            self._x = self._x - step * self._width * velocity.sign()
            step = (step * shrink).clamp(max=FIRST_STEP)
        return None

    def _evaluated(self) -> tuple[Tensor, Witness | None]:
        """The gradient (R, P, F) at the points, and one that is unsafe, if any."""
        with torch.enable_grad():
            x = self._x.reshape(-1, *self._search.network.shape[1:]).detach().clone().requires_grad_()
            y = self._search.outputs(x).view(*self._x.shape[:2], -1)
            loss, missed = losses(self._sets.rows(x.view_as(self._x), y))
            total = loss[loss.isfinite()].sum()
            gradient = None
            if total.requires_grad:
                (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
        missed = missed.detach()
        least, place = missed.min(0)
        better = least < self.least
        self.least = torch.where(better, least, self.least)
        chosen = self._x.gather(0, place[None, :, None].expand(1, -1, self._x.shape[2]))[0]
        self.best = torch.where(better[:, None], chosen, self.best)
        witness = self._search.try_points(self._x.flatten(0, 1), missed.flatten())
        return (torch.zeros_like(self._x) if gradient is None else gradient.view_as(self._x)), witness

    def _random(self, restarts: int) -> Tensor:
        """Uniform numbers (R, P, F)."""
        shape, like = (restarts, *self._lower.shape), self._lower
        return torch.rand(shape, dtype=like.dtype, device=like.device, generator=self._search.generator)
