"""Proved margins of pieces of the range of a transformation: by bounds in turn, or by splits of neurons."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bounds import Box, Graph, HullOfBoxes, capture, margin_bounds
from bounds.linear.ladder import margins_in_turn
from bounds.rows import label_margins, other_rows
from bounds.search.lower_bounds import least_of_largest
from bounds.transformations.pipelines import Enclosing
from certify.semantic.images import Layout

# A tighter method wins back about half of what the margin in the middle of a piece loses by a cheaper one; halving wins
# two thirds at the price of one more piece.
MOST_RECOVERED = 0.6


@dataclass(frozen=True, eq=False)
class Bounding:
    """Proved margins of pieces."""

    model: nn.Module
    x: Tensor
    enclosing: Enclosing
    layout: Layout
    labels: Tensor
    method: str
    sound: str
    memory: int
    batch_size: int

    @cached_property
    def graph(self) -> Graph:
        """The network, captured once."""
        return capture(self.model, self.x)

    def __call__(self, rows: Tensor, lower: Tensor, upper: Tensor, divisible: Tensor) -> tuple[Tensor, Tensor]:
        """Least margins (B,) of pieces, and how much the images change along each parameter, (B, k).

        Pieces that can be halved are not bounded any better where halves are sure to be worth more.
        """
        found = self.enclosing(rows, lower, upper)
        change = _changes(found, lower < upper)
        region = HullOfBoxes(self.layout.back(found.lower), self.layout.back(found.upper), found.radius, found.norm)
        labels = self.labels[rows]
        if self.method == "ibp":
            margins = margin_bounds(self.graph, region, labels, "ibp", sound=self.sound, memory=self.memory)
            return _least(margins, labels), change
        least = change.new_full((len(rows),), -math.inf)
        lead = self._leads(region.center, labels)
        noisy = self.enclosing.epsilon > 0  # of which halves have as much, so that the lead in the middle says little

        def hopeful(places: Tensor, margins: Tensor) -> Tensor:
            return noisy | (~divisible[places]) | (-margins < (lead[places] - margins) * MOST_RECOVERED)

        for part in margins_in_turn(
            self.graph, region, labels, self.method, sound=self.sound, memory=self.memory, hopeful=hopeful
        ):
            margins = _least(part.margins, labels[part.places])
            least[part.places] = torch.fmax(least[part.places], margins)
        return least, change

    def by_splits(self, rows: Tensor, lower: Tensor, upper: Tensor, most_parts: int, deadline: float) -> Tensor:
        """Least margins (B,) of pieces, each cut into at most so many parts by splits of neurons."""
        found = self.enclosing(rows, lower, upper)
        regions = HullOfBoxes(self.layout.back(found.lower), self.layout.back(found.upper), found.radius, found.norm)
        least = []
        for place in range(len(rows)):
            region = regions.rows(torch.tensor([place], device=rows.device)).double()
            hull, label = region.hull(), self.labels[rows[place : place + 1]]
            margins, _ = other_rows(label_margins(self._outputs(region), label), label)
            margins = margins[0, :, None]  # of one class each
            found_here = least_of_largest(
                self.graph,
                Box(hull.lower, hull.upper),
                [(row, row.new_zeros(1)) for row in margins],
                enough=[0.0] * len(margins),
                most_parts=most_parts,
                deadline=deadline,
                sound=self.sound,
                memory=self.memory,
                ball=region,
            )
            least.append(found_here.amin())
        return torch.stack(least)

    def _outputs(self, region: HullOfBoxes) -> Tensor:
        """Logits in the middle of one piece, in float64."""
        logits: Tensor = self.model(region.center.to(self.x.dtype))
        return logits.double()

    def _leads(self, images: Tensor, labels: Tensor) -> Tensor:
        """The lead of the label of each image (B, *D), of the dtype of the margins."""
        logits = [self.model(part.to(self.x.dtype)) for part in images.split(self.batch_size)]
        margins = torch.cat(logits).double()
        return margins.gather(1, labels[:, None])[:, 0] - margins.scatter(1, labels[:, None], -math.inf).amax(1)


def _least(margins: Tensor, labels: Tensor) -> Tensor:
    """The least margin (N,) to another class; NaN where one is."""
    return margins.scatter(1, labels[:, None], math.inf).amin(1).double()


def _changes(found: HullOfBoxes, varies: Tensor) -> Tensor:
    """Mean changes over the boxes along each parameter, over pixels, (B, k)."""
    middle = (found.lower + found.upper).flatten(2)
    axes = varies.any(0).nonzero()[:, 0].tolist()
    change = torch.zeros_like(varies, dtype=middle.dtype)
    corners = torch.arange(middle.shape[1], device=middle.device)
    for place, axis in enumerate(axes):
        sign = 2.0 * (corners >> place & 1).to(middle.dtype) - 1
        change[:, axis] = torch.einsum("v,bve->be", sign, middle).abs().mean(1)
    return torch.where(varies, change, -1.0)
