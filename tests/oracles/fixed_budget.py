"""Every attack at a fixed budget with few steps, and what holds for each of their results."""

import math

import torch
from oracles.halfspace import generator
from oracles.linear import LinearClassifier
from torch import Tensor, nn

from certify import attacks
from certify.attacks.fixed_budget import driver as budget

ALL = {name: getattr(attacks, name) for name in attacks.FIXED_BUDGET if name != "autoattack"}  # tested on its own
SINGLE = {name: attack for name, attack in ALL.items() if name != "robust_accuracy"}
DETERMINISTIC = {"fgsm", "iterative_fgsm"}
FEW = {"iterative_fgsm": {"steps": 8}, "pgd": {"steps": 8}, "apgd": {"steps": 8}, "targeted_apgd": {"steps": 5}}
FEW |= {"square": {"queries": 60}, "robust_accuracy": {"steps": 3}, "fgsm": {}, "random_fgsm": {}}


def attack(name: str, *arguments, few: bool = True, **options):
    """One of all attacks, with few steps."""
    source = {} if name in DETERMINISTIC else {"generator": generator()}
    return ALL[name](*arguments, **source, **(FEW[name] if few else {}), **options)


def l1_distance_in_box(model: LinearClassifier, x: Tensor, low: float, high: float) -> Tensor:
    """Exact, (N,): the steepest entries go first, each to the side of the box, the last one as far as needed."""
    gaps, normals = model.gaps(x)
    flat = x.flatten(1).double()[:, None]
    room = torch.where(normals > 0, flat - low, high - flat)
    slopes, order = normals.abs().sort(2, descending=True)
    room = room.gather(2, order)
    gained = (slopes * room).cumsum(2)
    before, left = gained - slopes * room, gaps[:, :, None]
    needed = ((left - before) / slopes.clamp(min=1e-300)).clamp(min=0)
    spent = torch.minimum(room, needed).sum(2)
    return torch.where(gained[:, :, -1] >= gaps, spent, math.inf).where(gaps > 0, math.inf).amin(1)


def exact_distance(model: LinearClassifier, x: Tensor, norm: float, box: tuple[float | None, float | None]) -> Tensor:
    if box[0] is None:
        return model.distance(x, norm)
    return l1_distance_in_box(model, x, *box) if norm == 1 else model.distance_in_box(x, norm, *box)


def check(result: budget.AttackedAccuracy, model: nn.Module, x: Tensor, y: Tensor, low=-math.inf, high=math.inf):
    """Everything that holds for each result, whatever the attack."""
    fell = result.found & ~result.misclassified
    assert torch.equal(result.robust, ~result.found & (result.label == y))
    assert (model(result.adversarial).argmax(1) != y)[result.found].all()
    assert ((result.adversarial >= low) & (result.adversarial <= high)).all()
    stated = torch.linalg.vector_norm((result.adversarial.double() - x.double()).flatten(1), result.norm, dim=1)
    assert ((stated <= result.distance) & (result.distance <= stated * (1 + 1e-13)))[fell].all()  # rounded up
    assert (result.distance <= result.epsilon)[fell].all()
    assert result.distance[~result.found].isinf().all()
    assert (result.distance == 0)[result.misclassified].all()
    assert torch.equal(result.adversarial[~fell], x[~fell])
    assert (result.adversarial != x).flatten(1).any(1)[fell].all()
    assert [bool(name) for name in result.attack] == fell.tolist()
