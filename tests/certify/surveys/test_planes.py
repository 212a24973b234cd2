"""Certified cross sections and surfaces of losses: discs and planes by hand, and points in every proved cell."""

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from oracles.halfspace import Halfspace, generator
from torch import nn

from bounds import InvalidInput
from bounds.geometry import cross_section
from certify.surveys import certified_cross_section, loss_surface


def curved() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def test_cells_of_a_plane_are_those_on_its_side():
    """The boundary is first = 0.3: cells up to it are robust, beyond it broken, and the one with it is not proved."""
    model = Halfspace(torch.tensor([-1.0, 0, 0, 0]), 0.3)
    found = certified_cross_section(
        model, torch.zeros(4), torch.eye(4)[0], torch.tensor([1.0, 1, 0, 0]), extent=1.0, grid=10
    )
    edges = found.edges
    assert torch.equal(found.robust, (edges[1:, None] < 0.3).expand(10, 10))
    assert torch.equal(found.broken, (edges[1:, None] > 0.3 - 1e-6).expand(10, 10) & ~found.robust)
    assert found.shares() == {"robust": 0.6, "open": 0.0, "broken": 0.4}
    assert found.proved.double().mean() > 0.89  # on the other side as well
    assert found.to_dataframe().robust.sum() == 60
    assert found.plot(Figure().subplots()).has_data()


@pytest.mark.parametrize("grid", [7, 32])
def test_no_point_of_a_proved_cell_has_another_class(grid: int):
    model, x = curved(), torch.randn(6, generator=generator(1))
    first, second = torch.randn(2, 6, generator=generator(2))
    found = certified_cross_section(model, x, first, second, extent=3.0, grid=grid)
    fine = cross_section(model, x, first, second, extent=3.0, grid=8 * grid + 1)
    assert len(fine.label.unique()) > 1
    middles = torch.arange(8 * grid + 1)[1:-1]
    middles = middles[middles % 8 != 0]  # strictly inside of cells
    seen, cells = fine.label[middles][:, middles], middles // 8
    proved, label = (getattr(found, name)[cells][:, cells] for name in ("proved", "label"))
    assert (seen[proved] == label[proved]).all()
    assert not (found.robust & found.broken).any()
    assert found.proved.double().mean() > (0.8 if grid == 32 else 0.2)
    states = found.robust.long() + found.open.long() + (found.broken & ~found.robust).long()
    assert (states == 1).all()


def test_an_attack_within_the_plane_finds_no_robust_cell():
    """The mutant: bounds that were taken for another cell would fail here."""
    model, x = curved(), torch.randn(6, generator=generator(4))
    first, second = torch.eye(6)[:2]
    found = certified_cross_section(model, x, first, second, extent=2.0, grid=16)
    points = torch.rand(20000, 2, generator=generator()) * 4 - 2
    label = model(x + points[:, :1] * first + points[:, 1:] * second).argmax(1)
    cells = ((points.double() + 2) / 0.25).floor().long()
    robust = found.robust[cells[:, 0], cells[:, 1]]
    assert (label[robust] == found.own).all()
    assert robust.double().mean() > 0.1


def test_the_loss_of_a_linear_model_is_that_of_its_margin():
    model = Halfspace(torch.tensor([1.0, 2.0, 0.0]))
    x, y = torch.randn(4, 3, generator=generator()), torch.tensor([0, 1, 0, 1])
    first, second = torch.eye(3)[0].expand(4, 3), torch.tensor([1.0, 1.0, 0.0]).expand(4, 3)
    found = loss_surface(model, x, y, first, second, extent=1.0, grid=5, batch_size=7)
    score = x[:, :2].double() @ torch.tensor([1.0, 2.0]).double()
    score = score[:, None, None] + found.coordinates[:, None] + 2 * found.coordinates
    expected = F.softplus(2 * score * torch.where(y == 1, -1.0, 1.0)[:, None, None])
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.loss[:, 2, 2], found.at_input)
    torch.testing.assert_close(found.linear[:, 2, 2], found.at_input)
    gap = (found.linear[:, 2, 3] - found.linear[:, 2, 1]) / 1.0
    slope = 2 * torch.sigmoid(2 * score[:, 2, 2] * torch.where(y == 1, -1.0, 1.0)) * torch.where(y == 1, -2.0, 2.0)
    torch.testing.assert_close(gap, slope, rtol=1e-5, atol=1e-6)
    assert list(found.to_dataframe()) == ["label", "at_input", "nonlinearity", "steepness"]


def test_a_curved_loss_is_told_from_a_flat_one():
    """Far from the boundary a wrong label gives a loss that is linear: its distance from a plane vanishes."""
    model, x = Halfspace(torch.tensor([1.0, 0.0])), torch.tensor([[50.0, 0.0], [0.0, 0.0]])
    across = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = loss_surface(model, x, torch.tensor([0, 0]), *across, extent=1.0)
    assert found.nonlinearity[0] < 1e-4
    assert found.nonlinearity[1] > 0.3
    assert found.plot(1, Figure().subplots()).has_data()


def test_bad_arguments():
    x = torch.zeros(6)
    for change, message in (
        ({"second": torch.ones(6)}, "not parallel"),
        ({"first": torch.ones(5)}, "first must have the shape"),
        ({"grid": 0}, "grid must be"),
        ({"method": "guess"}, "method must be one of"),
        ({"sound": "deployed"}, "sound must be one of"),
    ):
        arguments = {"first": torch.ones(6), "second": torch.eye(6)[0], "extent": 1.0, **change}
        with pytest.raises(InvalidInput, match=message):
            certified_cross_section(curved(), x, **arguments)
