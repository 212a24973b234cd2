"""Directions against chance: laws known in closed form, levels of tests by simulation, power against built cases."""

import math

import pytest
import torch
from oracles.halfspace import generator
from scipy import integrate, stats
from torch import Tensor

from bounds import InvalidInput
from bounds.geometry import alignment, normal_rank

FALSE_ALARM = 1e-6


def normals(seed: int, count: int, features: int, common: int, size: float) -> Tensor:
    """Normals with Gaussian parts of a size in common directions, and noise of length about 1."""
    source = generator(seed)
    noise = torch.randn(count, features, generator=source, dtype=torch.float64) / math.sqrt(features)
    noise[:, :common] += size * torch.randn(count, common, generator=source, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(features, features, generator=source, dtype=torch.float64))[0]
    return noise @ turn


def rejections_fit(count: int, trials: int, level: float) -> bool:
    low, high = stats.binom.interval(1 - FALSE_ALARM, trials, level)
    return bool(low <= count <= high)


# ----------------------------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("features", [2, 3, 17])
def test_cosines_of_chance_have_uniform_p_values(features: int):
    """One direction may be fixed; in two dimensions the law is that of an angle, in three cosines are uniform."""
    random = torch.randn(4000, features, generator=generator(features), dtype=torch.float64)
    fixed = torch.linspace(1, 2, features, dtype=torch.float64).expand_as(random)
    found = alignment(random, fixed)
    assert stats.kstest(found.p_values.numpy(), "uniform").pvalue > FALSE_ALARM
    if features == 2:
        exact = 2 / math.pi * found.cosine.abs().acos()
        torch.testing.assert_close(found.p_values, exact, rtol=1e-9, atol=1e-12)
        assert found.chance == pytest.approx(2 / math.pi)
    if features == 3:
        torch.testing.assert_close(found.p_values, 1 - found.cosine.abs(), rtol=1e-9, atol=1e-12)
        assert found.chance == pytest.approx(0.5)
    if features == 17:
        mean, _ = integrate.quad(lambda c: 2 * c * stats.beta(0.5, 8).pdf(c**2) * c, 0, 1)
        assert found.chance == pytest.approx(mean, rel=1e-6)
    assert float(found.cosine.abs().mean()) == pytest.approx(found.chance, abs=0.03)


def test_the_joint_test_has_its_level_and_the_interval_its_coverage():
    """600 sets of 8 inputs; a mean of 0 is covered as Student's interval promises, up to the shape of the law."""
    sets = torch.randn(600, 2, 8, 9, generator=generator(4), dtype=torch.float64)
    found = [alignment(first, second) for first, second in sets]
    assert stats.kstest([one.p_value for one in found], "uniform").pvalue > FALSE_ALARM
    assert rejections_fit(sum(one.p_value <= 0.05 for one in found), 600, 0.05)
    assert rejections_fit(sum(not one.interval[0] <= 0 <= one.interval[1] for one in found), 600, 0.05)
    fisher = [stats.combine_pvalues(one.p_values.numpy()).pvalue for one in found[:20]]
    assert [one.p_value for one in found[:20]] == pytest.approx(fisher, rel=1e-9)


def test_weak_alignment_is_found():
    """A cosine of about 0.2 in 400 dimensions, where chance gives 0.04."""
    first = torch.randn(20, 4, 10, 10, generator=generator(1))
    second = 3.0 * (0.2 * first + torch.randn(20, 4, 10, 10, generator=generator(2)))
    found = alignment(first, second)
    assert found.p_value < 1e-20
    assert found.interval[0] > 0.1
    assert found.mean == pytest.approx(0.2 / math.sqrt(1.04), abs=0.05)
    opposed = alignment(first, -second)
    assert opposed.mean == pytest.approx(-found.mean)
    assert opposed.p_value == pytest.approx(found.p_value)
    inner = (first * second).flatten(1).sum(1).abs() / first.flatten(1).norm(dim=1)
    torch.testing.assert_close(found.projection.float(), inner, rtol=1e-5, atol=1e-6)
    assert len(found.to_dataframe()) == 20


def test_lengths_do_not_matter_and_zeros_are_left_out():
    first = torch.randn(5, 7, generator=generator(3), dtype=torch.float64)
    second = torch.randn(5, 7, generator=generator(4), dtype=torch.float64)
    usual, huge = alignment(first, second), alignment(first * 1e-250, second * 1e250)
    torch.testing.assert_close(huge.cosine, usual.cosine, rtol=1e-12, atol=1e-14)
    first[2] = 0
    found = alignment(first, second)
    assert found.rows.tolist() == [0, 1, 3, 4]
    assert torch.equal(found.cosine, usual.cosine[found.rows])
    alone = alignment(first[:1], second[:1])
    assert math.isnan(alone.interval[0])
    assert alone.p_value == pytest.approx(float(alone.p_values[0]))


# ---------------------------------------------------------------------------------------------------------------- rank


def test_uniform_directions_have_no_rank():
    """The first test is exact: at most 1 of 20 uniform sets is rejected, and its p-values are uniform."""
    source = generator(7)
    found = [
        normal_rank(torch.randn(8, 12, generator=source, dtype=torch.float64), draws=19, largest=1, generator=source)
        for _ in range(200)
    ]
    assert rejections_fit(sum(one.rank > 0 for one in found), 200, 0.05)
    p_values = torch.cat([one.p_values[:1] for one in found])
    assert rejections_fit(int((p_values <= 0.5).sum()), 200, 0.5)
    covered = sum(one.dimension_interval[0] <= 12 <= one.dimension_interval[1] for one in found)
    assert covered >= stats.binom.ppf(FALSE_ALARM, 200, 0.95)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "features", "common", "size"), [(30, 60, 1, 1.0), (20, 200, 3, 2.0), (30, 60, 3, 1.0)]
)
def test_common_directions_are_counted_and_seldom_exceeded(count: int, features: int, common: int, size: float):
    """The later tests are approximate: up to twice their level is allowed for. Noise is left of unequal length."""
    source = generator(5)
    found = [
        normal_rank(normals(seed, count, features, common, size), draws=39, largest=common + 1, generator=source).rank
        for seed in range(120)
    ]
    assert sum(rank > common for rank in found) <= stats.binom.ppf(1 - FALSE_ALARM, 120, 0.1)
    assert sum(rank >= common for rank in found) == 120


def test_common_directions_are_found():
    found = normal_rank(normals(1, 24, 100, 2, 1.0), draws=39, generator=generator())
    assert found.rank == 2
    assert (found.p_values[:2] <= 0.05).all()
    assert found.p_values[2] > 0.05
    assert (found.singular_values[:2] > found.chance[:2]).all()
    assert found.dimension_interval[0] < found.dimension < found.dimension_interval[1] < 100
    assert found.energy_dimension < found.energy_chance[0]
    assert float(found.singular_values.square().sum()) == pytest.approx(24)
    assert found.to_dataframe()["p_value"].notna().sum() == 3


def test_unequal_noise_is_not_taken_for_a_direction():
    """Sets whose rows differ in noise, as unit lengths make them; the mutant finds a fourth direction."""
    found = [normal_rank(normals(s, 20, 200, 3, 2.0), draws=19, largest=4, generator=generator(s)) for s in range(20)]
    assert sum(one.rank > 3 for one in found) <= 6  # of a level of 0.05: 3e-5 by chance


def test_directions_of_a_subspace_fill_it():
    """Five dimensions of fifty: the mean squared cosine is 1/5, and nothing is left behind the fifth component."""
    found = []
    for seed in range(30):
        source = generator(seed)
        basis = torch.linalg.qr(torch.randn(50, 5, generator=source, dtype=torch.float64))[0]
        flat = torch.randn(40, 5, generator=source, dtype=torch.float64) @ basis.T
        found.append(normal_rank(flat, draws=19, largest=8 if seed < 3 else 1, generator=source))
    assert [one.rank for one in found[:3]] == [5, 5, 5]
    assert 1 / sum(1 / one.dimension for one in found) * 30 == pytest.approx(5, rel=0.03)
    assert sum(one.dimension_interval[0] <= 5 <= one.dimension_interval[1] for one in found) >= 24


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment(torch.ones(2, 3), torch.ones(2, 4)), "second must have the shape of first"),
        (lambda: alignment(torch.ones(2, 1), torch.ones(2, 1)), "entries of an input must be an integer of at least 2"),
        (lambda: alignment(torch.zeros(2, 3), torch.ones(2, 3)), "must hold a pair of directions"),
        (lambda: alignment(torch.ones(2, 3) * math.nan, torch.ones(2, 3)), "must be finite"),
        (lambda: normal_rank(torch.ones(2, 3)), "rows of perturbations must be an integer of at least 3"),
        (lambda: normal_rank(torch.zeros(4, 3)), "perturbations must be of a length above 0"),
        (lambda: normal_rank(torch.ones(4, 3), alpha=0.01, draws=50), "draws for this alpha must be an integer"),
    ],
)
def test_bad_input(call: object, message: str):
    with pytest.raises(InvalidInput, match=message):
        call()
