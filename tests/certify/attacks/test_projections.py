"""Argmins and argmaxes over a ball and a box: laws, and a second implementation by a general solver."""

import math

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from scipy import optimize
from torch import Tensor

from bounds.numerics import per_row
from bounds.sets.distances import distance
from bounds.sets.norms import length, shortest_above
from certify.attacks.common import projections
from certify.attacks.common.projections import maximize_in_box, project_in_box, pull_within, sparse_ascent

NORMS = [1, 2, math.inf]


def case(batch: int = 50, shape: tuple[int, ...] = (3, 5), *, open_sides: bool = False):
    """Perturbations, radii, and boxes around 0 in which some entries cannot move and some sides are open."""
    source = generator(batch)
    delta = torch.randn(batch, *shape, generator=source, dtype=torch.float64)
    lower = -torch.rand(batch, *shape, generator=source, dtype=torch.float64)
    upper = torch.rand(batch, *shape, generator=source, dtype=torch.float64)
    lower[:, 0], upper[:, 1] = 0, 0
    delta[0] = 0
    if open_sides:
        lower[:, 2], upper[::2] = -math.inf, math.inf
    radius = 3 * torch.rand(batch, generator=source, dtype=torch.float64)
    radius[1] = 0
    return delta, radius, (lower, upper)


def size(delta: Tensor, norm: float) -> Tensor:
    return delta.flatten(1).norm(norm, dim=1)


@pytest.mark.parametrize("open_sides", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_projection_laws(norm: float, open_sides: bool):
    """Inside stays put bit by bit; outside lands on the sphere or in the box; a second time changes nothing."""
    delta, radius, room = case(open_sides=open_sides)
    once = project_in_box(delta, radius, norm, room)
    assert ((once >= room[0]) & (once <= room[1])).all()
    assert (size(once, norm) <= radius + 1e-12).all()
    torch.testing.assert_close(project_in_box(once, radius, norm, room), once, rtol=1e-12, atol=1e-12)
    clipped = torch.minimum(torch.maximum(delta, room[0]), room[1])
    inside = size(clipped, norm) <= radius
    assert 0 < inside.sum() < len(inside)
    assert torch.equal(once[inside], clipped[inside])
    torch.testing.assert_close(size(once, norm)[~inside], radius[~inside])


def solved(objective, gradient, start: np.ndarray, radius: float, norm: float, bounds) -> np.ndarray:
    """A minimum over the ball and the box by a general solver; l_1 in two non-negative parts, so that it is smooth."""
    options = {"maxiter": 500, "ftol": 1e-14}
    if norm == 1:
        count = len(start)
        split = [(0, max(high, 0)) for _, high in bounds] + [(0, max(-low, 0)) for low, _ in bounds]
        answer = optimize.minimize(
            lambda parts: objective(parts[:count] - parts[count:]),
            np.concatenate([start.clip(0), (-start).clip(0)]),
            jac=lambda parts: (
                np.concatenate([gradient(parts[:count] - parts[count:])] * 2) * np.repeat([1.0, -1.0], count)
            ),
            bounds=split,
            constraints={
                "type": "ineq",
                "fun": lambda parts: radius - parts.sum(),
                "jac": lambda parts: -np.ones(2 * count),
            },
            method="SLSQP",
            options=options,
        )
        return answer.x[:count] - answer.x[count:]
    ball = {"type": "ineq", "fun": lambda d: radius**2 - d @ d, "jac": lambda d: -2 * d}
    return optimize.minimize(
        objective, start, jac=gradient, bounds=bounds, constraints=ball, method="SLSQP", options=options
    ).x


@pytest.mark.parametrize("norm", [1, 2])
def test_projection_against_a_general_solver(norm: float):
    """SciPy minimises ||d - delta||^2 under the same constraints; both minima are the same point."""
    delta, radius, room = case(25, (4, 3))
    ours = project_in_box(delta, radius, norm, room).flatten(1).numpy()
    for i in range(2, 25):
        goal, low, high = (values[i].flatten().numpy() for values in (delta, *room))
        found = solved(
            lambda d, goal=goal: ((d - goal) ** 2).sum(),
            lambda d, goal=goal: 2 * (d - goal),
            np.zeros(12),
            float(radius[i]),
            norm,
            list(zip(low, high, strict=True)),
        )
        np.testing.assert_allclose(ours[i], found, atol=2e-5)
        assert ((ours[i] - goal) ** 2).sum() <= ((found - goal) ** 2).sum() + 1e-7


@pytest.mark.parametrize("most", [1.0, math.inf])
def test_scales_by_sorting_are_those_by_capping(most: float):
    """The first is for devices, the second for the CPU; entries of size 0 and caps of 0 are among them."""
    source = generator()
    size, cap = (torch.rand(200, 7, generator=source, dtype=torch.float64) for _ in range(2))
    size, cap = (v * (torch.rand(v.shape, generator=source) > 0.2) for v in (size, cap))
    goal = (2 * torch.rand(200, 1, generator=source, dtype=torch.float64)).square()
    amounts = []
    for find in (projections._scale_by_sorting, projections._scale_by_capping):
        scale = find(size, cap, goal).nan_to_num(nan=math.inf, posinf=math.inf).clamp(max=most)
        amounts.append(torch.where(size > 0, torch.minimum(size * scale, cap), 0.0))
    torch.testing.assert_close(*amounts, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_the_maximum_of_a_linear_function(norm: float):
    """Against SciPy: a linear programme in l_1 and l_infinity, a general solver in l_2."""
    gradient, radius, room = case(25, (4, 3))
    ours = maximize_in_box(gradient, radius, norm, room)
    assert (size(ours, norm) <= radius * (1 + 1e-12)).all()
    assert ((ours >= room[0]) & (ours <= room[1])).all()
    assert (ours[0] == 0).all()
    gain = (gradient * ours).flatten(1).sum(1)
    for i in range(2, 25):
        slope, low, high = (values[i].flatten().numpy() for values in (gradient, *room))
        eps = float(radius[i])
        if norm == 2:
            sides = list(zip(low, high, strict=True))
            best = slope @ solved(lambda d, s=slope: -s @ d, lambda d, s=slope: -s, np.zeros(12), eps, 2, sides)
        elif norm == 1:
            sides = [(0, side) for side in high] + [(0, -side) for side in low]
            answer = optimize.linprog(-np.concatenate([slope, -slope]), A_ub=np.ones((1, 24)), b_ub=[eps], bounds=sides)
            best = -answer.fun
        else:
            sides = list(zip(low.clip(-eps), high.clip(max=eps), strict=True))
            best = -optimize.linprog(-slope, bounds=sides).fun
        assert float(gain[i]) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_shortest_perturbation_behind_a_plane(norm: float):
    """Against SciPy, in boxes of which some do not hold 0: a linear programme, or a general solver in l_2."""
    source = generator()
    slope, center, level = (
        torch.randn(*shape, generator=source, dtype=torch.float64) for shape in ((40, 6), (40, 6), (40,))
    )
    slope[:10, 0] = 0
    room = torch.rand(40, 6, generator=source, dtype=torch.float64)
    lower, upper = center / 2 - room, center / 2 + room
    ours = shortest_above(slope, level, lower, upper, norm)
    assert ((ours >= lower) & (ours <= upper)).all()
    highest = torch.where(slope > 0, slope * upper, slope * lower).sum(1)
    gain = (slope * ours).sum(1)
    assert (gain >= torch.minimum(level, highest) - 1e-9).all()
    size = length(ours, norm)
    for i in (highest >= level).nonzero().flatten().tolist():
        row, sides = slope[i].numpy(), list(zip(lower[i].tolist(), upper[i].tolist(), strict=True))
        if norm == 2:
            plane = {"type": "ineq", "fun": lambda d, r=row, i=i: r @ d - float(level[i]), "jac": lambda d, r=row: r}
            start = np.where(row > 0, upper[i], lower[i])
            answer = optimize.minimize(
                lambda d: d @ d, start, jac=lambda d: 2 * d, bounds=sides, constraints=plane, options={"ftol": 1e-14}
            )
            best = math.sqrt(answer.fun)
        else:  # bounds t on |d|, one for each entry or one for all
            bounds = np.eye(6) if norm == 1 else np.ones((6, 1))
            above = np.block(
                [[np.eye(6), -bounds], [-np.eye(6), -bounds], [-row[None], np.zeros((1, bounds.shape[1]))]]
            )
            cost = np.concatenate([np.zeros(6), np.ones(bounds.shape[1])])
            free = [(0, None)] * bounds.shape[1]
            best = optimize.linprog(cost, above, np.append(np.zeros(12), -float(level[i])), bounds=sides + free).fun
        assert float(size[i]) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_maximum_at_extreme_scales(scale: float):
    """Catches squares that underflow or overflow: a saturated model would seem to have no gradient."""
    gradient, radius, room = case()
    for norm in NORMS:
        plain, scaled = (maximize_in_box(gradient * s, radius, norm, room) for s in (1.0, scale))
        torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-9)


def test_sparse_steps():
    """The largest entries, equally, of unit length; fewer where the gradient has fewer."""
    gradient = torch.tensor([[3.0, -2.0, 1.0, 0.0], [0.0, 0.0, -5.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, -4.0]])
    expected = [[0.5, -0.5, 0, 0], [0, 0, -1, 0], [0, 0, 0, 0], [0.25, 0.25, 0.25, -0.25]]
    count = torch.tensor([2, 3, 2, 4])
    torch.testing.assert_close(sparse_ascent(gradient, count), torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_rounding_falls_inward(norm: float, dtype: torch.dtype):
    """A rounded sum is often beyond the radius as float64 measures it; what is pulled never is."""
    source = generator(1)
    x = torch.rand(200, 30, generator=source, dtype=torch.float64).to(dtype)
    delta = torch.randn(200, 30, generator=source, dtype=torch.float64)
    radius = torch.rand(200, generator=source, dtype=torch.float64)
    points = (x + delta * per_row(radius / size(delta, norm), delta)).to(dtype)
    before = size(points.double() - x.double(), norm)
    assert (before > radius).any()
    pulled = pull_within(points, x, radius, norm)
    after = size(pulled.double() - x.double(), norm)
    assert (after <= radius).all()
    assert (after >= radius - 1e-5).all()
    inside = distance(points, x, norm) <= radius
    assert torch.equal(pulled[inside], points[inside])
    between = torch.minimum(points, x) <= pulled
    assert (between & (pulled <= torch.maximum(points, x))).all()
