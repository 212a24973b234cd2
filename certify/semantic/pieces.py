"""Pieces of the range of a transformation, for many inputs at once: what is proved, broken, or to be halved."""

import math
from collections.abc import Sequence
from itertools import pairwise, product

import torch
from torch import Tensor

from certify.semantic.certificate import SemanticCertificate
from certify.semantic.images import Layout
from certify.semantic.transformations import Parameter, Transformation

STEP = 0.75  # how far pixels move within a first piece of a rotation, scale or shear, at most
OF_UNITS = {"pixels": 1.0, "input units": 0.25, "factor": 0.5}  # width of first pieces of others


def first_pieces(
    transformation: Transformation, layout: Layout, count: int, pieces: int | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (P,) and sides (P, k) of the pieces that the range of each of ``count`` inputs is cut into at first."""
    pipeline = transformation.pipeline()
    moving = {place for _, place in pipeline.maps}
    shape = layout.shape[1:3] if layout.channels_last or len(layout.shape) == 3 else layout.shape[-2:]
    far = math.hypot(*shape) / 2
    ends = []
    for place, part in enumerate(transformation.parameters):
        width = _width(part, far, moved=place in moving)
        ends.append(_cuts(part, pieces, width, whole=pipeline.exact))
    boxes = list(product(*(list(pairwise(cuts)) for cuts in ends)))
    sides = torch.tensor(boxes, dtype=torch.float64, device=device)  # (pieces, k, 2)
    rows = torch.arange(count, device=device).repeat_interleave(len(boxes))
    return rows, sides[..., 0].repeat(count, 1), sides[..., 1].repeat(count, 1)


def _width(part: Parameter, far: float, *, moved: bool) -> float:
    """Width of a first piece along a parameter, for an image whose corners are so far from the centre."""
    if part.unit == "degrees":
        return math.degrees(STEP / far)
    if moved and part.unit == "factor":
        return STEP * max(part.low, 0.1) / far if part.identity else STEP / far
    return OF_UNITS[part.unit]


def _cuts(part: Parameter, pieces: int | None, width: float, *, whole: bool) -> Sequence[float]:
    """Ends of pieces; those of translations do not reach beyond whole pixels."""
    if part.low == part.high:
        return [part.low, part.high]
    count = pieces or max(1, math.ceil((part.high - part.low) / width * (1 - 1e-9)))
    inner = [part.low + (part.high - part.low) * i / count for i in range(1, count)]
    if whole:
        integers = {float(i) for i in range(math.floor(part.low) + 1, math.ceil(part.high))}
        inner = sorted(integers | (set(inner) if pieces else set()))
    return [part.low, *inner, part.high]


def test_points(lower: Tensor, upper: Tensor, *, new: bool) -> Tensor:
    """Corners and middles of pieces, (M, P, k); only the middles of new ones, whose corners are known."""
    middle = (lower + upper) / 2
    varies = (lower < upper).any(0).nonzero()[:, 0].tolist()
    if new and len(varies) <= 1:
        return middle[None]
    corners = []
    for choice in product((False, True), repeat=len(varies)):
        corner = lower.clone()
        for axis, high in zip(varies, choice, strict=True):
            if high:
                corner[:, axis] = upper[:, axis]
        corners.append(corner)
    return torch.stack([middle, *corners])


class Pieces:
    """The state of a search on all inputs.

    Attributes:
        rows: (P,), the input of each piece that is to be looked at.
        lower: (P, k) least parameters.
        upper: likewise.
        rounds: how often pieces were halved.

    Args:
        transformation: with its range.
        x: (N, *D) inputs.
        right: (N,) bool, where the model predicts the label without any transformation; no other input is looked at.
        tolerance: width of the narrowest pieces of an input with a known break, as a share of the range.
        narrowest: that of others, in units of the tolerance.
        most: pieces of one input that are bounded.
    """

    def __init__(
        self, transformation: Transformation, x: Tensor, right: Tensor, tolerance: float, narrowest: float, most: int
    ) -> None:
        numbers = [(part.low, part.high, part.identity, part.reach) for part in transformation.parameters]
        like = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        low, high, self.identity, self.reach = like.new_tensor(numbers).unbind(1)
        self.width = high - low
        self.nearest = self.distance(low[None], high[None])  # (1,), of all images of the range
        varying = sum(part.low < part.high for part in transformation.parameters)
        self.tolerance = tolerance * 2 ** max(0, varying - 1)  # the surface around a break takes many pieces
        self.narrowest, self.most = narrowest, most
        self.rows, self.lower, self.upper = (like.new_zeros(0).long(), *(like.new_zeros(0, len(numbers)),) * 2)
        self.rounds = 0
        self.right = right
        self.limit = torch.where(right, torch.inf, 0.0).double()  # no piece from here on is proved
        self.broken_from = self.limit.clone()
        self.parameters = like.new_full((len(x), len(numbers)), torch.nan)
        self.parameters[~right] = self.identity
        self.margin, self.bounded, self.open = like.new_full((len(x),), torch.inf), like.long(), like.long()
        self.add(self.rows, self.lower, self.upper)

    def add(self, rows: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Take pieces in place of those before."""
        self.rows, self.lower, self.upper = rows, lower, upper
        self._settled = torch.zeros_like(rows, dtype=torch.bool)
        self._margins = torch.full_like(rows, -math.inf, dtype=torch.float64)
        self._changes = (upper - lower) / self.width.clamp(min=1e-300)
        self._before = torch.full_like(self._margins, -math.inf)  # margins of the pieces that these are halves of

    def distance(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Distance (P,) of pieces from the identity, as a share of the range of each parameter."""
        gap = torch.maximum(lower - self.identity, self.identity - upper).clamp(min=0)
        return (gap / self.reach).amax(1)

    def drop(self) -> bool:
        """Leave out the pieces that nothing depends on any more; whether others are left."""
        # Without a break, more than the radius is at stake: whether all is proved.
        end = torch.where(self.broken_from.isfinite(), self.limit, torch.inf)
        kept = self.distance(self.lower, self.upper) < end[self.rows]
        before = self._before[kept]
        self.add(self.rows[kept], self.lower[kept], self.upper[kept])
        self._before = before
        return len(self.rows) > 0

    def break_at(self, rows: Tensor, points: Tensor) -> None:
        """Take note of parameters (M, k) at which the model errs on some rows (M,)."""
        distance = self.distance(points, points)
        nearest = self.broken_from.scatter_reduce(0, rows, distance, "amin")
        places = torch.arange(len(rows), device=rows.device)
        hit = (distance == nearest[rows]) & (distance < self.broken_from[rows])
        first = torch.full_like(self.open, len(rows)).scatter_reduce(0, rows[hit], places[hit], "amin")
        found = first < len(rows)
        self.parameters[found] = points[first[found]]
        self.broken_from = nearest
        self.limit = torch.minimum(self.limit, nearest)

    def record(self, places: Tensor, margins: Tensor, changes: Tensor) -> None:
        """Take proved margins (M,) of pieces at some places (M,), and how much images change along each parameter."""
        rows, proved = self.rows[places], margins > 0
        self.bounded.index_add_(0, rows, torch.ones_like(rows))
        self.margin = self.margin.scatter_reduce(0, rows[proved], margins[proved], "amin")
        self._settled[places], self._margins[places], self._changes[places] = proved, margins, changes

    @property
    def unproved(self) -> Tensor:
        """Places (M,) of the pieces that are neither proved nor beyond a break, the nearest to the identity first."""
        near = self.distance(self.lower, self.upper) < self.broken_from[self.rows]
        places = (~self._settled & near).nonzero()[:, 0]
        return places[self.distance(*self.of(places)[1:]).argsort(stable=True)]

    @property
    def stuck(self) -> Tensor:
        """(P,) bool, pieces that are not proved and that halving, as it seems, will not prove either.

        What halves win falls by half each time, so all that are left win about as much as the last one.
        """
        rounds = int((self.lower < self.upper).any(0).sum())  # of halving, until all parameters had their turn
        hopeless = self._margins + rounds * (self._margins - self._before) < 0
        return ~self._settled & (hopeless | ~self.divisible)

    def prove(self, places: Tensor, margins: Tensor) -> None:
        """Take other margins (M,) of pieces that were bounded before, at some places (M,)."""
        better = torch.fmax(self._margins[places], margins)
        rows, proved = self.rows[places], better > 0
        self.margin = self.margin.scatter_reduce(0, rows[proved], better[proved], "amin")
        self._settled[places], self._margins[places] = proved, better

    def halve(self, ends: Tensor | None = None) -> None:
        """Go on with the halves of pieces that are not proved.

        Those that are narrow, too many, or among the given ones (P,) stay open.
        """
        ends = ~self._settled & (~self.divisible if ends is None else ends | ~self.divisible)
        self._leave_open(ends)
        kept = ~self._settled & ~ends
        axis, rows, lower, upper = self._changes[kept].argmax(1, keepdim=True), *self.of(kept)
        middle = ((lower + upper) / 2).gather(1, axis)
        first, second = upper.scatter(1, axis, middle), lower.scatter(1, axis, middle)
        before = self._margins[kept].repeat(2)
        self.add(rows.repeat(2), torch.cat([lower, second]), torch.cat([first, upper]))
        self._before = before
        self.rounds += 1

    def end(self) -> None:
        """Leave all that is not proved yet open."""
        self._leave_open(~self._settled)

    @property
    def divisible(self) -> Tensor:
        """(P,) bool, pieces that may be halved once more."""
        finest = torch.where(self.broken_from.isfinite(), self.tolerance, self.tolerance * self.narrowest)[self.rows]
        width = ((self.upper - self.lower) / self.width.clamp(min=1e-300)).amax(1)
        return (width > finest) & (self.bounded[self.rows] < self.most)

    def of(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, least and largest parameters of some pieces."""
        return self.rows[chosen], self.lower[chosen], self.upper[chosen]

    def _leave_open(self, ends: Tensor) -> None:
        """Pieces (P,) that stay open; those of a known break are none that might still be proved."""
        rows, lower, upper = self.of(ends)
        self.limit = self.limit.scatter_reduce(0, rows, self.distance(lower, upper), "amin")
        self.open.index_add_(0, rows, (~self.broken_from[rows].isfinite()).long())
        self.margin = self.margin.scatter_reduce(0, rows, self._margins[ends], "amin")

    def certificate(
        self, transformation: Transformation, label: Tensor, *, method: str, sound: str, noise: tuple[float, float]
    ) -> SemanticCertificate:
        """Certificates of all inputs; the noise is the radius and the order of the norm of its ball."""
        # A piece that is not proved holds its nearest point: all that is nearer is proved.
        fraction = torch.where(self.limit > 1, 1.0, self.limit * (1 - 1e-9))
        fraction = torch.where(fraction < self.nearest, 0.0, fraction)  # of no image at all
        return SemanticCertificate(
            label=label,
            radius=fraction * transformation.reach,
            abstained=torch.zeros_like(self.right),
            norm=math.nan,
            alpha=0.0,
            subject="base",
            verified=self.limit > 1,
            broken=self.broken_from.isfinite(),
            parameters=self.parameters,
            fraction=fraction,
            margin=torch.where(self.bounded > 0, self.margin, -torch.inf),
            open_pieces=self.open,
            pieces=self.bounded,
            transformation=repr(transformation),
            unit=transformation.unit,
            reach=transformation.reach,
            method=method,
            sound=sound,
            epsilon=noise[0],
            noise_norm=noise[1],
        )
