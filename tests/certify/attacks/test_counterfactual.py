"""Search for the fewest changes that flip a decision, against all rows of a table."""

import math

import pytest
import torch
from oracles.feature_tables import FEATURES, ROWS, listed_rows, network
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.errors import InvalidInput
from certify import attacks

GROUPS = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14]]
TABLE = [bounds.Category(group) for group in GROUPS]
X = nn.functional.one_hot(torch.randint(0, 3, (6, 5), generator=generator(2)), 3).flatten(1).float()


class Together(nn.Module):
    """Class 1 where enough groups have their last category, which no single change brings nearer than another."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.enough = enough

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], self.enough - 0.5), x[:, 2::3].sum(1)], 1)


def fewest(model: nn.Module, row: Tensor, label: int) -> float:
    for changes in range(6):
        if bool((model(listed_rows(row, TABLE, changes)).argmax(1) != label).any()):
            return changes
    return math.inf


@pytest.mark.parametrize("model", [network("linear", 15), Together(3), Together(5)], ids=["linear", "three", "five"])
@pytest.mark.parametrize("most_points", [1, 4096], ids=["beam", "all"])
def test_the_fewest_changes_are_found(model: nn.Module, most_points: int):
    labels = model(X).argmax(1)
    found = attacks.counterfactual(model, X, labels, bounds.CategoricalGroups(X, GROUPS, 5), most_points=most_points)
    exact = [fewest(model, row, int(label)) for row, label in zip(X, labels, strict=True)]
    assert found.distance.tolist() == exact
    assert (model(found.adversarial).argmax(1) != labels)[found.found].all()
    assert found.smallest.all() or most_points == 1
    single = torch.tensor([count <= 1 for count in exact])
    assert found.smallest[single & found.found].all()


def test_what_it_does_not_need_is_taken_back():
    """Gradient and lead favour a change that is not needed in the end."""
    model = nn.Linear(15, 2)
    model.weight.data = torch.zeros(2, 15)
    model.weight.data[1, 2::3] = torch.tensor([1.0, 1.0, 1.0, 1.0, 4.0])
    model.bias.data = torch.tensor([3.5, 0.0])
    x = torch.eye(15)[[0, 3, 6, 9, 12]].sum(0)[None]
    found = attacks.counterfactual(model, x, torch.tensor([0]), bounds.CategoricalGroups(x, GROUPS, 5), beam=1)
    assert found.distance.item() == 1
    assert found.smallest.item()


def test_rows_keep_their_own_numbers_of_changes_and_frozen_features():
    model, frozen = Together(5), torch.zeros(6, 15, dtype=torch.bool)
    need = 5 - X[:, 2::3].sum(1)
    budget = torch.tensor([int(n) - place % 2 for place, n in enumerate(need)]).clamp(min=0)
    labels = torch.zeros(6, dtype=torch.int64)
    found = attacks.counterfactual(model, X, labels, bounds.CategoricalGroups(X, GROUPS, budget))
    assert found.found.tolist() == (budget >= need).tolist()
    frozen[:, 2] = True
    region = bounds.CategoricalGroups(X, GROUPS, 5, frozen)
    assert attacks.counterfactual(model, X, labels, region).found.tolist() == (X[:, 2] == 1).tolist()


def test_targets_are_the_only_classes_that_count():
    model, targets = network("linear", 15), torch.full((6,), 2)
    labels = model(X).argmax(1)
    found = attacks.counterfactual(model, X, labels, bounds.CategoricalGroups(X, GROUPS, 5), targets=targets)
    assert (model(found.adversarial).argmax(1) == 2)[found.found].all()
    assert (found.distance == 0).tolist() == (labels == 2).tolist()


def test_points_lie_in_the_set_and_repeat():
    model, x = network("linear", 9), (ROWS / 2).float() * 2
    region = bounds.FeatureChanges(x, FEATURES, 4)
    labels = model(x).argmax(1)
    one, other = (attacks.counterfactual(model, x, labels, region, batch_size=size) for size in (500, 7))
    assert torch.equal(one.adversarial, other.adversarial)
    assert region.contains(one.adversarial.double()).all()
    assert torch.equal(region.changed(one.adversarial).double()[one.found], one.distance[one.found])
    assert not one.smallest[~one.found].any()  # there is a range, of which only the ends were tried


def test_inputs_that_constraints_forbid_are_passed_over():
    x = torch.eye(15)[[0, 3, 6, 9, 12]].sum(0)[None]
    matrix = torch.zeros(1, 15)
    matrix[0, [2, 5, 8, 11]] = 1  # of the last categories, that of the last group alone
    region = bounds.Constrained(bounds.CategoricalGroups(x, GROUPS, 2), matrix, torch.zeros(1))
    found = attacks.counterfactual(Together(1), x, torch.tensor([0]), region)
    assert found.distance.item() == 1
    assert found.adversarial[0, 14] == 1
    assert not attacks.counterfactual(Together(2), x, torch.tensor([0]), region).found.any()


def test_bad_arguments_are_refused():
    model, labels = network("linear", 15), torch.zeros(6, dtype=torch.int64)
    region = bounds.CategoricalGroups(X, GROUPS, 2)
    for wrong in ({"beam": 0}, {"most_points": 0}, {"batch_size": 0}, {"targets": torch.full((6,), 3)}):
        with pytest.raises(InvalidInput):
            attacks.counterfactual(model, X, labels, region, **wrong)
    with pytest.raises(InvalidInput, match="robust_accuracy"):
        attacks.counterfactual(model, X, labels, bounds.Box(X, X))


def test_words_without_substitutes_leave_nothing_to_run():
    x = torch.ones(2, 3, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    labels = model(x).argmax(1)
    found = attacks.counterfactual(model, x, labels, bounds.SynonymSet(x, x.new_zeros(2, 3, 0, 2), 1))
    assert not found.found.any()
    assert found.smallest.all()
