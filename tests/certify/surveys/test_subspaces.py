"""Margins within subspaces: distances of planes by hand, attacks within what is proved, and the law of chance."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from oracles.halfspace import Halfspace, generator
from scipy import stats
from torch import nn

import bounds
from bounds import InvalidInput
from bounds.geometry import frequency_basis
from certify import certified_radius
from certify.surveys import frequency_margins, span_accuracy, subspace_radius
from certify.surveys.subspaces import FrequencyMargins


def small() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 4)
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_radius_of_a_plane_is_its_distance_within_the_subspace(dtype: torch.dtype):
    """|w x + b| over the length of the projected normal, from below; and infinite where the subspace lies in it."""
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype)
    model, x = Halfspace(weight, 0.5), torch.rand(5, 2, 2, dtype=dtype, generator=generator())
    turned = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64, generator=generator(1))).Q.T.to(dtype)
    found = subspace_radius(model, x, basis=turned.view(2, 2, 2), tolerance=1e-6)
    expected = (x.double().flatten(1) @ weight.double() + 0.5) / (turned.double() @ weight.double()).norm()
    assert (found.radius <= expected).all()
    torch.testing.assert_close(found.radius, expected, rtol=1e-5, atol=0)
    assert (found.dimension, found.norm, found.subject) == (2, 2, "base, within 2 of 4 dimensions")


def test_a_skew_basis_loses_what_it_lacks_and_is_refused_beyond_that():
    weight, x = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[1.0, 0, 0]])
    basis = torch.eye(3)[:2] * (1 + 2e-4)  # coordinates are shorter than perturbations
    found = subspace_radius(Halfspace(weight), x, basis=basis, tolerance=1e-9)
    assert found.radius <= 1
    shrunk = subspace_radius(Halfspace(weight), x, basis=torch.eye(3)[:2] * (1 - 2e-4), tolerance=1e-9)
    assert shrunk.radius <= 1  # in coordinates it is 1.0002
    with pytest.raises(InvalidInput, match="basis must be orthonormal"):
        subspace_radius(Halfspace(weight), x, basis=torch.ones(2, 3))
    with pytest.raises(InvalidInput, match="basis must hold at least one perturbation of the shape"):
        subspace_radius(Halfspace(weight), x, basis=torch.eye(4))


@pytest.mark.slow
def test_proved_radii_lie_below_found_ones_and_above_those_of_all_directions():
    model, x = small(), torch.rand(4, 1, 8, 8, generator=generator())
    basis = frequency_basis((1, 8, 8), size=3, offset=1, like=x)
    found = subspace_radius(model, x, basis=basis)
    near = bounds.nearest_boundary(model, x, basis=basis)
    assert (found.radius <= near.distance).all()
    assert (found.radius > 0.5 * near.distance.clamp(max=10)).all()
    everywhere = certified_radius(model, x, norm=2, low=None, high=None)
    assert (found.radius >= everywhere.radius).all()
    assert torch.equal(found.label, everywhere.label)
    moves = torch.randn(500, 9, generator=generator(1))
    moves = moves / moves.norm(dim=1, keepdim=True)
    for row in range(4):
        points = x[row] + float(found.radius[row]) * 0.999 * torch.einsum("sm,mchw->schw", moves, basis)
        assert (model(points).argmax(1) == found.label[row]).all()


@pytest.mark.slow
def test_margins_by_frequency_have_the_law_of_random_normals_for_flat_boundaries():
    """A network that looks at low frequencies alone: below chance there, and beyond any distance elsewhere."""
    low = frequency_basis((1, 8, 8), size=4, offset=0, like=torch.zeros(1))
    head = torch.randn(3, 16, generator=generator(2)) @ low.flatten(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    model[1].weight.data, model[1].bias.data = head, torch.zeros(3)
    x = torch.rand(8, 1, 8, 8, generator=generator(3))
    found = frequency_margins(model, x, size=4, offsets=[0, 4])
    torch.testing.assert_close(found.found[0], found.least, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.certified[0], found.least, rtol=0.02, atol=0)
    assert found.ratio[1].min() > 10  # not infinite: rounding leaves something
    assert found.p_values().tolist() == [2 * 0.5**8] * 2
    table = found.to_dataframe()
    assert table.upper[0] < 1 < table.lower[1]
    assert len(found.plot(Figure().subplots()).lines) == 3


def margins(ratio: torch.Tensor) -> FrequencyMargins:
    ones = torch.ones(ratio.shape[1], dtype=torch.float64)
    options = {"offsets": tuple(range(len(ratio))), "size": 2, "dimension": 4, "features": 64, "certified": None}
    return FrequencyMargins(**options, label=ones.long(), least=ones, found=ratio, expected=ones)


def test_by_chance_the_sign_test_keeps_its_level_and_intervals_cover():
    """1,000 blocks with ratios of the law: both miss in at most 5 %, within five standard errors."""
    law = bounds.RatioLaw(64, 4)
    median = float(law.quantile(0.5))
    drawn = law.quantile(torch.rand(1000, 20, generator=generator(), dtype=torch.float64)) / median
    found, limit = margins(drawn), 0.05 + 5 * (0.05 * 0.95 / 1000) ** 0.5
    assert 0.01 < float((found.p_values() <= 0.05).double().mean()) < limit
    interval = found.median_interval()
    assert 0.01 < float(((interval[:, 0] > 1) | (interval[:, 1] < 1)).double().mean()) < limit
    expected = stats.binomtest(int((drawn[0] > 1).sum()), 20).pvalue
    assert float(found.p_values()[0]) == pytest.approx(expected)
    assert margins(drawn[:1, :3]).median_interval().tolist() == [[0, math.inf]]


def test_accuracy_on_a_span_against_random_ones():
    """A model that reads one direction keeps its accuracy on a span with it, and loses it without."""
    torch.manual_seed(0)
    model, x = Halfspace(torch.eye(40)[0]), torch.randn(100, 40, generator=generator())
    y = (x[:, 0] > 0).long()
    normals = torch.eye(40)[:3]
    found = span_accuracy(model, x, y, normals, draws=39, generator=generator())
    assert found.accuracy == 1
    assert found.p_value == 1 / 40
    assert found.loss_interval()[0] <= 0 <= found.loss_interval()[1]
    without = span_accuracy(model, x, y, normals[1:], draws=39, generator=generator())
    assert without.accuracy == float((y == 0).double().mean())  # a tie goes to class 0
    assert without.loss_interval()[0] > 0.2
    assert without.dimension == 2
    assert len(found.plot(Figure().subplots()).lines) == 2


@pytest.mark.slow
def test_a_random_span_is_seen_as_one():
    """The test at 10 % rejects a tenth of 120 random spans, within five standard errors."""
    model = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    source = generator(5)
    for weight in model.parameters():
        weight.data.normal_(generator=source)
    x = torch.randn(60, 12, generator=source)
    y = model(x).argmax(1)
    p_values = [
        span_accuracy(model, x, y, torch.randn(4, 12, generator=source), draws=9, generator=source).p_value
        for _ in range(120)
    ]
    rejected = sum(p <= 0.1 for p in p_values)
    assert 0 < rejected < 12 + 5 * (120 * 0.09) ** 0.5
