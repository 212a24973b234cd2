"""CLEVER against networks whose Lipschitz constants and distances are known, and against what makes it wrong."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

import bounds
from bounds import InvalidInput, InvalidModel, StandIn, clever, clever_curve, clever_second_order, local_lipschitz

NORMS = (1, 1.5, 2, 3, math.inf)


def dual(norm: float) -> float:
    return math.inf if norm == 1 else 1.0 if norm == math.inf else norm / (norm - 1)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Against(nn.Module):
    """A classifier of two classes: a function against 0."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x.flatten(1))
        return torch.stack([value, torch.zeros_like(value)], 1)


def quadratic(scale: Tensor, start: float, slope: Tensor | None = None) -> Against:
    linear = torch.zeros_like(scale) if slope is None else slope
    return Against(lambda x: start + x @ linear + 0.5 * (x.square() * scale).sum(1))


def largest_gradient(scale: Tensor, slope: Tensor, radius: float) -> float:
    """Max |Ax + w| over |x|_2 <= radius for diagonal A, by the secular equation: x = A w / (t - A^2) on the sphere."""
    squares = scale.square()
    low, high = float(squares.max()), float(squares.max() + (scale * slope).norm() / radius + 1)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (scale * slope / (middle - squares)).norm() > radius else (low, middle)
    x = scale * slope / (high - squares)
    return float((scale * x + slope).norm())


# -------------------------------------------------------------------------------------------------------- known truths


@pytest.mark.parametrize("norm", NORMS)
def test_o1_of_a_linear_network_scores_are_distances(norm):
    layer = nn.Linear(15, 4).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 15, generator=source(1)))
    x = torch.randn(3, 15, generator=source(2), dtype=torch.float64)
    found = clever(layer, x, norm=norm, radius=50.0, num_batches=12, batch_size=5, generator=source())
    weight, logits = layer.weight.detach(), layer(x).detach()
    for row in range(3):
        for target, score in zip(found.targets[row], found.target_score[row], strict=True):
            gap = weight[found.label[row]] - weight[target]
            exact = (logits[row, found.label[row]] - logits[row, target]) / torch.linalg.vector_norm(gap, dual(norm))
            assert score == pytest.approx(float(exact), rel=1e-6)
    assert set(found.status) == {"atom"}
    assert (found.distinct == 1).all()
    assert torch.equal(found.score, found.target_score.amin(1))


def test_o2_an_isotropic_bowl_has_shape_1_and_its_distance_is_exact_by_the_second_order():
    start, bend, radius = 2.0, 1.5, 3.0
    model = quadratic(torch.full((6,), -bend, dtype=torch.float64), start)
    x = torch.zeros(1, 6, dtype=torch.float64)
    first = clever(model, x, norm=2, radius=radius, num_batches=60, batch_size=100, generator=source())
    assert float(first.lipschitz) == pytest.approx(bend * radius, rel=1e-3)
    assert float(first.score) == pytest.approx(start / (bend * radius), rel=1e-3)
    assert float(first.shape) < 1.5
    second = clever_second_order(model, x, radius=radius, num_batches=5, batch_size=8, generator=source())
    assert float(second.score) == pytest.approx(math.sqrt(2 * start / bend), rel=1e-10)
    assert second.status == ("atom",)


def test_o2_without_curvature_the_second_order_is_the_slope_at_the_input():
    slope = torch.tensor([3.0, 4.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0], dtype=torch.float64)  # convex: nothing bends down
    x = torch.zeros(1, 2, dtype=torch.float64)
    found = clever_second_order(quadratic(scale, 2.0, slope), x, radius=9.0, num_batches=4, batch_size=4)
    assert float(found.score) == pytest.approx(2 / 5)
    assert found.status == ("atom",)


@pytest.mark.parametrize("dimensions", [3, *(pytest.param(d, marks=pytest.mark.slow) for d in (10, 50, 200, 784))])
def test_o3_f2_in_high_dimension_the_end_point_is_not_identified(dimensions):
    """The true constant is 10 in every dimension; sampled values fall with it, and no test of fit notices."""
    scale = torch.ones(dimensions, dtype=torch.float64)
    scale[0] = 10.0
    x = torch.zeros(1, dimensions, dtype=torch.float64)
    for seed in range(2):
        found = clever(
            quadratic(scale, 5.0), x, norm=2, radius=1.0, num_batches=100, batch_size=256, generator=source(seed)
        )
        assert float(found.largest) <= 10 * (1 + 1e-12)
        assert float(found.lipschitz) >= float(found.largest)
        assert float(found.ascended) == pytest.approx(10, rel=1e-3)
        if dimensions == 3:
            assert found.status == ("fitted",)
            assert float(found.lipschitz) == pytest.approx(10, rel=1.5e-2)
            assert float(found.lower) <= 10 <= float(found.upper)
        if dimensions >= 50:
            assert found.status == ("end point not identified",)
            assert float(found.p_value) > 0.005
        assert float(found.lipschitz) < {3: 10.1, 10: 12, 50: 7.5, 200: 3.7, 784: 2.2}[dimensions]


def test_o3_the_constant_of_a_quadratic_is_met_by_ascent():
    scale = torch.tensor([4.0, -2.0, 1.0, 0.5], dtype=torch.float64)
    slope = torch.tensor([0.3, 1.0, -2.0, 0.1], dtype=torch.float64)
    exact = largest_gradient(scale, slope, 0.7)
    x = torch.zeros(1, 4, dtype=torch.float64)
    found = local_lipschitz(quadratic(scale, 9.0, slope), x, norm=2, radius=0.7, steps=200, generator=source())
    assert float(found) == pytest.approx(exact, rel=1e-4)
    assert float(found) <= exact * (1 + 1e-12)


def test_o4_a_thin_region_is_flagged():
    """No masking is needed: the cap that holds all of the slope has probability 6e-13."""
    direction = torch.zeros(784, dtype=torch.float64)
    direction[0] = 1.0
    model = Against(lambda x: 1.0 - 200 * torch.relu(x @ direction - 0.25))
    x = torch.zeros(1, 784, dtype=torch.float64)
    found = clever(model, x, norm=2, radius=1.0, num_batches=10, batch_size=64, generator=source())
    assert found.status == ("masked",)
    assert found.score.isnan().all()
    visible = Against(lambda x: 1.0 + 0.01 * (x @ direction) - 200 * torch.relu(x @ direction - 0.25))
    found = clever(visible, x, norm=2, radius=1.0, num_batches=10, batch_size=64, generator=source())
    assert float(found.score) == 1.0 > 0.255  # far above the true distance, and it says so
    assert found.capped.all()
    assert found.status == ("capped",)


def pattern_constant(first: nn.Linear, second: Tensor, norm: float, radius: float) -> float:
    """The exact local constant of ``second @ relu(first(x))`` over an l-infinity ball around 0, cell by cell."""
    weight, bias = first.weight.detach().numpy(), first.bias.detach().numpy()
    best = 0.0
    for signs in itertools.product((1.0, -1.0), repeat=len(weight)):
        side = np.array(signs)
        # The cell meets the open ball if some x has a positive margin from all its faces.
        matrix = np.hstack([-side[:, None] * weight, np.ones((len(weight), 1))])
        limits = [(-radius, radius)] * weight.shape[1] + [(None, 1.0)]
        solved = linprog([0.0] * weight.shape[1] + [-1.0], matrix, side * bias, bounds=limits)
        if solved.status == 0 and -solved.fun > 1e-9:
            gradient = (second.numpy() * (side > 0)) @ weight
            best = max(best, float(np.linalg.norm(gradient, dual(norm))))
    return best


def test_o5_of_rectifiers_the_maxima_have_atoms_and_stay_below_the_exact_constant():
    first = nn.Linear(3, 7).double()
    with torch.no_grad():
        first.weight.copy_(torch.randn(7, 3, generator=source(5)))
        first.bias.copy_(0.4 * torch.randn(7, generator=source(6)))
    second = torch.randn(7, generator=source(7), dtype=torch.float64)
    exact = pattern_constant(first, second, math.inf, 1.0)
    model = Against(lambda x: 30.0 + torch.relu(first(x)) @ second)
    found = clever(
        model, torch.zeros(1, 3, dtype=torch.float64), norm=math.inf, radius=1.0, num_batches=60, batch_size=100
    )
    assert found.status == ("capped",)  # of a margin far off; below it lies
    assert found.distinct.item() < 30
    assert found.location.isnan().all()
    assert found.maxima.max() <= exact * (1 + 1e-12)
    assert float(found.lipschitz) == pytest.approx(exact)  # in three dimensions every cell is met


@pytest.mark.parametrize("name", ["softmax", "staircase"])
def test_o7_hidden_gradients_are_reported_as_masked(name):
    layer = nn.Linear(8, 3).double()
    with torch.no_grad():
        layer.weight.copy_(60 * torch.randn(3, 8, generator=source(1)))
    stairs = StandIn(Rounded())
    x = 2 + torch.rand(2, 8, generator=source(3), dtype=torch.float64)
    model = nn.Sequential(layer, nn.Softmax(1)) if name == "softmax" else nn.Sequential(Rounded(), layer)
    found = clever(model, x, norm=2, radius=0.05, num_batches=10, batch_size=20, generator=source())
    assert set(found.status) == {"masked"}
    assert found.score.isnan().all()
    assert not found.capped.any()
    shown = layer if name == "softmax" else nn.Sequential(stairs, layer)
    open_one = clever(shown, x, norm=2, radius=50.0, num_batches=10, batch_size=20, generator=source())
    assert "masked" not in open_one.status
    assert (open_one.score > 0).all()


class Rounded(nn.Module):
    """Inputs on a grid, with derivatives of 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(4).round().div(4)


def test_a_stand_in_has_the_values_of_the_transformation_and_the_derivatives_of_the_other():
    x = torch.randn(5, 3, dtype=torch.float64, generator=source(), requires_grad=True)
    plain = StandIn(Rounded())
    assert torch.equal(plain(x), Rounded()(x))
    assert torch.equal(torch.autograd.grad(plain(x).sum(), x)[0], torch.ones_like(x))
    (bent,) = torch.autograd.grad(StandIn(Rounded(), nn.Tanh())(x).sum(), x)
    torch.testing.assert_close(bent, 1 - x.detach().tanh().square(), rtol=1e-12, atol=0)


def test_of_many_inputs_behind_a_transformation_the_score_is_that_of_the_network():
    """BPDA: behind a quantiser and a linear network the score is the distance from the quantised input."""
    layer = nn.Linear(6, 3).double()
    x = torch.randn(4, 6, generator=source(4), dtype=torch.float64)
    seen = clever(nn.Sequential(StandIn(Rounded()), layer), x, norm=2, radius=99.0, num_batches=4, batch_size=4)
    true = clever(layer, Rounded()(x), norm=2, radius=99.0, num_batches=4, batch_size=4)
    torch.testing.assert_close(seen.score, true.score, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------------------ laws


def smooth_network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()


@pytest.mark.slow
@pytest.mark.parametrize("norm", [pytest.param(1.5, marks=pytest.mark.slow), 2, math.inf])
def test_scores_depend_on_the_generator_and_not_on_the_size_of_chunks(norm):
    model, x = smooth_network(), torch.rand(2, 3, 2, 2, generator=source(1), dtype=torch.float64)
    settings = {"norm": norm, "radius": 0.4, "num_batches": 6, "batch_size": 60, "low": 0.0, "high": 1.0}
    one = clever(model, x, **settings, generator=source(7))
    for chunk_size in (1, 17, 60, 1000):
        if chunk_size == 1 and norm != 2:
            continue
        other = clever(model, x, **settings, chunk_size=chunk_size, generator=source(7))
        torch.testing.assert_close(other.maxima, one.maxima, rtol=1e-12, atol=0)
        assert other.status == one.status
    assert not torch.equal(clever(model, x, **settings, generator=source(8)).maxima, one.maxima)
    first = clever(model, x[:1], **settings, generator=source(7))
    torch.testing.assert_close(first.maxima, one.maxima[:1], rtol=1e-12, atol=0)


def test_batches_are_fresh():
    """The mutant draws every batch from one pool, with replacement: its maxima repeat, ours do not."""
    model, x = smooth_network(), torch.zeros(1, 12, dtype=torch.float64)
    found = clever(model, x, norm=2, radius=1.0, num_batches=50, batch_size=64, generator=source())
    assert (found.distinct == 50).all()
    points = torch.rand(1, 640, generator=source(1), dtype=torch.float64)
    pooled = points[0][torch.randint(640, (50, 64), generator=source(2))].amax(1)
    assert len(pooled.unique()) < 30


def test_memory_is_bounded_by_the_chunk():
    rows: list[int] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return torch.stack([x.sum(1), x.square().sum(1)], 1)

    clever(Watched(), torch.zeros(3, 5), norm=2, radius=1.0, num_batches=4, batch_size=1000, chunk_size=37, resamples=0)
    assert max(rows) == 37
    assert sum(rows) >= 3 * 4000


@pytest.mark.slow
def test_a_curve_over_radii_shows_the_estimate_grow_and_the_cap_with_it():
    x = torch.zeros(1, 12, dtype=torch.float64)
    found = clever_curve(
        smooth_network(), x, norm=2, radii=(0.01, 0.3, 1.0, 3.0), generator=source(), num_batches=20, batch_size=50
    )
    assert [float(each.radius) for each in found] == [0.01, 0.3, 1.0, 3.0]
    largest = [float(each.target_lipschitz.max()) for each in found]
    assert largest[0] < largest[2]
    assert found[0].capped.all()
    assert len({each.seed for each in found}) == 1


@pytest.mark.slow
def test_targets_are_looked_at_alone_or_together():
    model, x = smooth_network(), torch.rand(3, 12, generator=source(2), dtype=torch.float64)
    settings = {"norm": 2, "radius": 1.0, "num_batches": 8, "batch_size": 32}
    every = clever(model, x, **settings, generator=source())
    chosen = every.targets[:, 1]
    alone = clever(model, x, **settings, targets=chosen, generator=source())
    pair = clever(model, x, **settings, targets=every.targets[:, :2], generator=source())
    torch.testing.assert_close(alone.target_lipschitz[:, 0], every.target_lipschitz[:, 1])
    torch.testing.assert_close(pair.target_lipschitz, every.target_lipschitz[:, :2])
    assert every.to_dataframe().shape[0] == 9
    assert every.to_dataframe().is_nearest.sum() == 3
    with pytest.raises(InvalidInput, match="differ from the predicted class"):
        clever(model, x, **settings, targets=every.label)
    with pytest.raises(InvalidInput, match=r"targets must have shape \(3,\)"):
        clever(model, x, **settings, targets=chosen[:2])


def test_the_model_comes_back_as_it_was_and_no_input_is_needed():
    model = smooth_network().train()
    x = torch.rand(2, 12, generator=source(2), dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        found = clever(model, x, norm=2, radius=0.1, num_batches=3, batch_size=4)
    assert model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert x.requires_grad
    assert x.grad is None
    assert found.score.dtype == torch.float64
    assert len(clever(model, x[:0], norm=2, radius=0.1, num_batches=3, batch_size=4)) == 0
    with pytest.raises(InvalidModel, match="shape"):
        clever(nn.Flatten(0), x, norm=2, radius=0.1)


@pytest.mark.parametrize(
    ("argument", "value"), [("radius", 0.0), ("radius", math.inf), ("num_batches", 1), ("batch_size", 0), ("norm", 0.5)]
)
def test_bad_arguments_are_refused(argument, value):
    settings = {"norm": 2, "radius": 0.1} | {argument: value}
    with pytest.raises(InvalidInput, match=argument):
        clever(smooth_network(), torch.zeros(1, 12, dtype=torch.float64), **settings)


def test_the_box_is_respected():
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return torch.stack([x.sum(1), x.square().sum(1)], 1)

    x = torch.tensor([[0.0, 1.0, 0.5, 0.05]])
    for norm in (1, 2, math.inf):
        clever(Watched(), x, norm=norm, radius=0.7, num_batches=4, batch_size=100, low=0.0, high=1.0)
        moved = torch.linalg.vector_norm(torch.cat(seen) - x, norm, dim=1)
        assert (torch.cat(seen) >= 0).all()
        assert (torch.cat(seen) <= 1).all()
        assert 0.6 < moved.max() <= 0.7 * (1 + 1e-5)
        seen.clear()


def test_second_order_of_a_quadratic_finds_the_least_eigenvalue():
    scale = torch.tensor([2.0, 1.0, -3.0, 0.5, -1.0], dtype=torch.float64)
    x = torch.full((1, 5), 0.1, dtype=torch.float64)
    found = clever_second_order(quadratic(scale, 4.0), x, radius=2.0, num_batches=3, batch_size=4, iterations=5)
    assert float(found.lipschitz) == pytest.approx(3.0)
    margin = 4.0 + 0.5 * 0.01 * float(scale.sum())
    slope = 0.1 * float(scale.norm())
    assert float(found.score) == pytest.approx((-slope + math.sqrt(slope**2 + 6 * margin)) / 3)
    few = clever_second_order(quadratic(scale, 4.0), x, radius=2.0, num_batches=3, batch_size=4, iterations=2)
    assert float(few.lipschitz) <= 3.0 * (1 + 1e-12)  # Ritz values lie inside


def test_rectifiers_have_no_curvature_to_be_seen():
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    found = clever_second_order(model, torch.rand(1, 4), radius=0.5, num_batches=3, batch_size=4)
    assert found.status == ("masked",)


def test_statuses_are_sentences():
    from bounds.estimates.result import STATUSES

    assert list(STATUSES) == ["masked", "end point not identified", "capped", "atom", "fitted"]
    assert bounds.clever is clever
