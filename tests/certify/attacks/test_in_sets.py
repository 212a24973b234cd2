"""Attacks in sets of the caller's own: exact distances of linear classifiers, and what each set says lies in it."""

import math
import sys
from fractions import Fraction

import pytest
import torch
from oracles.ellipsoids import AXES, Ellipsoid, SearchedEllipsoid, exact_radii
from oracles.halfspace import generator
from oracles.selection import some
from torch import Tensor, nn

import bounds
from bounds import InvalidInput
from certify import attacks
from certify.attacks.fixed_budget.in_sets import conditional_gradient
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.state import FixedBudgetState

COUNT, DIMENSIONS = 20, 5
SIZES = {1: 3.0, 2: 2.0, math.inf: 1.0}  # of balls of one reach, roughly


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(DIMENSIONS, 3).eval()


def deep() -> nn.Sequential:
    """With boundaries among the inputs."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(DIMENSIONS, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)).eval()
    with torch.no_grad():
        model[-1].bias -= model(inputs()).mean(0)
    return model


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(COUNT, DIMENSIONS, generator=generator(), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_linear_classifier_falls_just_beyond_its_exact_radius(dtype: torch.dtype):
    model, x = linear().to(dtype), inputs(dtype)
    label, exact = exact_radii(model.double(), x.double())
    model, share = model.to(dtype), 0.2 if dtype == torch.bfloat16 else 1e-3
    within = SearchedEllipsoid(x.double(), AXES, exact * (1 - share))
    assert attacks.robust_accuracy(model, x, label, perturbation=within, steps=5).robust.all()
    beyond = SearchedEllipsoid(x.double(), AXES, exact * (1 + share))
    found = attacks.robust_accuracy(model, x, label, perturbation=beyond, steps=5, batch_size=7)
    assert found.found.all()
    assert (beyond.size(found.adversarial) <= beyond.radius).all()
    assert torch.equal(found.distance, (found.adversarial.double() - x.double()).abs().amax(1))
    assert math.isnan(found.norm)
    assert found.epsilon.isnan().all()
    with torch.no_grad():
        assert (model(found.adversarial).argmax(1) != label).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([1, 2, math.inf], [math.inf]))
def test_in_a_ball_it_finds_what_attacks_on_the_norm_find(norm: float):
    """All but one row at most, and by no more."""
    model, x = deep(), inputs()
    label = model(x).argmax(1)
    epsilon = 0.1 * SIZES[norm]
    sets = bounds.LpBall(x.double(), epsilon, norm)
    own = attacks.robust_accuracy(model, x, label, perturbation=sets, steps=30, generator=generator(1))
    usual = attacks.robust_accuracy(model, x, label, norm=norm, epsilon=epsilon, steps=30, generator=generator(1))
    assert int((own.robust & ~usual.robust).sum()) <= 1
    assert 0 < int(usual.robust.sum()) < COUNT
    found = own.found
    exact = [max_norm(a, b, norm) for a, b in zip(own.adversarial[found], x[found], strict=True)]
    assert all(size <= Fraction(epsilon) ** power for size, power in exact)
    assert ((own.adversarial >= 0) & (own.adversarial <= 1)).all()


def max_norm(points: Tensor, x: Tensor, norm: float) -> tuple[Fraction, int]:
    """A power of the exact distance of a point, and its exponent."""
    sizes = [abs(Fraction(a) - Fraction(b)) for a, b in zip(points.tolist(), x.tolist(), strict=True)]
    return (max(sizes), 1) if norm == math.inf else (sum(size ** int(norm) for size in sizes), int(norm))


def test_two_changed_entries_are_searched_as_well():
    """A set that is not convex: the exact answer of a linear classifier moves two entries to their better sides."""
    model, x = linear().double(), inputs(torch.float64)
    label = model(x).argmax(1)
    slopes = model.weight - model.weight[label][:, None]  # of each class over the label
    gain = torch.where(slopes > 0, slopes * (1 - x[:, None]), -slopes * x[:, None]).topk(2, dim=2).values.sum(2)
    lead = model(x).gather(1, label[:, None]) - model(x)
    falls = (gain > lead).scatter(1, label[:, None], False).any(1)
    found = attacks.robust_accuracy(model, x, label, perturbation=bounds.SparseBall(x, 2), steps=3)
    assert torch.equal(found.found, falls)
    assert 0 < int(falls.sum()) < COUNT
    assert ((found.adversarial != x).sum(1) <= 2).all()


class Steps(nn.Module):
    """A linear classifier of rounded entries, without slopes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((8 * x).round() / 8)


def test_where_gradients_say_nothing_other_slopes_and_random_points_are_tried():
    model, x = Steps(), inputs()
    label = model(x).argmax(1)
    sets = SearchedEllipsoid(x.double(), AXES, torch.full((COUNT,), 1.0, dtype=torch.float64))
    found = attacks.robust_accuracy(model, x, label, perturbation=sets, steps=4, generator=generator(1))
    assert found.blind.all()
    assert found.found.sum() > COUNT / 2
    assert sets.contains(found.adversarial.double())[found.found].all()


def test_rows_do_not_depend_on_their_batch():
    model, x = deep().double(), inputs(torch.float64)
    label = model(x).argmax(1)
    sets = SearchedEllipsoid(x, AXES, torch.full((COUNT,), 0.5, dtype=torch.float64))
    whole, parts = (
        attacks.robust_accuracy(
            model, x, label, perturbation=sets, steps=4, batch_size=size, generator=generator(1)
        ).found
        for size in (COUNT, 3)
    )
    assert torch.equal(whole, parts)


def test_points_that_rounding_leaves_in_doubt_are_outside():
    """In rational arithmetic, for points next to the surface of each ball."""
    x = inputs(torch.float64)
    for norm in (1, 2, math.inf):
        direction = torch.randn(COUNT, DIMENSIONS, generator=generator(3), dtype=torch.float64)
        length = torch.linalg.vector_norm(direction, norm, dim=1, keepdim=True)
        radius = torch.rand(COUNT, generator=generator(4), dtype=torch.float64) / 4
        ball = bounds.LpBall(x, radius, norm, None, None)
        held = 0
        for shift in range(-8, 9):
            points = x + direction / length * radius[:, None] * (1 + shift * 2.0**-50)
            inside = ball.contains(points)
            held += int(inside.sum())
            for row in inside.nonzero().squeeze(1).tolist():
                size, power = max_norm(points[row], x[row], norm)
                assert size <= Fraction(float(radius[row])) ** power
        assert 0 < held < 17 * COUNT


def test_sides_frozen_entries_and_a_radius_in_another_dtype_are_kept():
    x = torch.full((1, 2), 0.5)
    ball = bounds.LpBall(x, 0.1, high=0.55, frozen_features=torch.tensor([False, True]))
    tried = torch.tensor([[0.55, 0.5], [0.55 + 1e-9, 0.5], [0.55, 0.5 + 1e-9], [0.4, 0.5]], dtype=torch.float64)
    assert [bool(ball.contains(point[None])) for point in tried] == [True, False, False, True]
    assert not bounds.LpBall(x, 0.1).contains(x.double() + float(torch.tensor(0.1)))  # 0.1 in float32 is more
    few = bounds.SparseBall(x, 1, frozen_features=torch.tensor([True, False]))
    tried = torch.tensor([[0.5, 1.0], [0.5, 1.1], [0.4, 0.5]], dtype=torch.float64)
    assert [bool(few.contains(point[None])) for point in tried] == [True, False, False]
    box = bounds.Box(x - 0.25, x + 0.25)
    assert box.contains(x.double() + 0.25).all()
    assert not box.contains(x.double() + 0.2500001).any()


def test_what_an_attack_finds_outside_of_the_set_does_not_count(monkeypatch: pytest.MonkeyPatch):
    model, x = linear(), inputs()
    label, exact = exact_radii(model.double(), x.double())
    sets, far = SearchedEllipsoid(x.double(), AXES, exact * 0.99), SearchedEllipsoid(x.double(), AXES, exact * 1.01)

    def leave(state: FixedBudgetState) -> None:
        state.region = far
        conditional_gradient(state, state.untargeted(margin), 3)
        assert state.outcome.found.any()

    monkeypatch.setattr(sys.modules[attacks.robust_accuracy.__module__], "in_sets", lambda steps: {"leave": leave})
    assert attacks.robust_accuracy(model.float(), x, label, perturbation=sets).robust.all()
    assert attacks.robust_accuracy(model, x, label, perturbation=far).found.any()


def test_mistakes_are_named():
    model, x = linear(), inputs()
    label = model(x).argmax(1)
    radius = torch.ones(COUNT, dtype=torch.float64)
    sets = SearchedEllipsoid(x.double(), AXES, radius)
    for options, message in (
        ({"perturbation": sets, "norm": 2}, "norm must be left out with perturbation="),
        ({"perturbation": sets, "epsilon": 0.1}, "epsilon must be left out with perturbation="),
        ({"perturbation": Ellipsoid(x.double(), AXES, radius)}, "Ellipsoid must define contains"),
        ({"perturbation": SearchedEllipsoid(x.double() + 3, AXES, radius)}, "that of row 0 does not"),
        ({"perturbation": 3}, "got int"),
        ({"norm": 2}, "epsilon must be given"),
        ({"epsilon": 0.1}, "norm must be given"),
    ):
        with pytest.raises(InvalidInput, match=message):
            attacks.robust_accuracy(model, x, label, **options)
