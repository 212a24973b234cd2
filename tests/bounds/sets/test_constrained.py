"""Sets with linear constraints: minima against linear programmes and points, members in exact arithmetic."""

import pytest
import torch
from oracles.feature_tables import FEATURES, ROWS, listed_rows, network
from oracles.halfspace import generator
from scipy.optimize import linprog
from torch import Tensor

import bounds
from bounds.errors import InvalidInput


def random_polytopes(constraints: int) -> tuple[bounds.Box, Tensor, Tensor]:
    x = torch.rand(3, 8, generator=generator(1), dtype=torch.float64)
    matrix = torch.randn(constraints, 8, generator=generator(2), dtype=torch.float64)
    return bounds.Box(x - 0.3, x + 0.3), matrix, (x @ matrix.T).amax(0) + 0.1


@pytest.mark.parametrize("constraints", [1, 2, 4])
def test_minima_over_boxes_are_at_most_those_of_linear_programmes(constraints: int):
    box, matrix, bound = random_polytopes(constraints)
    a = torch.randn(3, 6, 8, generator=generator(3), dtype=torch.float64)
    found = bounds.linear_minimum(a, bounds.Constrained(box, matrix, bound))
    plain = bounds.linear_minimum(a, box)
    assert (found >= plain - 1e-9).all()
    exact = torch.empty(3, 6, dtype=torch.float64)
    for row in range(3):
        sides = list(zip(box.lower[row].tolist(), box.upper[row].tolist(), strict=True))
        for place in range(6):
            exact[row, place] = linprog(a[row, place].numpy(), matrix.numpy(), bound.numpy(), bounds=sides).fun
    assert (found <= exact + 1e-6).all()  # programmes hold constraints up to 1e-7
    assert ((exact - plain) > 0.05).any()
    if constraints == 1:
        assert torch.allclose(found, exact, atol=1e-5)
    else:
        assert (found - plain).sum() > 0.8 * (exact - plain).sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_listed_row_that_satisfies_them_is_below(dtype: torch.dtype):
    """At most one of two categories, and a number that grows with a level."""
    matrix = torch.tensor([[0.0, 1, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.1, 0, -1, 0]])
    bound = torch.tensor([1.0, 0.5])
    rows = ROWS[1:2]
    a = torch.randn(1, 20, 9, generator=generator(4), dtype=dtype)
    for changes in (1, 3):
        region = bounds.FeatureChanges(rows.to(dtype), FEATURES, changes)
        found = bounds.linear_minimum(a, bounds.Constrained(region, matrix, bound))
        points = listed_rows(rows[0], FEATURES, changes)
        held = (points @ matrix.double().T <= bound + 1e-12).all(1)
        assert 0 < held.sum() < len(held)
        assert (found[0] <= (a[0].double() @ points[held].T).amin(1)).all()


def test_members_satisfy_the_constraints_exactly():
    """A tenth and two tenths are more than three tenths, in the numbers of float64."""
    third = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    box = bounds.Box(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64) / 10)
    for bound, held in ((0.3, False), (0.30000000000000004, True)):
        region = bounds.Constrained(box, third, torch.tensor([bound], dtype=torch.float64))
        wide = region.around(bounds.Box(box.lower, box.upper * 3))
        assert wide.contains(torch.tensor([[0.1, 0.2]], dtype=torch.float64)).tolist() == [held]
    assert not region.contains(torch.tensor([[0.1, 0.2]], dtype=torch.float64)).any()  # outside of the box


@pytest.mark.slow
def test_networks_are_bounded_over_them():
    box, matrix, bound = random_polytopes(2)
    region, model = bounds.Constrained(box, matrix, bound), network("deep", 8).double()
    graph, labels = bounds.capture(model, box.center), torch.tensor([0, 1, 2])
    found, plain = (bounds.margin_bounds(graph, each, labels, "crown") for each in (region, box))
    assert (found > plain + 1e-3).any()
    share = torch.rand(4000, 3, 8, generator=generator(5), dtype=torch.float64)
    points = torch.lerp(box.lower.expand_as(share), box.upper.expand_as(share), share.round())
    inside = (points @ matrix.T <= bound).all(2)
    logits = model(points.flatten(0, 1)).detach().view(4000, 3, 3)
    margins = logits.gather(2, labels.expand(4000, 3)[..., None]) - logits
    assert (margins.masked_fill(~inside[..., None], torch.inf).amin(0) >= found).all()
    assert inside.any(0).all()


def test_what_is_no_constraint_is_refused():
    box, matrix, bound = random_polytopes(2)
    for wrong in (
        (matrix[:, 1:], bound),
        (matrix, bound[:1]),
        (matrix * torch.inf, bound),
        (matrix, bound - 100),
        (matrix[0], bound),
    ):
        with pytest.raises(InvalidInput):
            bounds.Constrained(box, *wrong)
