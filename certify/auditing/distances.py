"""Lengths of perturbations, exactly: bounds on both sides that a stated distance is held against."""

import math
from fractions import Fraction

import numpy as np
from mpmath import iv
from numpy.typing import NDArray

from certify.auditing.exact import Enclosure, enclosure, interval

Array = NDArray[np.float64]
SPLIT = 2.0**27 + 1
ROUNDING = Fraction(1, 2**52)  # of a sum of floats that math.fsum rounds once


def difference(point: Array, x: Array) -> tuple[Array, Array]:
    """The difference of two arrays without error: what float64 holds of it, and the rest (Knuth's two-sum)."""
    total = point - x
    part = total - point
    return total, (point - (total - part)) - (x + part)


def length(point: Array, x: Array, norm: float) -> Enclosure:
    """The norm of a perturbation; for float32 inputs in a common range, no digit is lost before the last root."""
    delta, rest = difference(point, x)
    moved = (delta != 0) | (rest != 0)
    if norm == 0:
        return _exactly(Fraction(int(moved.sum())))
    delta, rest = delta[moved], rest[moved]
    if not len(delta):
        return _exactly(Fraction(0))
    if rest.any() or norm not in (1, 2, math.inf):
        return _slowly(delta, rest, norm)
    size = np.abs(delta)
    largest = float(size.max())
    if norm == math.inf:
        return _exactly(Fraction(largest))
    if norm == 1:
        return _around(math.fsum(size.tolist()))
    if not 1e-130 < largest < 1e130 or float(size.min()) < 1e-130:  # squares, or their rests, would leave float64
        return _slowly(delta, rest, norm)
    squares = size * size
    high = size * SPLIT  # Dekker's and Veltkamp's product without error
    high = high - (high - size)
    low = size - high
    errors = low * low - ((squares - high * high) - 2 * high * low)
    total = _around(math.fsum([*squares.tolist(), *errors.tolist()]))
    return enclosure(iv.sqrt(iv.mpf([interval(total.low).a, interval(total.high).b])))


def _exactly(value: Fraction) -> Enclosure:
    return Enclosure(value, value)


def _around(total: float) -> Enclosure:
    value = Fraction(total)
    return Enclosure(value * (1 - ROUNDING), value * (1 + ROUNDING))


def _slowly(delta: Array, rest: Array, norm: float) -> Enclosure:
    """The norm, in fractions and intervals."""
    sizes = [abs(Fraction(a) + Fraction(b)) for a, b in zip(delta.tolist(), rest.tolist(), strict=True)]
    if norm == math.inf:
        return _exactly(max(sizes))
    if norm == 1:
        return _exactly(sum(sizes, Fraction(0)))
    if norm == 2:
        return enclosure(iv.sqrt(interval(sum((size * size for size in sizes), Fraction(0)))))
    power = interval(Fraction(norm))
    total = sum((iv.exp(power * iv.log(interval(size))) for size in sizes), iv.mpf(0))
    return enclosure(iv.exp(iv.log(total) / power))
