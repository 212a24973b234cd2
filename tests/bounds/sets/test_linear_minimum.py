"""Minima of linear functions over perturbation sets, against linear programs, duals, vertices and exact arithmetic."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.draws import centers, draw, rows
from scipy.optimize import LinearConstraint, linprog, minimize, minimize_scalar
from torch import Tensor

from bounds import InvalidInput, LpBall
from bounds.sets import moves
from bounds.sets.balls import Box, SparseBall
from bounds.sets.linear_minimum import linear_minimum

NORMS = [1.0, 1.1, 1.5, 2.0, 3.0, 20.0, math.inf]
TIGHT = 1e-9  # relative to the sum of absolute values, many times the rounding bound of a float64 result


def minimum_and_worst(a: Tensor, region) -> tuple[Tensor, Tensor]:
    """The bound and its gradient, which claims to be the minimising input."""
    a = a.clone().requires_grad_()
    value = linear_minimum(a, region)
    (worst,) = torch.autograd.grad(value.sum(), a)
    return value.detach(), worst


def ball_in_box(norm: float, *, boxed: bool = True) -> LpBall:
    """Radii of 0, moderate, larger than the box in some directions, larger than the whole box; a frozen feature."""
    center = centers(4, 3, 5)
    center[..., 4] = 0.25
    radius = torch.tensor([0.0, 0.3, 0.9, 40.0], dtype=torch.float64)
    if not boxed:
        return LpBall(center, radius, norm, None, None)
    low, high = (
        torch.tensor(side, dtype=torch.float64) for side in ([0.0, 0.0, -0.2, -1.0, 0.25], [1.0, 1, 1, 1, 0.25])
    )
    return LpBall(center, radius, norm, low, high)


def sides(ball: LpBall) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and sides of the box, (N, F) each, without the hull that the code uses."""
    center = ball.center
    low = torch.as_tensor(-math.inf if ball.low is None else ball.low, dtype=center.dtype).expand_as(center)
    high = torch.as_tensor(math.inf if ball.high is None else ball.high, dtype=center.dtype).expand_as(center)
    return tuple(part.flatten(1).numpy() for part in (center, low, high))


def by_linear_program(a: np.ndarray, center: np.ndarray, low: np.ndarray, high: np.ndarray, radius, norm) -> float:
    if norm == math.inf:
        result = linprog(a, bounds=np.c_[np.maximum(low, center - radius), np.minimum(high, center + radius)])
        return result.fun
    steps = np.r_[high - center, center - low]  # up and down
    result = linprog(np.r_[a, -a], np.ones((1, len(steps))), [radius], bounds=np.c_[np.zeros_like(steps), steps])
    return a @ center + result.fun


def by_multiplier(a: np.ndarray, center: np.ndarray, low: np.ndarray, high: np.ndarray, radius, norm) -> float:
    """The Lagrangian dual with one multiplier, minimised per coordinate where its derivative is 0 or at an end."""

    def dual(log_multiplier: float) -> float:
        multiplier = math.exp(log_multiplier)
        still = -np.sign(a) * (np.abs(a) / (norm * multiplier)) ** (1 / (norm - 1))
        d = np.clip(still, low - center, high - center)
        return a @ center + (a * d + multiplier * np.abs(d) ** norm).sum() - multiplier * radius**norm

    grid = np.linspace(-12, 40, 131)
    best = grid[np.argmax([dual(point) for point in grid])]
    found = minimize_scalar(
        lambda m: -dual(m), bounds=(best - 0.5, best + 0.5), method="bounded", options={"xatol": 1e-10}
    )
    return -found.fun


@pytest.mark.parametrize("norm", [1, math.inf])
def test_minimum_in_a_box_is_that_of_a_linear_program(norm: float):
    ball, a = ball_in_box(norm), rows(4, 5, 3, 5)
    value, functions = linear_minimum(a, ball), a.flatten(2).numpy()
    for n, (center, low, high) in enumerate(zip(*sides(ball), strict=True)):
        for r in range(5):
            program = by_linear_program(functions[n, r], center, low, high, float(ball.radii[n]), norm)
            assert value[n, r].item() == pytest.approx(program, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("norm", [1.1, 1.5, 2.0, 3.0, 20.0])
def test_minimum_in_a_box_is_that_of_the_lagrangian_dual(norm: float):
    """Every multiplier gives a lower bound, and the best one the minimum."""
    ball, a = ball_in_box(norm), rows(4, 3, 3, 5)
    value, functions = linear_minimum(a, ball), a.flatten(2).numpy()
    for n, (center, low, high) in list(enumerate(zip(*sides(ball), strict=True)))[1:3]:
        for r in range(3):
            dual = by_multiplier(functions[n, r], center, low, high, float(ball.radii[n]), norm)
            assert value[n, r].item() == pytest.approx(dual, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("norm", [1.5, 2.0, 3.0])
def test_no_solver_finds_less_and_none_misses_the_minimum(norm: float):
    """Sequential quadratic programming, a method that knows nothing of duals."""
    center, a = centers(1, 4), rows(1, 4, 4)
    ball = LpBall(center, 0.6, norm)
    value, point = linear_minimum(a, ball)[0], center[0].numpy()
    for r in range(4):
        row = a[0, r].numpy()
        inside = {"type": "ineq", "fun": lambda x: 0.6**norm - (np.abs(x - point) ** norm).sum()}
        box = LinearConstraint(np.eye(4), 0.0, 1.0)
        found = minimize(
            row.dot, point, method="SLSQP", constraints=[inside, box], options={"ftol": 1e-13, "maxiter": 300}
        )
        assert value[r].item() <= found.fun + 1e-9  # the solver may overstep a constraint by that much
        assert value[r].item() == pytest.approx(found.fun, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.0, 1e-9, 0.7, 1e6])
def test_without_a_box_the_dual_norm_gives_the_minimum(norm: float, radius: float):
    center, a = centers(3, 2, 4), rows(3, 5, 2, 4)
    order = 1.0 if norm == math.inf else math.inf if norm == 1 else 1 / (1 - 1 / norm)
    flat = a.flatten(2)
    closed = (a * center[:, None]).flatten(2).sum(2) - radius * torch.linalg.vector_norm(flat, order, dim=2)
    value = linear_minimum(a, LpBall(center, radius, norm, None, None))
    torch.testing.assert_close(value, closed, rtol=1e-12, atol=1e-12)


def check_optimal(a: Tensor, ball: LpBall) -> None:
    """A feasible input attains the bound, and random inputs of the set stay above it."""
    value, worst = minimum_and_worst(a, ball)
    center, low, high = (torch.from_numpy(part)[:, None] for part in sides(ball))
    worst, flat, radius = worst.flatten(2), a.flatten(2), ball.radii[:, None]
    assert ((worst >= low - 1e-12) & (worst <= high + 1e-12)).all()
    assert (((worst - center) / radius.clamp(min=1e-30)[..., None]).norm(p=ball.norm, dim=2) <= 1 + 1e-12).all()
    size = (flat.abs() * (center.abs() + (worst - center).abs())).sum(2)
    gap = (flat * worst).sum(2) - value
    assert (gap >= 0).all()
    assert (gap <= TIGHT * size + 1e-300).all()
    steps = torch.randn(200, *center.shape, generator=draw(5), dtype=torch.float64)
    steps = steps * radius[..., None] / steps.norm(p=ball.norm, dim=-1, keepdim=True)
    points = torch.minimum(torch.maximum(center + 0.999999 * steps, low), high)  # towards the centre: still in the ball
    assert ((flat * points).sum(-1) >= value).all()


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("norm", [*NORMS, 1.001, 500.0])
def test_a_feasible_input_attains_the_bound(norm: float, boxed: bool):
    check_optimal(rows(4, 7, 3, 5), ball_in_box(norm, boxed=boxed))


@pytest.mark.parametrize("norm", NORMS)
def test_zero_equal_and_tiny_coefficients(norm: float):
    """Ties share the radius; zeros neither move nor spoil the gradient."""
    a = rows(4, 6, 3, 5)
    a[:, 0] = 0.0
    a[:, 1] = 1.0
    a[:, 2, 0] = 0.0
    a[:, 3] = a[:, 3].sign()
    a[:, 4] *= 10.0 ** torch.linspace(-30, 0, 5, dtype=torch.float64)
    a[:, 5] = 0.0
    a[:, 5, 1, 2] = -1.0
    check_optimal(a, ball_in_box(norm))
    check_optimal(a, ball_in_box(norm, boxed=False))
    value, worst = minimum_and_worst(a, ball_in_box(norm))
    assert worst.isfinite().all()
    assert (value[:, 0].abs() < 1e-300).all()
    torch.testing.assert_close(worst[:, 0], ball_in_box(norm).center, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_coefficients_and_inputs_does_not_matter(norm: float):
    """Powers of numbers near the ends of float64 used to need a scale of their own."""
    center, a = centers(2, 6), rows(2, 3, 6)
    plain = linear_minimum(a, LpBall(center, 0.8, norm))
    for scale in (2.0**-500, 2.0**500):
        torch.testing.assert_close(
            linear_minimum(a * scale, LpBall(center, 0.8, norm)) / scale, plain, rtol=1e-12, atol=0.0
        )
        wide = LpBall(center * scale, 0.8 * scale, norm, 0.0, scale)
        torch.testing.assert_close(linear_minimum(a, wide) / scale, plain, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_never_loosens_the_bound(norm: float):
    center, a = centers(3, 40), rows(3, 20, 40)
    for radius in (0.01, 0.3, 1.0, 5.0):
        free = linear_minimum(a, LpBall(center, radius, norm, None, None))
        for low, high in ((0.0, 1.0), (None, 1.0), (0.0, None)):
            assert (linear_minimum(a, LpBall(center, radius, norm, low, high)) >= free - 1e-13 * free.abs()).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_infinite_radius_is_the_whole_box(norm: float):
    center, a = centers(3, 4), rows(3, 2, 4)
    whole = linear_minimum(a, Box(torch.zeros_like(center), torch.ones_like(center)))
    torch.testing.assert_close(linear_minimum(a, LpBall(center, math.inf, norm)), whole, rtol=1e-12, atol=1e-12)
    assert (linear_minimum(a, LpBall(center, math.inf, norm, None, None)) == -math.inf).all()


def test_minimum_over_a_box_is_that_over_its_vertices():
    lower, width = centers(3, 2, 2), centers(3, 2, 2, seed=3)
    width[:, 1, 0] = 0.0  # frozen
    width[2] = 0.0
    box, a = Box(lower, lower + width), rows(3, 4, 2, 2)
    corners = [
        torch.where(torch.tensor(side).view(2, 2), box.upper, box.lower)
        for side in itertools.product([False, True], repeat=4)
    ]
    least = torch.stack([(a * corner[:, None]).flatten(2).sum(2) for corner in corners]).min(0).values
    value, worst = minimum_and_worst(a, box)
    torch.testing.assert_close(box.center, (box.lower + box.upper) / 2, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(value, least, rtol=1e-12, atol=1e-12)
    assert (value <= (a * worst).flatten(2).sum(2)).all()
    assert torch.equal(worst[2], lower[2].expand(4, 2, 2))
    assert torch.equal(worst[:, :, 1, 0], lower[:, None, 1, 0].expand(3, 4))


@pytest.mark.parametrize("changes", [0, 1, 2, 4, 9])
def test_minimum_of_few_changes_is_that_of_all_subsets(changes: int):
    center, a = centers(3, 4), rows(3, 5, 4)
    low = torch.tensor([0.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    least = torch.full((3, 5), math.inf, dtype=torch.float64)
    for choice in itertools.product([0, 1, 2], repeat=4):  # leave, lowest, highest
        if sum(c > 0 for c in choice) <= changes:
            point = torch.stack([(center[:, i], low[i].expand(3), torch.ones(3))[c] for i, c in enumerate(choice)], 1)
            least = torch.minimum(least, (a * point[:, None]).sum(2))
    value, worst = minimum_and_worst(a, SparseBall(center, changes, low))
    torch.testing.assert_close(value, least, rtol=1e-12, atol=1e-12)
    assert (value <= (a * worst).sum(2)).all()
    assert ((worst != center[:, None]).sum(2) <= changes).all()
    hull = SparseBall(center, changes, low).hull()
    assert torch.equal(hull.lower, low.expand(3, 4) if changes else center)


REGIONS = [
    *(LpBall(centers(2, 3, 2), torch.tensor([0.2, 0.9]), norm) for norm in NORMS),
    *(LpBall(centers(2, 3, 2), 0.5, norm, None, None) for norm in NORMS),
    Box(centers(2, 3, 2) - 1, centers(2, 3, 2)),
    SparseBall(centers(2, 3, 2), 2),
]


@pytest.mark.parametrize("region", REGIONS)
def test_gradients_are_those_of_finite_differences(region):
    a = rows(2, 3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: linear_minimum(a, region), [a], eps=1e-5, atol=1e-4, rtol=1e-4)
    assert torch.equal(linear_minimum(a, region).detach(), linear_minimum(a.detach(), region))


@pytest.mark.parametrize("region", REGIONS)
def test_each_function_and_each_input_stand_alone(region):
    a = rows(2, 3, 3, 2)
    value = linear_minimum(a, region)
    assert value.shape == (2, 3)
    for r in range(3):
        torch.testing.assert_close(linear_minimum(a[:, r : r + 1], region), value[:, r : r + 1], rtol=0.0, atol=0.0)
    assert linear_minimum(a[:, :0], region).shape == (2, 0)


@pytest.mark.parametrize("norm", NORMS)
def test_batches_of_one_and_of_none(norm: float):
    ball, a = ball_in_box(norm), rows(4, 2, 3, 5)
    for n in range(4):
        alone = LpBall(ball.center[n : n + 1], ball.radius[n].item(), norm, ball.low, ball.high)
        torch.testing.assert_close(
            linear_minimum(a[n : n + 1], alone)[0], linear_minimum(a, ball)[n], rtol=1e-13, atol=0.0
        )
    assert linear_minimum(a[:0], LpBall(ball.center[:0], 0.1, norm)).shape == (0, 2)
    nothing = torch.zeros(0, 5)
    assert linear_minimum(torch.zeros(0, 2, 5), Box(nothing, nothing)).shape == (0, 2)
    assert linear_minimum(torch.zeros(0, 2, 5), SparseBall(nothing, 3)).shape == (0, 2)


@pytest.mark.parametrize("norm", [1.5, 2.0, 3.0])
def test_mutant_that_ignores_the_box_is_caught(norm: float, monkeypatch):
    monkeypatch.setattr(moves, "_level", lambda slope, room, p, q: torch.full_like(slope, math.inf))
    monkeypatch.setattr(moves, "_level_of_squares", lambda slope, room: torch.full_like(slope, math.inf))
    with pytest.raises(AssertionError):
        check_optimal(rows(4, 7, 3, 5), ball_in_box(norm))


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("norm", [1.5, 3.0])
def test_mutant_with_the_norm_for_the_dual_norm_is_caught(norm: float, boxed: bool, monkeypatch):
    monkeypatch.setattr(LpBall, "dual_norm", property(lambda ball: ball.norm))
    with pytest.raises(AssertionError):
        check_optimal(rows(4, 7, 3, 5), ball_in_box(norm, boxed=boxed))


@pytest.mark.parametrize("region", REGIONS)
def test_everything_stays_on_the_device_of_the_input(region):
    a = rows(2, 3, 3, 2).requires_grad_()
    with elsewhere() as mode:
        linear_minimum(a, region).sum().backward()
    assert mode.host_reads == 0 or isinstance(region, SparseBall)  # whose hull checks its box


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: linear_minimum(torch.zeros(2, 1, 4), LpBall(x, 0.1)), "coefficients must have shape (2, R, 3), got"),
        (lambda x: linear_minimum(torch.zeros(1, 1, 3), LpBall(x, 0.1)), "coefficients must have shape (2, R, 3), got"),
        (
            lambda x: linear_minimum(torch.zeros(2, 3), LpBall(x, 0.1)),
            "coefficients must have shape (2, R, 3), got (2, 3)",
        ),
        (
            lambda x: linear_minimum(torch.zeros(2, 1, 3).long(), LpBall(x, 0.1)),
            "coefficients must be a floating-point",
        ),
        (lambda x: linear_minimum([0.0], LpBall(x, 0.1)), "coefficients must be a torch tensor, got list"),
        (lambda x: Box(x, x - 1), "lower must not exceed upper"),
        (
            lambda x: Box(x, x[:1]),
            "lower and upper must have one shape and dtype, got (2, 3) of torch.float32 and (1, 3)",
        ),
        (lambda x: Box(x, x.double()), "lower and upper must have one shape and dtype"),
        (lambda x: Box(x, x + math.inf), "x must be finite"),
        (lambda x: SparseBall(x, -1), "changes must be an integer of at least 0, got -1"),
        (lambda x: SparseBall(x, 1.0), "changes must be an integer of at least 0, got 1.0"),
        (lambda x: SparseBall(x, 1, low=None), "low and high must be given"),
        (lambda x: SparseBall(x + 2, 1), "x must lie in the declared range [0, 1]"),
    ],
)
def test_what_is_wrong_is_refused(make, message: str):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        make(torch.full((2, 3), 0.5))
