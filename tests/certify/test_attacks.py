"""The minimum-norm attack: exact on linear classifiers, honest about what it did not find."""

import math

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import LinearClassifier
from torch import Tensor, nn

from bounds import InvalidInput
from certify import certified_radius, reference
from certify.attacks import minimal, minimal_perturbation
from certify.attacks.geometry import project, steepest_ascent

NORMS = [2, math.inf]
SHAPES = [(7,), (3, 5), (2, 5, 7)]


def problem(shape: tuple[int, ...], classes: int, batch: int, dtype: torch.dtype = torch.float64):
    """A linear classifier with inputs well inside the unit box, each labelled as it is predicted."""
    source = generator(classes + batch + len(shape))
    model = LinearClassifier(math.prod(shape), classes, dtype, source)
    x = (0.5 + 0.1 * torch.randn(batch, *shape, generator=source, dtype=torch.float64)).clamp(0.2, 0.8).to(dtype)
    return model, x, model(x).argmax(1)


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_distance_of_a_linear_classifier(shape: tuple[int, ...], batch: int, classes: int, norm: float):
    """Catches a step that is not steepest in its norm, a wrong class aimed at, a bisection that stops early."""
    model, x, y = problem(shape, classes, batch)
    witness = minimal_perturbation(model, x, y, norm=norm, low=None, high=None, generator=generator())
    exact = model.distance(x, norm)
    assert witness.found.all()
    assert (witness.distance >= exact * (1 - 1e-9)).all()
    assert (witness.distance <= exact * (1 + 1e-4)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 10])
def test_distance_in_float32(norm: float, classes: int):
    model, x, y = problem((2, 5, 7), classes, 7, torch.float32)
    witness = minimal_perturbation(model, x, y, norm=norm, low=None, high=None)
    torch.testing.assert_close(witness.distance, model.distance(x, norm), rtol=1e-4, atol=0)
    assert witness.distance.dtype == torch.float64
    assert witness.adversarial.dtype == torch.float32


@pytest.mark.parametrize("norm", NORMS)
def test_distance_within_a_tight_box(norm: float):
    """The box cuts the straight way off: the nearest point is a clipped step (bisection on its length)."""
    model, x, y = problem((3, 5), 3, 7)
    low, high = 0.35, 0.65
    x = x.clamp(low, high)
    y = model(x).argmax(1)
    exact = model.distance_in_box(x, norm, low, high)
    assert (exact > 1.001 * model.distance(x, norm)).any()
    witness = minimal_perturbation(model, x, y, norm=norm, low=low, high=high)
    reachable = exact.isfinite()
    assert reachable.sum() >= 5
    assert torch.equal(witness.found, reachable)
    assert ((witness.adversarial >= low) & (witness.adversarial <= high)).all()
    assert (witness.distance >= exact * (1 - 1e-6))[reachable].all()
    assert (witness.distance <= exact * (1 + 1e-2))[reachable].all()


@pytest.mark.parametrize("norm", NORMS)
def test_small_networks_against_a_dense_grid(norm: float):
    """In the plane, every point of a grid is a candidate: the attack finds what is there, nearly always the nearest."""
    torch.manual_seed(1)
    axis = torch.linspace(0, 1, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    ratios = []
    while len(ratios) < 4:
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)).double()
        with torch.no_grad():
            model[0].weight.mul_(6)
            model[2].bias.zero_()
            x = torch.rand(12, 2, dtype=torch.float64, generator=generator(3))
            y, classes = model(x).argmax(1), model(grid).argmax(1)
        if classes.bincount().max() > 0.8 * len(grid):
            continue  # next to nothing to find
        gaps = torch.cdist(x, grid, p=norm).masked_fill(classes[None] == y[:, None], math.inf).amin(1)
        witness = minimal_perturbation(model, x, y, norm=norm, generator=generator())
        assert witness.found.all()
        ratios.append(witness.distance / gaps)
    assert (torch.cat(ratios) <= 1.02).double().mean() > 0.9
    assert (torch.cat(ratios) <= 1.3).all()


def test_projection_is_an_argmin():
    """Inside stays put, outside lands on the sphere, and a second time changes nothing."""
    delta = torch.randn(50, 3, 5, generator=generator(), dtype=torch.float64)
    radius = torch.rand(50, generator=generator(1), dtype=torch.float64) * 4
    for norm in NORMS:
        once = project(delta, radius, norm)
        sizes, before = once.flatten(1).norm(norm, dim=1), delta.flatten(1).norm(norm, dim=1)
        torch.testing.assert_close(sizes, torch.minimum(before, radius))
        assert torch.equal(once[before <= radius], delta[before <= radius])
        torch.testing.assert_close(project(once, radius, norm), once)


def test_steepest_ascent_has_unit_length_and_reaches_the_dual_norm():
    gradient = torch.randn(20, 3, 5, generator=generator(), dtype=torch.float64)
    gradient[0] = 0
    for norm, dual in ((2, 2), (math.inf, 1)):
        direction = steepest_ascent(gradient, norm)
        gain = (gradient * direction).flatten(1).sum(1)
        torch.testing.assert_close(gain, gradient.flatten(1).norm(dual, dim=1))
        assert (direction.flatten(1).norm(norm, dim=1) <= 1 + 1e-12).all()
        assert (direction[0] == 0).all()


# --------------------------------------------------------------------------------------------------------- honesty


def test_misclassified_inputs_have_distance_zero():
    model, x, y = problem((3, 5), 3, 7)
    y[2] = (y[2] + 1) % 3
    witness = minimal_perturbation(model, x, y, norm=2)
    assert witness.distance[2] == 0
    assert witness.found[2]
    assert torch.equal(witness.adversarial[2], x[2])
    assert (witness.distance[[0, 1, 3]] > 0).all()


class Constant(nn.Module):
    """Always class 1, with a gradient that points somewhere."""

    def forward(self, x: Tensor) -> Tensor:
        small = x.flatten(1).sum(1, keepdim=True).tanh()
        return torch.cat([small, small + 10, small * 0], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_found_is_reported_as_nothing_found(norm: float):
    x = torch.rand(4, 6, generator=generator())
    witness = minimal_perturbation(Constant(), x, torch.ones(4, dtype=torch.long), norm=norm)
    assert not witness.found.any()
    assert witness.distance.isinf().all()
    assert torch.equal(witness.adversarial, x)


class Steps(nn.Module):
    """Gradients are zero everywhere: only what needs none can find anything."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x.flatten(1).mean(1, keepdim=True) * 4).round()
        return torch.cat([level, 4 - level], 1) + 0 * x.flatten(1)[:, :1]


def test_without_gradients_other_inputs_are_tried():
    x = torch.stack([torch.full((6,), value) for value in (0.1, 0.2, 0.8, 0.9)])
    model = Steps()
    witness = minimal_perturbation(model, x, model(x).argmax(1), norm=2, generator=generator())
    assert witness.found.all()
    assert (model(witness.adversarial).argmax(1) != model(x).argmax(1)).all()


class Sharp(nn.Module):
    """Logits whose gradient is infinite at the inputs."""

    def forward(self, x: Tensor) -> Tensor:
        root = (x.flatten(1).sum(1, keepdim=True) - 2).abs().sqrt()
        return torch.cat([root, 0.7 - root], 1)


def test_infinite_gradients_do_no_harm():
    x = torch.full((2, 4), 0.5)
    witness = minimal_perturbation(Sharp(), x, torch.ones(2, dtype=torch.long), norm=2, generator=generator())
    assert witness.distance.isnan().sum() == 0


@pytest.mark.parametrize("spoil", ["outside the box", "not misclassified"])
def test_every_witness_is_checked_again(spoil: str, monkeypatch: pytest.MonkeyPatch):
    """The mutant: a search that returns points it never verified. The re-check must not believe them."""
    model, x, y = problem((3, 5), 3, 7)
    original = minimal._bisect

    def spoiled(search, near, far, *rest, **options):
        original(search, near, far, *rest, **options)
        search.best = search.best + 10 if spoil == "outside the box" else search.x.clone()
        search.distance = torch.full_like(search.distance, 1e-9)

    monkeypatch.setattr(minimal, "_bisect", spoiled)
    witness = minimal_perturbation(model, x, y, norm=2)
    assert not witness.found.any()
    assert witness.distance.isinf().all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", reference.NETWORKS)
def test_witnesses_on_trained_networks(name: str, norm: float):
    """Misclassified, in the box, at the distance stated, and never nearer than what is proved."""
    model, x, y = reference.load(name, 20)
    witness = minimal_perturbation(model, x, y, norm=norm, generator=generator())
    assert witness.found.all()
    assert (model(witness.adversarial).argmax(1) != y).all()
    assert ((witness.adversarial >= 0) & (witness.adversarial <= 1)).all()
    stated = (witness.adversarial.double() - x.double()).flatten(1).norm(norm, dim=1)
    assert torch.equal(witness.distance, stated)
    certificate = certified_radius(model, x, y, norm=norm)
    assert (certificate.radius <= witness.distance).all()


# ------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("norm", NORMS)
def test_scaling_the_input_scales_the_distance(norm: float):
    model, x, y = problem((7,), 3, 7)
    near = minimal_perturbation(model, x, y, norm=norm)
    scaled = nn.Sequential(_Divide(), model)
    far = minimal_perturbation(scaled, 8 * x, y, norm=norm, high=8.0)
    torch.testing.assert_close(far.distance, 8 * near.distance, rtol=1e-4, atol=0)


class _Divide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 8


def test_a_box_per_feature_freezes_what_it_pins():
    model, x, y = problem((7,), 3, 1)
    low, high = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    low[2] = high[2] = x[0, 2]
    witness = minimal_perturbation(model, x, y, norm=2, low=low, high=high)
    assert witness.found.all()
    assert (witness.adversarial[:, 2] == x[:, 2]).all()
    free = minimal_perturbation(model, x, y, norm=2)
    assert (witness.distance >= free.distance * (1 - 1e-6)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_in_double_precision_holds_for_inputs_in_single(norm: float):
    """Sides that float32 cannot hold are rounded inward: no witness leaves the box as it was stated."""
    model, x, y = problem((7,), 3, 4, torch.float32)
    low, high = torch.full((7,), 0.1, dtype=torch.float64), torch.full((7,), 0.9, dtype=torch.float64)
    witness = minimal_perturbation(model, x, y, norm=norm, low=low, high=high)
    assert witness.found.all()
    assert witness.adversarial.dtype == torch.float32
    assert ((witness.adversarial.double() >= low) & (witness.adversarial.double() <= high)).all()


def test_the_same_generator_gives_the_same_witness():
    model, x, y = reference.load("pgd", 10)
    options = {"norm": 2, "steps": 10, "restarts": 2}
    one, two = (minimal_perturbation(model, x, y, **options, generator=generator(5)) for _ in range(2))
    assert torch.equal(one.adversarial, two.adversarial)


def test_more_steps_and_restarts_do_not_hurt_much_and_are_counted():
    model, x, y = reference.load("plain", 10)
    few = minimal_perturbation(model, x, y, norm=2, steps=10, restarts=1)
    many = minimal_perturbation(model, x, y, norm=2, steps=100, restarts=3)
    assert many.queries > few.queries > 10
    assert many.distance.mean() <= few.distance.mean()


def test_the_model_and_the_inputs_come_back_as_they_were():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    model[0].weight.requires_grad_(False)
    x = torch.rand(3, 4, generator=generator())
    before = x.clone()
    minimal_perturbation(model, x, torch.zeros(3, dtype=torch.long), norm=2, steps=3)
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(module.training for module in model.modules())
    assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True]
    assert all(weight.grad is None for weight in model.parameters())


def test_no_input_gives_an_empty_witness():
    model, x, y = problem((7,), 3, 2)
    witness = minimal_perturbation(model, x[:0], y[:0], norm=2)
    assert len(witness) == 0
    assert witness.adversarial.shape == (0, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": 3}, "norm must be 2 or math.inf, got 3"),
        ({"x": torch.full((1, 7), 2.0, dtype=torch.float64)}, "x must lie in the declared range"),
        ({"x": torch.full((1, 7), math.nan, dtype=torch.float64)}, "row 0 holds NaN"),
        ({"labels": torch.tensor([3])}, "labels must be class indices from 0 to 2, got 3"),
        ({"labels": torch.tensor([[1, 0, 0]])}, "pass class indices, not one-hot rows"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"restarts": 0}, "restarts must be an integer of at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    model, x, y = problem((7,), 3, 1)
    arguments = {"x": x, "labels": y, "norm": 2, **change}
    with pytest.raises(InvalidInput, match=message):
        minimal_perturbation(model, **arguments)
