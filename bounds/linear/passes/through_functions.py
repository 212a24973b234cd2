"""The backward step through a function: planes below and above it, by the sign of each coefficient.

A coefficient above 0 takes the lower plane, one below 0 the upper. With ``joint``, lower bounds of the opposite
functions are wanted too, which take the other planes: from here on they are rows of their own, after the first. No
slope is other than 0 beyond a map, so that windows are clean behind a function.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bounds.relaxations.base import NodeFunction, Planes
from bounds.relaxations.windows import Geometry
from bounds.rows import DenseRows, Rows, room

IN_CACHE = 2**18  # coefficients of inputs that are taken at once


class Propagated(NamedTuple):
    """Result of one backward step through a nonlinear function.

    Attributes:
        parts: coefficients of each parent.
        constant: (N, R) constants that the planes bring in.
        rounding_error: (N, R) what rounding may change in constants and coefficients; None if it was not asked for.
    """

    parts: tuple[Rows, ...]
    constant: Tensor
    rounding_error: Tensor | None


# The way of rows through a function with planes of their own: name, rows, whether rounding matters.
Through = Callable[[str, Rows, bool], Propagated]


@dataclass(frozen=True, eq=False)
class SharedLines:
    """Lines around a function of one variable, the same for all rows; each attribute is shaped like the node.

    Attributes:
        slope: of the lower lines.
        rise: how much steeper the upper lines are; None for parallel lines.
        lower: constants of the lower lines, lowered by what rounding may change for a coefficient of size 1.
        upper: constants of the upper lines, raised likewise.
    """

    slope: Tensor
    rise: Tensor | None
    lower: Tensor
    upper: Tensor

    @cached_property
    def gap(self) -> Tensor:
        """Distance between the constants of both lines."""
        return self.upper - self.lower

    @cached_property
    def in_rows(self) -> "SharedLines":
        """The lines with a dimension for rows, (N, 1, *shape), for coefficients of all entries."""
        rise = None if self.rise is None else self.rise.unsqueeze(1)
        return SharedLines(self.slope.unsqueeze(1), rise, self.lower.unsqueeze(1), self.upper.unsqueeze(1))

    @cached_property
    def maps(self) -> Tensor:
        """All attributes of a node that is a map as one map, (N or 1, channels, H, W)."""
        parts = [self.slope, self.rise, self.lower, self.upper]
        return torch.cat([part for part in parts if part is not None], 1)

    def slopes_at(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Slope and rise where coefficients stand: of windows, both in one look-up."""
        if isinstance(rows, DenseRows):
            return self.in_rows.slope, self.in_rows.rise
        if self.rise is None:
            return rows.at(self.slope), None
        slope, rise = rows.at(torch.cat([self.slope, self.rise], 1)).chunk(2, -3)
        return slope, rise

    def at(self, rows: Rows) -> "SharedLines":
        """The lines where coefficients stand: of windows, all of them in one look-up."""
        if isinstance(rows, DenseRows):
            return self.in_rows
        channels, apart = self.slope.shape[1], self.lower.shape[1]
        sizes = [channels, *([] if self.rise is None else [channels]), apart, apart]
        slope, *rise, lower, upper = rows.at(self.maps).split(sizes, -3)
        return SharedLines(slope, rise[0] if rise else None, lower, upper)


def _constant(rows: Rows, lines: SharedLines, below: Tensor, *, joint: bool) -> Tensor:
    """Share of the constants of lines at the rows, (N, R) or, for both bounds, (N, 2 R)."""
    ends = (lines.lower, -lines.upper) if joint else (lines.lower,)
    return (rows.sums(rows.values, *ends) + rows.sums(below, lines.gap)).flatten(1)


def through_lines(rows: Rows, lines: SharedLines, *, joint: bool, constant: Tensor | None = None) -> Propagated:
    """Coefficients behind a function whose lines are the same for all rows; with their constants, if known."""
    if isinstance(rows, DenseRows) and lines.rise is not None and torch.is_grad_enabled() and not joint:
        around = lines.slope, lines.rise, lines.lower, lines.upper - lines.lower
        part, constant = _ThroughLines.apply(rows.values, *around)  # type: ignore[no-untyped-call]  # torch's
        return Propagated((DenseRows(part),), constant, None)
    values = rows.values
    if constant is not None:
        slope, rise = lines.slopes_at(rows)
        below = values if rise is None else values.clamp(max=0)
    else:
        here, below = lines.at(rows), values.clamp(max=0)
        constant, slope, rise = _constant(rows, here, below, joint=joint), here.slope, here.rise
    part = values * slope if rise is None else _turned(values, below, slope, rise, joint=joint)
    return Propagated((rows.with_values(part, clean=True),), constant, None)


def _turned(values: Tensor, below: Tensor, slope: Tensor, rise: Tensor, *, joint: bool) -> Tensor:
    """Coefficients behind lines, of which the upper ones rise by so much more; and those of the opposite functions."""
    if torch.is_grad_enabled():
        part = torch.addcmul(values * slope, below, rise)
        return torch.cat([part, torch.addcmul(part, values, 2 * slope + rise, value=-1)], 1) if joint else part
    # The same in place: memory that is touched for the first time costs more than the arithmetic.
    count = values.shape[1]
    inputs, _, *shape = map(max, values.shape, slope.shape)  # torch.broadcast_shapes takes as long as the product
    part = room(values, inputs, 2 * count if joint else count, torch.Size(shape))
    lower = torch.mul(values, slope, out=part[:, :count])
    lower.addcmul_(below, rise)
    if joint:
        torch.addcmul(lower, values, 2 * slope + rise, value=-1, out=part[:, count:])
    return part


class _ThroughLines(torch.autograd.Function):
    """Coefficients (N or 1, R, *shape) behind lines (N or 1, *shape) and constants (N, R), with gradients of all.

    The gradients of single operations would read and write the coefficients three times as often on the way back. A few
    inputs are taken at a time, so that what is read again is still in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        values: Tensor,
        slope: Tensor,
        rise: Tensor,
        lower: Tensor,
        gap: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Coefficients of the parent, and constants."""
        ctx.save_for_backward(values, slope, rise, lower, gap)
        parts, constants = [], []
        for own, *lines in _few_inputs(values, slope, rise, lower, gap):
            rows, below = DenseRows(own), own.clamp(max=0)
            constants.append(rows.dot(lines[2]) + rows.sums(below, lines[3].unsqueeze(1)).squeeze(1))
            parts.append((own * lines[0].unsqueeze(1)).addcmul_(below, lines[1].unsqueeze(1)))
        return torch.cat(parts), torch.cat(constants)

    @staticmethod
    def backward(ctx: Any, part: Tensor, constant: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients of all arguments."""
        values, *lines = ctx.saved_tensors
        of_values, of_lines = [], []
        for own, of_part, of_constant, *around in _few_inputs(values, part, constant, *lines):
            opposite = -own
            below = _unless_negative(own, opposite)  # the gradient of clamp at 0 is not the same in every version
            of_lines.append(_of_lines(own, below, of_part, of_constant, ctx.needs_input_grad[1:]))
            slope, rise, lower, gap = (line.unsqueeze(1) for line in around)
            each = of_constant.reshape(*of_constant.shape, *[1] * (own.ndim - 2))
            turned = _unless_negative((of_part * rise).addcmul_(each, gap), opposite)
            of_values.append(turned.addcmul_(of_part, slope).addcmul_(each, lower))
        found = [_joined(pieces) for pieces in zip(*of_lines, strict=True)]
        totals = [
            total if total is None else total.sum_to_size(line.shape) for total, line in zip(found, lines, strict=True)
        ]
        return torch.cat(of_values).sum_to_size(values.shape), *totals


def _unless_negative(x: Tensor, sign: Tensor) -> Tensor:
    """x, and 0 where another number is negative and normal: ``where`` takes ten times as long on a CPU."""
    found: Tensor = torch.ops.aten.threshold_backward(x, sign, -torch.finfo(sign.dtype).tiny)
    return found


def _of_lines(
    values: Tensor, below: Tensor, part: Tensor, constant: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of slope, rise, lower constant and gap, as far as they are wanted."""

    def weighed(rows: Tensor) -> Tensor:
        return (constant.unsqueeze(1) @ rows.reshape(*rows.shape[:2], -1)).reshape(-1, *rows.shape[2:])

    makers: tuple[Callable[[], Tensor], ...] = (
        lambda: (part * values).sum(1),
        lambda: (part * below).sum(1),
        lambda: weighed(values),
        lambda: weighed(below),
    )
    return [make() if needed else None for make, needed in zip(makers, wanted, strict=True)]


def _few_inputs(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors (N, ..) by few inputs each; of what is the same for all of them the whole."""
    count = max(map(len, tensors))
    entries = max(1, max(part.numel() for part in tensors) // max(1, count))
    few = max(1, IN_CACHE // entries)
    for first in range(0, max(1, count), few):
        yield tuple(part if len(part) == 1 else part[first : first + few] for part in tensors)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Gradients of all inputs; None where they are not wanted."""
    wanted = [part for part in parts if part is not None]
    return torch.cat(wanted) if wanted else None


def through_windows(
    rows: Rows, lines: SharedLines, geometry: Geometry, shape: tuple[int, ...], *, joint: bool
) -> Propagated:
    """Coefficients of a map (C, H, W) behind the maxima of its windows, whose planes are the same for all rows.

    Slopes are maps with K C channels: those of the first place of all windows, of the second, and so on.
    """
    values, below, here = rows.values, rows.values.clamp(max=0), lines.at(rows)
    constant = _constant(rows, here, below, joint=joint)
    assert here.rise is not None  # means below, shares above
    slopes, rises = (part.unflatten(-3, (-1, values.shape[-3])).unbind(-4) for part in (here.slope, here.rise))
    blocks = geometry.blocks(values, 2 if joint else 1, zeros=not geometry.apart)
    size = tuple(values.shape[-2:])
    lower, upper = (blocks[:, : values.shape[1]], blocks[:, values.shape[1] :])
    add = _put if geometry.apart else Tensor.addcmul_
    for there, slope, rise in zip(geometry.at_places(lower, size), slopes, rises, strict=True):
        add(there, values, slope).addcmul_(below, rise)
    if joint:
        for there, slope, rise in zip(geometry.at_places(upper, size), slopes, rises, strict=True):
            add(there, values, -(slope + rise)).addcmul_(below, rise)
    return Propagated((geometry.before(rows, blocks, shape, clean=True),), constant, None)


def _put(there: Tensor, values: Tensor, slope: Tensor) -> Tensor:
    return torch.mul(values, slope, out=there)


def through_planes(
    function: NodeFunction, rows: Rows, planes: Planes, shapes: list[torch.Size], *, joint: bool, reach: list[Tensor]
) -> Propagated:
    """Coefficients behind any function.

    Args:
        function: of the node.
        rows: that arrive at it.
        planes: at the rows, of their own or the same for all.
        shapes: (N, *shape) of each parent.
        joint: whether the opposite functions are wanted too.
        reach: the largest absolute values of each parent, at the rows; none if rounding does not matter. The error is
            to be multiplied with the rounding error of a sum.
    """
    values, below = rows.values, rows.values.clamp(max=0)
    lower = planes.lower_intercept
    gap = planes.upper_intercept if lower is None else planes.upper_intercept - lower
    bent = rows.total(below, gap)
    constant = bent if lower is None else bent + rows.total(values, lower)
    if joint:
        constant = torch.cat([constant, bent - rows.total(values, planes.upper_intercept)], 1)
    over, under = function.aligned(values), function.aligned(below)
    parts = []
    for shape, low, high in zip(shapes, planes.lower_slopes, planes.upper_slopes, strict=True):
        part = over * low if low is high else _turned(over, under, low, high - low, joint=joint)
        parts.append(rows.with_values(function.reduced(part, shape), clean=True))
    return Propagated(tuple(parts), constant, _planes_error(function, rows, planes, reach) if reach else None)


def _planes_error(function: NodeFunction, rows: Rows, planes: Planes, reach: list[Tensor]) -> Tensor:
    size = planes.upper_intercept.abs()
    if planes.lower_intercept is not None:
        size = torch.maximum(size, planes.lower_intercept.abs())
    absolute = rows.values.abs()
    rounding_error = rows.total(absolute, size)
    aligned = function.aligned(absolute)
    for low, high, largest in zip(planes.lower_slopes, planes.upper_slopes, reach, strict=True):
        rounding_error = rounding_error + rows.total(
            aligned, torch.maximum(low.abs(), high.abs()) * function.beside(largest)
        )
    return rounding_error


def through_unstable(rows: Rows, slope: Tensor, index: Tensor, planes: Planes, offset: Tensor | None) -> Propagated:
    """Coefficients behind a function that is linear at most entries and has planes by row at few.

    Args:
        rows: that arrive at it.
        slope: (N, *shape) of the node, the slope where the function is linear.
        index: (N, 1 or R, k) of the few entries among the coefficients of each row, or for windows (N, 1, P, 1, k).
        planes: at these, (N, R, k) or (N, S, P, M, k), for one parent and with constants above only.
        offset: (N, *shape), to which the parent is added before it enters the function.
    """
    first = rows.values.ndim - len(slope.shape) + 1

    def flat(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:first], -1)  # a node may be one number

    values, start = flat(rows.values), None if offset is None else flat(rows.at(offset))
    (low,), (high,) = planes.lower_slopes, planes.upper_slopes
    part, constant = _ThroughUnstable.apply(  # type: ignore[no-untyped-call]  # torch's
        values, low, high, planes.upper_intercept, flat(rows.at(slope)), start, index.expand(*values.shape[:-1], -1)
    )
    return Propagated((rows.with_values(part.view_as(rows.values), clean=True),), constant.flatten(1), None)


class _ThroughUnstable(torch.autograd.Function):
    """The computation of :func:`through_unstable`, of flattened coefficients; these and lower slopes have gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        values: Tensor,
        low: Tensor,
        high: Tensor,
        above: Tensor,
        slope: Tensor,
        offset: Tensor | None,
        index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Coefficients (.., K) of the parent, and constants."""
        chosen = values.gather(-1, index)
        negative = chosen.clamp(max=0)
        part = (values * slope).scatter_(-1, index, chosen.clamp(min=0) * low + negative * high)
        constant = (negative * above).sum(-1)
        if offset is not None:
            constant = constant + torch.matmul(part, offset.transpose(-1, -2))[..., 0]
        ctx.save_for_backward(chosen, low, high, above, slope, offset, index)
        return part, constant

    @staticmethod
    def backward(ctx: Any, part: Tensor, constant: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients of values and lower slopes."""
        chosen, low, high, above, slope, offset, index = ctx.saved_tensors
        if offset is not None:
            part = torch.addcmul(part, constant[..., None], offset)
        at_unstable = part.gather(-1, index)
        gradient = None
        if ctx.needs_input_grad[0]:
            turned = torch.where(chosen > 0, at_unstable * low, at_unstable * high + constant[..., None] * above)
            gradient = (part * slope).scatter_(-1, index, turned)
        return gradient, at_unstable * chosen.clamp(min=0), None, None, None, None, None
