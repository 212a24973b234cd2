"""The minimum-norm attack: exact on linear classifiers, honest about what it did not find."""

import math

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import problem
from oracles.selection import crossed, some
from torch import Tensor, nn

from bounds.sets.norms import project, steepest_ascent
from certify import certified_radius, reference
from certify.attacks import minimal_perturbation
from certify.attacks.common import passes
from certify.attacks.common.formats import Format
from certify.attacks.common.streams import Streams
from certify.attacks.search import polish
from certify.attacks.search.state import MinimumNormState

NORMS = [2, math.inf]
SHAPES = [(7,), (3, 5), (2, 5, 7)]


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.slow
@crossed(("norm", NORMS), ("classes", [2, 10]), ("batch", [1, 7]), ("shape", SHAPES))
def test_distance_of_a_linear_classifier(shape: tuple[int, ...], batch: int, classes: int, norm: float):
    """Catches a step that is not steepest in its norm, a wrong class aimed at, a bisection that stops early."""
    model, x, y = problem(shape, classes, batch)
    box = (None, None) if batch == 1 else (-10.0, torch.full(shape, 10.0, dtype=x.dtype))
    witness = minimal_perturbation(model, x, y, norm=norm, low=box[0], high=box[1], generator=generator())
    exact = model.distance(x, norm)
    assert witness.found.all()
    assert (witness.distance >= exact * (1 - 1e-9)).all()
    assert (witness.distance <= exact * (1 + 1e-4)).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 10])
def test_distance_in_float32(norm: float, classes: int):
    model, x, y = problem((2, 5, 7), classes, 7, torch.float32)
    witness = minimal_perturbation(model, x, y, norm=norm, low=None, high=None, generator=generator())
    torch.testing.assert_close(witness.distance, model.distance(x, norm), rtol=1e-4, atol=0)
    assert witness.distance.dtype == torch.float64
    assert witness.adversarial.dtype == torch.float32


@pytest.mark.parametrize("norm", some(NORMS, [math.inf]))
def test_distance_within_a_tight_box(norm: float):
    """The box cuts the straight way off: the nearest point is a clipped step (bisection on its length)."""
    model, x, y = problem((3, 5), 2, 7)
    low, high = 0.35, 0.65
    x = x.clamp(low, high)
    y = model(x).argmax(1)
    exact = model.distance_in_box(x, norm, low, high)
    assert (exact > 1.001 * model.distance(x, norm)).any()
    witness = minimal_perturbation(model, x, y, norm=norm, low=low, high=high, generator=generator())
    reachable = exact.isfinite()
    assert reachable.sum() >= 5
    assert torch.equal(witness.found, reachable)
    assert ((witness.adversarial >= low) & (witness.adversarial <= high)).all()
    assert (witness.distance >= exact * (1 - 1e-6))[reachable].all()
    assert (witness.distance <= exact * (1 + 1e-4))[reachable].all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", some(NORMS, [2]))
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


class Thresholds(nn.Module):
    """A pixel counts from 0.3 on, and next to nothing below, as in networks trained against l_infinity attacks."""

    def __init__(self, features: int, source: torch.Generator) -> None:
        super().__init__()
        self.weight = 0.5 + torch.rand(features, generator=source, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        total = (((x - 0.3).clamp(min=0) + 0.02 * x) * self.weight).sum(1) - 0.2
        return torch.stack([-total, total], 1)


@pytest.mark.slow
def test_sparse_minima_behind_vanishing_gradients_are_found():
    """Catches an l_2 descent along the gradient alone: it raises all 49 pixels and ends three times as far."""
    ratios = []
    for seed in range(2):
        model = Thresholds(49, generator(seed))
        x = torch.zeros(3, 49, dtype=torch.float64)
        one_pixel = ((0.2 + 0.3 * model.weight) / (1.02 * model.weight)).min()
        witness = minimal_perturbation(model, x, torch.zeros(3, dtype=torch.long), norm=2, generator=generator())
        ratios.append(witness.distance / one_pixel)
    assert (torch.cat(ratios) <= 1.5).all()
    assert torch.cat(ratios).median() <= 1.02


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


@pytest.mark.parametrize("scale", [1.0, 1e-300])
def test_steepest_ascent_has_unit_length_and_reaches_the_dual_norm(scale: float):
    """At 1e-300, catches a length whose squares underflow: a saturated model would seem to have no gradient."""
    gradient = torch.randn(20, 3, 5, generator=generator(), dtype=torch.float64)
    gradient[0] = 0
    for norm, dual in ((2, 2), (math.inf, 1)):
        direction = steepest_ascent(gradient * scale, norm)
        gain = (gradient * direction).flatten(1).sum(1)
        torch.testing.assert_close(gain, gradient.flatten(1).norm(dual, dim=1))
        assert (direction.flatten(1).norm(norm, dim=1) <= 1 + 1e-12).all()
        assert (direction[0] == 0).all()


# --------------------------------------------------------------------------------------------------------- honesty


@pytest.mark.slow
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


class Counting(nn.Module):
    """Counts the rows that go through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.model(x)


def test_queries_are_the_forward_passes_of_each_input(monkeypatch: pytest.MonkeyPatch):
    """Catches a pass that is not counted, and a search for inputs that are misclassified anyway."""
    monkeypatch.setattr(passes, "probe", lambda *_, **__: 3)
    model, x, y = problem((3, 5), 3, 6)
    counting = Counting(model)
    witness = minimal_perturbation(counting, x, y, norm=2, steps=7, restarts=2, batch_size=2)
    assert counting.rows == 6 * witness.queries
    counting.rows = 0
    wrong = minimal_perturbation(counting, x, (y + 1) % 3, norm=2, steps=7, restarts=2)
    assert counting.rows == 6 * wrong.queries == 12
    assert (wrong.distance == 0).all()


def test_two_classes_leave_one_to_aim_at():
    """Catches a later restart that, with all other classes tried, aims at the label itself."""
    for label in (0, 1):
        labels = torch.full((4,), label)
        model, x, _ = problem((7,), 2, 4)
        open_side = torch.full_like(x, math.inf)
        state = MinimumNormState(
            model, x, labels, 2.0, -open_side, open_side, 2, Streams.of(generator(), len(x), x.device), Format(x.dtype)
        )
        target, _, _ = state.nearest_boundary(x, x, torch.ones(4, 2, dtype=torch.bool))
        assert (target == 1 - label).all()


class Coarse(nn.Module):
    """Logits whose last bits depend on the size of the batch, as those of matrix products do."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1) - 2 + 3e-7 * len(x)
        return torch.stack([5 - total, 5 + total], 1)


@pytest.mark.parametrize("norm", some(NORMS, [math.inf]))
def test_witnesses_stand_rounding_that_changes_with_the_batch(norm: float):
    """Catches a search that stops a last bit behind the boundary: the re-check finds it on the other side."""
    x = torch.full((8, 6), 0.8)
    x[:5] = 0.2  # misclassified: the search sees 3 rows, the re-check 8, which lean towards the label
    witness = minimal_perturbation(Coarse(), x, torch.ones(8, dtype=torch.long), norm=norm, generator=generator())
    assert witness.found.all()
    exact = 2.8 / (6 if norm == math.inf else math.sqrt(6))
    torch.testing.assert_close(witness.distance[5:], torch.full((3,), exact, dtype=torch.float64), rtol=1e-4, atol=0)


class Blind(nn.Module):
    """No number for the other class where the first pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0]
        return torch.stack([1 + 0 * first, torch.where(first > 0.5, math.nan, first)], 1)


@pytest.mark.slow
def test_a_logit_that_is_no_number_is_no_witness():
    x = torch.tensor([[0.1, 0.1], [0.4, 0.1], [0.9, 0.1]])
    witness = minimal_perturbation(Blind(), x, torch.zeros(3, dtype=torch.long), norm=2, generator=generator())
    assert not witness.found.any()
    assert witness.distance.isinf().all()


def test_a_witness_lies_on_the_boundary():
    """Catches a search that keeps the coarse step with which it crossed."""
    model, x, y = reference.load("plain", 20)
    witness = minimal_perturbation(model, x, y, norm=2, steps=3, restarts=1)
    nearer = model(x + 0.9999 * (witness.adversarial - x)).argmax(1)
    assert (nearer == y)[witness.distance > 0].double().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("norm", some(NORMS, [2]))
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_infinite_gradients_do_no_harm():
    """The prediction changes where the root exceeds 0.35, that is 0.35^2 / sqrt(4) away."""
    x = torch.full((2, 4), 0.5)
    witness = minimal_perturbation(Sharp(), x, torch.ones(2, dtype=torch.long), norm=2, generator=generator())
    torch.testing.assert_close(witness.distance, torch.full((2,), 0.35**2 / 2, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("spoil", ["outside the box", pytest.param("not misclassified", marks=pytest.mark.slow)])
def test_every_witness_is_checked_again(spoil: str, monkeypatch: pytest.MonkeyPatch):
    """The mutant: a search that returns points it never verified. The re-check must not believe them."""
    model, x, y = problem((3, 5), 3, 7)
    original = polish.bisect

    def spoiled(state, *rest, **options):
        original(state, *rest, **options)
        state.best = state.best + 10 if spoil == "outside the box" else state.x.clone()
        state.distance = torch.full_like(state.distance, 1e-9)

    monkeypatch.setattr(polish, "bisect", spoiled)
    witness = minimal_perturbation(model, x, y, norm=2)
    assert not witness.found.any()
    assert witness.distance.isinf().all()


@pytest.mark.slow
@crossed(("norm", NORMS), ("name", reference.NETWORKS))
def test_witnesses_on_trained_networks(name: str, norm: float):
    """Misclassified, in the box, at the distance stated, and never nearer than what is proved."""
    model, x, y = reference.load(name, 20)
    witness = minimal_perturbation(model, x, y, norm=norm, generator=generator())
    assert witness.found.all()
    assert (model(witness.adversarial).argmax(1) != y).all()
    assert ((witness.adversarial >= 0) & (witness.adversarial <= 1)).all()
    stated = (witness.adversarial.double() - x.double()).flatten(1).norm(norm, dim=1)
    assert (witness.distance >= stated).all()  # rounded up
    torch.testing.assert_close(witness.distance, stated, rtol=1e-12, atol=0)
    certificate = certified_radius(model, x, y, norm=norm)
    assert (certificate.radius <= witness.distance).all()
