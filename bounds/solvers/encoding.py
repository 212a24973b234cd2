"""A network around one input as constraints: what linear, mixed-integer and semidefinite programmes have in common.

The variables are the entries of the input and of every function that is no line on its interval. All else is affine in
them, a :class:`~bounds.solvers.affine_form.AffineForm`. In front of each function, bounds come from linear propagation,
and from linear programmes over what stands before it.
"""

import math
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple, cast

import torch
from torch import Tensor

from bounds.errors import InvalidInput
from bounds.graph.captured import Graph
from bounds.linear.network import Network
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.operations.affine import linear_part
from bounds.operations.functions import Tables
from bounds.operations.node import Node
from bounds.relaxations.activations import relu
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.scalar import ScalarFunction
from bounds.sets.balls import Box, Interval, LpBall, PerturbationSet
from bounds.solvers.admission import l1_ball_of, propagated
from bounds.solvers.affine_form import AffineForm, at_least_zero, lowest, padded
from bounds.solvers.linear_programme import LinearProgramme

VARIABLES = 2_000  # of one encoding, at most
RELU_OPERATIONS = ("aten.relu.default", "aten.leaky_relu.default", "aten.prelu.default")


class UnstableReLUs(NamedTuple):
    """Entries ``h = max(z, slope z)`` with unknown sign.

    Attributes:
        places: (J,) of h among the variables.
        before: z, a form of J entries.
        interval: bounds of z, (J,) each.
        slope: (J,) in [0, 1].
    """

    places: Tensor
    before: AffineForm
    interval: Interval
    slope: Tensor


@torch.no_grad()
def encodings(graph: Graph, ball: PerturbationSet, tighten: bool, tables: Tables) -> Iterator["Encoding"]:
    """The encoding of each row of a set that :func:`followed` accepts."""
    for row in range(len(ball.center)):
        part = _row(ball, row)
        yield Encoding(propagated(graph, part, tables), part, tighten)


def _row(ball: PerturbationSet, row: int) -> LpBall | Box:
    """One of the sets."""
    if isinstance(ball, LpBall):
        return ball.row(row)
    one, hull = slice(row, row + 1), ball.hull()  # of a box, the box itself
    return Box(hull.lower[one], hull.upper[one])


class Encoding:
    """The variables, their box, the rows and the forms of a network over one perturbation set.

    Attributes:
        lower: (V,) of the variables.
        upper: likewise.
        forms: of each node.
        rectifiers: of each ReLU, leaky ReLU or PReLU, and of maxima.
        curved: operations of other functions.
        exact: whether propagation lost nothing up to here, since all is affine, and the set a box or a whole ball.
    """

    def __init__(self, network: Network, ball: LpBall | Box, tighten: bool) -> None:
        self.network = network
        self.ball = ball
        self.tighten = tighten
        self.lower = self.upper = ball.center.new_zeros(0)
        self.forms: dict[str, AffineForm] = {}
        self.relus: list[UnstableReLUs] = []
        self.curved: list[str] = []
        l1_ball = l1_ball_of(ball)
        self.exact = l1_ball is None or l1_ball.low is l1_ball.high is None
        self._rows: list[tuple[Tensor, Tensor]] = []  # matrix @ v >= right
        for name, node in network.nodes.items():
            if node.operation == "input":
                self._input(name, ball)
            elif name not in network.functions:
                self._affine(node)
            else:
                self._function(node)

    # ---------------------------------------------------------------------------------------------------- variables

    def _input(self, name: str, ball: LpBall | Box) -> None:
        """The input, in its box; in an l1 ball, with its distances from the centre in every direction."""
        hull, center = ball.hull(), ball.center.flatten()
        places = self._add(hull.lower.flatten(), hull.upper.flatten())
        matrix = torch.eye(len(places), dtype=center.dtype, device=center.device).view(-1, *ball.center.shape)
        self.forms[name] = AffineForm(matrix, torch.zeros_like(ball.center), torch.zeros_like(ball.center))
        l1_ball = l1_ball_of(ball)
        if l1_ball is not None:
            farthest = torch.maximum(self.upper - center, center - self.lower) * (1 + 4 * unit_roundoff(center.dtype))
            distances = self._add(torch.zeros_like(farthest), farthest)
            there, apart = self.unit(places), self.unit(distances)
            self._require(apart - there, -center)
            self._require(apart + there, center)
            radius = l1_ball.radii * (1 + 4 * unit_roundoff(center.dtype)) + torch.finfo(center.dtype).tiny
            self._require(-apart.sum(0, keepdim=True), -radius)

    def _add(self, lower: Tensor, upper: Tensor) -> Tensor:
        """New variables; their places."""
        start = len(self.lower)
        self.lower, self.upper = torch.cat([self.lower, lower]), torch.cat([self.upper, upper])
        if len(self.lower) > VARIABLES:
            raise InvalidInput(
                f"convex relaxations take at most {VARIABLES} entries of the input and of functions that are not known "
                f"to be lines, got more: use a smaller network or ball, or bounds.crown"
            )
        return torch.arange(start, len(self.lower), device=lower.device)

    def _require(self, matrix: Tensor, right: Tensor) -> None:
        """Rows that all values of the network fulfil, where they say anything."""
        known = right.isfinite() & matrix.isfinite().all(1)
        self._rows.append((matrix[known], right[known]))

    def programme(self) -> LinearProgramme:
        """The linear programme of the variables and rows so far."""
        count = len(self.lower)
        matrix = torch.cat([padded(part, count, 1) for part, _ in self._rows] or [self.lower.new_zeros(0, count)])
        right = torch.cat([part for _, part in self._rows] or [self.lower.new_zeros(0)])
        return LinearProgramme(matrix, right, self.lower, self.upper)

    # -------------------------------------------------------------------------------------------------------- nodes

    def reach(self, form: AffineForm) -> Tensor:
        """The largest absolute value of each entry of a form."""
        largest = torch.maximum(self.lower.abs(), self.upper.abs())[: len(form.matrix)]
        reach: Tensor = torch.tensordot(largest, form.matrix.abs(), 1) + form.offset.abs() + form.rounding_error
        return reach

    def _affine(self, node: Node) -> None:
        """The linear part of an operation of each column, and its value at the offsets."""
        count = len(self.lower)
        parents = [self.forms[parent] for parent in node.parents]
        zeros = tuple(torch.zeros_like(form.offset) for form in parents)

        columns = tuple(padded(form.matrix, count, 0) for form in parents)
        matrix = torch.func.vmap(lambda *column: linear_part(node, column))(*columns)
        rule, sizes = self.network.rules[node.name], tuple(self.reach(form) for form in parents)
        _, offset = rule.at_zero(node, zeros)
        error = 2 * accumulated_error(rule.terms(node, sizes) + count + 8, matrix.dtype)
        rounding_error = rule.moved(node, tuple(form.rounding_error for form in parents))
        rounding_error = (rounding_error + error * (rule.moved(node, sizes) + offset)) * (1 + error) + torch.finfo(
            matrix.dtype
        ).tiny
        self.forms[node.name] = AffineForm(matrix, node.function(*(form.offset for form in parents)), rounding_error)

    def _function(self, node: Node) -> None:
        """Forms where the function is a line for certain, and elsewhere variables between its lines."""
        (parent,) = node.parents
        function, image = self.network.functions[node.name], self.network.intervals[node.name]
        if isinstance(function, Maximum):
            self.forms[node.name] = self._largest(function, parent, node.value.shape)
            return
        scalar, slope = cast(ScalarFunction, function), _negative_slope(node)  # as propagated() has seen to
        interval = self.network.intervals[parent]
        interval = self._bounds_before(
            parent, interval.lower < interval.upper if slope is None else is_unstable(interval)
        )
        if slope is None:
            self.curved.append(node.operation)
        self.forms[node.name] = self._curve(scalar, self.forms[parent], interval, image, slope)

    def _curve(
        self, function: ScalarFunction, form: AffineForm, interval: Interval, image: Interval, slope: Tensor | None
    ) -> AffineForm:
        """Values of a function of a form; ``slope`` is that below 0 of a rectifier."""
        lines, zero, one = function.lines(interval), torch.zeros_like(form.offset), torch.ones_like(form.offset)
        if slope is None:
            bent, below, straight = one > 0, [(lines.lower_slope, lines.lower_intercept)], form
        else:
            bent, below = is_unstable(interval), [(one, zero), (slope, zero)]
            straight = self.line(form, torch.where(interval.lower >= 0, one, slope), zero)
        image = function.interval(interval) & image
        places = self._add(image.lower[bent], image.upper[bent])
        before = form.at(bent, len(self.lower))
        for under in below:
            self._require(*at_least_zero(self.apart(places, before, *(part[bent] for part in under))))
        over = self.apart(places, before, lines.upper_slope[bent], lines.upper_intercept[bent])
        self._require(*at_least_zero(over.negated()))
        if slope is not None:
            part = Interval(interval.lower[bent], interval.upper[bent])
            self.relus.append(UnstableReLUs(places, before, part, slope[bent]))
        self.exact = False
        matrix = padded(torch.where(bent, 0.0, straight.matrix), len(self.lower), 0)
        matrix[:, bent] += self.unit(places).T
        return AffineForm(
            matrix, *(torch.where(bent, 0.0, part) for part in (straight.offset, straight.rounding_error))
        )

    def _largest(self, function: Maximum, parent: str, shape: torch.Size) -> AffineForm:
        """Maxima as rectifiers one after another, ``max(a, b) = a + relu(b - a)``, and below their plane."""
        interval = self._bounds_before(parent, function.unstable(self.network.intervals[parent])[0])
        planes = function.default_planes(interval)
        form, unit = self.forms[parent], unit_roundoff(interval.lower.dtype)

        def grouped(part: Tensor) -> Tensor:
            """(.., E, n): the n entries of each of the E maxima."""
            moved = part.movedim(function.dims, tuple(range(-len(function.dims), 0)))
            lead = moved.shape[: part.ndim - interval.lower.ndim]
            return moved.reshape(*lead, -1, math.prod(part.shape[dim] for dim in function.dims))

        order = grouped(interval.lower).argsort(dim=-1, descending=True)

        def ranked(part: Tensor) -> Tensor:
            """Entries in the order of their lower ends, after which fewer of them matter."""
            rows = grouped(part)
            return rows.gather(-1, order.expand(rows.shape))

        matrix, offset, rounding_error = (ranked(part) for part in form)
        lower, upper = ranked(interval.lower), ranked(interval.upper)
        largest, low, high = (
            AffineForm(matrix[..., 0], offset[..., 0], rounding_error[..., 0]),
            lower[:, 0],
            upper[:, 0],
        )
        for i in range(1, matrix.shape[-1]):
            other = AffineForm(padded(matrix[..., i], len(self.lower), 0), offset[..., i], rounding_error[..., i])
            gap = self._sum(other, largest.negated())
            ends = Interval(lower[:, i] - high, upper[:, i] - low)
            room = 2 * unit * torch.maximum(ends.lower.abs(), ends.upper.abs())
            ends = Interval(ends.lower - room, ends.upper + room)
            rest = self._curve(relu(), gap, ends, relu().interval(ends), torch.zeros_like(offset[..., i]))
            largest = self._sum(largest, rest)
            low, high = torch.maximum(low, lower[:, i]), torch.maximum(high, upper[:, i])
        (shares,) = planes.upper_slopes
        mean = self._mean(
            AffineForm(matrix, offset, rounding_error), ranked(shares), planes.upper_intercept.reshape(-1)
        )
        self._require(*at_least_zero(self._sum(mean, largest.negated())))
        return AffineForm(*(part.reshape(*part.shape[:-1], *shape) for part in largest))

    def _sum(self, one: AffineForm, other: AffineForm) -> AffineForm:
        """The sum of two forms."""
        size = self.reach(one) + self.reach(other)
        rounding_error = (
            one.rounding_error
            + other.rounding_error
            + 4 * unit_roundoff(size.dtype) * size
            + torch.finfo(size.dtype).tiny
        )
        count = len(self.lower)
        matrix = padded(one.matrix, count, 0) + padded(other.matrix, count, 0)
        return AffineForm(matrix, one.offset + other.offset, rounding_error)

    def _mean(self, form: AffineForm, weights: Tensor, constant: Tensor) -> AffineForm:
        """Sums over the last dimension of entries times weights that are not negative, plus constants."""
        size = (self.reach(form) * weights).sum(-1) + constant.abs()
        error = accumulated_error(weights.shape[-1] + 8, size.dtype)
        rounding_error = ((form.rounding_error * weights).sum(-1) + error * size) * (1 + error) + torch.finfo(
            size.dtype
        ).tiny
        return AffineForm((form.matrix * weights).sum(-1), (form.offset * weights).sum(-1) + constant, rounding_error)

    def line(self, form: AffineForm, slope: Tensor, intercept: Tensor) -> AffineForm:
        """``slope * form + intercept``, entry by entry, with room for one more sum of offset and error."""
        size = slope.abs() * self.reach(form) + intercept.abs()
        rounding_error = (
            slope.abs() * form.rounding_error + 8 * unit_roundoff(size.dtype) * size + torch.finfo(size.dtype).tiny
        )
        return AffineForm(slope * form.matrix, slope * form.offset + intercept, rounding_error)

    def apart(self, places: Tensor, before: AffineForm, slope: Tensor, intercept: Tensor) -> AffineForm:
        """``v[places] - (slope * before + intercept)``, for (J,) each."""
        line = self.line(before, slope, intercept)
        matrix = self.unit(places).T - padded(line.matrix, len(self.lower), 0)
        return AffineForm(matrix, -line.offset, line.rounding_error)

    def unit(self, places: Tensor) -> Tensor:
        """Rows (J, V) that pick variables."""
        rows = self.lower.new_zeros(len(places), len(self.lower))
        return rows.scatter(1, places[:, None], 1.0)

    def _bounds_before(self, name: str, chosen: Tensor) -> Interval:
        """Bounds of a node in front of a function, by linear programmes for the entries that may gain of it."""
        interval = self.network.intervals[name]
        if self.exact or not self.tighten:
            return interval
        form, programme = self.forms[name].at(chosen, len(self.lower)), self.programme()
        lower, upper = interval.lower.clone(), interval.upper.clone()
        lower[chosen] = torch.maximum(lower[chosen], lowest(programme, form))
        upper[chosen] = torch.minimum(upper[chosen], -lowest(programme, form.negated()))
        return Interval(lower, upper)

    def combination(self, rows: Tensor) -> AffineForm:
        """Linear functions (R, K) of the output, as a form of R entries."""
        output = self.forms["output"]
        form = AffineForm(*(part.view(-1, rows.shape[1]) for part in output))
        error = accumulated_error(rows.shape[1] + 8, rows.dtype)
        rounding_error = rows.abs() @ (form.rounding_error + error * self.reach(output)).flatten() * (1 + error)
        matrix = padded(form.matrix @ rows.T, len(self.lower), 0)
        return AffineForm(matrix, rows @ form.offset.flatten(), rounding_error + torch.finfo(rows.dtype).tiny)

    def largest(self, rows: Tensor, offsets: Tensor) -> tuple["Encoding", AffineForm]:
        """The largest of ``rows @ y - offsets`` (R,) of the outputs y, as a form of one entry of a larger encoding.

        It is a new variable, at least as large as each of them, unless there is one row.
        """
        form = self.combination(rows)
        size = self.reach(form) + offsets.abs()
        error = form.rounding_error + 4 * unit_roundoff(size.dtype) * size
        form = AffineForm(form.matrix, form.offset - offsets, error)
        if len(rows) == 1:
            return self, form
        whole = copy(self)
        whole._rows = list(self._rows)
        most = 2 * size.max(0, keepdim=True).values
        place = whole._add(-most, most)
        below = whole.unit(place).expand(len(rows), -1) - padded(form.matrix.T, len(whole.lower), 1)
        whole._require(*at_least_zero(AffineForm(below.T, -form.offset, error)))
        zero = torch.zeros_like(most)
        return whole, AffineForm(whole.unit(place).T, zero, zero)

    def value(self, point: Tensor) -> Tensor:
        """The outputs (K,) of the network at the input of a point (V,), which is moved into the set if need be."""
        x = self.input(point)
        values: dict[str, Tensor] = {}
        for name, node in self.network.nodes.items():
            values[name] = x if node.operation == "input" else node.function(*(values[key] for key in node.parents))
        return values["output"].flatten()

    def input(self, point: Tensor) -> Tensor:
        """The input (1, *D) of a point (V,), moved into the set if need be."""
        center, hull = self.ball.center, self.ball.hull()
        x = point[: center.numel()].view_as(center).clamp(hull.lower, hull.upper)
        l1_ball = l1_ball_of(self.ball)
        if l1_ball is None:
            return x
        move = x - center
        return center + move * (l1_ball.radii / move.abs().sum()).clamp(max=1)


def _negative_slope(node: Node) -> Tensor | None:
    """The slope of a rectifier below 0, if it is one and lies between 0 and 1."""
    if node.operation not in RELU_OPERATIONS:
        return None
    slope = -node.function(-torch.ones_like(node.value))
    return slope if bool(((slope >= 0) & (slope <= 1)).all()) else None


def is_unstable(interval: Interval) -> Tensor:
    """Whether the sign of entries is unknown."""
    closed: Tensor = (interval.lower >= 0) | (interval.upper <= 0)  # which NaN is not
    return ~closed


def differences_from_label(logits: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The classes (K - 1,) other than the label, and the rows (K - 1, K) that subtract them from it."""
    others = (torch.arange(len(logits), device=logits.device) != label).nonzero().squeeze(1)
    identity = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    return others, identity[label] - identity[others]
