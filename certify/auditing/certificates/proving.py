"""Proofs anew: whether a network keeps its class within a radius, by intervals, lines and splits, in float64.

Every rounding error is bounded and subtracted. Any slopes are sound, so that nothing of the run is trusted: what is
shown is the statement, not that its method could show it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from certify.auditing.certificates.networks import INPUT, Affine, LayeredNetwork

STEPS, SPLITS = 20, 100  # of the ascent over slopes; leaves of a proof by splits
Bounds = tuple[Tensor, Tensor]


class Bounded(Protocol):
    """Inputs that a statement is about: the least values of linear functions, and the box around them."""

    @property
    def low(self) -> Tensor:
        """(d,) ends of the box."""

    @property
    def high(self) -> Tensor:
        """(d,) likewise."""

    def least(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds below linear functions (m, d), and sums of the absolute terms behind them."""


class Region(NamedTuple):
    """Inputs in a ball and a box.

    Attributes:
        center: (d,) float64, the input.
        radius: of the ball around it.
        norm: its order; 0 counts changed entries.
        low: (d,) ends of the smallest box around all of them, rounded outward.
        high: likewise.
    """

    center: Tensor
    radius: float
    norm: float
    low: Tensor
    high: Tensor

    @classmethod
    def of(
        cls, center: Tensor, radius: float, norm: float, low: Tensor | None, high: Tensor | None, frozen: Tensor | None
    ) -> "Region":
        """The ball, within the sides of the box and with frozen entries as they are."""
        reach = math.inf if norm == 0 else radius
        below, above = (_outward(center + sign * reach, sign) for sign in (-1, 1))
        below = below if low is None else torch.maximum(below, torch.minimum(low, center))
        above = above if high is None else torch.minimum(above, torch.maximum(high, center))
        if frozen is not None:
            below, above = torch.where(frozen, center, below), torch.where(frozen, center, above)
        return cls(center, radius, norm, below, above)

    def least(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds below linear functions (m, d), and sums of the absolute terms behind them.

        The least values in the orders 0, 1, 2 and infinity; in others, that of the ball or of the box.
        """
        change = torch.where(coefficients > 0, self.low - self.center, self.high - self.center)
        change = torch.where(coefficients == 0, 0.0, coefficients * change)  # each at most 0
        at_center = coefficients.abs() @ self.center.abs()
        if self.norm == 0:
            change = change.topk(min(int(self.radius), change.shape[1]), dim=1, largest=False).values
        moved = change.sum(1)
        if self.norm == 1:
            moved = self._in_diamond(coefficients)
        elif self.norm == 2:
            moved = self._in_sphere(coefficients)
        elif self.norm not in (0, math.inf):
            free = torch.where(self.high > self.low, coefficients, 0.0)
            dual = self.norm / (self.norm - 1)
            moved = torch.maximum(moved, -self.radius * torch.linalg.vector_norm(free, dual, dim=1))
        # The price of a sphere and what is paid for it are at most twice as large as the fall without the box.
        steep = self.radius * torch.linalg.vector_norm(coefficients, dim=1) if self.norm == 2 else 0.0
        return coefficients @ self.center + moved, at_center + moved.abs() + 2 * steep

    def _in_diamond(self, coefficients: Tensor) -> Tensor:
        """Largest falls (m,) where the sizes of all changes sum up to the radius: the steepest entries move first."""
        steep, order = coefficients.abs().sort(dim=1, descending=True)
        room = torch.where(coefficients > 0, self.center - self.low, self.high - self.center).gather(1, order)
        before = room.cumsum(1) - room
        return -(steep * torch.minimum(room, (self.radius - before).clamp(min=0))).sum(1)

    def _in_sphere(self, coefficients: Tensor) -> Tensor:
        """Bounds (m,) of the falls within a sphere and the box, by the dual of the sphere, which any price bounds."""
        below, above = self.low - self.center, self.high - self.center
        count = int((coefficients != 0).sum(1).max()) if len(coefficients) else 0
        if 4 * count < len(below):  # rows of convolutions see few entries
            places = coefficients.abs().topk(count, 1).indices
            coefficients = coefficients.gather(1, places)
            below, above = below[places], above[places]
        low = torch.zeros(len(coefficients), dtype=torch.float64)
        high = torch.linalg.vector_norm(coefficients, dim=1) / max(self.radius, 1e-300) + 1e-30
        for _ in range(40):
            price = (low + high) / 2
            change = torch.minimum(torch.maximum(-coefficients / price[:, None], below), above)
            far = torch.linalg.vector_norm(change, dim=1) > self.radius
            low, high = torch.where(far, price, low), torch.where(far, high, price)
        change = torch.minimum(torch.maximum(-coefficients / high[:, None], below), above)
        cost = (coefficients * change + high[:, None] / 2 * change**2).sum(1) - high / 2 * self.radius**2
        inside = torch.where(coefficients > 0, coefficients * below, coefficients * above)
        inside = torch.where(coefficients == 0, 0.0, inside).sum(1)
        return torch.maximum(cost, inside)


def _outward(value: Tensor, sign: int) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, sign * math.inf))


class Prover:
    """Bounds of a network on one region.

    Args:
        network: in matrices.
        region: where it is bounded.
        lines: whether layers are bounded by lines too, which is slower, or by intervals alone.
    """

    def __init__(self, network: LayeredNetwork, region: Bounded, lines: bool) -> None:
        self.network, self.region, self.lines = network, region, lines
        self.bounds: list[Bounds] = []
        self.sizes = {INPUT: torch.maximum(region.low.abs(), region.high.abs())}
        for layer in network.layers:
            low, high = self._interval(layer), -self._interval(_negated(layer))
            if lines and (unstable := (low < 0) & (high > 0)).any():
                rows = unstable.nonzero().squeeze(1)
                chosen = _chosen(layer, rows)
                low[rows] = torch.maximum(low[rows], self.lower(chosen))
                high[rows] = torch.minimum(high[rows], -self.lower(_negated(chosen)))
            self.bounds.append((low, torch.maximum(low, high)))
            self.sizes[len(self.bounds)] = high.clamp(min=0)

    def _interval(self, rows: Affine) -> Tensor:
        """Lower bounds of rows, each block by itself."""

        def least(block: int, matrix: Tensor) -> Bounds:
            if block == INPUT:
                return self.region.least(matrix)
            low, high = (side.clamp(min=0) for side in self.bounds[block - 1])
            return _over_box(matrix, low, high)

        return _summed(rows, least, self.sizes, self.network.error)

    def slopes(self) -> list[Tensor]:
        """Lower slopes of all ReLU entries: 1 where they are mostly active, else 0."""
        return [(high > -low).double() for low, high in self.bounds]

    def lower(
        self, rows: Affine, slopes: Sequence[Tensor] | None = None, fixed: Sequence[Bounds] | None = None
    ) -> Tensor:
        """Lower bounds (m,) of rows, through all layers back to the input.

        Args:
            rows: affine functions of the blocks that are bounded already.
            slopes: lower slopes of each layer, in [0, 1].
            fixed: bounds of each layer; those of a part where some signs are known.
        """
        bounds = self.bounds if fixed is None else fixed
        slopes = self.slopes() if slopes is None else slopes
        total, slack = rows.constant[0].clone(), rows.constant[1].clone()
        open_ = {block: matrix for block, (matrix, _) in rows.blocks.items()}
        slack = slack + sum((size @ self.sizes[block] for block, (_, size) in rows.blocks.items()), torch.zeros(()))
        for block in range(len(bounds), 0, -1):
            coefficients = open_.pop(block, None)
            if coefficients is None:
                continue
            low, high = bounds[block - 1]
            upper, offset = _upper_line(low, high)
            lower = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, slopes[block - 1]))
            positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
            weights = positive * lower + negative * upper
            total = total + negative @ offset
            slack = slack - negative @ offset + weights.abs() @ torch.maximum(low.abs(), high.abs())
            layer = self.network.layers[block - 1]
            total, slack = total + weights @ layer.constant[0], slack + weights.abs() @ layer.constant[1]
            for earlier, (matrix, absolute) in layer.blocks.items():
                passed = weights @ matrix
                open_[earlier] = passed if earlier not in open_ else open_[earlier] + passed
                slack = slack + weights.abs() @ (absolute @ self.sizes[earlier])
        if INPUT in open_:
            least, terms = self.region.least(open_[INPUT])
            total, slack = total + least, slack + terms
        return total - 2 * self.network.error * slack - 1e-300

    def proves(self, label: int) -> str:
        """Way in which it is proved that the label leads everywhere in the region; empty where it is not."""
        margins = margin_rows(self.network.logits, label)
        if bool((self._interval(margins) > 0).all()):
            return "intervals"
        if not self.lines:
            return ""
        left = (self.lower(margins) <= 0).nonzero().squeeze(1).tolist()
        if all(self._by_splits(_chosen(margins, torch.tensor([row]))) for row in left):
            return "splits" if left else "lines"
        return ""

    def _by_splits(self, row: Affine) -> bool:
        """Whether a row is above 0 in every part of the region that signs of ReLU entries cut out."""
        if not self.bounds:  # of an affine network a bound is all there is
            return False
        slopes = self._ascended(row)
        waiting, leaves = [self.bounds], 0
        while waiting and leaves < SPLITS:
            bounds, leaves = waiting.pop(), leaves + 1
            if float(self.lower(row, slopes, bounds)) > 0:
                continue
            parts = list(self._halves(row, slopes, bounds))
            if not parts:
                return False
            waiting += parts
        return not waiting

    def _ascended(self, row: Affine) -> list[Tensor]:
        """Slopes with a larger lower bound of a row, by the signs of its gradient."""
        best, value = self.slopes(), -math.inf
        slopes = [slope.clone().requires_grad_() for slope in best]
        for step in range(STEPS):
            with torch.enable_grad():
                bound = self.lower(row, slopes)
                gradients = torch.autograd.grad(bound.sum(), slopes, allow_unused=True)
            if float(bound.detach()) > value:
                best, value = [slope.detach().clone() for slope in slopes], float(bound.detach())
            with torch.no_grad():
                for slope, gradient in zip(slopes, gradients, strict=True):
                    if gradient is not None:
                        slope += 0.3 * 0.9**step * gradient / gradient.abs().max().clamp(min=1e-30)
                        slope.clamp_(0, 1)
        return best

    def _halves(self, row: Affine, slopes: Sequence[Tensor], bounds: Sequence[Bounds]) -> Iterator[list[Bounds]]:
        """Two parts: where the entry that the bound loses most by is at least 0, and where it is at most 0."""
        loss = self._losses(row, slopes, bounds)
        layer = max(range(len(bounds)), key=lambda place: float(loss[place].max()) if len(loss[place]) else 0.0)
        if not len(loss[layer]) or float(loss[layer].max()) <= 0:
            return
        entry = int(loss[layer].argmax())
        for side in (0, 1):
            part = list(bounds)
            ends = [end.clone() for end in part[layer]]
            ends[side][entry] = 0.0
            part[layer] = (ends[0], ends[1])
            yield part

    def _losses(self, row: Affine, slopes: Sequence[Tensor], bounds: Sequence[Bounds]) -> list[Tensor]:
        """Cost of the lines of each entry for the bound, at most."""
        losses = [torch.zeros_like(low) for low, _ in bounds]
        open_ = {block: matrix for block, (matrix, _) in row.blocks.items()}
        for block in range(len(bounds), 0, -1):
            if (coefficients := open_.pop(block, None)) is None:
                continue
            low, high = bounds[block - 1]
            upper, offset = _upper_line(low, high)
            lower = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, slopes[block - 1]))
            unstable = (low < 0) & (high > 0)
            positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
            gap = positive[0] * torch.minimum(lower * -low, (1 - lower) * high) - negative[0] * offset
            losses[block - 1] = torch.where(unstable, gap, 0.0)
            weights = positive * lower + negative * upper
            for earlier, (matrix, _) in self.network.layers[block - 1].blocks.items():
                passed = weights @ matrix
                open_[earlier] = passed if earlier not in open_ else open_[earlier] + passed
        return losses


def _upper_line(low: Tensor, high: Tensor) -> Bounds:
    """Slope and offset of a line above ReLU: through both ends, and above both of them after rounding."""
    unstable = (low < 0) & (high > 0)
    slope = torch.where(unstable, high / torch.where(unstable, high - low, 1.0), (low >= 0).double())
    offset = torch.maximum(-slope * low, high - slope * high) * (1 + 2.0**-50)
    return slope, torch.where(unstable, offset, 0.0)


def _negated(rows: Affine) -> Affine:
    blocks = {key: (-matrix, absolute) for key, (matrix, absolute) in rows.blocks.items()}
    return Affine(blocks, (-rows.constant[0], rows.constant[1]))


def _chosen(rows: Affine, places: Tensor) -> Affine:
    blocks = {key: (matrix[places], absolute[places]) for key, (matrix, absolute) in rows.blocks.items()}
    return Affine(blocks, (rows.constant[0][places], rows.constant[1][places]))


def margin_rows(logits: Affine, label: int) -> Affine:
    """The lead of a label over every other class."""
    others = torch.tensor([place for place in range(len(logits.constant[0])) if place != label])
    blocks = {
        key: (matrix[label] - matrix[others], absolute[label] + absolute[others])
        for key, (matrix, absolute) in logits.blocks.items()
    }
    (constant, size) = logits.constant
    return Affine(blocks, (constant[label] - constant[others], size[label] + size[others]))


def least_margins(network: LayeredNetwork, low: Tensor, high: Tensor, label: int) -> Tensor:
    """Bounds below the lead of a label over every other class by intervals alone, for many boxes (B, d): (B,)."""
    boxes, sizes = {INPUT: (low, high)}, {INPUT: torch.maximum(low.abs(), high.abs())}

    def least(rows: Affine) -> Tensor:
        return _summed(rows, lambda block, matrix: _over_box(matrix, *boxes[block]), sizes, network.error)

    for block, layer in enumerate(network.layers, start=INPUT + 1):
        below, above = least(layer), -least(_negated(layer))
        boxes[block] = below.clamp(min=0), torch.maximum(below, above).clamp(min=0)
        sizes[block] = boxes[block][1]
    return least(margin_rows(network.logits, label)).amin(1)


def _over_box(matrix: Tensor, low: Tensor, high: Tensor) -> Bounds:
    """Least values of linear functions (m, n) over boxes (.., n), and sums of the absolute terms behind them."""
    size = torch.maximum(low.abs(), high.abs())
    return low @ matrix.clamp(min=0).T + high @ matrix.clamp(max=0).T, size @ matrix.abs().T


def _summed(rows: Affine, least: Callable[[int, Tensor], Bounds], sizes: Mapping[int, Tensor], error: float) -> Tensor:
    """Lower bounds (.., m) of rows from those of each of their blocks, with all rounding errors subtracted.

    Args:
        rows: affine functions of some blocks.
        least: of a block and a matrix, bounds below these linear functions, and sums of the absolute terms behind them.
        sizes: (.., n) of each block, by which the errors of matrices count.
        error: relative to sums of absolute terms.
    """
    total, slack = rows.constant
    for block, (matrix, absolute) in rows.blocks.items():
        lower, terms = least(block, matrix)
        total, slack = total + lower, slack + terms + sizes[block] @ absolute.T
    return total - 2 * error * slack - 1e-300
