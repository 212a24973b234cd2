r"""Search for the largest radius that bounds prove, for all inputs at once and with few bound passes.

The loss of margin :math:`m(0) - m(r)` grows about like a power of the radius: in logarithms of both it is nearly a
straight line. There the root of m is looked for, between a radius that is proved and one that is not, by inverse
quadratic interpolation, and by halves where that does not keep its promise. Every radius that is returned was proved.

References:
    Chandrupatla (1997), A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without
    using derivatives, Advances in Engineering Software 28; Brent (1973), Algorithms for minimization without
    derivatives, chapter 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

Margins = Callable[[Tensor, Tensor], Tensor]  # of places of inputs (B,) and radii (B,), the least proved margins (B,)

SMALLEST_SHARE = 1e-9  # the search stops where even this share of the first radius is not proved
FARTHEST = math.log(64)  # factor from one radius to the next
LEAST_LOSS = 1e-3  # of margin, in units of that at 0: below, rounding of the model's own margin may rule
CLOSE = 0.95  # share of the tolerance at which a side is sought beyond the root
SPACING = 2.0**-48  # of logarithms, below which a step may not be one
MOST_STEPS = 200  # for functions without any order; 60 halves of the largest bracket are enough


@dataclass(frozen=True, eq=False)
class _Points:
    """Logarithms t of radii, and h of the loss of margin there in units of the margin at 0, (N,) each; 0 is the root.

    Attributes:
        proved: t of the largest radius that is proved; minus infinity where none is.
        below: h there.
        failed: t of the least radius that failed beyond it; infinity where none did.
        above: h there.
        third: t of the last point that was replaced by another on its side; NaN where there is none.
        beyond: h there.
        wider: width of the bracket one step ago.
        widest: two steps ago.
    """

    proved: Tensor
    below: Tensor
    failed: Tensor
    above: Tensor
    third: Tensor
    beyond: Tensor
    wider: Tensor
    widest: Tensor

    @classmethod
    def none(cls, like: Tensor) -> "_Points":
        """Nothing is known of any radius."""
        sides = [-math.inf, -math.inf, math.inf, math.inf, math.nan, math.nan, math.inf, math.inf]
        return cls(*(torch.full_like(like, side) for side in sides))

    def __getitem__(self, rows: Tensor) -> "_Points":
        return _Points(*(part[rows] for part in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        return tuple(getattr(self, each.name) for each in fields(self))

    @property
    def width(self) -> Tensor:
        """Width of the bracket."""
        return self.failed - self.proved

    def with_point(self, t: Tensor, h: Tensor, success: Tensor) -> "_Points":
        """The points with one more."""
        old, height = torch.where(success, self.proved, self.failed), torch.where(success, self.below, self.above)
        return _Points(
            torch.where(success, t, self.proved),
            torch.where(success, h, self.below),
            torch.where(success, self.failed, t),
            torch.where(success, self.above, h),
            torch.where(old.isfinite(), old, self.third),
            torch.where(old.isfinite(), height, self.beyond),
            self.width,
            self.wider,
        )

    def next(self, tolerance: float) -> Tensor:
        """Point to look at next, for a relative width of brackets to reach."""
        step = max(CLOSE * math.log1p(tolerance), SPACING)
        both = self.width.isfinite()
        found = torch.where(both, self._between(step), self._outside(step))
        aside = torch.minimum(self.width / 2, torch.full_like(found, step))
        kept = torch.minimum(torch.maximum(found, self.proved + aside), self.failed - aside)
        return torch.where(both, kept, found)

    def _between(self, step: float) -> Tensor:
        """The root of a parabola through three points, of a line through two, or the middle."""
        line = self.proved + self.width * (-self.below / (self.above - self.below))
        middle = self.proved + self.width / 2
        found = torch.where(line.isfinite() & self.above.isfinite(), line, middle)
        curved = _parabola((self.proved, self.failed, self.third), (self.below, self.above, self.beyond))
        inside = (curved > self.proved) & (curved < self.failed)  # False for NaN
        found = torch.where(inside, curved, found)
        slow = self.width > 0.5 * self.widest
        # Where the root seems to be within a step of an end, that step settles the input; unless one of it just failed.
        near = torch.minimum(found - self.proved, self.failed - found) < step
        moved = self.wider - self.width > 1.01 * step
        return torch.where(slow & ~(near & moved), middle, found)

    def _outside(self, step: float) -> Tensor:
        """The root of a line as steep as between the last two points of the only side that is known; then farther."""
        t, h = (
            torch.where(self.proved.isfinite(), *pair)
            for pair in ((self.proved, self.failed), (self.below, self.above))
        )
        power = ((h - self.beyond) / (t - self.third)).nan_to_num(1.0, 8.0, 1.0).clamp(1.0, 8.0)
        move = (h.abs() / power).nan_to_num(FARTHEST)
        # A second step to the same side: the first one fell short.
        last = (t - self.third).abs()
        move = torch.where(last.isfinite(), torch.maximum(1.5 * move, 2 * last), move).clamp(step, FARTHEST)
        return torch.where(self.proved.isfinite(), t + move, t - move)


def _parabola(t: tuple[Tensor, ...], h: tuple[Tensor, ...]) -> Tensor:
    """Zero of a quadratic function of h through three points; NaN unless t grows with h."""
    total = torch.zeros_like(t[0])
    for one in range(3):
        others = [place for place in range(3) if place != one]
        weight = torch.ones_like(total)
        for other in others:
            weight = weight * (-h[other]) / (h[one] - h[other])
            grows = (h[one] - h[other]) * (t[one] - t[other]) > 0
            weight = torch.where(grows, weight, math.nan)
        total = total + weight * t[one]
    return total


def largest_proved(margins: Margins, clean: Tensor, guess: Tensor, reach: Tensor, tolerance: float) -> Tensor:
    """The largest radius (N,) that was proved for each input, in float64.

    Args:
        margins: the bounds. Inputs of which all is known are asked for no more.
        clean: (N,) margins at radius 0; where they are not above 0 nothing is proved.
        guess: (N,) radii to begin with, above 0.
        reach: (N,) radii beyond which there is nothing.
        tolerance: relative width of the brackets to reach.
    """
    smallest, end = (SMALLEST_SHARE * guess).log(), reach.log()
    points, at = _Points.none(guess), torch.minimum(guess, reach).log()
    radius = torch.zeros_like(guess)
    active = (clean > 0) & (reach > 0)
    for _ in range(MOST_STEPS):
        rows = active.nonzero()[:, 0]
        if len(rows) == 0:
            break
        tried = torch.where(at[rows] >= end[rows], reach[rows], at[rows].exp())
        found = margins(rows, tried)
        success = found > 0  # False for NaN
        radius[rows] = torch.where(success, tried, radius[rows])
        height = (1 - found / clean[rows]).clamp(min=LEAST_LOSS).log().nan_to_num(math.inf, math.inf)
        part = points[rows].with_point(at[rows], height, success)
        for whole, own in zip(points.tensors(), part.tensors(), strict=True):
            whole[rows] = own
        ahead = torch.minimum(part.next(tolerance), end[rows])
        at[rows] = ahead
        between = (ahead > part.proved) & (ahead < part.failed)  # False where neighbouring numbers have been reached
        finished = (
            (part.width <= math.log1p(tolerance)) | (radius[rows] >= reach[rows]) | (part.failed < smallest[rows])
        )
        active[rows] = between & ~finished
    return radius
