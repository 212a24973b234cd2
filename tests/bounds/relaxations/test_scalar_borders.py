"""Gradients of the lines around scalar functions, and lines at infinity, at NaN and outside of the domain."""

import math

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.scalar_functions import CASES, crossings, evaluate, long, random_intervals, samples, some_functions
from torch import Tensor

from bounds import Interval, InvalidInput
from bounds.relaxations import activations, elementary
from bounds.relaxations import steps_and_waves as periodic
from bounds.relaxations.scalar import ScalarFunction

# ------------------------------------------------------------------------------------------------------- gradients


@some_functions
def test_gradients_are_those_of_finite_differences(name: str):
    """Gradients of both intercepts with respect to slopes and ends; a kink of the maximum may make few differ."""
    case = CASES[name]
    draw = random_intervals(case, 400, seed=8)
    keep = ((draw.upper - draw.lower) > 0.1) & (draw.upper.abs() < 9) & (draw.lower.abs() < 9)
    keep &= torch.minimum(draw.lower.abs(), draw.upper.abs()) > 0.2
    for jumps in (1.0, 2.0):  # off those of floor and round
        keep &= ((jumps * draw.lower).frac() != 0) & ((jumps * draw.upper).frac() != 0)
    ends = [draw.lower[keep], draw.upper[keep]]
    slopes = [torch.randn(len(ends[0]), generator=generator(seed), dtype=torch.float64) for seed in (1, 2)]

    def intercepts(*inputs: Tensor) -> Tensor:
        lines = case.function.lines_at(Interval(inputs[0], inputs[1]), *inputs[2:])
        return lines.lower_intercept + 2 * lines.upper_intercept

    inputs = [part.clone().requires_grad_() for part in ends + slopes]
    gradients = torch.autograd.grad(intercepts(*inputs).sum(), inputs)
    step = 1e-6
    for i, gradient in enumerate(gradients):
        there, back = ([part + sign * step * (i == j) for j, part in enumerate(ends + slopes)] for sign in (1, -1))
        difference = (intercepts(*there) - intercepts(*back)) / (2 * step)
        off = (gradient - difference).abs() > 1e-4 * (1 + gradient.abs())
        assert off.double().mean() <= 0.03


def test_gradients_reach_the_interval_through_default_slopes():
    """The chord of ReLU: d/du of u / (u - l) is -l / (u - l) ** 2, of -u l / (u - l) it is (l / (u - l)) ** 2."""
    lower, upper = (torch.tensor([end], dtype=torch.float64, requires_grad=True) for end in (-1.0, 3.0))
    lines = activations.relu().lines(Interval(lower, upper))
    torch.testing.assert_close(torch.autograd.grad(lines.upper_slope, upper, retain_graph=True)[0].item(), 1 / 16)
    torch.testing.assert_close(torch.autograd.grad(lines.upper_intercept, upper)[0].item(), 1 / 16)


@some_functions
def test_no_gradient_is_nan(name: str):
    inf = math.inf
    ends = torch.tensor([[-1.0, 0, 0, 2, -3, -inf, -inf, 1, 0, 300], [1, 0, 2, 2, -1, 0, inf, inf, 1e4, 4e4]]).double()
    lower, upper = (end.clone().requires_grad_() for end in ends)
    lines = CASES[name].function.lines(Interval(lower, upper))
    total = torch.stack([torch.where(part.isfinite(), part, 0.0) for part in lines]).sum()
    assert not any(gradient.isnan().any() for gradient in torch.autograd.grad(total, (lower, upper)))


# --------------------------------------------------------------------------------------------------- border cases


@some_functions
def test_nan_gives_nan_and_so_does_an_empty_interval(name: str):
    lower, upper = torch.tensor([[math.nan, 1, math.nan, 2], [1, math.nan, math.nan, 1]]).double()
    lines, image = (
        kind(Interval(lower, upper)) for kind in (CASES[name].function.lines, CASES[name].function.interval)
    )
    assert all(part.isnan().all() for part in (*lines, image.lower, image.upper))


@some_functions
def test_unbounded_and_huge_intervals_are_never_bounded_wrongly(name: str):
    case, inf = CASES[name], math.inf
    ends = [[-inf, -inf, 0.5, -1e8, 1e8, 1e300, -1e308], [inf, -0.5, inf, 1e8, 2e8, 1e308, 1e308]]
    ends = torch.tensor(ends, dtype=torch.float64)
    interval = Interval(*ends)
    lines, image = case.function.lines(interval), case.function.interval(interval)
    assert not any(part.isnan().any() for part in (*lines, image.lower, image.upper))
    assert (lines.upper_slope[:3] == 0).all()
    finite = Interval(*ends.clamp(-1e300, 1e300))
    x = samples(case, finite)
    y = evaluate(case, x)
    y = np.where(np.isnan(y), long(image.lower), y)  # outside of the domain
    inside = ~np.isinf(long(image.lower)) | ~np.isinf(long(image.upper))
    assert not (crossings(lines, x, y) & inside).any()
    assert (long(image.lower) <= y).all()
    assert (y <= long(image.upper)).all()


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (elementary.log(), 0.0, 1.0),
        (elementary.log(), -1.0, 1.0),
        (elementary.sqrt(), -1e-9, 1.0),
        (elementary.reciprocal(), -1.0, 1.0),
        (elementary.reciprocal(), 0.0, 1.0),
        (elementary.power(-2), -1.0, 1.0),
        (elementary.power(0.3), -1.0, 1.0),
        (elementary.power(-0.7), 0.0, 1.0),
        (elementary.tan(), 1.0, 2.0),
        (elementary.tan(), 3.0, 3.2),
        (elementary.asin(), 0.5, 1.0000001),
        (elementary.acos(), -1.0000001, 0.5),
        (elementary.acosh(), 0.9999999, 2.0),
        (elementary.atanh(), 0.0, 1.0),
        (elementary.logit(), 0.0, 0.5),
        (elementary.logit(), 0.5, 1.0),
        (elementary.logarithm(2), 0.0, 1.0),
        (elementary.logarithm(10), -1.0, 1.0),
    ],
)
def test_there_is_no_bound_outside_of_the_domain(function: ScalarFunction, low: float, high: float):
    interval = Interval(torch.tensor([low]).double(), torch.tensor([high]).double())
    image = function.interval(interval)
    assert [part.item() for part in function.lines(interval)] == [0, -math.inf, 0, math.inf]
    assert [image.lower.item(), image.upper.item()] == [-math.inf, math.inf]


@pytest.mark.parametrize(
    ("function", "ends", "image"),
    [
        (activations.relu(), (-math.inf, 3.0), (0.0, 3.0)),
        (activations.sigmoid(), (-math.inf, math.inf), (0.0, 1.0)),
        (elementary.log(), (1.0, math.inf), (0.0, math.inf)),
        (elementary.sqrt(), (0.0, math.inf), (0.0, math.inf)),
        (elementary.log(), (math.inf, math.inf), (-math.inf, math.inf)),
        (elementary.exp(), (0.0, 800.0), (1.0, math.inf)),
    ],
)
def test_images_of_unbounded_intervals(function: ScalarFunction, ends, image):
    """The largest number is not infinity: a logarithm goes on beyond 709.78."""
    found = function.interval(Interval(*torch.tensor(ends, dtype=torch.float64)[:, None]))
    expected = torch.tensor(image, dtype=torch.float64)
    torch.testing.assert_close(torch.cat((found.lower, found.upper)), expected, rtol=1e-14, atol=1e-276)


def test_there_is_no_line_where_infinity_is_taken_from_infinity():
    interval = Interval(*torch.tensor([[0.0], [1e200]], dtype=torch.float64))
    steep = torch.tensor([1e200], dtype=torch.float64)
    lines = elementary.power(4).lines_at(interval, steep, steep)
    assert [lines.upper_slope.item(), lines.upper_intercept.item()] == [0, math.inf]


def test_images_that_have_to_stay_in_a_domain_do():
    """Rounding outward must not push an exponential or a square root below 0, where the next function ends."""
    wide = Interval(torch.tensor([-800.0, 0.0]).double(), torch.tensor([1.0, 0.0]).double())
    assert (elementary.exp().interval(wide).lower >= 0).all()
    assert (activations.sigmoid().interval(wide).lower >= 0).all()
    assert elementary.sqrt().interval(Interval(wide.lower[1:], wide.upper[1:])).lower.item() == 0
    assert periodic.sin().interval(Interval(-10 * wide.upper, 10 * wide.upper)).upper[0].item() == 1


@pytest.mark.parametrize("name", ["relu", "hardswish", "floor", "tanh", "celu", "cos"])
def test_any_shape_and_any_device(name: str):
    case = CASES[name]
    interval = random_intervals(case, 24)
    shaped = Interval(interval.lower.reshape(2, 3, 4), interval.upper.reshape(2, 3, 4))
    for ours, theirs in zip(case.function.lines(shaped), case.function.lines(interval), strict=True):
        assert ours.shape == (2, 3, 4)
        assert ours.flatten().equal(theirs)
    empty = case.function.lines(Interval(interval.lower[:0], interval.upper[:0]))
    assert all(part.shape == (0,) for part in empty)
    with elsewhere() as mode:
        case.function.interval(shaped)
        if name in ("relu", "hardswish"):  # the others would take long in this mode, and do no more
            case.function.lines(shaped)
    assert mode.host_reads == 0


def test_senseless_parameters_are_refused():
    for build in (
        lambda: activations.clamp(),
        lambda: activations.softplus(0.0),
        lambda: activations.elu(-1.0),
        lambda: elementary.power(math.nan),
        lambda: activations.gelu("none of them"),
    ):
        with pytest.raises(InvalidInput):
            build()


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "atan", "erf"])
def test_ranges_of_rising_functions_hold_the_exact_values_at_their_ends(name: str):
    """In float32, where half of the values are rounded inward; float64 tells which."""
    lower = torch.randn(5000, generator=generator(2)) * 3
    upper = lower + torch.rand(5000, generator=generator(3)) * 4
    function = getattr(activations, name)()
    found, exact = function.range_of(Interval(lower, upper)), function.value
    assert (found.lower.double() <= exact(lower.double())).all()
    assert (found.upper.double() >= exact(upper.double())).all()
    inward = function.value(upper).double() < exact(upper.double())
    assert inward.double().mean() > 0.2  # or nothing was at stake
    assert (found.upper - function.value(upper) <= 40 * torch.finfo(torch.float32).eps).all()
