"""Noise on parameters of transformations: Neyman and Pearson by enumeration, closed forms, coverage, brute force."""

import math

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds.errors import InvalidInput
from certify.semantic import Photometric
from certify.smoothing import CyclicShiftNoise, PhotometricNoise, SmoothedClassifier, certify_cyclic_shifts

BOTH = PhotometricNoise(contrast=0.3, brightness=0.2)


def least_probability(noise: PhotometricNoise, p: float, factor: float, offset: float) -> float:
    """The least probability, of an image that is changed, of an event with probability p before: by enumeration."""
    k = torch.linspace(-11, 11, 261, dtype=torch.float64)[:, None] * noise.contrast
    b = torch.linspace(-11, 11, 261, dtype=torch.float64) * noise.brightness
    before = -0.5 * ((k / noise.contrast) ** 2 + (b / noise.brightness) ** 2)
    moved = ((k - math.log(factor)) / noise.contrast) ** 2 + ((factor * b - offset) / noise.brightness) ** 2
    after = math.log(factor) - 0.5 * moved
    order = (after - before).flatten().argsort()
    mass, other = (part.flatten().softmax(0)[order] for part in (before, after))
    return float(other[mass.cumsum(0) <= p].sum())


@pytest.mark.parametrize("radius", [0.4, pytest.param(1.5, marks=pytest.mark.slow)])
def test_no_event_falls_below_a_half_within_the_radius(radius: float):
    p = float(BOTH.probability_needed(radius))
    found = []
    for angle in torch.linspace(0, 2 * math.pi, 9)[:-1].tolist():
        log, offset = radius * BOTH.contrast * math.cos(angle), radius * BOTH.brightness * math.sin(angle)
        found.append(least_probability(BOTH, p, math.exp(log), offset))
    assert min(found) >= 0.5 - 5e-3  # cells of the enumeration
    assert min(found) <= 0.5 + 0.2 * radius  # and not much is given away


def test_radii_invert_probabilities():
    p = torch.tensor([0.3, 0.5, 0.6, 0.9, 0.999, 1 - 1e-9], dtype=torch.float64)
    for noise in (BOTH, PhotometricNoise(contrast=0.3), PhotometricNoise(brightness=0.2)):
        radius = noise.radius(p)
        assert (noise.probability_needed(radius)[2:] <= p[2:] * (1 + 1e-12)).all()
        assert (noise.probability_needed(radius * 1.001 + 1e-9)[2:] > p[2:] * (1 - 1e-12)).all()
        assert (radius[:2] == 0).all()
        assert (noise.radius(p, (1 - p) / 2) >= radius).all()
    alone = PhotometricNoise(brightness=0.2).radius(p)[2:]
    assert torch.allclose(alone, 0.2 * torch.special.ndtri(p)[2:], rtol=1e-9)


def test_noise_and_change_commute():
    """Noisy copies of a changed image are copies of the image, with parameters shifted."""
    x, factor, offset = torch.rand(1, 2, 3, 5, generator=generator(0), dtype=torch.float64), 1.4, -0.15
    changed = Photometric(contrast=(0.5, 2), brightness=(-1, 1)).apply(
        x, torch.tensor([[factor, offset, 1.0]], dtype=torch.float64), low=None, high=None
    )
    copies = BOTH.sample(changed, 7, generator=generator(1))
    drawn = torch.empty(7, 2, dtype=torch.float64).normal_(generator=generator(1))
    log = BOTH.contrast * drawn[:, 0] + math.log(factor)
    shift = (BOTH.brightness * drawn[:, 1] + offset) / factor
    assert torch.allclose(copies[0], log.exp().view(-1, 1, 1, 1) * (x + shift.view(-1, 1, 1, 1)))


@pytest.mark.slow
def test_radii_of_a_mean_are_exact_and_cover():
    """The class is that of the mean, so that the exact radius is its distance from the threshold."""
    noise, distance, rows, alpha = PhotometricNoise(brightness=0.3), 0.2, 100, 0.2
    model = Halfspace(torch.full((6,), 1 / 6, dtype=torch.float64), -0.5)
    x = torch.full((rows, 6), 0.5 + distance, dtype=torch.float64)
    found = SmoothedClassifier(model, noise, num_classes=2).certify(x, 60, 20, alpha, generator=generator(3))
    wrong = int(((found.radius > distance) & ~found.abstained).sum())
    assert wrong <= alpha * rows + 5 * math.sqrt(rows * alpha * (1 - alpha))
    assert wrong > 0  # the bound is no better than it must be
    assert float(found.radius.mean()) > 0.5 * distance
    assert found.domain == "changes of contrast and brightness, not clipped"
    assert float(noise.probability_needed(distance)) == pytest.approx(0.5 * math.erfc(-distance / 0.3 / math.sqrt(2)))


def test_the_distance_of_a_range_is_that_of_its_farthest_corner():
    corners = [math.hypot(math.log(c) / 0.3, b / 0.2) for c in (0.8, 1.2) for b in (-0.1, 0.05)]
    assert BOTH.distance((0.8, 1.2), (-0.1, 0.05)) == pytest.approx(max(corners))
    assert PhotometricNoise(contrast=0.3).distance(brightness=(0, 0.1)) == math.inf
    with pytest.raises(InvalidInput, match="above 0"):
        BOTH.distance((0.0, 1.0))
    with pytest.raises(InvalidInput, match="at least one"):
        PhotometricNoise()


def test_clipped_images_are_certified_up_to_where_clipping_begins():
    noise = PhotometricNoise(contrast=0.3, brightness=0.2, low=0.0, high=1.0)
    x = torch.tensor([[0.3, 0.6], [0.0, 0.5]], dtype=torch.float64)
    p = torch.full((2,), 0.9999, dtype=torch.float64)
    radius = noise.radius_at(x, p)
    assert float(radius[1]) == 0
    assert 0 < float(radius[0]) < float(noise.radius(p)[0])
    angle = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    for scale, inside in ((1.0, True), (1.6, False)):
        log, offset = (scale * float(radius[0]) * part for part in (0.3 * angle.cos(), 0.2 * angle.sin()))
        images = log.exp()[:, None] * x[:1] + offset[:, None]
        assert bool(((images >= 0) & (images <= 1)).all()) is inside
    assert noise.probability_needed_at(x, 1.1 * float(radius[0])).tolist() == [1.0, 1.0]
    assert float(noise.probability_needed_at(x, 0.5 * float(radius[0]))[0]) < 1
    model = Halfspace(torch.ones(2, dtype=torch.float64), -0.5)
    with pytest.raises(InvalidInput, match="does not commute"):
        SmoothedClassifier(model, noise, num_classes=2).certify(x[1:], 10)
    outside = torch.cat([x, x.new_tensor([[1.25, 0.5]])])
    with pytest.raises(InvalidInput, match=r"between low=0.0 and high=1.0.* got 1.25 in row 2"):
        SmoothedClassifier(model, noise, num_classes=2).certify(outside, 10)
    with pytest.raises(InvalidInput, match=r"got -0.25 in row 1"):
        SmoothedClassifier(model, noise, num_classes=2).certify(x - 0.25, 10)
    edge = PhotometricNoise(brightness=0.2, low=None, high=0.7)
    edge.check(torch.tensor([[0.1, 0.7], [0.1, 0.2]]))  # 0.7 in float32 is the limit, though it is less in float64
    with pytest.raises(InvalidInput, match=r"got 0\.8 in row 0"):
        edge.check(torch.tensor([[0.1, 0.8], [0.1, 0.2]]))


def votes(model: nn.Module, x: Tensor, reach: int) -> Tensor:
    """Votes over all shifts within the reach, one by one."""
    moves = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    return torch.stack([model(x.roll(move, (-2, -1))).argmax(1) for move in moves], 1)


@pytest.mark.parametrize("shape", [(2, 6, 7), (6, 7)])
def test_shifts_within_the_radius_keep_the_class(shape: tuple[int, ...]):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 2)).double()
    x = torch.rand(24, *shape, generator=generator(4), dtype=torch.float64) - 0.3
    found = certify_cyclic_shifts(model, x, num_classes=2, reach=2)
    assert torch.equal(found.counts, torch.nn.functional.one_hot(votes(model, x, 2), 2).sum(1))
    assert set(found.radius.tolist()) >= {0.0, 1.0}
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            label = votes(model, x.roll((down, right), (-2, -1)), 2).mode(1).values
            assert torch.equal(label[found.radius >= 1], found.label[found.radius >= 1])
    everywhere = certify_cyclic_shifts(model, x, num_classes=2)
    again = certify_cyclic_shifts(model, x.roll((3, -2), (-2, -1)), num_classes=2)
    assert everywhere.radius.isinf().all()
    assert torch.equal(everywhere.counts, again.counts)
    assert everywhere.shifts == 42


class Near(nn.Module):
    """Class 1 where the brightest pixel is at most two pixels from the middle along both axes."""

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, 2:-2, 2:-2].flatten(1).amax(1) >= 1
        return torch.stack([(~inside).double(), inside.double()], 1)


def test_a_shift_of_both_axes_exchanges_the_most():
    """All 25 shifts vote for class 1; a shift by 1 along both axes leaves 16 of them, one by 2 leaves 9."""
    x = torch.zeros(1, 9, 9, dtype=torch.float64)
    x[0, 4, 4] = 1
    found = certify_cyclic_shifts(Near(), x, num_classes=2, reach=2)
    assert (found.counts.tolist(), found.radius.tolist()) == ([[0, 25]], [1.0])
    for r, left in ((1, 16), (2, 9)):
        assert int(votes(Near(), x.roll((r, r), (-2, -1)), 2).sum()) == left


def test_shift_noise_draws_all_shifts_and_needs_their_overlap():
    noise, x = CyclicShiftNoise(reach=1), torch.arange(20.0).view(1, 4, 5)
    copies = noise.sample(x, 400, generator=generator(5))[0]
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == 9
    moves = {tuple(x[0].roll((i, j), (-2, -1)).flatten().tolist()) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert {tuple(copy.flatten().tolist()) for copy in copies} == moves
    wide = CyclicShiftNoise(reach=4)
    p = wide.probability_needed(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    assert torch.allclose(p, torch.tensor([0.5, 0.5 + 17 / 81, 0.5 + 32 / 81, 1.0], dtype=torch.float64))
    assert wide.radius(p).tolist() == [0.0, 1.0, 2.0, 2.0]
    assert wide.radius(p - 1e-12).tolist() == [0.0, 0.0, 1.0, 2.0]
    assert wide.radius(torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)).item() == 1
    with pytest.raises(InvalidInput, match="images"):
        wide.check(torch.zeros(2, 9))


def test_inputs_without_a_vote_abstain():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            large = x.flatten(1).amax(1, keepdim=True) > 2
            return torch.where(large, math.nan, x.flatten(1)[:, :2])

    x = torch.rand(2, 3, 3, generator=generator(6)) * torch.tensor([1.0, 9.0])[:, None, None]
    found = certify_cyclic_shifts(Broken(), x, num_classes=2)
    assert found.abstained.tolist() == [False, True]
    assert found.radius.tolist() == [math.inf, 0.0]
