"""Random changes of features: they stay in the set, their numbers and choices are uniform, ranges are filled."""

import pytest
import torch
from oracles.changed_rows import FEATURES, network, rows, texts
from oracles.feature_tables import FEATURES as RANGED
from oracles.feature_tables import ROWS
from torch import Tensor, nn

import bounds
import certify
from bounds.errors import InvalidInput


class Seen(nn.Module):
    """A linear model that keeps all inputs it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        return torch.stack([x.flatten(1).sum(1), x.flatten(1)[:, 0]], 1)


def copies(x: Tensor, region: bounds.PerturbationSet, draws: int) -> tuple[Tensor, certify.ChangeAccuracy]:
    """The changed copies (N, draws, F) and the record."""
    model = Seen()
    found = certify.random_changes(
        model, x, None, region, draws=draws, batch_size=10**6, generator=torch.Generator().manual_seed(1)
    )
    return next(one for one in model.inputs if len(one) == len(x) * draws).view(len(x), draws, -1), found


@pytest.mark.parametrize("table", ["levels", "ranges", "words"])
def test_copies_lie_in_the_set_at_the_distance_that_is_stated(table: str):
    x, region = {
        "levels": lambda: (rows(), bounds.FeatureChanges(rows(), FEATURES, 3)),
        "ranges": lambda: (ROWS, bounds.FeatureChanges(ROWS, RANGED, 4)),
        "words": lambda: (texts()[2], texts()[1].around(texts()[2])),
    }[table]()
    made, found = copies(x, region, 200)
    for draw in range(200):
        points = made[:, draw].view(x.shape)
        assert region.contains(points.double()).all()
        assert region.changed(points).double().equal(found.distance[:, draw])
    assert found.distance.max() == region.changes
    assert found.distance.min() >= 0
    if table == "ranges":
        inside = (made[:, :, 7] > ROWS[:, None, 7] - 0.25) & (made[:, :, 7] < ROWS[:, None, 7] + 0.25)
        assert (inside & (made[:, :, 7] != ROWS[:, None, 7])).any(1).all()  # not the ends alone


def test_numbers_of_changes_and_choices_are_uniform():
    """Bounds of five standard deviations of counts, which fail once in a million."""
    x = rows(1)
    made, found = copies(x, bounds.FeatureChanges(x, FEATURES[:3], 3), 6000)
    for number in (1, 2, 3):
        assert abs(int((found.distance == number).sum()) - 2000) < 5 * (6000 * 2 / 9) ** 0.5
    single = made[0][found.distance[0] == 1]
    kinds, counts = single.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    expected = len(single) / 6
    assert ((counts - expected).abs() < 5 * (expected * 5 / 6) ** 0.5).all()


def test_what_cannot_change_is_counted_as_it_is():
    x = rows(2)
    mask = torch.ones(15, dtype=torch.bool)
    model = network()
    found = certify.random_changes(model, x, None, bounds.FeatureChanges(x, FEATURES, 3, mask), draws=5)
    assert found.distance.max() == 0
    assert found.right.all()
    assert found.accuracy == 1
    with pytest.raises(InvalidInput, match="perturbation must be"):
        certify.random_changes(model, x, None, bounds.LpBall(x, 0.1, norm=2))
    with pytest.raises(InvalidInput, match="around x"):
        certify.random_changes(model, x + 1, None, bounds.FeatureChanges(x, FEATURES, 3))
