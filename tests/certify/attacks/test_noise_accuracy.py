"""Accuracy under random noise: exact probabilities of half-spaces, and the law of each noise."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from scipy import special, stats

from bounds import InvalidInput, clopper_pearson_interval
from certify.attacks import noise_accuracy
from certify.attacks.studies.noise_accuracy import unit_noise

NORMS = [1, 2, math.inf]
OPEN = {"low": None, "high": None}


def beyond(distance: float, epsilon: float, features: int, distribution: str) -> float:
    """Probability that l_2 noise of size epsilon goes further than the distance in one direction, in closed form."""
    if distribution == "gaussian":
        return float(stats.norm.sf(distance * math.sqrt(features) / epsilon))
    shift = 0 if distribution == "sphere" else 2  # a ball is a sphere of two dimensions more, seen from below
    share = 1 - (distance / epsilon) ** 2
    return 0.5 * float(special.betainc((features + shift - 1) / 2, 0.5, share))


@pytest.mark.parametrize("distribution", ["sphere", "ball", "gaussian"])
@pytest.mark.parametrize("shape", [(7,), (2, 5, 7)])
def test_error_of_a_halfspace(shape: tuple[int, ...], distribution: str):
    """The exact probability lies in the interval at alpha = 1e-7, which a noise of 5% other size would leave."""
    features, draws = math.prod(shape), 40_000
    model = Halfspace(torch.randn(features, generator=generator(), dtype=torch.float64))
    x = torch.randn(1, *shape, generator=generator(1), dtype=torch.float64)
    distance, label = model.distance(x), model(x).argmax(1)
    epsilon = distance * math.sqrt(features)
    options = {"norm": 2, "draws": draws, "distribution": distribution, "batch_size": 10_000, **OPEN}
    result = noise_accuracy(model, x, label, epsilon=epsilon, generator=generator(2), **options)
    lower, upper = result.error_interval(1e-7)
    exact = beyond(float(distance), float(epsilon), features, distribution)
    assert lower <= exact <= upper
    mutant = beyond(float(distance), 0.9 * float(epsilon), features, distribution)
    assert not lower <= mutant <= upper
    assert (result.error_interval(0.05)[0] > lower).all()


@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_uniform_on_the_sphere_and_in_the_ball(norm: float):
    """One entry on the sphere has a known mean size; radii in the ball have the law u^(1/D). False alarm below 1e-6."""
    like = torch.empty(20_000, 2, 3, dtype=torch.float64)
    sphere = unit_noise(like, norm, "sphere", generator())
    size = sphere.flatten(1).norm(norm, dim=1)
    torch.testing.assert_close(size, torch.ones_like(size))
    features = 6
    mean = {
        1: 1 / features,
        2: special.gamma(features / 2) / (math.sqrt(math.pi) * special.gamma((features + 1) / 2)),
        math.inf: 1 / features + (features - 1) / features / 2,  # on a face, or uniform within it
    }[norm]
    entries = sphere.abs().flatten(1)[:, 0]
    assert abs(entries.mean() - mean) < 5 * entries.std() / math.sqrt(len(like))
    assert abs(sphere.sign().mean()) < 5 / math.sqrt(sphere.numel())
    radii = unit_noise(like, norm, "ball", generator()).flatten(1).norm(norm, dim=1)
    assert stats.kstest(radii.numpy(), lambda r: r**features).pvalue > 1e-6


def test_rows_have_their_own_size_and_count():
    """Rows of different noise in one batch, and copies that straddle batches, end up where they belong."""
    model = Halfspace(torch.tensor([1.0, 0.0], dtype=torch.float64))
    x = torch.tensor([[0.3, 0.0]] * 3, dtype=torch.float64)
    epsilon = torch.tensor([0.0, 0.29, 30.0], dtype=torch.float64)
    labels = torch.tensor([1, 1, 1])
    options = {"norm": math.inf, "draws": 101, "batch_size": 7, **OPEN}
    result = noise_accuracy(model, x, labels, epsilon=epsilon, generator=generator(), **options)
    assert result.correct[:2].tolist() == [101, 101]
    assert 20 < result.correct[2] < 81
    assert result.first_correct[:2].all()
    assert result.accuracy == pytest.approx(result.correct.sum() / 303)
    lower, upper = clopper_pearson_interval(result.first_correct.sum(), 3, confidence=0.9)
    assert result.interval(0.1) == (float(lower), float(upper))
    lower, upper = result.error_interval(0.1)
    assert ((lower <= result.error) & (result.error <= upper)).all()
    assert result.to_dataframe().correct.tolist() == result.correct.tolist()
    wrong = noise_accuracy(model, x[:2], 1 - labels[:2], epsilon=epsilon[:2], **options)
    assert wrong.correct.tolist() == [0, 0]


def test_noisy_inputs_stay_in_the_box():
    class Watching(Halfspace):
        def forward(self, points):
            assert ((points >= 0) & (points <= 1)).all()
            return super().forward(points)

    x = torch.rand(4, 5, generator=generator(), dtype=torch.float64)
    model = Watching(torch.ones(5, dtype=torch.float64), bias=-2.5)
    noise_accuracy(model, x, torch.ones(4, dtype=torch.long), norm=2, epsilon=3.0, draws=20)
    with pytest.raises(AssertionError):
        noise_accuracy(model, x, torch.ones(4, dtype=torch.long), norm=2, epsilon=3.0, draws=20, **OPEN)


def test_logits_that_are_no_numbers_are_wrong():
    class Half(Halfspace):
        def forward(self, points):
            return torch.where(points[:, :1] > 0.5, math.nan, super().forward(points))

    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    model = Half(torch.ones(3, dtype=torch.float64))
    result = noise_accuracy(model, x, torch.tensor([1]), norm=math.inf, epsilon=0.1, draws=200, generator=generator())
    assert 50 < result.correct < 150


def test_bad_input_and_no_input():
    model, x = Halfspace(torch.ones(3)), torch.rand(2, 3, generator=generator())
    y = torch.ones(2, dtype=torch.long)
    for change, message in (
        ({"draws": 0}, "draws must be an integer of at least 1"),
        ({"distribution": "normal"}, "distribution must be one of sphere, ball, gaussian"),
        ({"distribution": "gaussian", "norm": 1}, "pass norm=2"),
        ({"norm": 3}, "norm must be 1, 2 or math.inf"),
        ({"epsilon": -1.0}, "epsilon must be a finite number of at least 0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            noise_accuracy(model, x, y, **{"norm": 2, "epsilon": 0.1, **change})
    assert len(noise_accuracy(model, x[:0], y[:0], norm=2, epsilon=0.1)) == 0


def test_every_tensor_is_made_on_the_device_of_the_input():
    model, x = Halfspace(torch.ones(3), bias=-1.5), torch.rand(2, 3, generator=generator())
    source = generator()
    with elsewhere():
        result = noise_accuracy(model, x, model(x).argmax(1), norm=1, epsilon=0.1, draws=5, generator=source)
    assert result.correct.device == x.device


@pytest.mark.parametrize("distribution", ["sphere", "ball", "gaussian"])
def test_frozen_features_get_no_noise_and_the_others_all_of_it(distribution: str):
    """The error of a half-space is that of its free entries alone, with noise of the same size."""
    weight = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
    mask = torch.tensor([True, False, False, True])
    free = weight * ~mask
    x = torch.randn(1, 3, 4, generator=generator(1), dtype=torch.float64)
    model, reduced = Halfspace(weight), Halfspace(free)
    distance = model.distance(x) * model.linear.weight[1].norm() / reduced.linear.weight[1].norm()
    options = {"norm": 2, "draws": 20_000, "distribution": distribution, "batch_size": 10_000, **OPEN}
    epsilon = 2 * distance.detach()
    result = noise_accuracy(
        model, x, model(x).argmax(1), epsilon=epsilon, frozen_features=mask, generator=generator(2), **options
    )
    lower, upper = result.error_interval(1e-7)
    assert lower <= beyond(1.0, 2.0, 6, distribution) <= upper
    assert not lower <= beyond(1.0, 2.0, 12, distribution) <= upper  # the mutant: noise spread over all entries

    everything = noise_accuracy(
        model, x, model(x).argmax(1), epsilon=epsilon, frozen_features=torch.ones(4, dtype=torch.bool), **options
    )
    assert everything.error == 0
    with pytest.raises(InvalidInput, match="frozen_features must be a boolean tensor"):
        noise_accuracy(model, x, model(x).argmax(1), epsilon=1.0, frozen_features=torch.ones(4), **options)
