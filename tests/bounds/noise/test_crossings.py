"""Crossings along random lines: planes in closed form, thin slices, exact tracing as second implementation."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from oracles.linear import LinearClassifier
from scipy import stats
from torch import Tensor, nn

from bounds import (
    InvalidInput,
    InvalidModel,
    UnsupportedLayer,
    nearest_boundary,
    noise_radius,
    random_basis,
    random_crossings,
    traced_crossings,
)
from bounds.noise import boundary_search
from bounds.noise.crossings import _noise
from certify import certified_radius, reference
from certify.attacks import minimal_perturbation

METHODS = [random_crossings, traced_crossings]


def small_network(*, pooling: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    if pooling:
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3)]
    else:
        layers = [nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.LeakyReLU(0.1), nn.Linear(20, 3)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
def test_distance_to_a_plane_along_lines(method, shape: tuple[int, ...]):
    """Distance over |cosine| with the normal, on whichever side; beyond the limit it is censored."""
    features = math.prod(shape)
    model = Halfspace(torch.randn(features, generator=generator(), dtype=torch.float64), bias=0.3)
    x = torch.randn(4, *shape, generator=generator(1), dtype=torch.float64)
    normal = model.linear.weight[1].detach().view(1, *shape).expand_as(x)
    exact, limit = model.distance(x), 8 * model.distance(x)
    found = method(model, x, directions=60, limit=limit, along=normal, batch_size=50, generator=generator(2))
    expected = exact[:, None] / found.cosine
    inside = expected < limit[:, None] * (1 - 1e-9)
    torch.testing.assert_close(found.distance[inside], expected[inside], rtol=1e-9, atol=0)
    assert found.distance[~inside].isinf().all()
    assert torch.equal(found.censored, ~inside)
    assert 0 < found.censored.sum() < found.censored.numel()
    assert torch.equal(found.label, model(x).argmax(1))


def test_a_grid_misses_a_thin_slice_and_tracing_does_not():
    """Another class lives in a slice of width 2e-4 at distance 1, and behind a plane at distance 3."""

    class Slice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = x[:, 0].abs()
            tent = torch.relu(1e-4 - (first - 1).abs()) * 1e5
            return torch.stack([0 * first + 1, tent + torch.relu(first - 2.0)], 1)

    x = torch.zeros(1, 2, dtype=torch.float64)
    options = {"directions": 40, "limit": 300.0, "along": torch.tensor([[1.0, 0.0]], dtype=torch.float64)}
    traced = traced_crossings(Slice(), x, generator=generator(), **options)
    coarse = random_crossings(Slice(), x, generator=generator(), **options)
    torch.testing.assert_close(traced.distance, (1 - 0.9e-4) / traced.cosine, rtol=1e-7, atol=0)
    seen = coarse.distance.isfinite()
    assert seen.sum() > 30
    torch.testing.assert_close(coarse.distance[seen], (3 / coarse.cosine)[seen], rtol=1e-7, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [pytest.param(False, marks=pytest.mark.slow), True])
def test_tracing_and_a_fine_grid_agree(pooling: bool):
    model = small_network(pooling=pooling)
    x = torch.randn(3, *((1, 6, 4) if pooling else (6,)), generator=generator(), dtype=torch.float64)
    options = {"directions": 40, "limit": 30.0, "batch_size": 200}
    traced = traced_crossings(model, x, generator=generator(1), **options)
    marched = random_crossings(model, x, generator=generator(1), grid=2000, **options)
    assert (marched.distance >= traced.distance * (1 - 1e-9)).all()  # a grid may miss, and never invents
    agree = (marched.distance - traced.distance).nan_to_num(0.0).abs() <= 1e-9 * traced.distance
    assert agree.double().mean() > 0.97
    assert traced.distance.isfinite().any()


def test_the_end_of_a_bisection_is_behind_the_boundary():
    model = small_network()
    x = torch.randn(3, 6, generator=generator(), dtype=torch.float64)
    lines = torch.randn(3, 6, generator=generator(5), dtype=torch.float64)
    source = generator(1)
    found = random_crossings(model, x, directions=1, limit=100.0, generator=source, batch_size=6)
    drawn = torch.empty_like(lines).normal_(generator=generator(1))
    unit = drawn / drawn.norm(dim=1, keepdim=True)
    for i in found.distance[:, 0].isfinite().nonzero().flatten():
        ends = x[i] + torch.tensor([[1.0], [-1.0]]).double() * found.distance[i, 0] * unit[i]
        assert (model(ends).argmax(1) != found.label[i]).any()


def test_logits_that_are_no_numbers_are_no_crossing():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.where(x[:, 0].abs() > 1, math.nan, 1.0), torch.zeros_like(x[:, 0])], 1)

    found = random_crossings(Broken(), torch.zeros(1, 2), directions=20, limit=50.0, generator=generator())
    assert found.censored.all()


@pytest.mark.parametrize("batch_size", [2, 7, 400])
def test_the_model_never_sees_more_points_than_a_batch(batch_size: int):
    class Watching(Halfspace):
        def forward(self, points):
            assert len(points) <= batch_size
            return super().forward(points)

    model, x = Watching(torch.ones(3, dtype=torch.float64)), torch.rand(5, 3, dtype=torch.float64) + 0.1
    found = random_crossings(model, x, directions=9, limit=20.0, batch_size=batch_size, grid=30, generator=generator())
    assert found.distance.shape == (5, 9)


def test_noise_radius_takes_one_point_at_a_time():
    """Only lines need two points a batch; an evaluation with batch_size=1 used to end here."""
    model, x = Halfspace(torch.ones(3, dtype=torch.float64)), torch.rand(2, 3, dtype=torch.float64) + 0.1
    settings = {"norm": 2, "epsilon": 0.2, "limit": 9.0, "draws": 20, "grid": 9}
    one, all_ = (
        noise_radius(model, x, **settings, batch_size=size, generator=generator()).radius for size in (1, 1000)
    )
    assert one.isfinite().all()
    assert torch.equal(one, all_)


# ------------------------------------------------------------------------------------------------------ nearest points


@pytest.mark.parametrize("classes", [2, 5])
def test_nearest_boundary_of_an_affine_classifier(classes: int):
    model = LinearClassifier(12, classes, torch.float64, generator())
    x = torch.rand(6, 3, 4, generator=generator(1), dtype=torch.float64)
    found = nearest_boundary(model, x)
    torch.testing.assert_close(found.distance, model.distance(x, 2), rtol=1e-9, atol=0)
    assert (model(x + found.perturbation).argmax(1) == found.other).all()
    assert (found.other != found.label).all()
    torch.testing.assert_close(found.perturbation.flatten(1).norm(dim=1), found.distance)


@pytest.mark.slow
def test_nearest_boundary_within_a_subspace_and_to_a_class():
    """Distance over the length of the projected normal, for each class by itself."""
    model = LinearClassifier(12, 4, torch.float64, generator())
    x = torch.rand(5, 12, generator=generator(1), dtype=torch.float64)
    basis = random_basis(x, 5, 3, generator(2))
    torch.testing.assert_close(basis @ basis.mT, torch.eye(3).double().expand(5, 3, 3))
    gaps, normals = model.gaps(x)
    lengths = (basis @ normals.mT).norm(dim=1)
    every = torch.where(gaps > 0, gaps / lengths, math.inf)
    found = nearest_boundary(model, x, basis=basis)
    torch.testing.assert_close(found.distance, every.amin(1), rtol=1e-9, atol=0)
    inside = (basis.mT @ (basis @ found.perturbation[:, :, None])).squeeze(2)
    torch.testing.assert_close(inside, found.perturbation)
    target = (found.label + 1) % 4
    aimed = nearest_boundary(model, x, target=target)
    exact = (gaps / normals.norm(dim=2)).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(aimed.distance, exact, rtol=1e-9, atol=0)


@pytest.mark.slow
def test_nearest_boundary_of_a_ball_and_of_nothing():
    """A class inside a sphere: from off the centre the nearest point is radial; a constant model has no boundary."""

    class Ball(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros_like(x[:, 0]), x.square().sum(1) - 9], 1)

    x = torch.tensor([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0]], dtype=torch.float64)
    found = nearest_boundary(Ball(), x)
    torch.testing.assert_close(found.distance, torch.tensor([2.0, 1.0]).double(), rtol=1e-6, atol=0)

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0] * 0 + 1, x[:, 0] * 0], 1)

    nothing = nearest_boundary(Constant(), x)
    assert nothing.distance.isinf().all()
    assert not nothing.found.any()
    assert (nothing.perturbation == 0).all()


@pytest.mark.slow
def test_nearest_boundary_of_a_network_that_hides_its_gradients(monkeypatch: pytest.MonkeyPatch):
    """As near as an attack with other steps, and the mutant that follows planes alone is not."""
    model, x, _ = reference.load("pgd", 10)
    label = model(x).argmax(1)
    attacked = minimal_perturbation(model, x, label, norm=2, low=None, high=None, generator=generator()).distance
    found = nearest_boundary(model, x)
    assert (found.distance / attacked).log().mean() < math.log(1.05)
    assert (found.distance < 1.5 * attacked).all()
    proved = certified_radius(model, x[:3], label[:3], norm=2, low=None, high=None).radius
    assert (proved > 0).any()
    assert (found.distance[:3] >= proved).all()
    monkeypatch.setattr(boundary_search, "_descend_twice", lambda *_: None)
    assert (nearest_boundary(model, x).distance / attacked).log().mean() > math.log(2)


@pytest.mark.slow
def test_the_nearest_boundary_within_a_larger_subspace_is_not_farther():
    """Nested subspaces; that of all directions has the boundary where a search without a basis finds it."""
    model, x, _ = reference.load("pgd", 2)
    whole = nearest_boundary(model, x, steps=8)
    basis = random_basis(x, 1, 784, generator())[0]
    within = [nearest_boundary(model, x, basis=basis[:m], steps=8) for m in (50, 784)]
    torch.testing.assert_close(within[1].distance, whole.distance, rtol=0.1, atol=0)
    assert (within[1].distance < within[0].distance).all()
    flat, vectors = within[0].perturbation.flatten(1), basis[:50].flatten(1)
    torch.testing.assert_close(flat @ vectors.T @ vectors, flat, rtol=0, atol=1e-4 * float(flat.abs().max()))


# --------------------------------------------------------------------------------------------------- l_p and Gaussian


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1.0, pytest.param(1.5, marks=pytest.mark.slow), 2.0, math.inf, None])
def test_noise_radius_of_a_halfspace(norm: float | None):
    """The flipped share at a scale is that of one entry of the noise; the interval holds the exact quantile."""
    features, epsilon = 5, 0.2
    weight = torch.zeros(features, dtype=torch.float64)
    weight[0] = 1.0
    model, x = Halfspace(weight, bias=-0.7), torch.zeros(2, features, dtype=torch.float64)
    found = noise_radius(
        model, x, norm=norm, epsilon=epsilon, limit=20.0, draws=4000, alpha=1e-6, generator=generator()
    )
    if norm is None:
        exact = 0.7 * math.sqrt(features) / stats.norm.isf(epsilon)
    else:
        entry = _noise(torch.zeros(400_000, features).double(), norm, generator(9))[:, 0]
        if norm in (2.0, math.inf):  # second source of truth, in closed form
            law = stats.uniform(-1, 2) if norm == math.inf else stats.beta(3, 3, -1, 2)
            assert stats.kstest(entry[:5000].numpy(), law.cdf).pvalue > 1e-6
        exact = 0.7 / float(entry.quantile(1 - epsilon))
    assert (found.lower <= exact).all()
    assert (found.upper >= exact).all()
    assert (found.lower <= found.radius).all()
    assert (found.radius <= found.upper).all()
    assert (found.upper < 1.5 * found.lower).all()
    never = noise_radius(model, x, norm=norm, epsilon=epsilon, limit=0.1, draws=50, generator=generator())
    assert never.radius.isinf().all()


# ---------------------------------------------------------------------------------------------------------------- rest


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_and_no_input(method):
    model, x = Halfspace(torch.ones(3)), torch.rand(2, 3, generator=generator())
    for change, message in (
        ({"directions": 0}, "directions must be an integer of at least 1"),
        ({"limit": -1.0}, "limit must be (finite|a finite number) (and )?above 0"),
        ({"limit": torch.ones(3)}, r"limit must be a number or of shape \(2,\)"),
        ({"along": torch.zeros(2, 3)}, "along must hold directions of a length above 0"),
        ({"along": torch.ones(3)}, "along must be shaped like x"),
        ({"batch_size": 1}, "batch_size must be an integer of at least 2"),
    ):
        with pytest.raises(InvalidInput, match=message):
            method(model, x, **{"directions": 2, "limit": 1.0, **change})
    with pytest.raises(InvalidModel, match="must return logits of shape"):
        method(nn.Flatten(0), x, directions=2, limit=1.0)
    assert method(model, x[:0], directions=2, limit=1.0).distance.shape == (0, 2)
    assert len(nearest_boundary(model, x[:0]).distance) == 0


def test_tracing_refuses_what_is_not_linear_in_pieces():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedLayer, match=r"aten\.tanh\.default is not linear in pieces"):
        traced_crossings(model, torch.zeros(1, 3), directions=1, limit=1.0)


def test_the_model_comes_back_as_it_was_and_tensors_are_made_where_the_input_is():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    x = torch.rand(2, 3, generator=generator())
    before, source = x.clone(), generator()
    with elsewhere():
        crossed = random_crossings(model, x, directions=5, limit=3.0, along=x, generator=source)
        near = nearest_boundary(model, x, basis=x[:1] / x[0].norm(), steps=2)
        radius = noise_radius(model, x, norm=1, epsilon=0.5, limit=3.0, draws=10, grid=3, generator=source)
    assert crossed.distance.device == near.distance.device == radius.radius.device == x.device
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert torch.equal(x, before)
