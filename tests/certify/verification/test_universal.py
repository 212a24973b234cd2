"""Accuracy under one perturbation for all inputs, against enumeration, rational arithmetic and attacks."""

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from scipy.stats import beta
from torch import Tensor, nn

import certify
from bounds import InvalidInput, LpBall
from bounds.linear.forms import LinearForms
from certify import attacks
from certify.verification.shared.branch_and_bound import Forms, most_below, proved_most
from certify.verification.shared.moves import in_moves


def linear_problem(features: int, count: int, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Linear(features, 3).double()
    x = torch.rand(count, features, generator=generator(seed)).double()
    return model, x, model(x).argmax(1)


def fewest_right(model: nn.Module, x: Tensor, y: Tensor, moves: Tensor) -> int:
    """Inputs that are right under the worst of some perturbations, by trying each."""
    points = (x + moves[:, None]).clamp(0, 1)
    right = model(points.flatten(0, 1)).argmax(1).view(len(moves), len(x)) == y
    return int(right.sum(1).min())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_linear_models_against_a_grid_of_perturbations(seed: int, norm: float):
    model, x, y = linear_problem(2, 12, seed)
    epsilon = 0.15
    found = certify.certified_universal_accuracy(model, x, y, norm=norm, epsilon=epsilon)
    axis = torch.linspace(-epsilon, epsilon, 121).double()
    moves = torch.cartesian_prod(axis, axis)
    moves = moves[torch.linalg.vector_norm(moves, norm, dim=1) <= epsilon]
    tried = fewest_right(model, x, y, moves)
    assert int(found.alone.sum()) <= found.count <= tried
    assert tried - found.count <= 1  # the grid, and lines around the clipping
    assert found.complete


def test_where_no_input_is_right_nothing_is_left():
    model, x, y = linear_problem(2, 3, 0)
    found = certify.certified_universal_accuracy(model, x, (y + 1) % 3, norm=2, epsilon=0.1)
    assert (found.count, found.accuracy, found.accuracy_alone, found.complete) == (0, 0.0, 0.0, True)


def test_a_certificate_becomes_a_table():
    """The parts of its proof have no column."""
    model, x, y = linear_problem(2, 12, 0)
    found = certify.certified_universal_accuracy(model, x, y, norm=2, epsilon=0.15)
    table = found.to_dataframe()
    assert len(found.leaves) > 0
    assert "leaves" not in table
    assert table.right.tolist() == found.right.tolist()
    assert set(table.changed) == {found.changed}


def test_one_perturbation_does_less_than_one_for_each_input():
    """Two inputs on either side of the boundary: each falls, and no one move takes both."""
    model = nn.Linear(1, 2).double()
    model.weight.data, model.bias.data = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([-0.5, 0.5]).double()
    x, y = torch.tensor([[0.45], [0.55]]).double(), torch.tensor([1, 0])
    found = certify.certified_universal_accuracy(model, x, y, norm=math.inf, epsilon=0.1)
    assert found.alone.tolist() == [False, False]
    assert (found.count, found.accuracy, found.accuracy_alone) == (1, 0.5, 0.0)


@pytest.mark.slow
def test_a_patch_spares_inputs_that_need_different_entries():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    model[3].bias.data -= model(torch.full((1, 1, 4, 4), 0.5).double())[0].detach()
    x = torch.rand(14, 1, 4, 4, generator=generator()).double()
    y = model(x).argmax(1)
    frozen = torch.ones(1, 4, 4, dtype=torch.bool)
    frozen[:, :2, :2] = False
    found = certify.certified_universal_accuracy(
        model, x, y, norm=math.inf, epsilon=0.3, frozen_features=frozen, timeout=4.0
    )
    attacked = attacks.universal_perturbation(
        model, x, y, norm=math.inf, epsilon=0.3, frozen_features=frozen, steps=30, generator=generator()
    )
    moved = (x + attacked.perturbation).clamp(0, 1)
    left = int((model(moved).argmax(1) == y).sum())
    assert int(found.alone.sum()) < found.count <= left


def forms(seed: int, inputs: int = 7, entries: int = 3, norm: float = math.inf) -> Forms:
    draw = np.random.default_rng(seed)
    owner = np.sort(draw.integers(0, inputs, 2 * inputs))
    slope, constant = draw.normal(size=(len(owner), entries)), draw.normal(size=len(owner)) + 0.5
    return Forms(slope, constant, np.unique(owner, return_inverse=True)[1], norm, 0.7)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_branch_and_bound_against_samples(seed: int, norm: float):
    some = forms(seed, norm=norm)
    leaves, complete = most_below(some, 30.0)
    draw = np.random.default_rng(1)
    moves = draw.uniform(-0.7, 0.7, size=(20_000, 3))
    moves[:4000] = np.sign(moves[:4000]) * 0.7
    length = np.linalg.norm(moves, norm, axis=1, keepdims=True)
    moves = np.where(length > 0.7, moves * 0.7 / length, moves)
    below = moves @ some.slope.T + some.constant <= 0
    fallen = np.stack([below[:, some.owner == place].any(1) for place in np.unique(some.owner)], 1).sum(1).max()
    assert complete
    assert fallen <= max(leaf.most for leaf in leaves) <= fallen + 1


@pytest.mark.parametrize("seed", range(6))
def test_leaves_cover_all_perturbations_once(seed: int):
    some = forms(seed, inputs=5)
    leaves, _ = most_below(some, 30.0)
    ways = [[None, *np.flatnonzero(some.owner == place).tolist()] for place in range(some.inputs)]
    for way in itertools.product(*ways):  # the function by which each input falls, if it does
        there = {place for place, by in enumerate(way) if by is not None}
        inside = [leaf for leaf in leaves if leaf.falling <= there and not leaf.excluded & {*way}]
        assert len(inside) == 1


@pytest.mark.parametrize("seed", range(10))
def test_multipliers_prove_in_rational_arithmetic(seed: int):
    some = forms(seed)
    draw = np.random.default_rng(seed)
    epsilon = Fraction(some.epsilon)
    for leaf in most_below(some, 30.0)[0]:
        for weights in (leaf.multipliers, draw.exponential(size=len(some.constant))):
            weight = [Fraction(0) if j in leaf.excluded else Fraction(w) for j, w in enumerate(weights)]
            slope = [[Fraction(entry) for entry in row] for row in some.slope]
            constant = [Fraction(entry) for entry in some.constant]
            most = [c + epsilon * sum(map(abs, row)) for c, row in zip(constant, slope, strict=True)]
            total = sum(w * m for w, m in zip(weight, most, strict=True))
            for place in range(some.inputs):
                free = [j for j in np.flatnonzero(some.owner == place) if j not in leaf.excluded]
                gains = [1 - weight[j] * most[j] for j in free] + [0] * (place not in leaf.falling)
                total += max(gains)
            steep = [sum(w * row[i] for w, row in zip(weight, slope, strict=True)) for i in range(len(slope[0]))]
            total -= sum(w * c for w, c in zip(weight, constant, strict=True)) - epsilon * sum(map(abs, steep))
            exact = max(0, math.floor(total))
            assert exact <= proved_most(some, leaf.falling, leaf.excluded, weights) <= exact + 1


def test_lines_around_the_ramp_hold_on_a_grid():
    """Entries at, near and far from both sides of the box, in functions of both signs."""
    center = torch.tensor([[0.0, 0.02, 0.08, 0.5, 0.93, 0.99, 1.0]]).double()
    ball = LpBall(center, 0.1)
    slope = torch.randn(1, 40, 7, generator=generator()).double()
    form = LinearForms(slope, torch.randn(1, 40, generator=generator()).double())
    moved = in_moves(form, ball, 0.1, torch.zeros(1, 40, dtype=torch.bool))
    moves = 0.2 * torch.rand(2000, 7, generator=generator(3)).double() - 0.1
    moves[:200] = 0.1 * moves[:200].sign()
    values = torch.einsum("rd,sd->sr", slope[0], (center + moves).clamp(0, 1)) + form.constant
    below = torch.einsum("rd,sd->sr", moved.slope[0], moves) + moved.constant
    assert (below <= values).all()
    inside = torch.tensor([False, False, False, True, False, False, False])
    torch.testing.assert_close(moved.slope[0, :, inside], slope[0, :, inside], atol=0, rtol=0)


@pytest.mark.slow
def test_the_bound_on_the_population_has_its_level():
    """Inputs of one feature around a boundary: one perturbation takes one side, and the truth is known."""
    model = nn.Linear(1, 2).double()
    model.weight.data, model.bias.data = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([-0.5, 0.5]).double()
    truth, wrong = 1 - 0.1, 0  # uniform on [0, 1]: a move of 0.1 takes those within 0.1 on one side
    for seed in range(20):
        x = torch.rand(50, 1, generator=generator(seed)).double()
        found = certify.certified_universal_accuracy(model, x, (x[:, 0] < 0.5).long(), norm=math.inf, epsilon=0.1)
        wrong += found.lower(0.2) > truth
        assert found.lower(0.05) <= found.lower(0.2) <= found.accuracy
    assert wrong <= 9  # at most 4 expected, and 3 standard errors


def test_the_bound_on_the_population_by_its_formula():
    certificate = certify.UniversalCertificate(
        label=torch.zeros(400).long(),
        right=torch.ones(400, dtype=torch.bool),
        alone=torch.arange(400) < 100,
        changed=40,
        epsilon=0.1,
        norm=math.inf,
        method="crown",
        leaves=(),
        complete=True,
    )
    assert certificate.lower(0.1) == pytest.approx(0.9 - math.sqrt(math.log(20) / 800), abs=1e-12)
    single = dataclasses.replace(certificate, changed=300)  # no gain: the exact bound on single proofs is larger
    assert single.lower(0.1) == pytest.approx(float(beta.ppf(0.05, 100, 301)), abs=1e-9)


def test_bad_arguments_are_refused():
    model, x, y = linear_problem(2, 3, 0)
    with pytest.raises(InvalidInput, match="norm must be"):
        certify.certified_universal_accuracy(model, x, y, norm=3, epsilon=0.1)
    with pytest.raises(InvalidInput, match="epsilon"):
        certify.certified_universal_accuracy(model, x, y, norm=2, epsilon=0.0)
    with pytest.raises(InvalidInput, match="y must hold"):
        certify.certified_universal_accuracy(model, x, None, norm=2, epsilon=0.1)
    with pytest.raises(InvalidInput, match="at least one input"):
        certify.certified_universal_accuracy(model, x[:0], y[:0], norm=2, epsilon=0.1)
