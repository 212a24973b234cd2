"""Noise distributions: draws, radii and their inverse, each against a second implementation and many digits."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from mpmath import mpf
from oracles.halfspace import Halfspace, generator

from bounds import InvalidInput, clopper_pearson_lower
from certify import SmoothedClassifier
from certify.smoothing import Gaussian, Laplace, Noise, Uniform

# Ours, the same distribution in SciPy, and the certified radius in exact arithmetic.
NOISES = {
    "gaussian": (
        Gaussian(0.5),
        scipy.stats.norm(0, 0.5),
        lambda p: mpf(0.5) * mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1),
    ),
    "laplace": (Laplace(0.3), scipy.stats.laplace(0, 0.3), lambda p: -mpf(0.3) * mpmath.log(2 * (1 - p))),
    "uniform": (Uniform(0.8), scipy.stats.uniform(-0.8, 1.6), lambda p: 2 * mpf(0.8) * (p - mpf(1) / 2)),
}
each_noise = pytest.mark.parametrize("name", NOISES)


@each_noise
@pytest.mark.parametrize("p", [0.5 + 2.0**-52, 0.51, 0.7, 0.99, 1 - 1e-6, 1 - 1e-12, 1 - 2.0**-53])
def test_radius_is_rounded_down_and_tight(name: str, p: float):
    noise, _, exact_radius = NOISES[name]
    with mpmath.workdps(50):
        exact = exact_radius(mpf(p))
        radius = mpf(noise.radius(torch.tensor(p, dtype=torch.float64)).item())
        assert radius <= exact
        assert exact - radius <= 1e-14 * exact + mpf(2) ** -52


@each_noise
def test_radius_of_a_halfspace_is_its_distance(name: str):
    """On the line, a point at distance d keeps its class with the probability that the noise stays above -d."""
    noise, distribution, _ = NOISES[name]
    distance = np.linspace(0.01, 0.75, 40)
    radius = noise.radius(torch.from_numpy(distribution.cdf(distance)))
    np.testing.assert_allclose(radius.numpy(), distance, rtol=1e-12)


@each_noise
def test_radius_is_zero_up_to_one_half_and_refuses_what_is_no_probability(name: str):
    noise = NOISES[name][0]
    assert noise.radius(torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)).tolist() == [0, 0, 0]
    for wrong in (math.nan, -0.1, 1.1):
        with pytest.raises(InvalidInput, match=r"p_lower must lie in \[0, 1\]"):
            noise.radius(torch.tensor([wrong]))


@each_noise
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.25, 0.75, 3.0])
def test_probability_needed_is_the_inverse_and_rounded_up(name: str, radius: float):
    noise, _, exact_radius = NOISES[name]
    needed = noise.probability_needed(radius)
    if needed == 1:
        assert name == "uniform"  # bounded noise certifies nothing beyond its width
        assert radius > noise.half_width
        return
    with mpmath.workdps(50):
        assert exact_radius(mpf(needed.item())) >= radius
    # At 6 sigma one unit in the last place of the probability moves the radius by 5e-8.
    assert noise.radius(needed).item() == pytest.approx(radius, rel=1e-7, abs=1e-14)


@each_noise
def test_no_radius_below_zero_is_asked_for(name: str):
    for wrong in (-0.1, math.nan):
        with pytest.raises(InvalidInput, match="radius must be at least 0"):
            NOISES[name][0].probability_needed(wrong)


@each_noise
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_the_distribution(name: str, dtype: torch.dtype):
    noise, distribution, _ = NOISES[name]
    draws = noise.sample(torch.zeros(1, 1000, dtype=dtype), 100, generator=generator(1))
    assert draws.isfinite().all()
    assert scipy.stats.kstest(draws.flatten().numpy(), distribution.cdf).pvalue > 1e-6
    wrong = scipy.stats.kstest(1.05 * draws.flatten().numpy(), distribution.cdf).pvalue
    assert wrong < 1e-4  # a scale that is off by 5 % is seen
    assert torch.equal(noise.sample(torch.zeros(1, 1000, dtype=dtype), 100, generator=generator(1)), draws)


@each_noise
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_draws_in_half_precision_are_those_of_single_precision_rounded(name: str, dtype: torch.dtype):
    """Uniform numbers that are drawn in bfloat16 are coarse and have a mean below 0."""
    noise = NOISES[name][0]
    draws = noise.sample(torch.zeros(1, 1000, dtype=dtype), 100, generator=generator(1))
    assert draws.dtype == dtype
    assert torch.equal(draws, noise.sample(torch.zeros(1, 1000), 100, generator=generator(1)).to(dtype))


@each_noise
def test_certificates_never_exceed_the_distance_and_come_close(name: str):
    noise = NOISES[name][0]
    model = Halfspace(torch.ones(1))
    x = torch.linspace(-0.7, 0.7, 15).unsqueeze(1)
    certificate = SmoothedClassifier(model, noise, num_classes=2).certify(
        x, n=20_000, alpha=1e-6, generator=generator()
    )
    distance = model.distance(x)
    assert certificate.norm == noise.norm
    assert certificate.subject == f"smoothed({noise})"
    assert (certificate.radius <= distance).all()
    assert (certificate.radius >= distance - 0.1)[distance > 0.15].all()


@pytest.mark.parametrize("kind", [Gaussian, Laplace, Uniform])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "0.5", None, True, [0.5]])
def test_parameters_must_be_finite_and_above_zero(kind: type[Noise], value: float):
    with pytest.raises(InvalidInput, match="must be a finite number above 0"):
        kind(value)


# The largest possible radius over sigma: all of n votes for one class (closed form, evaluated to four digits).
@pytest.mark.parametrize(
    ("alpha", "n", "largest"),
    [(1e-2, 100, 1.6953), (1e-3, 1000, 2.4633), (1e-3, 100_000, 3.8115), (1e-4, 1_000_000, 4.2832)],
)
def test_largest_radius(alpha: float, n: int, largest: float):
    p = clopper_pearson_lower(torch.tensor([n]), n, alpha=alpha)
    assert Gaussian(1.0).radius(p).item() == pytest.approx(largest, abs=6e-5)


def test_uniform_radii_of_levine_and_feizi(shared_data):
    """10,000 published lower bounds and l1 radii; their parameter is the standard deviation."""
    folder = shared_data / "smoothing/splitting_noise/checkpoints/cifar_split_0.5"
    p_lower, published = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("prob_lb", "radius_l1"))
    radius = Uniform(0.5 * math.sqrt(3)).radius(p_lower.double().clamp(0, 1))
    certified = published > 0
    assert certified.sum() > 5000
    assert (radius - published)[certified].abs().max() < 2e-7
