"""Proofs that no few changes flip a decision: against all rows of a table, run one by one."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from oracles.feature_tables import FEATURES, ROWS, listed_rows, network
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
import certify
from bounds.errors import InvalidInput
from bounds.sets.choices import Choices
from certify import attacks
from certify.report.studies import shown_studies
from certify.verification.changed.parts import cut, cut_position

GROUPS = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
TABLE = [bounds.Category(group) for group in GROUPS]
FINITE = FEATURES[:4]


def categories(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    chosen = torch.randint(0, 3, (count, 4), generator=generator(1))
    return nn.functional.one_hot(chosen, 3).flatten(1).to(dtype)


def lively() -> nn.Module:
    """A network whose decisions change with one, two or more features."""
    torch.manual_seed(8)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def fewest(model: nn.Module, row: Tensor, features: list, label: int, target: int | None = None) -> float:
    """The smallest number of changes that flips the decision, by running everything."""
    with torch.no_grad():
        for changes in range(len(features) + 1):
            decided = model(listed_rows(row, features, changes).to(row.dtype)).argmax(1)
            if bool(((decided != label) if target is None else (decided == target)).any()):
                return changes
    return math.inf


@pytest.mark.parametrize(
    "attack", [pytest.param(True, marks=pytest.mark.slow, id="attacked"), pytest.param(False, id="cut alone")]
)
def test_radii_and_counterfactuals_are_those_of_all_rows(attack: bool):
    model, x = lively(), categories(8)
    found = certify.certified_no_counterfactual(model, x, bounds.CategoricalGroups(x, GROUPS, 2), attack=attack)
    exact = torch.tensor(
        [fewest(model, row, TABLE, int(label)) for row, label in zip(x, model(x).argmax(1), strict=True)]
    )
    assert len(exact.unique()) > 2
    within = torch.where(exact <= 2, exact, math.inf)
    assert found.radius.tolist() == (exact.clamp(max=3) - 1).tolist()
    assert found.distance.tolist() == within.tolist()
    assert found.verified.tolist() == within.isinf().tolist()
    assert found.smallest.tolist() == found.found.tolist()
    assert not found.unknown.any()
    assert torch.equal(model(found.counterfactual).argmax(1), found.counterfactual_label)
    assert (found.counterfactual_label != found.label)[found.found].all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "expanding", "smooth", "residual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_all_kinds_of_networks_and_features(kind: str, dtype: torch.dtype):
    model = network(kind, 9).to(dtype)
    x = (ROWS * torch.tensor([1.0] * 8 + [0.125])).to(dtype)  # numbers of all these types
    found = certify.certified_no_counterfactual(model, x, bounds.FeatureChanges(x, FINITE, 3), most_parts=500)
    for row in range(3):
        exact = fewest(model, x[row], FINITE, int(found.label[row]))
        assert found.radius[row] < exact
        assert found.distance[row] >= exact or exact > 3
        assert found.verified[row] | found.found[row]
        if dtype != torch.bfloat16:
            assert found.radius[row] == min(exact - 1, 3)


@pytest.mark.parametrize("target", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_a_target_is_the_only_class_that_counts(target: int):
    model, x = network("linear", 12), categories(6)
    targets = torch.full((6,), target)
    found = certify.certified_no_counterfactual(model, x, bounds.CategoricalGroups(x, GROUPS, 4), targets=targets)
    label = model(x).argmax(1)
    exact = [fewest(model, row, TABLE, int(one), target) for row, one in zip(x, label, strict=True)]
    assert found.distance.tolist() == exact
    assert found.radius.tolist() == [min(max(count - 1, 0), 4) for count in exact]
    assert found.verified.tolist() == [math.isinf(count) for count in exact]


def test_a_linear_decision_over_ranges_is_known_in_closed_form():
    weight = torch.tensor([3.0, -2.0, 1.0, 0.5])
    model = nn.Linear(4, 2)
    model.weight.data, model.bias.data = torch.stack([weight, 0 * weight]), torch.tensor([-3.3, 0.0])
    x = torch.full((2, 4), 0.5)  # 1.25 - 3.3: class 1; the ends add 1.5, 1, .5 and .25
    features = [bounds.Numeric(place, 0.0, 1.0) for place in range(4)]
    for changes, radius, distance in ((1, 1, math.inf), (2, 1, 2), (3, 1, 2)):
        found = certify.certified_no_counterfactual(model, x, bounds.FeatureChanges(x, features, changes))
        assert found.radius.tolist() == [radius] * 2
        assert found.distance.tolist() == [distance] * 2
    (section,) = shown_studies({"Changes": found})  # of three changes, one is proved and two are found
    assert section["sentences"][1] == "For 2 a counterfactual was found, 2 of them proved to have the fewest changes."
    lines = found.plot(plt.figure().gca()).lines
    assert [line.get_ydata().tolist() for line in lines] == [[1, 1, 0, 0], [1, 1, 0, 0]]
    up = [bounds.Numeric(place, 0.0, 1.0, "up") for place in range(4)]
    found = certify.certified_no_counterfactual(model, x, bounds.FeatureChanges(x, up, 4))
    assert found.distance.tolist() == [3, 3]  # 1.5 and .5 and .25
    down = [bounds.Numeric(place, 0.0, 1.0, "down") for place in range(4)]
    assert certify.certified_no_counterfactual(model, x, bounds.FeatureChanges(x, down, 4)).verified.all()


@pytest.mark.slow
def test_ranges_are_halved_until_proved():
    """A hat in the middle of a range, which planes over the whole range do not bound."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].weight.data, model[0].bias.data = torch.ones(3, 1), torch.tensor([-0.4, -0.5, -0.6])
    for height, proved in ((9.0, True), (11.0, False)):
        model[2].weight.data = height * torch.tensor([[0.0, 0, 0], [1, -2, 1]])
        model[2].bias.data = torch.tensor([1.0, 0.0])
        x = torch.zeros(1, 1)
        region = bounds.FeatureChanges(x, [bounds.Numeric(0, 0.0, 1.0)], 1)
        found = certify.certified_no_counterfactual(model, x, region, method="crown_ibp")
        assert found.verified.item() is proved
        assert proved or found.found.item()
        assert found.parts > 2
        unknown = certify.certified_no_counterfactual(model, x, region, method="crown_ibp", most_parts=1)
        assert unknown.unknown.all()
        assert unknown.radius.item() == 0


class Capped(nn.Module):
    """Class 1 from the number 1 on."""

    def forward(self, x: Tensor) -> Tensor:
        value = x[:, 0].clamp(0.0, 2.0)
        return torch.stack([torch.ones_like(value), value], 1)


def test_a_range_that_is_not_cut_further_is_not_the_end_that_constraints_forbid():
    """The middle of the range overflows. Numbers above 0 are allowed, and from 1 on of another class."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    numbers = bounds.FeatureChanges(x, [bounds.Numeric(0, -1e308, 1e308)], 1)
    region = bounds.Constrained(numbers, -torch.ones(1, 1).double(), torch.zeros(1).double())
    found = certify.certified_no_counterfactual(Capped(), x, region, attack=False)
    assert found.unknown.all()


@pytest.mark.slow
def test_inputs_that_constraints_forbid_do_not_count():
    model, x = network("linear", 12), categories(8)
    x = x[model(x).argmax(1) == 0]
    label, groups = model(x).argmax(1), bounds.CategoricalGroups(x, GROUPS, 4)
    free = certify.certified_no_counterfactual(model, x, groups)
    matrix = (model[1].weight[1:] - model[1].weight[:1]).detach()  # hardly any way to other classes
    bound = (x @ matrix.T).amax(0) + 0.01
    found = certify.certified_no_counterfactual(model, x, bounds.Constrained(groups, matrix, bound))
    for row in range(len(x)):
        points = listed_rows(x[row], TABLE, 4)
        points = points[(points @ matrix.T <= bound).all(1) & (model(points).argmax(1) != label[row])]
        changes = ((points - x[row]).abs().sum(1) / 2).amin() if len(points) else math.inf
        assert found.distance[row] == changes
        assert found.radius[row] == min(changes - 1, 4)
    assert (found.distance > free.distance).any()


def test_words_are_replaced_until_the_decision_flips():
    embedding = torch.randn(7, 3, generator=generator(2))
    tokens = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 0]])
    synonyms = {token: [(token + 1) % 7, (token + 3) % 7] for token in range(7)}
    model, x = network("linear", 12), embedding[tokens]
    region = bounds.SynonymSet.of_tokens(embedding, tokens, synonyms, 4)
    found = certify.certified_no_counterfactual(model, x, region)
    for row in range(2):
        label, best = int(model(x).argmax(1)[row]), math.inf
        for choice in torch.cartesian_prod(*[torch.arange(3)] * 4).tolist():
            words = [[t, *synonyms[t]][c] for t, c in zip(tokens[row].tolist(), choice, strict=True)]
            if int(model(embedding[words][None]).argmax()) != label:
                best = min(best, sum(c > 0 for c in choice))
        assert found.distance[row] == best
        assert found.radius[row] == min(best - 1, 4)


@pytest.mark.parametrize("budget", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_both_sides_of_a_cut_hold_each_row_once(budget: int):
    region: Choices = bounds.FeatureChanges(ROWS, FINITE, budget)
    rows = torch.randn(3, 1, 9, generator=generator(3), dtype=torch.float64)
    points = [listed_rows(row, FINITE, budget) for row in ROWS]
    owner, functions = torch.arange(3), rows
    for _ in range(12):
        open_ = region.splittable().any(1)
        region, owner, functions = region.rows(open_.nonzero()[:, 0]), owner[open_], functions[open_]
        if len(owner) == 0:
            break
        region = cut(region, cut_position(region, functions), functions)
        owner, functions = owner.repeat(2), functions.repeat(2, 1, 1)
        for row in range(3):
            parts = (owner == row).nonzero()[:, 0]
            inside = sum(region.rows(part.expand(len(points[row]))).contains(points[row]).long() for part in parts)
            assert len(parts) == 0 or (inside <= 1).all()
            hulls = region.rows(parts).hull()
            for part, low, high in zip(parts, hulls.lower, hulls.upper, strict=True):
                here = points[row][region.rows(part.expand(len(points[row]))).contains(points[row])]
                assert ((low <= here) & (here <= high)).all()
                least = bounds.linear_minimum(rows[row][None], region.rows(part[None]))
                assert len(here) == 0 or least <= (here @ rows[row, 0]).amin() + 1e-12
    assert len(owner) == 0


def test_the_first_cut_loses_no_row():
    region = bounds.FeatureChanges(ROWS, FINITE, 3)
    rows = torch.randn(3, 1, 9, generator=generator(4), dtype=torch.float64)
    for _ in range(4):
        region = cut(region, cut_position(region, rows), rows)
        rows = rows.repeat(2, 1, 1)
    for row in range(3):
        points = listed_rows(ROWS[row], FINITE, 3)
        parts = torch.arange(row, len(region.center), 3)
        inside = sum(region.rows(part.expand(len(points))).contains(points).long() for part in parts)
        assert (inside == 1).all()


def test_a_tie_is_neither_proved_nor_found():
    """The model keeps the label where logits are equal, by the order of classes alone."""
    model, x = nn.Linear(4, 2, bias=False), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    model.weight.data = torch.tensor([[1.0, 0.5, 1.0, 0.5], [0.0, 0.5, 0.0, 0.5]])
    found = certify.certified_no_counterfactual(model, x, bounds.CategoricalGroups(x, [[0, 1], [2, 3]], 2))
    assert found.radius.item() == 1
    assert found.unknown.all()


def test_what_is_not_right_is_said_to_be_found():
    model, x = network("linear", 12), categories(4)
    labels = (model(x).argmax(1) + torch.tensor([0, 1, 0, 1])) % 3
    found = certify.certified_no_counterfactual(model, x, bounds.CategoricalGroups(x, GROUPS, 0), labels)
    assert found.verified.tolist() == [True, False, True, False]
    assert found.distance.tolist() == [math.inf, 0, math.inf, 0]
    assert found.radius.tolist() == [0] * 4


@pytest.mark.slow
def test_verdicts_are_about_the_same_rows():
    model, x = network("linear", 12), categories(8)
    region = bounds.CategoricalGroups(x.double(), GROUPS, 1)
    verdict = certify.verify(model, x, perturbation=region, method="crown")
    proved = certify.certified_no_counterfactual(model, x, region)
    assert torch.equal(verdict.falsified, proved.found)
    assert not (verdict.verified & ~proved.verified).any()
    assert verdict.verified.any()
    assert torch.equal(verdict.distance, proved.distance)
    with pytest.raises(InvalidInput, match="complete"):
        certify.verify(model, x, perturbation=region, method="complete")


def test_what_lists_no_changes_is_refused():
    model, x = network("linear", 12), categories(2)
    with pytest.raises(InvalidInput, match="CategoricalGroups"):
        certify.certified_no_counterfactual(model, x, bounds.LpBall(x, 0.1))
    with pytest.raises(InvalidInput, match="around x"):
        certify.certified_no_counterfactual(model, x, bounds.CategoricalGroups(x.flip(1), GROUPS, 1))
    with pytest.raises(InvalidInput, match="TwoClasses"):
        attacks.counterfactual(nn.Linear(12, 1), x, torch.zeros(2).long(), bounds.CategoricalGroups(x, GROUPS, 1))
    two = certify.TwoClasses(nn.Linear(12, 1))
    assert len(certify.certified_no_counterfactual(two, x, bounds.CategoricalGroups(x, GROUPS, 1))) == 2
