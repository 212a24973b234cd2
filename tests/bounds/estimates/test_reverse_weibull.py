"""Fits of end points against simulated maxima and SciPy; points of balls in boxes against rejection."""

import math

import pytest
import torch
from scipy.stats import ks_2samp, weibull_max

from bounds import InvalidInput, LpBall
from bounds.estimates.reverse_weibull import bootstrap_p_values, fit_reverse_weibull
from bounds.sets.uniform import UniformSampler


def maxima(shape: float, rows: int, count: int, seed: int) -> torch.Tensor:
    lots = torch.empty(rows, count, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(seed))
    return 10 - lots ** (1 / shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [1.0, 1.5, 3.0, 10.0])
def test_intervals_hold_the_end_point(shape):
    """At 95%, 150 intervals miss more than 22 of the time with probability below 1e-6; 1.5 is conservative."""
    found = fit_reverse_weibull(maxima(shape, 150, 200, seed=int(10 * shape)))
    covered = (found.lower <= 10) & (found.upper >= 10)
    assert covered.sum() >= 150 - 22
    assert (found.lower <= found.location).all()
    assert (found.location <= found.upper).all()


@pytest.mark.slow
def test_the_estimate_is_never_below_the_largest_maximum():
    """The usual three-parameter fit is, where the likelihood of points outside is merely punished."""
    for shape in (0.5, 0.8, 1.0, 2.0, 50.0):
        values = maxima(shape, 100, 60, seed=3)
        found = fit_reverse_weibull(values)
        assert (found.location >= values.amax(1)).all()
        assert (found.lower >= values.amax(1)).all()
        assert (found.shape >= 1).all()


def test_no_fit_has_a_larger_likelihood_than_ours():
    values = maxima(3.0, 5, 150, seed=4)
    found = fit_reverse_weibull(values)
    for row, sample in enumerate(values.numpy()):
        ours = weibull_max.nnlf([float(part[row]) for part in (found.shape, found.location, found.scale)], sample)
        theirs = weibull_max.nnlf(weibull_max.fit(sample, 3.0, loc=10.0, scale=1.0), sample)
        assert ours <= theirs + 0.01


def test_an_end_point_without_information_is_open():
    generator = torch.Generator().manual_seed(1)
    gumbel = -torch.empty(40, 100, dtype=torch.float64).exponential_(generator=generator).log()
    assert (fit_reverse_weibull(gumbel).upper == math.inf).double().mean() > 0.8  # 95% but for the tail of 100 maxima
    assert (fit_reverse_weibull(maxima(2.0, 40, 100, seed=2)).upper < math.inf).all()


def test_scale_and_shift_move_the_fit_along():
    values = maxima(3.0, 4, 80, seed=5)
    one, other = fit_reverse_weibull(values), fit_reverse_weibull(1e-3 * values + 5)
    torch.testing.assert_close(other.location, 1e-3 * one.location + 5, rtol=1e-6, atol=0)
    torch.testing.assert_close(other.shape, one.shape, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_p_values_are_uniform_under_the_fitted_family_and_small_outside():
    generator = torch.Generator().manual_seed(6)
    inside = maxima(2.5, 60, 50, seed=7)
    p = bootstrap_p_values(fit_reverse_weibull(inside, interval=False), 50, 39, generator)
    assert (p <= 0.1).sum() <= 20  # 6 expected, 21 with probability below 1e-6
    assert (p > 0.5).sum() >= 12
    lumps = torch.cat([inside[:5], inside[:5] - 40], 1)
    assert (bootstrap_p_values(fit_reverse_weibull(lumps, interval=False), 100, 39, generator) <= 0.05).all()


CENTER = torch.tensor([[0.0, 0.3, 0.9, 0.5, 1.0]], dtype=torch.float64)


def rejected(norm: float, radius: float, count: int, generator: torch.Generator) -> torch.Tensor:
    parts: list[torch.Tensor] = []
    while sum(map(len, parts)) < count:
        drawn = CENTER + radius * (2 * torch.rand(200_000, 5, dtype=torch.float64, generator=generator) - 1)
        inside = torch.linalg.vector_norm(drawn - CENTER, norm, dim=1) <= radius
        parts.append(drawn[inside & ((drawn >= 0) & (drawn <= 1)).all(1)])
    return torch.cat(parts)[:count]


@pytest.mark.parametrize("norm", [pytest.param(1, marks=pytest.mark.slow), 1.5, 2, 3, math.inf])
@pytest.mark.parametrize(
    "radius", [pytest.param(0.2, marks=pytest.mark.slow), 0.6, pytest.param(1.2, marks=pytest.mark.slow)]
)
def test_points_are_uniform_in_ball_and_box(norm, radius):
    """Each of 7 comparisons fails by chance with probability 1e-7; clipping instead of drawing fails all of them."""
    generator = torch.Generator().manual_seed(0)
    drawn = UniformSampler(LpBall(CENTER, radius, norm)).draw(8_000, generator)
    exact = rejected(norm, radius, 8_000, generator)
    pairs = [(drawn[:, i], exact[:, i]) for i in range(5)] + [(drawn @ w, exact @ w) for w in directions()]
    pairs.append(tuple(torch.linalg.vector_norm(part - CENTER, norm, dim=1) for part in (drawn, exact)))
    assert min(ks_2samp(*pair).pvalue for pair in pairs) > 1e-7
    plain = UniformSampler(LpBall(CENTER, radius, norm, None, None)).draw(8_000, generator).clamp(0, 1)
    assert min(ks_2samp(plain[:, i], exact[:, i]).pvalue for i in range(5)) < 1e-7


def directions() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(5, generator=generator, dtype=torch.float64)]


def test_frozen_entries_stay_and_hopeless_sets_are_refused():
    low, high = torch.tensor([0.0, 0.3, 0.0, 0.0, 1.0]), torch.tensor([1.0, 0.3, 1.0, 1.0, 1.0])
    for norm in (1, 2, math.inf):
        ball = LpBall(CENTER.float(), 0.5, norm, low, high)
        drawn = UniformSampler(ball).draw(100, torch.Generator().manual_seed(0))
        assert torch.equal(drawn[:, 1], torch.full((100,), 0.3))
        assert torch.equal(drawn[:, 4], torch.ones(100))
    narrow = torch.rand(1, 3000, generator=torch.Generator().manual_seed(0))
    sampler = UniformSampler(LpBall(narrow, 20.0, 2))
    assert sampler.draw(3, torch.Generator().manual_seed(0)).shape == (3, 3000)
    assert issubclass(InvalidInput, ValueError)
