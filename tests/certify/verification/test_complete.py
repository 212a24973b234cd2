"""Complete verification of labelled inputs: against closed forms, exact distances, and searches that only pretend."""

import math

import pytest
import torch
from oracles.decisions import UNKNOWN, pretend
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.search.problem import SearchResult
from certify import CompleteCertificate, certified_radius, verify
from certify.verification.deadlines import deadline_after, share


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small ReLU network, of which bounds alone leave rows open."""
    made = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(generator=generator(4))
        made[4].bias -= made(torch.rand(500, 3, generator=generator(1), dtype=torch.float64)).mean(0)  # all classes
    return made


@pytest.fixture(scope="module")
def x(network: nn.Module) -> Tensor:
    """Inputs at some distance from the boundary."""
    points = torch.rand(500, 3, generator=generator(1), dtype=torch.float64)
    first, second = network(points).topk(2, 1).values.unbind(1)
    return points[(first - second).argsort()[20:100:20]]


def grid_distance(network: nn.Module, x: Tensor, label: int, radius: float) -> float:
    """The distance of the nearest point of another class on a fine grid of the ball: an upper bound."""
    ticks = torch.linspace(-radius, radius, 61, dtype=torch.float64)
    points = (x + torch.cartesian_prod(ticks, ticks, ticks)).clamp(0, 1)
    others = points[network(points).argmax(1) != label]
    return float((others - x).abs().amax(1).min()) if len(others) else math.inf


@pytest.mark.slow
def test_complete_verdicts_leave_nothing_open_and_agree_with_a_grid(network: nn.Module, x: Tensor):
    labels = network(x).argmax(1)
    decided = []
    for epsilon in (0.02, 0.05, 0.1, 0.2):
        for attack in (True, False):
            found = verify(
                network, x, labels, norm=math.inf, epsilon=epsilon, method="complete", attack=attack, timeout=60
            )
            assert not found.unknown.any()
            for row in range(4):
                nearest = grid_distance(network, x[row : row + 1], int(labels[row]), epsilon)
                assert not (bool(found.verified[row]) and nearest <= epsilon)
            broken = found.falsified
            assert (network(found.adversarial[broken]).argmax(1) != labels[broken]).all()
            assert (found.distance[broken] <= epsilon).all()
            decided += found.decided_by
    assert {"input splits", "neuron splits"} & set(decided)
    boxes = bounds.Box((x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1))
    own = verify(network, x, labels, perturbation=boxes, method="complete", timeout=60)
    ball = verify(network, x, labels, norm=math.inf, epsilon=0.05, method="complete", timeout=60)
    assert torch.equal(own.verified, ball.verified)


@pytest.mark.slow
def test_radii_meet_from_both_sides(network: nn.Module, x: Tensor):
    labels = network(x).argmax(1)
    options = {"norm": math.inf, "method": "complete", "tolerance": 1e-4, "generator": generator()}
    found = certified_radius(network, x, labels, **options)
    assert isinstance(found, CompleteCertificate)
    assert (found.gap <= 1e-4 * found.upper).all()
    assert (found.radius <= found.upper).all()
    assert (network(found.adversarial).argmax(1) != labels).all()
    crown = certified_radius(network, x, labels, norm=math.inf)
    assert (found.radius >= crown.radius * 0.999).all()
    assert (found.radius > crown.radius * 1.01).any()
    wrong = certified_radius(network, x, (labels + 1) % 3, **options)
    assert (wrong.radius == 0).all()
    assert (wrong.upper == 0).all()


@pytest.mark.slow
def test_radii_that_time_ends_say_how_far_apart_they_are(
    network: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
):
    labels = network(x).argmax(1)
    pretend(monkeypatch, UNKNOWN)
    found = certified_radius(network, x, labels, norm=math.inf, method="complete", timeout=5, generator=generator())
    crown = certified_radius(network, x, labels, norm=math.inf)
    assert torch.allclose(found.radius, crown.radius, rtol=1e-3)
    assert (found.gap > 0).any()
    calls = pretend(monkeypatch, SearchResult("proved"))
    found = certified_radius(network, x, labels, norm=math.inf, method="complete", generator=generator())
    assert (found.gap <= 1e-3 * found.upper).all()
    assert 1 <= len(calls) <= 4  # the first question is just below the witness
    assert all(len(call["cases"]) == 2 for call in calls)


@pytest.mark.slow
def test_a_search_that_pretends_decides_no_more_than_it_says(
    network: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
):
    labels = network(x).argmax(1)
    options = {"norm": math.inf, "epsilon": 0.2, "method": "complete", "attack": False}
    for status in ("unknown", "timeout", "counterexample"):
        pretend(monkeypatch, SearchResult(status))
        assert verify(network, x, labels, **options).unknown.any()

    def outside(call: dict) -> SearchResult:
        """Candidates far outside of the ball are moved inside before they are run."""
        checked = call["check"](torch.full((1, 3), 9.0, dtype=torch.float64))
        assert checked is None or bool(bounds.LpBall(x, 0.2, math.inf).hull().lower.le(checked).all(1).any())
        return SearchResult("counterexample" if checked is not None else "unknown", checked)

    pretend(monkeypatch, outside)
    found = verify(network, x, labels, **options)
    assert (found.distance[found.falsified] <= 0.2).all()
    assert (network(found.adversarial[found.falsified]).argmax(1) != labels[found.falsified]).all()


def test_other_sets_and_arguments_are_refused(network: nn.Module, x: Tensor):
    labels = network(x).argmax(1)
    with pytest.raises(bounds.InvalidInput, match="got SparseBall"):
        verify(network, x, labels, norm=0, epsilon=1, method="complete")
    with pytest.raises(bounds.InvalidInput, match=r"use certify\.verify"):
        certified_radius(network, x, labels, perturbation=lambda x, r: bounds.LpBall(x, r, 2), method="complete")
    with pytest.raises(bounds.InvalidInput, match="timeout"):
        verify(network, x, labels, norm=math.inf, epsilon=0.1, method="complete", timeout=-1)


def test_time_that_one_search_leaves_goes_to_the_next(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr("certify.verification.complete.time.monotonic", lambda: clock[0])
    deadline = deadline_after(30.0)
    assert share(deadline, 3) == 110.0
    clock[0] = 102.0
    assert share(deadline, 2) == 116.0
    clock[0] = 131.0
    assert share(deadline, 1) == 131.0
    assert share(deadline_after(None), 1) == math.inf
