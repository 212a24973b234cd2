"""Products, maxima and known ranges: functions of several entries, with planes over all of them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.numerics import underflow
from bounds.relaxations.base import NodeFunction, Planes, kept_within
from bounds.sets.balls import Interval


@dataclass(frozen=True, eq=False)
class Product(NodeFunction):
    r"""``x y``, entry by entry with broadcasting.

    Two planes lie below, :math:`\underline{y} x + \underline{x} y - \underline{x} \underline{y}` and the one with the
    upper ends, and two above; so does every mean of the two. The parameters are the shares of the first of each pair.

    References:
        McCormick (1976), Computability of global solutions to factorable nonconvex programs, part I; Shi et al.
        (2020), Robustness verification for transformers, arXiv:2002.06622, section 3.3.
    """

    def range_of(self, *parents: Interval) -> Interval:
        """The least and the largest of the four products of ends."""
        x, y = parents
        corners = torch.stack(torch.broadcast_tensors(*(a * b for a in (x.lower, x.upper) for b in (y.lower, y.upper))))
        slack = 2 * torch.finfo(corners.dtype).eps * corners.abs().amax(0) + underflow(corners.dtype)
        lower, upper = corners.amin(0) - slack, corners.amax(0) + slack
        return Interval(torch.where(lower.isnan(), -math.inf, lower), torch.where(upper.isnan(), math.inf, upper))

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Half of each: all means have the same height at the centre, and this one has the slopes of the product."""
        x, y = torch.broadcast_tensors(parents[0].lower, parents[1].lower)
        return torch.full_like(x, 0.5), torch.full_like(y, 0.5)

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """From 0 to 1."""
        share, _ = self.default_parameters(*parents)
        return (Interval(torch.zeros_like(share), torch.ones_like(share)),) * 2

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """Means of the planes below and above."""
        x, y = parents
        lower = _mean_plane(parameters[0], (x.lower, y.lower), (x.upper, y.upper))
        upper = _mean_plane(parameters[1], (x.lower, y.upper), (x.upper, y.lower))
        largest = torch.maximum(x.lower.abs(), x.upper.abs()) * torch.maximum(y.lower.abs(), y.upper.abs())
        slack = 16 * torch.finfo(largest.dtype).eps * largest + underflow(largest.dtype)
        return Planes(lower[:2], lower[2] - slack, upper[:2], upper[2] + slack)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Everywhere but where an interval is a point."""
        return tuple(~(part.upper - part.lower <= 1e-12 * part.upper.abs()) for part in parents)

    def reduced(self, products: Tensor, shape: torch.Size) -> Tensor:
        """Sums over the dimensions in which the parent was repeated."""
        full = (1,) * (products.ndim - 1 - len(shape)) + tuple(shape[1:])
        repeated = [d + 2 for d, size in enumerate(full) if size == 1 and products.shape[d + 2] != 1]
        total = products.sum(repeated, keepdim=True) if repeated else products
        return total.reshape(*products.shape[:2], *shape[1:])


def _mean_plane(
    share: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of x and y and the intercept, of planes that touch the product at two corners (x, y) each."""
    rest = 1 - share
    (x1, y1), (x2, y2) = first, second
    return share * y1 + rest * y2, share * x1 + rest * x2, -(share * (x1 * y1) + rest * (x2 * y2))


@dataclass(frozen=True, eq=False)
class Maximum(NodeFunction):
    r"""The largest of several entries, over some dimensions.

    Below lies every mean of the entries; its weights are free. Above, for shares :math:`s_i \in [0, 1]`, the
    difference :math:`\max_i x_i - \sum_j s_j x_j` is largest at a corner:

    .. math:: \max_i x_i \le \sum_j s_j (x_j - l_j) + \max_i (u_i - s_i (u_i - l_i)).

    The shares come from a level T: :math:`s_i = (u_i - T) / (u_i - l_i)` where an entry reaches above it. With T at
    the second largest upper end, the plane is the largest entry itself where it dominates, and never above the
    constant :math:`\max u`. T is free.

    Attributes:
        dims: those of the maximum, counted from the last one as -1.
        keepdim: whether they stay, with size 1.
    """

    dims: tuple[int, ...]
    keepdim: bool

    def range_of(self, *parents: Interval) -> Interval:
        """The largest lower end and the largest upper end."""
        (x,) = parents
        return Interval(x.lower.amax(self.dims, self.keepdim), x.upper.amax(self.dims, self.keepdim))

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Weight for the largest lower end, and the second largest upper end."""
        (x,) = parents
        return (x.lower == self._top(x, x.lower)).to(x.lower.dtype), self._second(x)

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """From 0 to 1; from the largest lower to the largest upper end."""
        (x,) = parents
        weights = Interval(torch.zeros_like(x.lower), torch.ones_like(x.lower))
        return weights, Interval(self._top(x, x.lower), self._top(x, x.upper))

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """A mean of the entries below; what exceeds the level above."""
        weights, level = parameters
        planes = planes_around_maximum(parents[0], weights, level, self.dims)
        if self.keepdim:
            return planes
        below, above = (
            torch.as_tensor(part).squeeze(self.dims) for part in (planes.lower_intercept, planes.upper_intercept)
        )
        return planes._replace(lower_intercept=below, upper_intercept=above)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Entries that may be the largest, unless it is known which one is."""
        (x,) = parents
        candidates = ~(x.upper <= self._top(x, x.lower)) | (x.lower == self._top(x, x.lower))
        several = candidates.sum(self.dims, True) > 1
        return (candidates & several,)

    def aligned(self, coefficients: Tensor) -> Tensor:
        """The coefficient of the node, for every entry."""
        if not self.keepdim:
            ndim = coefficients.ndim + len(self.dims)
            for dim in sorted(ndim + dim for dim in self.dims):
                coefficients = coefficients.unsqueeze(dim)
        return coefficients

    def combined(self, products: Tensor) -> Tensor:
        """Sums over the entries."""
        return products.sum(self.dims, self.keepdim)

    def _top(self, x: Interval, ends: Tensor) -> Tensor:
        return ends.amax(self.dims, True)

    def _second(self, x: Interval) -> Tensor:
        """The second largest upper end, or the largest lower one if that is larger."""
        others = torch.where(x.upper == x.upper.amax(self.dims, True), -math.inf, x.upper).amax(self.dims, True)
        return torch.maximum(others, x.lower.amax(self.dims, True))


def planes_around_maximum(
    x: Interval, weights: Tensor, level: Tensor, dims: tuple[int, ...], counted: Tensor | None = None
) -> Planes:
    """Planes of :class:`Maximum`, with intercepts whose dimensions stay; of all entries, or of those that count.

    Of the entries that do not count, each has the interval of one that does.
    """
    unit, tiny = torch.finfo(x.lower.dtype).eps, torch.finfo(x.lower.dtype).tiny
    some = (x.lower == x.lower.amax(dims, True)).to(x.lower.dtype) * max(1e-9, tiny)  # in half precision, too
    weights = kept_within(weights, 0, math.inf) + some
    weights = weights if counted is None else weights * counted
    weights = weights / weights.sum(dims, True)
    largest = torch.maximum(x.lower.abs(), x.upper.abs()).amax(dims, True)
    count = math.prod(x.lower.shape[dim] for dim in dims)
    slack = (4 * count + 16) * unit * largest + underflow(largest.dtype)
    width = x.upper - x.lower
    # Points are divided by 1, since what is not chosen below has a gradient all the same.
    shares = kept_within((x.upper - level) / torch.where(width > 0, width, 1.0), 0, 1)
    shares = torch.where(width > 0, shares, (x.upper > level).to(shares.dtype))
    reach = x.upper - shares * width
    if counted is not None:
        shares, reach = shares * counted, torch.where(counted, reach, -math.inf)
    above = reach.amax(dims, True) - (shares * x.lower).sum(dims, True) + slack
    return Planes((weights,), -slack, (shares,), above)


@dataclass(frozen=True, eq=False)
class Ranked(NodeFunction):
    """The entry of the last dimension that ``rank`` others precede, from the largest one down.

    Its least value has that rank among the lower ends, its largest one among the upper ends. Where the intervals tell
    which entry it is, both planes are that entry, else constants.

    Attributes:
        rank: 0 for the largest entry.
    """

    rank: int

    def range_of(self, *parents: Interval) -> Interval:
        """Both ends by rank."""
        return Interval(*(end.sort(-1, descending=True).values[..., self.rank] for end in _ends(parents[0])))

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """None: there is one plane on each side."""
        return ()

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """The entry itself, or the ends of its range."""
        image = self.range_of(*parents)
        slope = self._entry(parents[0]).to(image.lower.dtype)
        known = slope.any(-1)
        lower, upper = (torch.where(known, 0.0, end) for end in (image.lower, image.upper))
        return Planes((slope,), lower, (slope,), upper)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Everywhere, unless it is known which entry it is."""
        (x,) = parents
        return ((~self._entry(x).any(-1, keepdim=True)).expand_as(x.lower),)

    def aligned(self, coefficients: Tensor) -> Tensor:
        """The coefficient of the node, for every entry."""
        return coefficients.unsqueeze(-1)

    def combined(self, products: Tensor) -> Tensor:
        """Sums over the entries."""
        return products.sum(-1)

    def _entry(self, x: Interval) -> Tensor:
        """The place of the entry of that rank, if all others are known to lie above or below it: one, or none."""
        count = x.lower.shape[-1]
        itself = torch.eye(count, dtype=torch.bool, device=x.lower.device)
        above = (x.lower.unsqueeze(-2) >= x.upper.unsqueeze(-1)) & ~itself  # the other one, along the last dimension
        below = (x.upper.unsqueeze(-2) <= x.lower.unsqueeze(-1)) & ~itself & ~above  # of equal points, one of both
        found = (above.sum(-1) == self.rank) & (below.sum(-1) == count - 1 - self.rank)
        return found & (found.cumsum(-1) == 1)


def _ends(x: Interval) -> tuple[Tensor, Tensor]:
    return x.lower, x.upper


@dataclass(frozen=True, eq=False)
class Choice(NodeFunction):
    r"""The choice by a condition c, 0 or 1, between two entries: a where it is 1, b where it is 0.

    Where the condition is known, it is that entry. Else, with :math:`a - b \in [\underline{d}, \overline{d}]`, two
    planes lie below, :math:`b + \underline{d} c` and :math:`a - \overline{d} (1 - c)`, and two above, with the other
    ends. Every mean of two is a plane; the parameters are the shares of the first of each pair.
    """

    def range_of(self, *parents: Interval) -> Interval:
        """The range of what is chosen, or what spans both."""
        c, a, b = parents
        yes, no = _known(c)
        lower = torch.where(yes, a.lower, torch.where(no, b.lower, torch.minimum(a.lower, b.lower)))
        upper = torch.where(yes, a.upper, torch.where(no, b.upper, torch.maximum(a.upper, b.upper)))
        return Interval(lower, upper)

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Shares with which the condition drops out, best at the centre if nothing is known of it; or one plane."""
        _, a, b = parents
        shorter, longer = _difference(a, b)
        share = (longer / (longer - shorter)).clamp(0, 1).nan_to_num(nan=0.5)
        return share, 1 - share

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """From 0 to 1."""
        zero = torch.zeros_like(parents[0].lower)
        return (Interval(zero, torch.ones_like(zero)),) * 2

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """Means of the planes below and above, or what is chosen."""
        c, a, b = parents
        yes, no = _known(c)
        shorter, longer = _difference(a, b)
        size = torch.maximum(a.lower.abs(), a.upper.abs()) + torch.maximum(b.lower.abs(), b.upper.abs())
        slack = 16 * torch.finfo(size.dtype).eps * size + underflow(size.dtype)

        def plane(share: Tensor, first: Tensor, second: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            rest = 1 - share
            parts = (share * first + rest * second, rest, share, -rest * second + slack)
            known = (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)
            return tuple(  # type: ignore[return-value]  # four of them
                torch.where(yes, one, torch.where(no, other, part))
                for part, one, other in zip(parts, *known, strict=True)
            )

        *below, low = plane(parameters[0], shorter, longer, -slack)
        *above, high = plane(parameters[1], longer, shorter, slack)
        return Planes(tuple(below), low, tuple(above), high)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Entries whose condition is not known; for the two values, those that may be chosen and are no point."""
        c, a, b = parents
        yes, no = _known(c)
        unknown = ~(yes | no)
        return unknown, unknown & ~(a.upper - a.lower <= 0), unknown & ~(b.upper - b.lower <= 0)


def _known(c: Interval) -> tuple[Tensor, Tensor]:
    """Masks of conditions known to be 1, and to be 0: numbers that are nothing else, by a bound that excludes one."""
    return c.lower > 0, c.upper < 1


def _difference(a: Interval, b: Interval) -> tuple[Tensor, Tensor]:
    """The least and the largest difference, up to rounding."""
    return a.lower - b.upper, a.upper - b.lower


@dataclass(frozen=True, eq=False)
class Leaking(NodeFunction):
    r"""Softmax of all entries, from softmax w of those that are not faint, and from the exponents x themselves.

    With :math:`\rho = \sum_{faint} e^{x_j} / \sum_{others} e^{x_j}`, the share of a faint entry lies between 0 and
    :math:`\rho`, and that of another one between :math:`w - \rho` and w.

    Attributes:
        faint: bool, entries of the last dimension from which a large constant was taken.
    """

    faint: Tensor

    def range_of(self, *parents: Interval) -> Interval:
        """The interval of w, widened."""
        leak = self._leak(parents[1])
        lower, upper = parents[0].lower - leak * ~self.faint, parents[0].upper + leak * self.faint
        return Interval(lower.clamp(min=0), upper.clamp(max=1))

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """None: there is one plane on each side."""
        return ()

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """The softmax w, and what it may be off by."""
        leak, one = self._leak(parents[1]), torch.ones_like(parents[0].lower)
        slopes = (one, torch.zeros_like(one))
        return Planes(slopes, -(leak * ~self.faint), slopes, leak * self.faint)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Nowhere."""
        nowhere = torch.zeros_like(parents[0].lower, dtype=torch.bool)
        return nowhere, nowhere

    def _leak(self, x: Interval) -> Tensor:
        """At least the ratio of both sums, or 1; its exponent is computed within a hundredth where it matters."""
        faint = self.faint.expand_as(x.lower)
        above = x.upper.masked_fill(~faint, -math.inf).logsumexp(-1, keepdim=True)
        below = x.lower.masked_fill(faint, -math.inf).amax(-1, keepdim=True)
        leak = 1.01 * (above - below).exp() + underflow(x.lower.dtype)
        return leak.nan_to_num(nan=1.0).clamp(max=1.0)


@dataclass(frozen=True, eq=False)
class Within(NodeFunction):
    """The identity, of values that are known to lie in a range."""

    low: float
    high: float

    def range_of(self, *parents: Interval) -> Interval:
        """The part of the interval within the range."""
        (x,) = parents
        return Interval(x.lower.clamp(min=self.low), x.upper.clamp(max=self.high))

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """None: there is one plane on each side."""
        return ()

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """The identity, twice."""
        ones = torch.ones_like(parents[0].lower)
        return Planes((ones,), None, (ones,), torch.zeros_like(ones))

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Nowhere."""
        return (torch.zeros_like(parents[0].lower, dtype=torch.bool),)
