"""Enclosures of the few functions that statements rest on. Every answer is an interval that holds the exact value.

Probabilities and radii are float64 numbers, which are fractions. Intervals are those of mpmath, whose ends are rounded
outward at a precision of 160 bits; series of positive terms are summed up in integers, each term rounded outward.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from mpmath import iv

from bounds.errors import InvalidInput

iv.prec = 160
BITS = 200  # of the terms of a series
MOST_TERMS = 10**6


class Enclosure(NamedTuple):
    """Fractions below and above a number."""

    low: Fraction
    high: Fraction

    def at_most(self, limit: Fraction | float) -> bool | None:
        """Whether the number is at most the limit; None where the enclosure does not tell."""
        return True if self.high <= limit else False if self.low > limit else None

    def at_least(self, limit: Fraction | float) -> bool | None:
        """Whether the number is at least the limit; None where the enclosure does not tell."""
        return True if self.low >= limit else False if self.high < limit else None


def fraction(value: float | int | str | Fraction) -> Fraction:
    """The number that a float is, or a text such as 1/5 says."""
    return Fraction(value)


def interval(value: Fraction | int) -> Any:  # noqa: ANN401  # mpmath has no types
    """An interval around a fraction."""
    value = Fraction(value)
    return iv.mpf(value.numerator) / iv.mpf(value.denominator)


def enclosure(value: Any) -> Enclosure:  # noqa: ANN401  # an interval of mpmath
    """The ends of an interval as fractions."""
    return Enclosure(_end(value.a), _end(value.b))


def _end(end: Any) -> Fraction:  # noqa: ANN401
    sign, mantissa, exponent, _ = end._mpi_[0]
    if not mantissa and exponent:
        raise InvalidInput("a number of the record is out of the range that can be audited")
    size = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if sign else size


def series(first: tuple[int, int], step: tuple[int, int], x: Fraction) -> Enclosure:
    r"""Sum of :math:`1 + r_0 + r_0 r_1 + \dots` for :math:`r_m = x (a + m s) / (b + m t)`, none negative.

    The ratios fall, to below 1, and where one is 0 the sum ends. ``first`` holds a and b, ``step`` s and t.
    """
    (a, b), (s, t) = first, step
    one, place = 1 << BITS, 0
    low = high = total_low = total_high = one
    while True:
        top, bottom = x.numerator * (a + place * s), x.denominator * (b + place * t)
        low, high = low * top // bottom, -(-high * top // bottom)
        total_low, total_high = total_low + low, total_high + high
        place += 1
        top, bottom = x.numerator * (a + place * s), x.denominator * (b + place * t)
        if top < bottom and high <= max(total_low >> 90, 1):
            # Later ratios are no larger than this one: what is left out is below a geometric series.
            rest = -(-high * top // (bottom - top))
            return Enclosure(Fraction(total_low, one), Fraction(total_high + rest, one))
        if place > MOST_TERMS:
            raise InvalidInput("a probability of the record is too near to 1 to be audited")


@lru_cache(maxsize=100_000)
def binomial_tail(successes: int, draws: int, p: Fraction) -> Enclosure:
    """Probability of at least so many successes, each of probability p.

    The sum of the binomial law, from its largest term on. Where p n is at least k, k is at most the median, and the
    tail at least 1/2.
    """
    if successes <= 0 or p >= 1:
        return Enclosure(Fraction(1), Fraction(1))
    if successes > draws or p <= 0:
        return Enclosure(Fraction(0), Fraction(0))
    if p * draws >= successes:
        return Enclosure(Fraction(1, 2), Fraction(1))
    q, left = 1 - p, draws - successes
    scale = interval(math.comb(draws, successes)) * _power(p, successes) * _power(q, left)
    total = series((left, successes + 1), (-1, 1), p / q)
    return enclosure(scale * _between(total))


def _power(base: Fraction, exponent: int) -> Any:  # noqa: ANN401
    return interval(base) ** exponent


@lru_cache(maxsize=100_000)
def log_evidence(successes: int, draws: int, p: Fraction) -> Enclosure | None:
    r"""Logarithm of the evidence that a success probability exceeds p, of Jeffreys' prior cut off at p.

    With Beta(1/2, 1/2) cut off at p as the prior of q, it is the mean of the likelihood ratio of q to p. Where the
    share of successes is at most p, every ratio is at most 1, and None says that there is no evidence. Below the share
    of successes it falls as p grows, wherever it is above 1: so evidence against p is evidence against all below it.
    """
    if p * draws >= successes:
        return None
    failures, q = draws - successes, 1 - p
    # The integral is an incomplete beta function of (m + 1/2, A + 1/2) at q, in which the series of DLMF 8.17.8 leaves
    # the likelihood as a factor, that of the draws, so that it falls out of the ratio.
    total = _between(series((2 * (draws + 1), 2 * failures + 3), (2, 2), q))
    share = interval(Fraction(2 * failures + 1, 2)) * 2 * _arcsin_of_root(q)
    return enclosure(iv.log(iv.sqrt(interval(p * q)) * total / share))


def _between(ends: Enclosure) -> Any:  # noqa: ANN401
    """An interval around an enclosure."""
    return iv.mpf([interval(ends.low).a, interval(ends.high).b])


def _arcsin_of_root(p: Fraction) -> Any:  # noqa: ANN401
    r"""Enclosure of :math:`\arcsin \sqrt p`, by the series of :math:`\arcsin(z) / \sqrt{1 - z^2}`."""
    if p > Fraction(1, 2):
        return iv.pi / 2 - _arcsin_of_root(1 - p)
    total = series((2, 3), (2, 2), p)
    x = interval(p)
    return iv.sqrt(x * (1 - x)) * _between(total)


@lru_cache(maxsize=100_000)
def normal_probability(t: Fraction) -> Enclosure:
    r"""Probability that a standard normal number is at most t, by the series of Marsaglia.

    :math:`\Phi(t) = 1/2 + \varphi(t) (t + t^3 / 3 + t^5 / 15 + \dots)`, whose terms are positive for t > 0.
    """
    if t < 0:
        other = normal_probability(-t)
        return Enclosure(1 - other.high, 1 - other.low)
    if t > 38:
        return Enclosure(1 - Fraction(1, 2**1000), Fraction(1))
    square, one = t * t, 1 << (BITS + 1200)
    low = high = total_low = total_high = one
    place = 1
    while True:
        bottom = square.denominator * (2 * place + 1)
        low, high = low * square.numerator // bottom, -(-high * square.numerator // bottom)
        total_low, total_high, place = total_low + low, total_high + high, place + 1
        if 2 * square.numerator < square.denominator * (2 * place + 1) and high <= total_low >> 200:
            break
    x = interval(t)
    total = _between(Enclosure(Fraction(total_low, one), Fraction(total_high + high, one)))
    return enclosure(iv.mpf(1) / 2 + x * iv.exp(-x * x / 2) / iv.sqrt(2 * iv.pi) * total)
