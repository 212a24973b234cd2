"""Intervals and linear bounds of networks in float64, with every rounding error on the safe side.

Errors follow the usual model: a sum of n products is off by at most ``gamma(n)`` times the sum of their magnitudes, in
any order. Coefficients that are off multiply values whose magnitudes the intervals bound, so that their errors become a
number that is subtracted. That number itself is doubled, which covers its own rounding.

References:
    Zhang et al. (2018), Efficient Neural Network Robustness Certification with General Activation Functions,
    arXiv:1811.00866; Wang et al. (2021), Beta-CROWN, arXiv:2103.06624; Higham (2002), Accuracy and Stability of
    Numerical Algorithms, chapter 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from certify.proofs.balls import Ball
from certify.proofs.networks.functions import LEAST, UNIT, Function, Largest, Lines
from certify.proofs.networks.maps import Array, Selection
from certify.proofs.networks.networks import Network, Node

ENTRIES = 2**23  # of coefficients that are held at once
UNDERFLOW = 2.0**-900  # far above what all products of a pass lose together, per unit of the values that they meet


def gamma(roundings: int) -> float:
    """A bound on the relative error of as many roundings."""
    return roundings * UNIT / (1 - roundings * UNIT)


class Shift(NamedTuple):
    """Multipliers of what splits say of the values in front of a function.

    Attributes:
        multiplier: (N, F), above 0 where a value is at most its point, below 0 where it is at least that.
        lost: (N,), the products of multipliers with points, summed.
        size: (N,), their magnitudes, summed.
    """

    multiplier: Array
    lost: Array
    size: Array


class Planes(NamedTuple):
    """Linear functions of the input below others on boxes: ``slopes @ x + constant``, all errors included.

    Attributes:
        slopes: (N, R, F).
        constant: (N, R).
        least: (N, R), on the box.
    """

    slopes: Array
    constant: Array
    least: Array


@dataclass(eq=False)
class Intervals:
    """Ends and magnitudes of all nodes on N boxes; lists by node.

    Attributes:
        low: (N, F) each.
        high: likewise.
        size: (N, F), the sum of the magnitudes of all products and the offset of an affine node.
        lines: of functions of one variable, by node.
        ball: that inputs lie in as well; None for all inputs of the boxes.
    """

    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)
    size: list[Array] = field(default_factory=list)
    lines: dict[int, Lines] = field(default_factory=dict)
    ball: Ball | None = None

    def reach(self, node: int) -> Array:
        """The largest magnitude of each value, (N, F)."""
        return np.maximum(np.abs(self.low[node]), np.abs(self.high[node]))


def intervals(network: Network, low: Array, high: Array, ball: Ball | None = None) -> Intervals:
    """Bounds of all nodes on boxes (N, F), by intervals, and by CROWN with default slopes in front of functions.

    With a ball, of those inputs alone that lie in it too.
    """
    found = Intervals(ball=ball)
    refined: set[int] = set()
    for place, node in enumerate(network.nodes):
        if place == 0:
            ends, size = (low, high), np.zeros_like(low)
        elif isinstance(node.function, Function | Largest):
            (parent,) = node.parents
            if parent not in refined and (ball is not None or not _is_first(network, parent)):
                _refine(network, found, parent, node.function)
                refined.add(parent)
            below, above, size = found.low[parent], found.high[parent], np.zeros((1, node.size))
            if isinstance(node.function, Function):
                ends = node.function.interval(below, above)
                found.lines[place] = node.function.lines(below, above, node.function.default_slopes(below, above))
            else:
                ends = node.function.values(below), node.function.values(above)
        else:
            below, above, size = _affine(node, found)
            ends = below, above
        found.low.append(ends[0])
        found.high.append(ends[1])
        found.size.append(size)
    return found


def _is_first(network: Network, place: int) -> bool:
    """Whether a node is an affine function of the input in one step, of which intervals know all."""
    return set(network.nodes[place].parents) <= {0}


def _affine(node: Node, known: Intervals) -> tuple[Array, Array, Array]:
    """Ends of an affine node, and the magnitudes behind them."""
    centre, radius, size = node.offset[None], np.zeros((1, node.size)), np.abs(node.offset)[None]
    terms = 8 + len(node.parents)
    for parent, map_ in zip(node.parents, node.maps, strict=True):
        low, high = known.low[parent], known.high[parent]
        middle = low / 2 + high / 2
        half = np.maximum(high - middle, middle - low) * (1 + 4 * UNIT) + LEAST
        magnitude = map_.magnitude()
        centre = centre + map_.forward(middle)
        radius = radius + magnitude.forward(half)
        size = size + magnitude.forward(np.abs(middle) + half)
        terms = max(terms, map_.terms.forward + 8 + len(node.parents))
    radius = radius + 4 * gamma(terms) * size + UNDERFLOW * (1 + size)
    return centre - radius, centre + radius, size


def _refine(network: Network, known: Intervals, place: int, function: Function | Largest) -> None:
    """Replace the interval of a node in front of a function by what linear bounds add to it."""
    low, high = known.low[place], known.high[place]
    bends = np.ones_like(low, dtype=bool) if isinstance(function, Largest) else function.bends(low, high)
    chosen = np.flatnonzero(bends.any(0))
    widest = max(node.size for node in network.nodes[: place + 1])
    step = max(1, ENTRIES // (2 * len(low) * widest))
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        rows = np.zeros((len(low), 2 * len(part), low.shape[1]))
        rows[:, np.arange(len(part)), part] = 1.0
        rows[:, len(part) + np.arange(len(part)), part] = -1.0
        least = planes(network, known, {place: rows}).least
        below, above = np.split(least, 2, 1)  # only where they help, so that no box depends on others next to it
        low[:, part] = np.where(bends[:, part], np.fmax(low[:, part], below), low[:, part])
        high[:, part] = np.where(bends[:, part], np.fmin(high[:, part], -above), high[:, part])


def planes(
    network: Network,
    known: Intervals,
    rows: Mapping[int, Array],
    *,
    lines: Mapping[int, Lines] | None = None,
    shifts: Mapping[int, Shift] | None = None,
) -> Planes:
    """Linear functions of the input below linear functions of nodes, on boxes.

    Args:
        network: whose nodes they are.
        known: intervals of N boxes, or of one that holds all of them.
        rows: coefficients (N, R, F) by node.
        lines: of functions; those of ``known`` if not given.
        shifts: multipliers of splits in front of functions, by function.
    """
    lines = known.lines if lines is None else lines
    waiting = dict(rows)
    first = next(iter(rows.values()))
    total = _Sum(np.zeros(first.shape[:2]), np.zeros(first.shape[:2]))
    for place in range(max(rows), 0, -1):
        if place not in waiting:
            continue
        node, here = network.nodes[place], waiting.pop(place)
        if isinstance(node.function, Function):
            shift = None if shifts is None else shifts.get(place)
            passed = [_through_lines(here, lines[place], shift, known.reach(node.parents[0]), total)]
        elif isinstance(node.function, Largest):
            passed = [_through_largest(here, node.function, known, node.parents[0], total)]
        else:
            passed = _through_affine(here, node, known.size[place], total)
        for parent, coefficients in zip(node.parents, passed, strict=True):
            if parent in waiting:
                coefficients = waiting[parent] + coefficients
                total.off(4, coefficients, known.reach(parent))
            waiting[parent] = coefficients
    slopes = waiting.pop(0, np.zeros((*first.shape[:2], network.nodes[0].size)))
    low, high = known.low[0][:, None], known.high[0][:, None]
    at_corner = np.where(slopes > 0, slopes * low, slopes * high).sum(2)
    if known.ball is not None:
        at_corner = np.fmax(at_corner, known.ball.least(slopes))
    total.off(slopes.shape[2] + 8, slopes, known.reach(0))
    largest = max(float(reach.max(initial=0.0)) for reach in map(known.reach, range(max(rows) + 1)))
    error = 2 * total.error + 16 * UNIT * (np.abs(total.value) + np.abs(at_corner)) + UNDERFLOW * (1 + largest)
    constant = total.value - error
    return Planes(slopes, constant, constant + at_corner - 4 * UNIT * (np.abs(constant) + np.abs(at_corner)))


@dataclass(eq=False)
class _Sum:
    """The constant (N, R) of a backward pass, and a bound on all errors of the pass so far."""

    value: Array
    error: Array

    def add(self, part: Array) -> None:
        """Add to the constant."""
        self.value = self.value + part
        self.error = self.error + 2 * UNIT * np.abs(self.value)

    def off(self, roundings: int, coefficients: Array, size: Array) -> None:
        """Coefficients (N, R, F) of values up to a size (N, F) are off by as many roundings."""
        self.error = self.error + gamma(roundings) * _met(np.abs(coefficients), size)


def _met(rows: Array, values: Array) -> Array:
    """Sums (N, R) of products of rows (N, R, F) with values (N, F) or (1, F)."""
    found: Array = (rows @ values[..., None])[..., 0]
    return found


def _with_magnitude(values: Array) -> Array:
    """Columns (N, F, 2) of values and their magnitudes, so that one product meets both."""
    return np.stack([values, np.abs(values)], 2)


def _through_affine(rows: Array, node: Node, size: Array, total: _Sum) -> list[Array]:
    """Coefficients of the parents of an affine node."""
    flat = rows.reshape(-1, node.size)
    passed = [map_.backward(flat).reshape(*rows.shape[:2], -1) for map_ in node.maps]
    roundings = max([node.size, *(map_.terms.backward for map_ in node.maps)]) + 8
    total.off(roundings, rows, size)
    if node.offset.any():
        total.add(_met(rows, node.offset[None]))
    return passed


def _through_lines(rows: Array, lines: Lines, shift: Shift | None, reach: Array, total: _Sum) -> Array:
    """Coefficients in front of a function: those above 0 meet the lower line, those below 0 the upper one."""
    above, below = np.maximum(rows, 0.0), np.minimum(rows, 0.0)
    low, high = (above @ _with_magnitude(lines.lower), below @ _with_magnitude(lines.upper))
    total.add(low[..., 0] + high[..., 0])
    total.error = total.error + gamma(rows.shape[2] + 8) * (low[..., 1] - high[..., 1])
    above *= lines.lower_slope[:, None]
    below *= lines.upper_slope[:, None]
    passed = np.add(above, below, out=above)
    total.off(8, passed, reach)
    if shift is not None:
        passed = passed + shift.multiplier[:, None]
        total.off(8, passed, reach)
        total.add(-shift.lost[:, None])
        total.error = total.error + gamma(rows.shape[2] + 8) * shift.size[:, None]
    return passed


def _through_largest(rows: Array, function: Largest, known: Intervals, parent: int, total: _Sum) -> Array:
    """Coefficients in front of max pooling: of one input below it, and of that or no input above it."""
    chosen, above = function.chosen(known.low[parent], known.high[parent])
    certain = np.isinf(above)[:, None]
    kept = np.where(certain, rows, np.maximum(rows, 0.0))
    constant = np.where(np.isinf(above), 0.0, above)
    lost = np.where(certain, 0.0, np.minimum(rows, 0.0))
    total.add(_met(lost, constant))
    total.error = total.error + gamma(rows.shape[2] + 8) * _met(np.abs(lost), np.abs(constant))
    each = np.broadcast_to(chosen, (len(rows), chosen.shape[1]))
    reach = known.reach(parent)
    total.off(rows.shape[2] + 8, kept, np.take_along_axis(np.broadcast_to(reach, (len(each), function.size)), each, 1))
    return np.stack([Selection(place, function.size).backward(row) for place, row in zip(each, kept, strict=True)])
