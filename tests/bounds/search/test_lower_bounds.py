import math

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Box, HullOfBoxes, LpBall, capture
from bounds.search.lower_bounds import least_of_largest


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    for layer in model[::2]:
        layer.weight.data *= 2
    return model


def grid(center: Tensor, reach: float) -> Tensor:
    steps = torch.linspace(-reach, reach, 121).double()
    return center + torch.cartesian_prod(steps, steps)


ROWS = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.25, -0.75], [-0.25, 1.0, -0.75]]).double()
OFFSETS = torch.tensor([0.1, -0.2, 0.0]).double()


@pytest.mark.slow
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_it_is_below_every_point_and_comes_near_the_least(norm: float):
    model, x = network(), torch.tensor([[0.4, 0.6]]).double()
    ball = LpBall(x, 0.4, norm, None, None)
    hull = ball.hull()
    points = grid(x, 0.4)
    points = points[torch.linalg.vector_norm(points - x, norm, dim=1) <= 0.4]
    cases = [(ROWS, OFFSETS), (-ROWS[:2], OFFSETS[:2])]
    with torch.no_grad():
        values = [(model(points) @ rows.T - offsets).amax(1).min() for rows, offsets in cases]
    found = [
        least_of_largest(
            capture(model, x),
            Box(hull.lower, hull.upper),
            cases,
            enough=[math.inf] * 2,
            most_parts=most,
            ball=None if norm == math.inf else ball,
        )
        for most in (0, 2, 200)
    ]
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    assert (found[2] > found[0] + 0.01).all()  # or splits do nothing
    assert (found[2] <= torch.stack(values)).all()
    torch.testing.assert_close(found[2], torch.stack(values), atol=0.04, rtol=0)


def test_layers_that_the_ascent_in_float32_merges_are_split_like_others():
    """A factor behind a layer is part of the layer there, but has an interval of its own in float64."""
    torch.manual_seed(0)
    plain = network()
    scale = nn.BatchNorm1d(8).double().eval()
    scale.running_mean.uniform_(-1, 1)
    scale.running_var.uniform_(0.5, 2)
    model, x = nn.Sequential(plain[0], scale, *plain[1:]), torch.tensor([[0.4, 0.6]]).double()
    with torch.no_grad():
        least = (model(grid(x, 0.4)) @ ROWS.T - OFFSETS).amax(1).min()
    graph, box = capture(model, x), Box(x - 0.4, x + 0.4)
    found = [least_of_largest(graph, box, [(ROWS, OFFSETS)], enough=[math.inf], most_parts=most) for most in (0, 6)]
    assert found[0] < found[1] <= least


def test_it_ends_where_a_bound_is_enough():
    model, x = network(), torch.tensor([[0.4, 0.6]]).double()
    box = Box(x - 0.4, x + 0.4)
    wanted = {"enough": [-math.inf], "most_parts": 1000}
    plain = least_of_largest(capture(model, x), box, [(ROWS, OFFSETS)], enough=[math.inf], most_parts=0)
    assert torch.equal(least_of_largest(capture(model, x), box, [(ROWS, OFFSETS)], **wanted), plain)


def test_a_linear_network_in_closed_form():
    model = nn.Linear(2, 3, bias=False).double()
    x = torch.rand(1, 2, generator=generator()).double()
    rows = ROWS[:1]
    slopes = (rows @ model.weight).detach()
    exact = (slopes @ x[0] - 0.3 * slopes.abs().sum(1) - OFFSETS[:1])[0]
    found = least_of_largest(
        capture(model, x), Box(x - 0.3, x + 0.3), [(rows, OFFSETS[:1])], enough=[math.inf], most_parts=9
    )
    torch.testing.assert_close(found[0], exact, atol=1e-12, rtol=0)
    assert found[0] <= exact


@pytest.mark.slow
@pytest.mark.parametrize(("radius", "norm"), [(0.0, math.inf), (0.1, 2)])
def test_a_hull_of_boxes_is_bounded_without_the_corners_of_its_own_hull(radius: float, norm: float):
    """The least value is above that of the box around both, whose other two corners are no mixtures."""
    model, side = network(), torch.tensor([[[0.1, 0.2], [0.7, 0.9]]]).double()
    region = HullOfBoxes(side, side + 0.05, radius, norm)
    share, within, move = torch.rand(3, 50_000, 2, generator=generator(), dtype=torch.float64)
    points = torch.lerp(side[0, 0], side[0, 1], share[:, :1]) + 0.05 * within.round()
    points = points + radius * torch.nn.functional.normalize(move - 0.5)
    hull, case = region.hull(), [(ROWS[:1], OFFSETS[:1])]
    with torch.no_grad():
        least = (model(points) @ ROWS[0] - OFFSETS[0]).min()
    graph, box = capture(model, points[:1]), Box(hull.lower, hull.upper)
    found, loose = (
        least_of_largest(graph, box, case, enough=[math.inf], most_parts=300, ball=ball)[0] for ball in (region, None)
    )
    assert loose + 0.01 < found <= least
    assert found > least - 0.1
