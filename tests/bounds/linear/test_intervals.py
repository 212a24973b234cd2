"""Interval bounds: no attained value lies outside, exact where they can be, and the laws between them.

The checker of the soundness tests is run on wrong rules as well, and has to find every one of them.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from oracles.interval_networks import NORMS, ZOO, layers_of, network, random_ball
from oracles.selection import crossed
from torch import Tensor, nn

from bounds import DEFAULT_RULES, Interval, LpBall, Normalize, capture, ibp, margin_bounds

ROUNDING = 1e-11  # of running a network in float64, relative to its largest output


def dual_direction(gradient: Tensor, norm: float) -> Tensor:
    """Argmax of <gradient, d> over the unit ball of the norm; rows of (S, F)."""
    if norm == 1:
        axis = nn.functional.one_hot(gradient.abs().argmax(1), gradient.shape[1])
        return axis * gradient.sign()
    q = 1.0 if norm == math.inf else norm / (norm - 1)
    direction = gradient.sign() * gradient.abs().pow(q - 1)
    return direction / direction.norm(p=norm, dim=1, keepdim=True).clamp(min=1e-300)


def hard_points(function: Callable[[Tensor], Tensor], ball: LpBall) -> Tensor:
    """Points (N, S, *D) of each ball: random ones, corners, axes, and where the gradients of the outputs lead."""
    rows, shape = len(ball.center), ball.center.shape[1:]
    center = ball.center.flatten(1)[:, None]  # (N, 1, F)
    size = center.shape[2]
    low, high = (
        center + side * math.inf if limit is None else torch.as_tensor(limit).double().expand(shape).flatten()
        for limit, side in ((ball.low, -1), (ball.high, 1))
    )
    radius = ball.radii[:, None, None] * (1 - 1e-12)

    def inside(directions: Tensor) -> Tensor:
        return (center + radius * directions).clamp(low, high)

    draw = generator(1)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=min(size, 6))), dtype=torch.float64)
    filler = torch.randn(len(corners), size - corners.shape[1], generator=draw, dtype=torch.float64).sign()
    random = torch.randn(20, size, generator=draw, dtype=torch.float64)
    starts = torch.cat([torch.cat([corners, filler], 1), random])
    starts = starts / starts.norm(p=ball.norm, dim=1, keepdim=True)
    axes = torch.eye(size, dtype=torch.float64)
    deep = random / (9 * random.norm(dim=1, keepdim=True))
    points = [inside(torch.cat([starts, deep, axes, -axes]).expand(rows, -1, -1))]
    outputs = function(ball.center).shape[1]
    ways = [(k, sign) for k in range(outputs) for sign in (1.0, -1.0)]  # each output up and down, from 4 starts
    here = torch.cat([center, inside(starts[-3:].expand(rows, -1, -1))], 1).repeat(1, len(ways), 1)
    aims = torch.zeros(len(ways), outputs, dtype=torch.float64)
    aims[range(len(ways)), [k for k, _ in ways]] = torch.tensor([sign for _, sign in ways], dtype=torch.float64)
    aims = aims.repeat_interleave(4, dim=0)
    for _ in range(2):
        here.requires_grad_()
        values = function(here.view(-1, *shape)).view(rows, len(aims), outputs)
        (gradient,) = torch.autograd.grad((values * aims).sum(), here)
        here = inside(dual_direction(gradient.flatten(0, 1), ball.norm).view(gradient.shape))
        points.append(here)
    return torch.cat(points, 1).detach().view(rows, -1, *shape)


def excess(function: Callable[[Tensor], Tensor], ball: LpBall, interval: Interval) -> float:
    """Distance of attained outputs from the interval, relative to the largest output; at most 0 if sound."""
    points = hard_points(function, ball)
    values = function(points.flatten(0, 1)).detach().view(*points.shape[:2], -1)  # (N, S, K)
    outside = torch.maximum(interval.lower[:, None] - values, values - interval.upper[:, None])
    return (outside / values.abs().amax((1, 2), keepdim=True)).max().item()


def matrix_and_offset(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An affine function of one input as a matrix (K, F) and an offset (K,)."""
    zero = torch.zeros(shape, dtype=torch.float64)

    def flat(x: Tensor) -> Tensor:
        return function(x.view(1, *shape)).flatten()

    matrix = torch.autograd.functional.jacobian(flat, zero.flatten())
    return matrix, flat(zero).detach()


# ------------------------------------------------------------------------------------------- soundness and mutants


@crossed(("norm", NORMS), ("name", ZOO))
def test_no_attained_output_lies_outside(name: str, norm: float):
    model, shape = network(name)
    for scale, box in ((1e-2, True), (1.0, True), (1.0, False), (1e4, True)):
        ball = random_ball(shape, norm, scale=scale, box=box)
        assert excess(model, ball, ibp(model, ball)) <= ROUNDING


@crossed(("norm", NORMS), ("name", ZOO))
def test_no_attained_margin_lies_below(name: str, norm: float):
    model, shape = network(name, seed=1)
    ball = random_ball(shape, norm, seed=1)
    logits = model(ball.center)
    labels = logits.argmin(1)  # wrong classes as well as right ones
    margins = margin_bounds(model, ball, labels)
    assert (margins.gather(1, labels[:, None]) == 0).all()

    def gaps(x: Tensor) -> Tensor:
        values = model(x)
        return values.gather(1, labels.repeat_interleave(len(x) // len(labels))[:, None]) - values

    assert excess(gaps, ball, Interval(margins, margins + math.inf)) <= ROUNDING


@pytest.mark.parametrize("norm", [2.0, 3.0, math.inf])
@pytest.mark.parametrize("name", ["affine", "convolution"])
def test_the_checker_finds_a_radius_five_percent_short(name: str, norm: float):
    model, shape = network(name)
    ball = random_ball(shape, norm, box=False)
    short = LpBall(ball.center, 0.95 * ball.radii, norm, None, None)
    assert excess(model, ball, ibp(model, short)) > 1e-3


def no_absolute_weights(layer: nn.Linear, interval: Interval) -> Interval:
    return Interval(layer(interval.lower), layer(interval.upper))


def no_bias(layer: nn.Linear, interval: Interval) -> Interval:
    proper = DEFAULT_RULES[nn.Linear](layer, interval)
    return proper if layer.bias is None else Interval(proper.lower - layer.bias, proper.upper - layer.bias)


def only_the_center(layer: nn.Linear, interval: Interval) -> Interval:
    center = layer((interval.lower + interval.upper) / 2)
    return Interval(center, center)


def radius_in_raw_units(layer: Normalize, interval: Interval) -> Interval:
    center = (interval.lower + interval.upper) / 2
    return Interval(layer(center) - (center - interval.lower), layer(center) + (center - interval.lower))


def skipped(_: nn.Module, interval: Interval) -> Interval:
    return interval


MUTANTS = [
    ("affine", {nn.Linear: no_absolute_weights}),
    ("strided", {nn.Conv2d: no_absolute_weights}),
    ("mlp", {nn.Linear: no_bias}),
    ("same", {nn.Conv2d: only_the_center}),
    ("normalised", {Normalize: radius_in_raw_units}),
    ("relu first", {nn.ReLU: skipped}),
    ("shared relu", {nn.Linear: no_absolute_weights}),
]


@pytest.mark.parametrize(("name", "rules"), MUTANTS, ids=[f"{n}-{next(iter(r.values())).__name__}" for n, r in MUTANTS])
def test_the_checker_finds_a_wrong_rule(name: str, rules: dict):
    model, shape = network(name)
    ball = random_ball(shape, math.inf)
    assert excess(model, ball, ibp(model, ball, rules=DEFAULT_RULES | rules)) > 1e-3


def test_a_layer_used_twice_is_bounded_twice():
    """Once certified wrongly: the second use of a ReLU was skipped, as ``named_children`` names it only once."""
    model, shape = network("shared relu")
    ball = random_ball(shape, math.inf)
    skipping = nn.Sequential(*(layer for name, layer in model.named_children()))
    assert len(skipping) == 4
    assert excess(model, ball, ibp(skipping, ball)) > 1e-3
    separate = nn.Sequential(model[0], nn.ReLU(), model[2], nn.ReLU(), model[4])
    assert torch.equal(ibp(model, ball).lower, ibp(separate, ball).lower)


# ------------------------------------------------------------------------------------------------------- exactness

AFFINE = {
    "linear": ((6,), nn.Linear(6, 5)),
    "padded": ((2, 2, 2), nn.Conv2d(2, 3, 2, padding=1)),
    "strided": ((1, 2, 4), nn.Conv2d(1, 3, 2, stride=2, padding=(1, 0))),
    "dilated": ((2, 1, 4), nn.Conv2d(2, 3, (1, 2), dilation=(1, 2), bias=False)),
    "grouped": ((4, 1, 2), nn.Conv2d(4, 6, (1, 2), padding=(0, 1), groups=2)),
    "same": ((1, 2, 4), nn.Conv2d(1, 2, 3, padding="same")),
    "normalised": ((2, 2, 2), nn.Sequential(Normalize((0.4, 1.0), (0.2, 3.0)), nn.Conv2d(2, 3, 2, padding=1))),
    "flattened": ((2, 1, 3), nn.Sequential(nn.Flatten(), nn.Dropout(), Normalize((0.5,), (0.2,)), nn.Linear(6, 5))),
}


@pytest.fixture(params=AFFINE)
def affine(request: pytest.FixtureRequest) -> tuple[nn.Sequential, tuple[int, ...], Tensor, Tensor]:
    shape, layer = AFFINE[request.param]
    model = nn.Sequential(layer).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(generator=generator(len(weight)))
    return model, shape, *matrix_and_offset(model, shape)


def test_one_affine_layer_over_a_box_is_its_range_over_all_corners(affine):
    """Catches any looseness: padding counted as weight, a box that is ignored, slack far above rounding."""
    model, shape, *_ = affine
    ball = random_ball(shape, math.inf)
    low = (ball.center - ball.radii.view(-1, *[1] * len(shape))).clamp(min=-1).flatten(1)
    high = (ball.center + ball.radii.view(-1, *[1] * len(shape))).clamp(max=1).flatten(1)
    picks = torch.tensor(list(itertools.product((False, True), repeat=low.shape[1])))
    corners = torch.where(picks, high[:, None], low[:, None])  # (N, 2^D, D)
    values = model(corners.view(-1, *shape)).view(3, len(picks), -1)
    interval = ibp(model, ball)
    torch.testing.assert_close(interval.lower.flatten(1), values.amin(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(interval.upper.flatten(1), values.amax(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [2.0, 2.5, 3.0, 10.0])
def test_one_affine_layer_over_a_ball_is_exact_by_duality(affine, norm: float):
    """Catches the l_infinity hull in place of the ball, the norm of the whole kernel at a border, a lost std."""
    model, shape, matrix, offset = affine
    ball = random_ball(shape, norm, box=False)
    center = ball.center.flatten(1) @ matrix.T + offset
    reach = ball.radii[:, None] * matrix.norm(p=norm / (norm - 1), dim=1)
    interval = ibp(model, ball)
    torch.testing.assert_close(interval.lower.flatten(1), center - reach, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(interval.upper.flatten(1), center + reach, rtol=1e-12, atol=1e-12)


def test_below_two_one_affine_layer_is_exact(affine):
    model, shape, matrix, offset = affine
    graph = capture(model, torch.zeros(1, *shape, dtype=torch.float64))
    for norm in (1.0, 1.5):
        ball = random_ball(shape, norm, box=False)
        center = ball.center.flatten(1) @ matrix.T + offset
        exact = ball.radii[:, None] * matrix.norm(p=math.inf if norm == 1 else norm / (norm - 1), dim=1)
        reach = ibp(graph, ball).upper.flatten(1) - center
        assert (reach >= exact * (1 - 1e-15)).all()
        assert (reach <= exact * (1 + 1e-12) + 1e-12).all()


@pytest.mark.parametrize("norm", [2.0, 3.0, math.inf])
@pytest.mark.parametrize("start", [(), (nn.Flatten(), Normalize((0.4,), (0.2,)), nn.Identity())], ids=["bare", "led"])
def test_margins_of_an_affine_network_are_exact(start: tuple[nn.Module, ...], norm: float):
    """The last layer used to see only the hull of the ball: l_2 radii of linear classifiers came out sqrt(D) short."""
    (affine,), shape = network("affine")
    model = nn.Sequential(*start, affine)
    ball = random_ball(shape, norm, box=False)
    matrix, offset = matrix_and_offset(model, shape)
    labels = torch.tensor([0, 1, 2])
    rows = matrix[labels][:, None] - matrix
    middle = (rows @ ball.center.flatten(1)[:, :, None]).squeeze(2) + offset[labels][:, None] - offset
    q = 1.0 if norm == math.inf else norm / (norm - 1)
    exact = middle - ball.radii[:, None] * rows.norm(p=q, dim=2)
    torch.testing.assert_close(margin_bounds(model, ball, labels), exact, rtol=1e-12, atol=1e-12)


def reference_ibp(model: nn.Module, hull: Interval, labels: Tensor | None = None) -> Interval:
    """A second implementation: positive and negative parts of the matrix of each layer, no rounding terms.

    With labels, the last layer is replaced by its differences.
    """
    lower, upper = hull.lower, hull.upper
    *_, last = layers = list(layers_of(model))
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d | Normalize):
            matrix, offset = matrix_and_offset(layer, tuple(lower.shape[1:]))
            shape = layer(lower).shape
            if labels is not None and layer is last:
                matrix, offset = matrix[labels][:, None] - matrix, offset[labels][:, None] - offset
            plus, minus = matrix.clamp(min=0), matrix.clamp(max=0)
            low, high = lower.flatten(1)[:, :, None], upper.flatten(1)[:, :, None]
            lower = ((plus @ low + minus @ high).squeeze(2) + offset).view(shape)
            upper = ((plus @ high + minus @ low).squeeze(2) + offset).view(shape)
        elif not isinstance(layer, nn.Dropout):
            lower, upper = layer(lower), layer(upper)
    return Interval(lower.detach(), upper.detach())


@pytest.mark.parametrize("name", ZOO)
def test_agrees_with_a_second_implementation(name: str):
    """Catches a sound but loose rule anywhere in a deep network."""
    model, shape = network(name)
    ball = random_ball(shape, math.inf)
    ours, theirs = ibp(model, ball), reference_ibp(model, ball.hull())
    torch.testing.assert_close(ours.lower, theirs.lower, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.upper, theirs.upper, rtol=1e-10, atol=1e-10)
    labels = torch.tensor([0, 2, 1])
    if isinstance(list(layers_of(model))[-1], nn.Linear):
        folded = reference_ibp(model, ball.hull(), labels).lower
        torch.testing.assert_close(margin_bounds(model, ball, labels), folded, rtol=1e-10, atol=1e-10)
