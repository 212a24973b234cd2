"""Backward passes that are left out: intervals stay what they are with all of them, up to rounding."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.linear.ladder import refinements, rungs
from bounds.linear.network import Network
from bounds.linear.settled import SettledEntries
from bounds.sets.balls import LpBall


class Attends(nn.Module):
    """Softmax of products, a rectifier behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.key(x) @ x.transpose(1, 2)).softmax(-1)
        result: Tensor = self.head((weights @ self.value(x)).flatten(1)).relu()
        return result


def pooled() -> nn.Module:
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2, 1), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


def dense() -> nn.Module:
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def pooled_twice() -> nn.Module:
    layers = [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.MaxPool2d(2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))


class Multiplies(nn.Module):
    """A rectifier right behind a product of two linear functions, which the intervals of both do not settle."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head((self.one(x) * self.other(x)).relu())
        return result


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attends, (3, 3)),
    "pooling": (pooled, (1, 6, 6)),
    "pooling twice": (pooled_twice, (1, 10, 10)),
    "dense": (dense, (4,)),
    "product": (Multiplies, (4,)),
}


@cache
def captured(kind: str) -> bounds.Graph:
    make, shape = NETWORKS[kind]
    torch.manual_seed(0)
    model, x = make(), torch.zeros(1, *shape)
    model(x)  # which gives all layers their sizes
    return bounds.capture(model.double().requires_grad_(False), x.double())


def refined(kind: str, norm: float, sound: str) -> tuple[list[dict[str, Tensor]], int]:
    """Intervals of all nodes by each rung up to CROWN, and how many passes there were."""
    x = torch.randn(2, *NETWORKS[kind][1], generator=generator(1), dtype=torch.float64)
    network = Network(captured(kind), LpBall(x, 0.3, norm=norm, low=None, high=None), sound=sound)
    found, passes = [], 0
    for part in refinements(network, rungs(network, "crown")):
        ends = part.refine().intervals.items()
        found.append({name: torch.stack([interval.lower, interval.upper]) for name, interval in ends})
        passes += len(part.backward.widest)
    return found, passes


@pytest.mark.parametrize("sound", ["real", "rounding"])
@pytest.mark.parametrize("norm", [2.0, torch.inf])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.slow
def test_intervals_are_those_of_all_passes(kind: str, norm: float, sound: str, monkeypatch: pytest.MonkeyPatch):
    found, passes = refined(kind, norm, sound)
    monkeypatch.setattr(SettledEntries, "of", lambda self, name: False)
    monkeypatch.setattr(SettledEntries, "unmoved", lambda self, before: set())
    every, most = refined(kind, norm, sound)
    assert passes < most or kind == "dense"
    for ours, theirs in zip(found, every, strict=True):
        for name, ends in ours.items():
            width = (theirs[name][1] - theirs[name][0]).amax()
            assert ((ends - theirs[name]).abs() <= 1e-9 * (width + theirs[name].abs())).all(), name


def test_nodes_behind_a_rectifier_are_bounded_with_both_kinds_of_planes():
    found, _ = refined("dense", torch.inf, "real")
    loose, parallel, tight = found
    assert torch.equal(parallel["linear"], tight["linear"])
    assert not torch.equal(parallel["linear_2"], tight["linear_2"])
    assert (tight["linear_2"][1] <= parallel["linear_2"][1]).all()
    assert (parallel["linear_2"][1] <= loose["linear_2"][1]).all()
