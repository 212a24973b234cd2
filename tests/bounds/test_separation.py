"""Distances between classes against all pairs one by one; certificates that reach another class, built by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds import InvalidInput
from bounds.separation import invariance_check, separation
from bounds.sets.distances import distance
from bounds.sets.pairs import pair_blocks
from certify.results import Certificate

SMALL = 2000  # bytes, which make blocks of a few inputs


def data(seed: int = 0, count: int = 41, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Classes 3, 5, 7, ... that overlap."""
    x = torch.randn(count, 2, 3, generator=generator(seed), dtype=torch.float64)
    return x, 3 + 2 * torch.randint(classes, (count,), generator=generator(seed + 100))


def all_pairs(x: Tensor, y: Tensor, norm: float) -> Tensor:
    """Distances (N, N), infinite within a class."""
    apart = torch.stack([(x - one).flatten(1).norm(norm, dim=1) for one in x])
    return apart.masked_fill(y[:, None] == y, math.inf)


@pytest.mark.parametrize("memory", [SMALL, 2**26])
@pytest.mark.parametrize("norm", [1, 1.5, 2, 3, math.inf])
def test_separation_equals_all_pairs_one_by_one(norm: float, memory: int):
    x, y = data()
    found, truth = separation(x, y, norm=norm, memory=memory), all_pairs(x, y, norm)
    assert found.classes.tolist() == [3, 5, 7, 9]
    for i, a in enumerate(found.classes):
        for j, b in enumerate(found.classes):
            if i == j:
                assert found.distance[i, j] == math.inf
                assert found.pairs[i, j].tolist() == [-1, -1]
                continue
            least = truth[y == a][:, y == b].min()
            torch.testing.assert_close(found.distance[i, j], least, rtol=1e-12, atol=0)
            one, two = found.pairs[i, j]
            assert (y[one], y[two]) == (a, b)
            torch.testing.assert_close(truth[one, two], least, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.nearest, truth.min(1).values, rtol=1e-12, atol=0)
    torch.testing.assert_close(truth[torch.arange(len(x)), found.other], found.nearest, rtol=1e-12, atol=0)
    assert found.radius == found.least / 2 == found.input_radius.min() == found.to_dataframe()["radius"][0]


def test_distances_are_never_below_the_exact_ones():
    """Multiples of 2^-20 have sums of squares that fractions hold exactly; the mutant states the rounded distance."""
    x = torch.round(torch.rand(30, 7, generator=generator(1), dtype=torch.float64) * 2**20) / 2**20
    y = torch.arange(30) % 3
    found = separation(x, y, norm=2)
    for one, two, stated in zip(range(30), found.other.tolist(), found.nearest.tolist(), strict=True):
        squared = sum(int(entry * 2**20) ** 2 for entry in (x[one] - x[two]).tolist())
        assert int(stated * 2**60) ** 2 >= squared * 2**80
    assert torch.equal(found.nearest, distance(x[found.other], x, 2))


def test_the_nearest_neighbour_is_robust_below_the_radius_and_no_classifier_is_at_it():
    x, y = data(3, 25)
    found = separation(x, y, norm=2)
    steps = torch.randn(200, *x.shape, generator=generator(4), dtype=torch.float64)
    steps = steps / steps.flatten(2).norm(dim=2)[..., None, None] * found.radius * (1 - 1e-9)
    moved = (x + steps).flatten(0, 1).flatten(1)
    labels = y[torch.cdist(moved, x.flatten(1)).argmin(1)].view(200, -1)
    assert (labels == y).all()
    one, two = found.pairs.flatten(0, 1)[found.distance.flatten().argmin()]
    middle = (x[one] + x[two]) / 2
    assert y[one] != y[two]
    assert distance(middle[None], x[one][None], 2) <= found.radius * (1 + 1e-12)
    assert distance(middle[None], x[two][None], 2) <= found.radius * (1 + 1e-12)


def test_float32_far_from_the_origin_and_ties():
    """Squares of 1e6 have no digits left for differences; equal pairs of two classes belong together."""
    x = torch.tensor([[1e6], [1e6 + 1], [1e6 + 2], [1e6 + 3]])
    found = separation(x, torch.tensor([0, 1, 0, 1]), norm=2)
    assert found.least == 1
    assert (x[found.pairs[0, 1, 0]] - x[found.pairs[0, 1, 1]]).abs() == 1
    assert found.nearest.tolist() == [1, 1, 1, 1]


# ---------------------------------------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("memory", [SMALL, 2**26])
def test_certificates_that_reach_another_class_are_found(norm: float, memory: int):
    """Radii a little below and a little above the distance; the mutant compares with half of it."""
    x, y = data(7)
    least = all_pairs(x, y, norm).min(1).values
    above = torch.arange(len(x)) % 3 == 0
    radius = torch.where(above, least * (1 + 1e-9), least * (1 - 1e-9))
    found = invariance_check(radius, x, y, norm=norm, memory=memory)
    assert torch.equal(found.excessive, above)
    assert torch.equal(found.reached, above.long())
    assert found.pairs[:, 0].tolist() == above.nonzero().flatten().tolist()
    assert torch.equal(found.pairs[:, 1], all_pairs(x, y, norm).min(1).indices[above])
    assert found.share == pytest.approx(float(above.double().mean()))
    assert found.interval[0] < found.share < found.interval[1]
    torch.testing.assert_close(found.use, 2 * radius / least, rtol=1e-9, atol=0)
    assert found.to_dataframe()["excessive"].sum() == int(above.sum())
    wide = invariance_check(torch.full((len(x),), math.inf), x, y, norm=norm, memory=memory)
    assert torch.equal(wide.reached, (y[:, None] != y).sum(1))


def test_certificates_of_any_kind_and_a_reference():
    x, y = data(9, 6)
    fields = {"label": y, "abstained": torch.zeros(6, dtype=torch.bool), "alpha": 0.0, "subject": "base", "method": "a"}
    certificate = Certificate(radius=torch.full((6,), 0.5, dtype=torch.float64), norm=math.inf, **fields)
    far = invariance_check(certificate, x, y, reference=(x + 100, y))
    assert not far.excessive.any()
    near = invariance_check(certificate, x, y, reference=(x.float() + 0.4, y + 1))  # every input has moved its class
    assert near.excessive.all()
    assert near.norm == math.inf
    assert near.interval == pytest.approx((0.025 ** (1 / 6), 1.0))
    lonely = invariance_check(certificate, x, torch.zeros(6, dtype=torch.int64))
    assert lonely.nearest.isinf().all()
    assert (lonely.other == -1).all()
    assert (lonely.use == 0).all()


def test_nothing_proved_reaches_nothing():
    """Equal inputs of two classes lie within a radius of 0, which says nothing of them."""
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    assert not invariance_check(torch.zeros(2), x, y, norm=2).excessive.any()
    assert invariance_check(torch.full((2,), 1e-30), x, y, norm=2).excessive.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certificates": torch.tensor([0.1, math.nan])}, "radius must be at least 0, got nan in row 1"),
        ({"certificates": torch.tensor([-0.1, 1.0])}, "radius must be at least 0, got -0.1"),
        ({"certificates": torch.ones(3)}, r"radius must have shape \(2,\)"),
        ({"norm": None}, "norm must be given"),
        ({"norm": 0.5}, "norm must be at least 1"),
        ({"y": torch.zeros(2)}, "y must be integers, got torch.float32"),
        ({"certificates": SimpleNamespace(norm=1.0)}, "norm must be that of the certificates, 1, got 2"),
        ({"certificates": SimpleNamespace(norm=math.nan, radius=torch.ones(2)), "norm": None}, "norm must be at least"),
        ({"reference": (torch.ones(2, 4), torch.ones(2).long())}, r"reference must hold inputs of shape \(3,\)"),
        ({"confidence": 1.0}, "confidence must lie strictly between"),
    ],
)
def test_bad_input(change: dict, message: str):
    options = {"certificates": torch.ones(2), "x": torch.rand(2, 3), "y": torch.tensor([0, 1]), "norm": 2, **change}
    with pytest.raises(InvalidInput, match=message):
        invariance_check(options.pop("certificates"), options.pop("x"), options.pop("y"), **options)


def test_separation_needs_two_classes():
    with pytest.raises(InvalidInput, match="y must hold at least two classes, got 1"):
        separation(torch.rand(3, 2), torch.ones(3).long(), norm=2)
    with pytest.raises(InvalidInput, match="x must be finite"):
        separation(torch.full((3, 2), math.nan), torch.arange(3), norm=2)


@pytest.mark.parametrize("memory", [500, 5000, 50_000])
def test_blocks_hold_every_pair_within_their_memory(memory: int):
    x = torch.rand(37, 9)
    seen, own = torch.zeros(37, 20, dtype=torch.int64), torch.zeros(37, 37, dtype=torch.bool)
    for rows, columns, apart in pair_blocks(x, x[:20], 2, memory=memory):
        seen[rows[:, None], columns] += 1
        assert 8 * (apart.numel() + 9 * (len(rows) + len(columns))) <= memory
    assert (seen == 1).all()
    for rows, columns, _ in pair_blocks(x, None, 2, memory=memory):
        own[rows[:, None], columns] = True
    assert (own | own.T).all()
    assert memory > 5000 or not own.all()


def test_distances_beyond_float64_are_infinite_and_not_0():
    x = torch.tensor([[0.0], [1e200], [0.5]], dtype=torch.float64)
    found = separation(x, torch.tensor([0, 1, 2]), norm=2)
    assert found.distance[0, 2] == 0.5
    assert found.distance[0, 1] >= 1e200
    assert found.distance[1, 2] == found.distance[2, 1]
