"""Noises for l_1 perturbations: exact fractions, enumeration of cuts, and a search over perturbations as oracles."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor

from bounds import InvalidInput
from certify.smoothing.derandomized.splitting import split
from certify.smoothing.noises.base import Noise, Uniform
from certify.smoothing.noises.l1 import RandomCuts, RandomCutsOnGrid, SplittingNoise, UniformInBox


def p_of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def radius_of_one(x: list[float], p: float, noise: UniformInBox) -> Fraction:
    """The published loop over entries, in exact arithmetic."""
    width, low, high = 2 * Fraction(noise.half_width), Fraction(noise.low), Fraction(noise.high)
    needed, overlap, total = Fraction(3, 2) - Fraction(p), Fraction(1), Fraction(0)
    for way in sorted((max(Fraction(v) - low, high - Fraction(v)) for v in x), reverse=True):
        part = width * (1 - needed / overlap)
        if part <= way:
            return total + part
        total, overlap = total + way, overlap * (1 - way / width)
    return total


BOXES = [UniformInBox(0.8), UniformInBox(0.2), UniformInBox(6.0), UniformInBox(1.5, low=-1.0, high=2.0)]
each_box = pytest.mark.parametrize("noise", BOXES, ids=repr)


def inputs_in(noise: UniformInBox, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.rand(*shape, generator=generator(1), dtype=dtype)
    return noise.low + (noise.high - noise.low) * x


@each_box
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radius_in_a_box_is_that_of_exact_arithmetic_rounded_down(noise: UniformInBox, dtype: torch.dtype):
    p = torch.cat([p_of(0.3, 0.5, 1.0), 0.5 + 0.5 * torch.rand(17, generator=generator(), dtype=torch.float64)])
    x = inputs_in(noise, 20, 2, 3, 5, dtype=dtype)
    radius = noise.radius_at(x, p)
    for row in range(20):
        exact = radius_of_one(x[row].flatten().tolist(), float(p[row]), noise) if p[row] > 0.5 else 0
        assert Fraction(float(radius[row])) <= exact
        assert exact - Fraction(float(radius[row])) <= 1e-12 * exact
    assert (radius >= noise.radius(p)).all()
    assert torch.equal(noise.radius_at(x[3:4], p[3:4]), radius[3:4])
    assert noise.radius_at(x[:0], p[:0]).shape == (0,)


@pytest.mark.parametrize("noise", [UniformInBox(0.8), UniformInBox(1.5, low=-1.0, high=2.0)], ids=repr)
@pytest.mark.parametrize("p", [0.6, 0.8, 0.95])
def test_no_perturbation_in_the_box_and_the_radius_breaks_the_worst_classifier(noise: UniformInBox, p: float):
    """A class of probability p that avoids the overlap of two boxes of noise keeps p - (1 - overlap)."""
    x = inputs_in(noise, 4, 3)
    radius = noise.radius_at(x, p_of(p).expand(4))
    for row in range(4):
        sides = [np.linspace(noise.low, noise.high, 61) - float(v) for v in x[row]]
        moves = np.abs(np.stack(np.meshgrid(*sides), -1).reshape(-1, 3))
        kept = p - 1 + (1 - moves / (2 * noise.half_width)).clip(0).prod(1)
        length = moves.sum(1)
        assert (kept[length <= float(radius[row])] >= 0.5 - 1e-12).all()
        # The optimum moves entries to a side, but for the last one: steps of 1/60 find it if the radius is 5 % larger.
        assert (kept[length <= 1.05 * float(radius[row])] < 0.5).any()


def test_a_label_that_stays_in_all_of_the_box():
    x, noise = torch.tensor([[0.25, 0.5]]), UniformInBox(half_width=6.0)
    needed = 1.5 - (1 - 0.75 / 12) * (1 - 0.5 / 12)  # by the overlap with the noise around the farthest corner
    assert noise.radius_at(x, p_of(needed + 1e-12)).item() == pytest.approx(1.25, rel=1e-14)
    assert noise.radius_at(x, p_of(needed - 1e-6)).item() < 1.25 - 1e-6
    for radius in (1.2500001, 7.0):
        assert noise.probability_needed_at(x, radius).item() == pytest.approx(needed, rel=1e-14)
    assert UniformInBox(0.5).probability_needed_at(x, math.inf).item() == 1


@each_box
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.2, 0.7, 3.0])
def test_probability_needed_in_a_box_is_the_inverse_and_rounded_up(noise: UniformInBox, radius: float):
    x = inputs_in(noise, 10, 40)
    needed = noise.probability_needed_at(x, radius)
    assert needed.shape == (10,)
    assert (needed <= noise.probability_needed(radius)).all()
    for row in range(10):
        if needed[row] < 1:
            exact = radius_of_one(x[row].tolist(), float(needed[row]), noise)
            assert radius <= exact <= radius + Fraction(1e-11)
        else:
            assert radius_of_one(x[row].tolist(), 1.0, noise) <= radius + Fraction(1e-11)


@each_box
def test_radius_in_a_box_grows_with_the_probability_and_with_the_gap(noise: UniformInBox):
    p = torch.linspace(0.5, 1, 60, dtype=torch.float64)
    x = inputs_in(noise, 1, 30).expand(60, -1)
    radius = noise.radius_at(x, p)
    assert (radius.diff() > 0).all()
    # Two classes: the rule speaks of half the gap, so that others of one class together change nothing.
    assert torch.allclose(noise.radius_at(x, p, 1 - p), radius, rtol=1e-12, atol=1e-14)
    assert (noise.radius_at(x, p, 0.5 * (1 - p))[:-1] > radius[:-1]).all()
    assert (noise.radius_at(x[:2], p_of(0.3, 0.4), p_of(0.2, 0.4)) > 0).tolist() == [True, False]


def test_uniform_noise_in_a_box_is_the_same_classifier():
    noise = UniformInBox(0.5)
    assert (str(noise), noise.norm, noise.distribution) == (
        str(Uniform(0.5)),
        Uniform(0.5).norm,
        Uniform(0.5).distribution,
    )
    assert noise.radius(p_of(0.9)) == Uniform(0.5).radius(p_of(0.9))


LEVELS, STEPS = 5, 7


def test_cuts_between_grid_points_are_counted_exactly():
    """Exactly min(m, L) places of the cut tell two values apart that are m steps apart: neither more nor fewer."""
    noise = RandomCutsOnGrid(LEVELS, STEPS)
    values = torch.arange(STEPS + 1).unsqueeze(1) / STEPS
    cuts = torch.arange(LEVELS).float().unsqueeze(1)
    seen = noise.perturb_(torch.empty(STEPS + 1, LEVELS, 1), noise.encode(values), cuts)
    for a, b in itertools.product(range(STEPS + 1), repeat=2):
        assert int((seen[a] != seen[b]).sum()) == min(abs(a - b), LEVELS)
    place = (cuts + 0.5) / STEPS
    assert torch.allclose(seen, split(values.unsqueeze(1), place, LEVELS / (2 * STEPS)), atol=1e-6)


def test_splitting_changes_with_the_stated_probability():
    """Places of the cut in equal steps instead of random ones: the share of changes is the probability."""
    half_width, n = 0.3, 60_000
    noise = RandomCuts(half_width)
    x = torch.tensor([[0.1], [0.15], [0.4], [0.69], [1.0]], dtype=torch.float64)
    places = ((torch.arange(n, dtype=torch.float64) + 0.5) * 2 * half_width / n).unsqueeze(1)
    seen = noise.perturb_(torch.empty(5, n, 1, dtype=torch.float64), noise.encode(x), places)
    for a, b in itertools.combinations(range(5), 2):
        share = (seen[a] != seen[b]).double().mean().item()
        assert share == pytest.approx(min(1.0, (x[b] - x[a]).item() / (2 * half_width)), abs=2 / n)


@pytest.mark.parametrize("entries", [1, 2])
def test_splitting_radius_holds_for_every_classifier_on_a_small_grid_and_is_tight(entries: int):
    """All inputs and all places of cuts; the worst classifier knows which outputs come from the input."""
    noise, distribution = SplittingNoise(LEVELS / (2 * STEPS)), RandomCutsOnGrid(LEVELS, STEPS)
    x = torch.tensor(list(itertools.product(range(STEPS + 1), repeat=entries))) / STEPS
    cuts = torch.tensor(list(itertools.product(range(LEVELS), repeat=entries))).float()
    seen = distribution.perturb_(torch.empty(len(x), len(cuts), entries), distribution.encode(x), cuts)
    distance = (x[:, None] - x[None]).abs().sum(2).double()
    kept = (seen[:, None] == seen[None]).all(3).double().mean(2)  # least overlap of the two distributions
    for p in (0.6, 0.75, 0.95):
        radius = noise.radius(p_of(p)).item()
        assert (p - 1 + kept >= 0.5 - 1e-6)[distance <= radius + 1e-6].all()
        assert (p - 1 + kept < 0.5)[distance <= radius + entries / STEPS + 1e-6].any()  # a step more is too much


def test_splitting_radii_are_those_of_uniform_noise():
    p, other = p_of(0.2, 0.7, 0.999), p_of(0.1, 0.1, 0.0)
    assert torch.equal(SplittingNoise(0.7).radius(p), Uniform(0.7).radius(p))
    assert torch.equal(SplittingNoise(0.7).radius(p, other), Uniform(0.7).radius(p, other))
    assert torch.equal(SplittingNoise(0.7).probability_needed(0.3), Uniform(0.7).probability_needed(0.3))


def test_grid_version_exists_where_whole_steps_fit():
    assert SplittingNoise(0.5).distribution.on_grid(255).levels == 255
    assert SplittingNoise(441 / 510).distribution.on_grid(255).levels == 441
    assert SplittingNoise(3.5 * math.sqrt(3)).distribution.on_grid(255) is None
    assert SplittingNoise(0.5).distribution.sampling == "floating point"
    grid = SplittingNoise(0.5).distribution.on_grid(255)
    assert (grid.sampling, grid.suffix) == ("integers on the grid 1/255", ", grid=255")
    assert 0 < grid.error(3072) < 1e-11


def test_draws_of_cuts_are_uniform():
    raw = RandomCuts(0.4).draw_(torch.empty(100, 1000), generator(2)).flatten().numpy()
    law = scipy.stats.uniform(0, 0.8)
    assert scipy.stats.kstest(raw, law.cdf).pvalue > 1e-6
    assert scipy.stats.kstest(0.95 * raw, law.cdf).pvalue < 1e-6
    integers = RandomCutsOnGrid(111, 50).draw_(torch.empty(100, 1000), generator(2)).flatten().long()
    counts = np.bincount(integers.numpy(), minlength=111)
    assert len(counts) == 111
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("noise", [UniformInBox(0.5), SplittingNoise(0.5)], ids=repr)
def test_everything_follows_the_device(noise: Noise):
    x, p = torch.rand(2, 3, 5, generator=generator()).mul(7).round() / 7, p_of(0.7, 0.9)
    distributions = [d for d in (noise.distribution, noise.distribution.on_grid(7)) if d is not None]

    def everything() -> list[Tensor]:
        noise.check(x)
        drawn = [distribution.sample(x, 4, generator=generator()) for distribution in distributions]
        return [noise.radius_at(x, p), noise.radius_at(x, p, 0.5 * (1 - p)), *drawn]

    expected = everything()
    with elsewhere():
        actual = everything()
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_bad_arguments_are_refused():
    for kind in (UniformInBox, SplittingNoise):
        with pytest.raises(InvalidInput, match="half_width must be a finite number above 0"):
            kind(0.0)
        with pytest.raises(InvalidInput, match="x must lie in the declared range"):
            kind(0.5).check(torch.tensor([[1.5]]))
    for low, high in [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0), ("0", 1.0)]:
        with pytest.raises(InvalidInput, match="low must be below high"):
            UniformInBox(0.5, low, high)
    with pytest.raises(InvalidInput, match="x must lie on the grid 1/7, but does not"):
        RandomCutsOnGrid(5, 7).check(torch.tensor([[1 / 7], [0.2]]))
