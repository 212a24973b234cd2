"""Transformations of images with few parameters: applied at given parameters, and enclosed over boxes of these."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from bounds.checks import Limit
from bounds.numerics import unit_roundoff
from bounds.sets.hulls import HullOfBoxes
from bounds.transformations.affine import Entries, clipped_tubes
from bounds.transformations.blurring import blurred, kernel, shifts
from bounds.transformations.cells import UNITS, Cells, tubes
from bounds.transformations.maps import Motion
from bounds.transformations.motions import ParameterGrid, places_of, sampled
from bounds.transformations.pointwise import Along, brightened, clipped, contrasted, gamma_corrected, noisy, side_of
from bounds.transformations.sampling import SampledImages

CELLS = {0: 1, 1: 8, 2: 6, 3: 4}  # along each of so many parameters that vary
ENTRIES = 1 << 21  # of all cells of the boxes that are enclosed at once
Map = Callable[[Tensor, Tensor], Motion]  # of the least and largest values of one parameter


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Computation on an image: moved and sampled once, blurred, then changed entry by entry within a range.

    Attributes:
        maps: of the parameters that move places, in the order in which they act.
        shifts: whether these are one translation, so that enclosures of a box within one pixel are exact.
        blur: place of the standard deviation among the parameters, or None.
        reach: pixels on either side of the kernel.
        padding: beyond the image where it is sampled, see :class:`bounds.transformations.sampling.SampledImages`.
        blur_padding: beyond the image where it is blurred.
        gamma: place of the power among the parameters, or None; contrast and brightness likewise.
    """

    maps: tuple[tuple[Map, int], ...] = ()
    shifts: bool = False
    blur: int | None = None
    reach: int = 0
    padding: str = "zeros"
    blur_padding: str = "border"
    gamma: int | None = None
    contrast: int | None = None
    brightness: int | None = None

    @property
    def pointwise(self) -> bool:
        """Whether entries are changed one by one, and then moved into the range of pixels."""
        return not self.gamma is self.contrast is self.brightness is None

    @property
    def exact(self) -> bool:
        """Whether images over a box of parameters within one pixel are the hull of those at its corners."""
        return self.shifts and self.blur is None and not self.pointwise

    @property
    def affine(self) -> bool:
        """Whether entries are linear in the parameters until they are moved into the range of pixels."""
        return self.pointwise and not self.maps and self.blur is self.gamma is None

    def moving(self, low: Tensor, high: Tensor) -> Motion:
        """The motion over boxes (.., m) of its own m parameters; the one that acts last is nearest to the output."""
        parts = [each(low[..., i], high[..., i]) for i, (each, _) in enumerate(self.maps)]
        return reduce(lambda before, last: before.after(last), parts)

    def apply(self, images: Tensor, parameters: Tensor, low: Limit, high: Limit) -> Tensor:
        """Images (N, C, H, W) in float64 at parameters (N, k); gradients reach the parameters."""
        found = images
        if self.maps:
            own = torch.stack([parameters[:, place] for _, place in self.maps], 1)
            x, y, _ = places_of(self.moving(own, own).value, images.shape)
            rows = torch.arange(len(images), device=images.device)
            found = SampledImages(images, self.padding).values(rows, x, y).view(images.shape)
        if self.blur is not None:
            weights = kernel(parameters[:, self.blur], self.reach)
            down, across = (
                torch.einsum("nd,dij->nij", weights, shifts(size, self.reach, self.blur_padding, images))[:, None]
                for size in images.shape[2:]
            )
            found = down @ found @ across.mT
        return self._changed(found, parameters.view(*parameters.shape, 1, 1, 1), low, high) if self.pointwise else found

    def _changed(self, x: Tensor, parameters: Tensor, low: Limit, high: Limit) -> Tensor:
        if self.gamma is not None:
            x = x.clamp(min=0).pow(parameters[:, self.gamma])
        if self.contrast is not None:
            x = x * parameters[:, self.contrast]
        if self.brightness is not None:
            x = x + parameters[:, self.brightness]
        shape = x.shape[1:]
        sides = (side_of(limit, shape, x) for limit in (low, high))
        low, high = (None if side is None else side.view(shape) for side in sides)
        return x if low is None and high is None else x.clamp(low, high)

    def cells(self, images: SampledImages, rows: Tensor, grid: ParameterGrid, low: Limit, high: Limit) -> Cells:
        """The images over the cells of boxes of parameters."""
        shape, count = images.shape[1:], len(grid.counts)
        if self.maps:
            found = sampled(images, rows, grid, self.moving, [place for _, place in self.maps])
        else:
            values = images.images[rows].reshape(len(rows), *[1] * count, -1)
            nothing = (None,) * count
            found = Cells(values, nothing, nothing, values.new_zeros(len(rows), 1))
        if self.blur is not None:
            found = blurred(found, Along(grid, self.blur), self.reach, self.blur_padding, shape)
        for place, change in (
            (self.gamma, gamma_corrected),
            (self.contrast, contrasted),
            (self.brightness, brightened),
        ):
            found = found if place is None else change(found, Along(grid, place))
        if not self.pointwise:
            return found
        return clipped(found, *(side_of(limit, shape, found.values) for limit in (low, high)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Enclosing:
    """Enclosures of transformed images, with a ball of noise on top.

    Attributes:
        pipeline: the transformation.
        images: (N, C, H, W) in float64.
        low: lower side of the range of pixels: a number, a tensor that broadcasts to (C, H, W), or None.
        high: upper side.
        epsilon: radius of the ball.
        norm: its order.
        dtype: that images are rounded to before the network sees them.
        cells: along each parameter that varies; None for a default.
    """

    pipeline: Pipeline
    images: SampledImages
    low: Limit
    high: Limit
    epsilon: float
    norm: float
    dtype: torch.dtype
    cells: int | None = None

    def __call__(self, rows: Tensor, lower: Tensor, upper: Tensor) -> HullOfBoxes:
        """Sets (B,) that hold all images of some rows (B,) with parameters between two (B, k).

        Corners of the parameters that vary come in the order of binary numbers, the first having the lowest digit.
        """
        varies = (lower < upper).any(0).tolist()
        single = self.pipeline.exact or self.pipeline.affine
        cells = 1 if single else self.cells or CELLS[min(sum(varies), 3)]
        each = self.images.shape[1:].numel() * cells ** sum(varies)
        found = []
        for part in torch.arange(len(rows), device=rows.device).split(max(1, ENTRIES // each)):
            counts = [cells if vary else 0 for vary in varies]
            found.append(self._boxes(rows[part], lower[part], upper[part], counts))
        low, high = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
        unit = unit_roundoff(self.dtype)  # of the images that are fed
        shape = low.shape[:2] + self.images.shape[1:]
        least = UNITS * unit + torch.finfo(self.dtype).tiny * torch.finfo(self.dtype).eps  # of what may underflow
        noise = self._noise  # on top of images that are rounded before: these are so much larger than what is left
        low, high = low - unit * (low.abs() + noise) - least, high + unit * (high.abs() + noise) + least
        radius = 0.0 if self.norm == math.inf else self.epsilon
        return HullOfBoxes(low.view(shape), high.view(shape), radius, self.norm)

    @property
    def _noise(self) -> float:
        """The radius of noise that is in the boxes; that of other norms is around them."""
        return self.epsilon if self.norm == math.inf else 0.0

    def _boxes(self, rows: Tensor, lower: Tensor, upper: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        noise, shape = self._noise, self.images.shape[1:]
        if self.pipeline.exact:
            grid = ParameterGrid(lower, upper, [min(count, 1) for count in counts])
            corners, error = self._corners(rows, grid)
            low, high = (side_of(limit, shape, corners) for limit in (self.low, self.high))
            return _noisy_corners(corners, error, noise, low, high)
        if self.pipeline.affine:
            return self._affine(rows, lower, upper, counts, noise)
        grid = ParameterGrid(lower, upper, counts)
        found = self.pipeline.cells(self.images, rows, grid, self.low, self.high)
        low, high = (side_of(limit, shape, found.values) for limit in (self.low, self.high))
        return tubes(*noisy(found, noise, low, high))

    def _affine(
        self, rows: Tensor, lower: Tensor, upper: Tensor, counts: Sequence[int], noise: float
    ) -> tuple[Tensor, Tensor]:
        x, places = self.images.images[rows].flatten(1), (self.pipeline.contrast, self.pipeline.brightness)

        def ends(place: int | None, default: float) -> tuple[Tensor, Tensor]:
            fixed = x.new_full((len(x), 1), default)
            return (fixed, fixed) if place is None else (lower[:, place, None], upper[:, place, None])

        contrast, brightness = ends(places[0], 1.0), ends(places[1], 0.0)
        low, high = (side_of(limit, self.images.shape[1:], x) for limit in (self.low, self.high))
        varying = tuple(i for i, place in enumerate(places) if place is not None and counts[place])
        return clipped_tubes(Entries.of(x, contrast, brightness), noise, low, high, varying)

    def _corners(self, rows: Tensor, grid: ParameterGrid) -> tuple[Tensor, Tensor]:
        """The images (B, V, E) at the corners of boxes, and how far they may be off, (B, 1, 1)."""
        places = [place for _, place in self.pipeline.maps]
        found = sampled(self.images, rows, grid, self.pipeline.moving, places, slopes=False)
        order = range(found.values.ndim - 2, 0, -1)  # the first parameter has the lowest digit
        corners = found.values.permute(0, *order, found.values.ndim - 1).flatten(1, -2)
        return corners, found.error[..., None]


def _noisy_corners(
    corners: Tensor, error: Tensor, noise: float, low: Tensor | None, high: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Boxes around corners whose hull holds what noise within the range makes of any mixture of these.

    The lower end of an entry is the larger of its value less the noise and of ``low``, which is convex: one of both
    serves all corners, whichever is larger in the middle.
    """
    slack = error + UNITS * (corners.abs().amax() + noise)
    lower, upper, middle = corners - noise - slack, corners + noise + slack, corners.mean(1, keepdim=True)
    if noise and low is not None:
        lower = torch.where(middle - noise >= low, lower, low.expand_as(lower))
    if noise and high is not None:
        upper = torch.where(middle + noise <= high, upper, high.expand_as(upper))
    return torch.minimum(lower, upper), upper
