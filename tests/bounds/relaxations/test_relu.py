"""Planes of rectifiers in rational arithmetic: at every end that a number can be, infinite ones included."""

import math
from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds.numerics import underflow
from bounds.relaxations import relu
from bounds.relaxations.activations import leaky_relu
from bounds.relaxations.base import NodeFunction, Planes, kept_within
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.relu import ReLURelaxation
from bounds.sets.balls import Interval

DTYPES = (torch.float32, torch.float64)
SLOPES = (0.0, 0.25, 1.0)  # exact in every dtype


def rectifier(slope: float) -> ReLURelaxation:
    function = leaky_relu(slope)
    assert isinstance(function, ReLURelaxation)
    return function


def intervals(dtype: torch.dtype) -> Interval:
    """All pairs of unusual numbers, and random pairs of very different sizes."""
    unit = torch.finfo(dtype)
    sizes = [unit.tiny * unit.eps, unit.tiny / 3, unit.tiny, 1e-10, 1.0, 1.0 + unit.eps, 2.5, 1e30, unit.max, math.inf]
    numbers = torch.tensor([*(-size for size in sizes), 0.0, *sizes], dtype=dtype).sort().values
    pairs = torch.combinations(numbers, with_replacement=True)
    drawn = torch.randn(300, 2, generator=generator(), dtype=torch.float64)
    drawn = (drawn * 10.0 ** torch.randint(-12, 12, (300, 2), generator=generator(1))).to(dtype)
    drawn = drawn.sort(1).values
    return Interval(*torch.cat([pairs, drawn]).T)


def violations(function: ReLURelaxation, x: Interval, planes: Planes) -> int:
    """Ends and kinks at which a plane is on the wrong side, and lines that go to infinity on the wrong side."""
    (lower,), (upper,) = planes.lower_slopes, planes.upper_slopes
    wrong = 0
    for low, high, below, above, height in zip(
        *(part.tolist() for part in (x.lower, x.upper, lower, upper, planes.upper_intercept)), strict=True
    ):
        if height < math.inf:
            points = [Fraction(point) for point in (low, 0.0, high) if low <= point <= high and abs(point) < math.inf]
            for point in points:
                value = max(point, Fraction(function.negative_slope) * point)
                wrong += Fraction(above) * point + Fraction(height) < value
                wrong += Fraction(below) * point > value
            wrong += high == math.inf and above < 1
            wrong += low == -math.inf and above > function.negative_slope
    return wrong


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", SLOPES)
def test_planes_hold_exactly(dtype: torch.dtype, slope: float):
    function, x = rectifier(slope), intervals(dtype)
    free = torch.rand(x.lower.shape, generator=generator(2), dtype=dtype).clamp(min=slope)
    for planes in (function.default_planes(x), function.planes((free,), x), function.parallel(x)):
        assert violations(function, x, planes) == 0


def test_ranges_hold_for_slopes_that_round():
    """Against exact fractions, at intervals of one number and of two."""
    function, ends = leaky_relu(0.1), -torch.rand(2, 200, generator=generator(5), dtype=torch.float64)
    for lower, upper in ((ends.amin(0), ends.amax(0)), (ends[0], ends[0])):
        found = function.range_of(Interval(lower, upper))
        for x, y, low, high in zip(*(part.tolist() for part in (lower, upper, *vars(found).values())), strict=True):
            assert Fraction(low) <= Fraction(0.1) * Fraction(x)
            assert Fraction(0.1) * Fraction(y) <= Fraction(high)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", SLOPES)
def test_where_the_sign_is_known_planes_are_the_function(dtype: torch.dtype, slope: float):
    x = intervals(dtype)
    planes = rectifier(slope).default_planes(x)
    positive, negative = (x.lower >= 0) & (x.upper > 0), (x.upper <= 0) & (x.lower < 0)
    for part in (planes.lower_slopes[0], planes.upper_slopes[0]):
        assert (part[positive] == 1).all()
        assert (part[negative] == slope).all()
    assert (planes.upper_intercept[positive | negative] <= 2 * underflow(dtype)).all()


def test_default_planes_are_those_of_the_default_parameters():
    """Wherever the areas of the two choices differ by more than rounding."""
    x = intervals(torch.float64)
    clear = (x.lower + x.upper).abs() > 1e-9 * (x.upper - x.lower)
    finite = x.lower.isfinite() & x.upper.isfinite() & clear
    x = Interval(x.lower[finite], x.upper[finite])
    for slope in SLOPES:
        function = rectifier(slope)
        default, same = function.default_planes(x), function.planes(function.default_parameters(x), x)
        unstable = function.unstable(x)[0]
        assert torch.equal(default.lower_slopes[0][unstable], same.lower_slopes[0][unstable])
        assert torch.equal(default.upper_intercept, same.upper_intercept)


def test_an_intercept_rounded_to_nearest_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant: the height of the secant as it comes, which is below the function at one of the ends now and then."""
    whole = ReLURelaxation._upper_line

    def to_nearest(self: ReLURelaxation, x: Interval) -> tuple[Tensor, Tensor]:
        slope, _ = whole(self, x)
        return slope, -(slope * x.lower.clamp(max=0)).nan_to_num(nan=0.0)

    function, x = rectifier(0.0), intervals(torch.float64)
    monkeypatch.setattr(ReLURelaxation, "_upper_line", to_nearest)
    assert violations(function, x, function.default_planes(x)) > 0


@pytest.mark.parametrize("slope", SLOPES)
def test_gradients_of_the_line_above_are_those_of_its_operations(slope: float):
    """Also where the sign is known, at 0 and at an infinite end."""
    ends = torch.randn(2, 60, generator=generator(2), dtype=torch.float64).sort(0).values
    ends = torch.cat([ends, torch.tensor([[-1.0, 0.0, 0.0, -math.inf], [0.0, 2.0, 0.0, 1.0]]).double()], 1)
    weights = torch.randn(2, 64, generator=generator(3), dtype=torch.float64)
    found = []
    for line in (rectifier(slope)._line_above, lambda x: relu._line_above(x.lower, x.upper, slope)):
        lower, upper = (end.clone().requires_grad_() for end in ends)
        parts = line(Interval(lower, upper))
        total = sum((part * weight)[:-1].sum() for part, weight in zip(parts, weights, strict=True))
        found.append([*parts, *torch.autograd.grad(total, [lower, upper])])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs.nan_to_num(), rtol=1e-12, atol=1e-12)


def test_training_sees_no_infinite_gradient_at_zero():
    zero = torch.zeros(3, requires_grad=True)
    planes = rectifier(0.0).default_planes(Interval(zero, zero.clone()))
    (planes.upper_slopes[0].sum() + planes.upper_intercept.sum()).backward()
    assert zero.grad is not None
    assert (zero.grad == 0).all()


@pytest.mark.parametrize(
    "function",
    [leaky_relu(0.0), leaky_relu(0.25), Maximum((-1,), keepdim=False)],
    ids=["relu", "leaky_relu", "maximum"],
)
def test_parameters_have_gradients_at_their_limits(function: NodeFunction):
    """Ascents begin there. Catches ``clamp``, which passes no gradient at its ends in some versions of torch."""
    x = Interval(torch.tensor([[-1.0, -0.5, -2.0]]), torch.tensor([[3.0, 0.25, 1.0]]))
    numbers = [number.clone().requires_grad_() for number in function.default_parameters(x)]
    limits = function.limits(x)
    assert any(
        ((number == end.lower) | (number == end.upper)).any() for number, end in zip(numbers, limits, strict=True)
    )
    planes = function.planes(tuple(numbers), x)
    weights = torch.tensor([[1.0, 2.0, 4.0]])
    (gradient,) = torch.autograd.grad((planes.lower_slopes[0] * weights).sum(), numbers[0])
    assert (gradient != 0).sum() >= 2  # weights of a maximum sum to 1, so that the one which is 1 has none


def test_free_numbers_beyond_their_limits_are_cut_off():
    numbers = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5], requires_grad=True)
    kept = kept_within(numbers, 0.0, 1.0)
    assert kept.tolist() == pytest.approx([0.0, 0.0, 0.3, 1.0, 1.0])
    (gradient,) = torch.autograd.grad(kept.sum(), numbers)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
