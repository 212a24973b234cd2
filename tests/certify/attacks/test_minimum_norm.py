"""All minimum-norm attacks: exact on linear classifiers, near the exact distance of tiny networks, honest otherwise."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import problem
from oracles.piecewise import exact_distance
from oracles.selection import crossed, some
from oracles.sparse_distances import within_box
from torch import Tensor, nn

from bounds import InvalidInput
from certify import attacks, certified_radius, reference

SERVED: dict[Callable, tuple[float, ...]] = {
    getattr(attacks, name): norms for name, norms in attacks.MINIMUM_NORM.items()
}
PAIRS = [(attack, norm) for attack, norms in SERVED.items() for norm in norms]
BY_GRADIENTS = [(attack, norm) for attack, norm in PAIRS if attack is not attacks.boundary_walk and norm > 0]
NORMS = (0, 1, 2, math.inf)
best_of_all = partial(attacks.minimal_perturbation, method="best")
BEST = [(best_of_all, norm) for norm in NORMS]
OFTEN = [(attack, norms[0]) for attack, norms in SERVED.items()]  # each attack in one norm
OFTEN += [(attacks.minimal_perturbation, math.inf)]


def named(value: object) -> str:
    return "best" if value is best_of_all else getattr(value, "__name__", str(value))


def short(attack: Callable, steps: int) -> dict[str, int]:
    """Fewer steps for the attacks that descend or walk; the others stop by themselves or need what they take."""
    return {"steps": steps} if attack in (attacks.minimal_perturbation, attacks.fast_adaptive_boundary) else {}


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.slow
@crossed((("attack", "norm"), BY_GRADIENTS), ("classes", [2, 3, 10]), ids=named)
def test_distance_of_a_linear_classifier(attack: Callable, norm: float, classes: int):
    model, x, y = problem((3, 5), classes, 4)
    exact = model.distance(x, norm)
    for low, high in ((None, None), (-10.0, torch.full((3, 5), 10.0, dtype=x.dtype))):
        witness = attack(model, x, y, norm=norm, low=low, high=high, generator=generator(), **short(attack, 30))
        assert witness.found.all()
        assert (witness.distance >= exact * (1 - 1e-9)).all()
        if attack is not attacks.sparsefool or classes == 2:  # the class that it aims at is the nearest in l_2
            assert (witness.distance <= exact * (1 + 1e-4)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "norm"), some([pair for pair in PAIRS if pair[0] is not attacks.boundary_walk], OFTEN), ids=named
)
def test_distance_within_a_tight_box(attack: Callable, norm: float):
    """Catches steps that ignore the box: clipped afterwards, they do not meet the boundary, or meet it far away."""
    model, x, _ = problem((3, 5), 2, 7)
    low, high = 0.35, 0.65
    x = x.clamp(low, high)
    y = model(x).argmax(1)
    exact = within_box(model, x, low, high, norm) if norm <= 1 else model.distance_in_box(x, norm, low, high)
    reachable = exact.isfinite()
    assert reachable.sum() >= 5
    witness = attack(model, x, y, norm=norm, low=low, high=high, generator=generator())
    assert torch.equal(witness.found, reachable)
    assert ((witness.adversarial >= low) & (witness.adversarial <= high)).all()
    if norm == 0:
        assert torch.equal(witness.distance, exact)
    else:
        assert (witness.distance >= exact * (1 - 1e-6))[reachable].all()
        # The tanh of Carlini and Wagner reaches the sides of the box only in the limit.
        slack = 1e-2 if attack is attacks.carlini_wagner else 1e-4
        assert (witness.distance <= exact * (1 + slack))[reachable].all()


@pytest.mark.slow
@crossed(("attack", [attacks.minimal_perturbation, attacks.sparsefool]), ("classes", [2, 3, 10]), ids=named)
def test_number_of_entries_of_a_linear_classifier(attack: Callable, classes: int):
    model, x, _ = problem((3, 5), classes, 7)
    x = x.clamp(0.4, 0.6)
    y = model(x).argmax(1)
    exact = within_box(model, x, 0.4, 0.6, 0)
    witness = attack(model, x, y, norm=0, low=0.4, high=0.6, generator=generator())
    assert (exact > 1).any()
    if attack is attacks.sparsefool and classes > 2:  # the class that it aims at is the nearest in l_2
        assert (witness.distance >= exact).all()
    else:
        assert torch.equal(witness.distance, exact)


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([1, 2, math.inf], [2]))
def test_labels_alone_lead_near_the_boundary(norm: float):
    """Catches a normal that is estimated with the wrong sign: no step would ever come nearer than the first point."""
    model, x, y = problem((3, 5), 3, 7)
    witness = attacks.boundary_walk(model, x, y, norm=norm, generator=generator())
    ratio = witness.distance / model.distance(x, norm)
    assert (ratio >= 1 - 1e-9).all()
    assert ratio.median() < 1.02
    assert witness.backward_passes == 0


def tiny_networks(count: int, hidden: int) -> list[tuple[nn.Sequential, Tensor, Tensor]]:
    """Networks of four inputs and one hidden layer, with three inputs each."""
    found = []
    for seed in range(count):
        source = generator(seed)
        model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3)).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn(weight.shape, generator=source, dtype=torch.float64))
            model[0].bias.sub_(model[0].weight.sum(1) / 2)  # kinks near the centre of the box
            x = torch.rand(3, 4, generator=source, dtype=torch.float64)
            found.append((model, x, model(x).argmax(1)))
    return found


def ratios_to_exact(norm: float, count: int, hidden: int, steps: int) -> Tensor:
    ratios = []
    for model, x, y in tiny_networks(count, hidden):
        exact = torch.tensor([exact_distance(model, row, norm) for row in x], dtype=torch.float64)
        witness = attacks.minimal_perturbation(
            model, x, y, norm=norm, method="best", steps=steps, restarts=3, generator=generator()
        )
        assert torch.equal(witness.found, exact.isfinite())
        ratios.append((witness.distance / exact)[witness.found])
    return torch.cat(ratios)


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([1, 2, math.inf], [2]))
def test_tiny_networks_against_every_activation_pattern(norm: float):
    """No witness is nearer than exact; the portfolio is within 1% of it almost always."""
    ratios = ratios_to_exact(norm, 2, 5, 20)
    assert len(ratios) >= 3
    assert (ratios >= 1 - 1e-6).all()
    assert (ratios <= 1.01).double().mean() >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("norm", [pytest.param(1, marks=pytest.mark.combinations), 2, math.inf])
def test_many_tiny_networks_against_every_activation_pattern(norm: float):
    ratios = ratios_to_exact(norm, 6, 6, 30)
    assert len(ratios) >= 12
    assert (ratios >= 1 - 1e-6).all()
    assert (ratios <= 1.01).double().mean() >= 0.9


# --------------------------------------------------------------------------------------------------------- honesty


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "norm"), PAIRS, ids=named)
def test_witnesses_on_a_trained_network(attack: Callable, norm: float):
    """Misclassified, in the box, frozen where asked, at the distance stated, and never nearer than what is proved."""
    model, x, y = reference.load("plain", 6)
    y = torch.where(torch.arange(6) == 2, (y + 1) % 10, y)  # one row that is wrong as it is
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[:, :, :9] = True
    options = {"steps": 10} if attack is not attacks.superdeepfool else {"rounds": 2}
    witness = attack(model, x, y, norm=norm, frozen_features=mask, generator=generator(), **options)
    moved = witness.adversarial != x
    assert not (moved & mask).any()
    assert (witness.distance[2], witness.winner[2], bool(witness.found[2])) == (0, "", True)
    assert witness.found.double().mean() > 0.8
    hit = witness.found
    assert (model(witness.adversarial).argmax(1) != y)[hit].all()
    assert ((witness.adversarial >= 0) & (witness.adversarial <= 1)).all()
    stated = torch.linalg.vector_norm((witness.adversarial.double() - x.double()).flatten(1), norm, dim=1)
    assert ((stated <= witness.distance) & (witness.distance <= stated * (1 + 1e-12)))[hit].all()  # rounded up
    assert witness.distance[~hit].isinf().all()
    assert torch.equal(witness.adversarial[~hit], x[~hit])
    if norm >= 2:
        assert (certified_radius(model, x, y, norm=norm).radius <= witness.distance).all()


class Constant(nn.Module):
    """Always class 1, with a gradient that points somewhere."""

    def forward(self, x: Tensor) -> Tensor:
        small = x.flatten(1).sum(1, keepdim=True).tanh()
        return torch.cat([small, small + 10, small * 0], 1)


@pytest.mark.parametrize(("attack", "norm"), some([*PAIRS, *BEST], OFTEN), ids=named)
@pytest.mark.slow
def test_nothing_found_is_reported_as_nothing_found(attack: Callable, norm: float):
    x = torch.rand(3, 6, generator=generator())
    options = {"rounds": 2} if attack is attacks.superdeepfool else {"steps": 4}
    witness = attack(Constant(), x, torch.ones(3, dtype=torch.long), norm=norm, generator=generator(), **options)
    assert not witness.found.any()
    assert witness.distance.isinf().all()
    assert torch.equal(witness.adversarial, x)
    assert witness.winner == ("", "", "")


class Labels(nn.Module):
    """Votes without any gradient, as of a model that returns classes only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.model(x).argmax(1), 3).to(x.dtype)


@pytest.mark.slow
def test_a_model_without_gradients_is_attacked_by_its_labels():
    model, x, y = problem((7,), 3, 5)
    witness = attacks.boundary_walk(Labels(model), x, y, norm=2, steps=10, probes=30, generator=generator())
    assert witness.found.all()
    assert (witness.distance / model.distance(x, 2)).median() < 1.1


class Counting(nn.Module):
    """Counts the rows that go through a model, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forward_rows, self.backward_rows = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forward_rows += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


@pytest.mark.parametrize(("attack", "norm"), some([*PAIRS, *BEST], OFTEN), ids=named)
def test_passes_are_counted(attack: Callable, norm: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("certify.attacks.common.passes.probe", lambda *_, **__: 3)
    model, x, y = problem((3, 5), 3, 4)
    counting = Counting(model)
    options = {"rounds": 2} if attack is attacks.superdeepfool else {"steps": 4}
    witness = attack(counting, x, y, norm=norm, generator=generator(), **options)
    assert counting.forward_rows == 4 * witness.queries == witness.queries_per_row.sum()
    assert counting.backward_rows == 4 * witness.backward_passes == witness.backward_passes_per_row.sum()


def test_passes_are_counted_for_each_row(monkeypatch: pytest.MonkeyPatch):
    """Rows that are wrong as they are, and batches of which one is done sooner: each row has its own number."""
    monkeypatch.setattr("certify.attacks.common.passes.probe", lambda *_, **__: 2)
    model, x, y = problem((3, 5), 2, 4)
    bent = nn.Sequential(model, _Bent())
    y[1] = 1 - y[1]
    bent = Counting(bent)
    witness = attacks.deepfool(bent, x, y, norm=2, batch_size=1, generator=generator())
    assert bent.forward_rows == witness.queries_per_row.sum()
    assert bent.backward_rows == witness.backward_passes_per_row.sum()
    assert (witness.queries_per_row[1], witness.backward_passes_per_row[1]) == (2, 0)
    assert len(set(witness.queries_per_row.tolist())) > 2
    assert witness.queries == witness.queries_per_row.max()
    assert witness.backward_passes == witness.backward_passes_per_row.max()


class _Bent(nn.Module):
    """Margins so steep that linearisations fall short of the boundary, the more so the farther it is."""

    def forward(self, logits: Tensor) -> Tensor:
        return (logits - logits.flip(1)).sinh()


@pytest.mark.slow
def test_the_best_of_a_portfolio_is_at_least_as_near_and_names_its_winner():
    model, x, y = reference.load("pgd", 3)
    options = {"norm": 1, "steps": 10, "restarts": 2}
    single = attacks.minimal_perturbation(model, x, y, **options, generator=generator())
    best = attacks.minimal_perturbation(model, x, y, method="best", **options, generator=generator())
    assert (best.distance <= single.distance).all()
    assert set(single.winner) <= {"descents", ""}
    searched = best.distance > 0
    assert all((name != "") == bool(flag) for name, flag in zip(best.winner, searched, strict=True))
    assert list(best.to_dataframe()["winner"]) == list(best.winner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": 3}, "norm must be 0, 1, 2 or math.inf, got 3"),
        ({"norm": True}, "norm must be 0, 1, 2 or math.inf, got True"),
        ({"method": "nonsense"}, "method must be one of descents, best, got 'nonsense'"),
        ({"frozen_features": torch.zeros(7)}, "frozen_features must be a boolean tensor, got torch.float32"),
        ({"frozen_features": torch.zeros(6, dtype=torch.bool)}, r"must broadcast to one input, of shape \(7,\), got"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    model, x, y = problem((7,), 3, 1)
    with pytest.raises(InvalidInput, match=message):
        attacks.minimal_perturbation(model, **{"x": x, "labels": y, "norm": 2, **change})


@pytest.mark.parametrize(("attack", "norm"), PAIRS, ids=named)
def test_every_attack_refuses_norms_that_it_does_not_serve(attack: Callable, norm: float):
    model, x, y = problem((7,), 3, 1)
    for other in {0, 1, 2, 3, math.inf} - set(SERVED[attack]):
        with pytest.raises(InvalidInput, match="norm must be"):
            attack(model, x, y, norm=other)
    assert len(attack(model, x[:0], y[:0], norm=norm)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("toy_mnist_2_20", marks=pytest.mark.combinations), "marabou_mnist_2x10"])
def test_witnesses_against_exact_radii_of_published_networks(published: Callable, shared_data: Path, name: str):
    """Radii by mixed-integer programs: no witness is nearer, and 95% are within 1%."""
    stored = json.loads((shared_data / "networks" / "verdicts" / f"exact_radius_{name}.json").read_text())
    rows = [row for row in stored["rows"] if 0 < row["radius"] < stored["cap"]][:60]
    model, x, _ = published(name, 1 + max(row["idx"] for row in rows))
    x, y = x[[row["idx"] for row in rows]], torch.tensor([row["label"] for row in rows])
    exact = torch.tensor([row["radius"] for row in rows], dtype=torch.float64)
    witness = attacks.minimal_perturbation(model, x, y, norm=math.inf, method="best", generator=generator())
    ratio = witness.distance / exact
    assert (ratio >= 1 - 1e-3).all()  # radii are rounded, and logits are of single precision
    assert ratio.log().mean().exp() <= 1.002
    assert (ratio <= 1.01).double().mean() >= 0.95
