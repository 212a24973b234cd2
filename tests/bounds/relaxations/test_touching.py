"""Default lines and ranges without gradients, which come from known points of contact instead of slopes and a search.

The oracles are those of other lines: more digits than float64 has, and the lines that are found by their slopes.
"""

import math

import mpmath
import numpy as np
import pytest
import torch
from oracles.scalar_functions import CASES, LONG, crossings, evaluate, long, random_intervals, samples
from torch import Tensor

from bounds import Interval
from bounds.relaxations.scalar import LinePair

EXACT = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "atan": mpmath.atan,
    "erf": mpmath.erf,
    "exp": mpmath.exp,
    "log": mpmath.log,
    "reciprocal": lambda x: 1 / x,
    "x ** -3": lambda x: x**-3,
    "sqrt": mpmath.sqrt,
}
BENT = [
    "square",
    "x ** 4",
    "x ** -2",
    "x ** 0.3",
    "x ** 2.5",
    "x ** -0.7",
    "cosh",
    "acosh",
    "2 ** x",
    "0.7 ** x",
    "log2",
]
known_points = pytest.mark.parametrize("name", [*EXACT, *BENT])
S_SHAPES = ["sigmoid", "tanh", "atan", "erf"]


@torch.no_grad()
def lines_of(name: str, interval: Interval) -> LinePair:
    return CASES[name].function.lines(interval)


def areas(lines: LinePair, interval: Interval) -> Tensor:
    """How far the lines are apart at the middle, where less is better."""
    middle = interval.lower / 2 + interval.upper / 2
    return (lines.upper_slope - lines.lower_slope) * middle + lines.upper_intercept - lines.lower_intercept


@known_points
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lines_enclose(name: str, dtype: torch.dtype):
    case = CASES[name]
    drawn = random_intervals(case, 1000, seed=11)
    interval = Interval(drawn.lower.to(dtype), drawn.upper.to(dtype))
    if case.domain == "moderate" and dtype == torch.float32:
        interval = Interval(interval.lower.clamp(max=60), interval.upper.clamp(max=60))
    lines = lines_of(name, interval)
    x = np.clip(samples(case, interval).astype(interval.lower.numpy().dtype), *(end.numpy() for end in _ends(interval)))
    assert lines.lower_slope.dtype == dtype
    assert not crossings(lines, x.astype(LONG), evaluate(case, x.astype(LONG))).any()


@pytest.mark.parametrize("name", EXACT)
def test_lines_hold_to_forty_digits_at_ends_and_at_points_of_contact(name: str):
    """Points where rounding decides: the ends, the middle, and those where the derivative is the slope."""
    case = CASES[name]
    drawn = random_intervals(case, 250, seed=12)
    keep = torch.maximum(drawn.lower.abs(), drawn.upper.abs()) < 30
    interval = Interval(drawn.lower[keep], drawn.upper[keep])
    lines = lines_of(name, interval)
    middle = interval.lower / 2 + interval.upper / 2
    points = [interval.lower, interval.upper, middle]
    for slopes in lines[::2]:
        for piece in case.function.pieces:
            point = piece.root(slopes, interval.lower, interval.upper).nan_to_num(0.0)
            points.append(torch.minimum(torch.maximum(point, interval.lower), interval.upper))
    with mpmath.workdps(40):
        for point in points:
            for x, *parts in zip(point.tolist(), *(part.tolist() for part in lines), strict=True):
                k, t, rise, height = map(mpmath.mpf, parts)
                y = EXACT[name](mpmath.mpf(x))
                assert k * x + t <= y <= rise * x + height


@known_points
def test_lines_are_as_tight_as_those_by_their_slopes(name: str):
    interval = random_intervals(CASES[name], 2000, seed=13)
    new, old = lines_of(name, interval), CASES[name].function.lines(interval)
    scale = sum(part.abs() for part in old[1::2]) + sum(part.abs() for part in old[::2]) * interval.upper.abs()
    allowed = 1e-13 * scale + 1e-14
    assert (areas(new, interval) <= areas(old, interval) + allowed).all()


@known_points
def test_borders_are_those_of_lines_by_their_slopes(name: str):
    """Intervals that are endless, empty, NaN, outside of the domain, subnormal, or where values overflow."""
    inf, nan, small = math.inf, math.nan, 5e-324
    ends = [(-1.0, inf), (-inf, 2.0), (1.0, inf), (-inf, -1.0), (-inf, inf), (2.0, 1.0), (nan, 1.0), (0.0, nan)]
    ends += [(-1.0, 1.0), (0.0, 0.0), (small, small), (-small, small), (0.0, 3.0), (-3.0, 0.0), (600.0, 800.0)]
    ends += [(1e300, 1e308), (-1e308, 1e308), (1.0, 1.0), (inf, inf)]
    interval = Interval(*torch.tensor(ends, dtype=torch.float64).T.contiguous())
    new, old = lines_of(name, interval), CASES[name].function.lines(interval)
    for ours, theirs in zip(new, old, strict=True):
        assert ours.isnan().equal(theirs.isnan())
    for ours, theirs in zip(new[1::2], old[1::2], strict=True):
        assert (ours.isfinite() >= theirs.isfinite()).all()
    bounded = interval.lower.isfinite() & interval.upper.isfinite() & areas(old, interval).isfinite()
    gaps = [areas(lines, interval)[bounded] for lines in (new, old)]
    assert (gaps[0] <= gaps[1] * (1 + 1e-2) + 1e-12).all()  # at subnormal numbers rounding is all there is
    few = Interval(interval.lower[9:15], interval.upper[9:15])
    known = old.upper_intercept[9:15].isfinite().numpy()
    x = samples(CASES[name], few)
    assert not crossings(LinePair(*(part[9:15] for part in new)), x, evaluate(CASES[name], x))[known].any()


@known_points
def test_lines_without_an_end_hold(name: str):
    """Also of functions that turn, where no end is the point of contact."""
    case, inf = CASES[name], math.inf
    ends = [(-inf, 3.0), (-inf, -2.0), (2.0, inf), (-3.0, inf), (-inf, inf), (1.0, inf)]
    interval = Interval(*torch.tensor(ends, dtype=torch.float64).T.contiguous())
    lines = lines_of(name, interval)
    lower, upper = (long(end.clamp(-40, 40)) for end in _ends(interval))
    x = lower + (upper - lower) * np.linspace(0, 1, 400)[:, None]
    known = torch.stack(lines[1::2]).isfinite().any(0).numpy()
    assert not crossings(lines, x, evaluate(case, x))[known].any()


@known_points
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ranges_enclose_as_tightly_as_lines_without_slopes(name: str, dtype: torch.dtype):
    case = CASES[name]
    drawn = random_intervals(case, 1000, seed=14)
    interval = Interval(drawn.lower.to(dtype), drawn.upper.to(dtype))
    with torch.no_grad():
        image = case.function.range_of(interval)
    by_slopes = case.function.interval(interval)
    for ours, theirs, side in zip(_ends(image), _ends(by_slopes), (-1, 1), strict=True):
        allowed = 64 * torch.finfo(dtype).eps * theirs.abs() + 1e-24
        assert ((ours == theirs) | (side * (ours - theirs) <= allowed)).all()
    y = evaluate(case, np.stack([long(end) for end in _ends(interval)]))
    known = torch.stack(_ends(image)).isfinite().all(0).numpy() & np.isfinite(y).all(0)
    assert (long(image.lower) <= y.min(0))[known].all()
    assert (y.max(0) <= long(image.upper))[known].all()


@pytest.mark.parametrize("name", S_SHAPES)
def test_no_line_through_an_end_touches_an_s_shape_beyond_half_of_its_distance(name: str):
    """The start of the search for it rests on that: at half of the distance the function lies below its tangent."""
    function, near = CASES[name].function, -torch.logspace(-2, 3, 400, dtype=torch.float64)
    half = -near / 2
    below = function.value(half) - function.value(near) - function.derivative(half) * (half - near)
    assert (below >= -1e-15).all()


def _ends(interval: Interval) -> tuple[Tensor, Tensor]:
    return interval.lower, interval.upper
