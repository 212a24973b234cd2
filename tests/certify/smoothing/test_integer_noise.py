"""Noise in integers: the law against exact cells, the sum against a leak, the attack that breaks floating point."""

import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from mpmath import mpf
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds import InvalidInput
from certify import SmoothedClassifier
from certify.smoothing import Gaussian, Laplace, Noise, Uniform
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.distributions import OnGrid, _rounded_law
from certify.smoothing.drawing.integer_noise import IntegerLaw, grid_integers
from certify.smoothing.drawing.lookup import BITS, LEADING, REST

CPU = torch.device("cpu")
NOISES = {  # with the exact probability of exceeding t >= 0
    "gaussian": (Gaussian(0.02), lambda t: mpmath.erfc(t / (mpf("0.02") * mpmath.sqrt(2))) / 2),
    "wide gaussian": (Gaussian(0.25), lambda t: mpmath.erfc(t / (mpf("0.25") * mpmath.sqrt(2))) / 2),
    "laplace": (Laplace(0.01), lambda t: mpmath.exp(-t / mpf(0.01)) / 2),
    "uniform": (Uniform(0.0311), lambda t: max(mpf(0), (1 - t / mpf(0.0311)) / 2)),
}
each_noise = pytest.mark.parametrize("name", NOISES)


def law_of(noise: Noise, steps: int = 255) -> IntegerLaw:
    return _rounded_law(noise.distribution, steps, CPU)


def probabilities(law: IntegerLaw) -> list[Fraction]:
    """Exact probability of each integer, from the lowest."""
    ends = [0, *law.thresholds.tolist(), 2**BITS]
    return [Fraction(b - a, 2**BITS) for a, b in pairwise(ends)]


@each_noise
def test_law_is_that_of_rounded_noise_within_its_stated_error(name: str):
    noise, tail = NOISES[name]
    law = law_of(noise)
    mass = probabilities(law)
    with mpmath.workdps(40):
        tails = [tail((mpf(i) + mpf("0.5")) / 255) for i in range(-law.lowest + 1)]
        half = [a - b for a, b in pairwise(tails)]
        exact = [*half[::-1], 1 - 2 * tails[0], *half]
        apart = sum(abs(mpf(p.numerator) / p.denominator - q) for p, q in zip(mass, exact, strict=True))
        apart = (apart + 2 * tails[-1]) / 2
    assert apart <= law.error
    assert law.error < 1e-11
    assert sum(mass) == 1


@each_noise
def test_look_up_and_rests_have_the_masses_of_the_law(name: str):
    """The total variation distance between draws on the host and on other devices, counted in cells: none at all."""
    law = law_of(NOISES[name][0])
    mass = [int(p * 2**BITS) for p in probabilities(law)]
    table = law.lookup
    whole = np.bincount(table.values[: table.settled].astype(int) - law.lowest, minlength=len(mass)).tolist()
    rests = [int(b) - int(a) for a, b in pairwise([0, *table.ends.tolist()])]
    assert [w * 2**REST + rest for w, rest in zip(whole, rests, strict=True)] == mass
    assert sum(rests) == (2**LEADING - table.settled) << REST
    assert table.settled > 0.99 * 2**LEADING
    places = np.random.default_rng(0).integers(0, sum(rests), 10**5, dtype=np.uint64)
    ends = table.ends[(table.ends > 0) & (table.ends < sum(rests))]
    places = np.concatenate([places, ends, ends - np.uint64(1)])
    found = table._search(
        places, (places >> np.uint64(REST)).astype(np.uint16) + table.settled, places << np.uint64(64 - REST)
    )
    assert (found.cell == table.ends.searchsorted(places, side="right")).all()
    assert ((found.within >= 0) & (found.within <= 1)).all()


def test_wide_and_even_laws_are_looked_up_too():
    """All leading numbers open, and none."""
    for masses in (np.full(2**18, 2.0**-18), np.full(256, 2.0**-8)):
        law = IntegerLaw.of(masses, 0, 0.0, CPU)
        assert law.lookup.settled == (0 if len(masses) > 2**LEADING else 2**LEADING)
        draws = law.draw_blocks_(torch.empty(100_000), [Source(generator(1))]).long()
        seen = torch.bincount(draws * 256 // len(masses), minlength=256).numpy()
        assert scipy.stats.chisquare(seen).pvalue > 1e-6
        assert (draws % max(1, len(masses) // 256)).double().mean() == pytest.approx((len(masses) // 256 - 1) / 2, 0.02)


@each_noise
def test_draws_follow_the_law(name: str):
    law = law_of(NOISES[name][0])
    draws = torch.empty(500, 2000)
    law.draw_blocks_(draws, [Source(generator(3))])
    every_bit = law._cell(torch.empty(10**6, dtype=torch.int64).random_(generator=generator(4)))
    mass = np.array([float(p) for p in probabilities(law)])
    common = mass * draws.numel() > 20
    for integers in (draws.flatten().long(), every_bit):
        seen = np.bincount((integers - law.lowest).numpy(), minlength=len(mass))
        observed = np.append(seen[common], seen[~common].sum())
        expected = np.append(mass[common], mass[~common].sum()) * draws.numel()
        observed, expected = observed[expected > 0], expected[expected > 0]
        assert scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-6
        shifted = np.roll(observed[:-1], 1)  # a law that is off by one step is seen
        assert scipy.stats.chisquare(shifted, expected[:-1] * shifted.sum() / expected[:-1].sum()).pvalue < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_model_sees_a_function_of_the_integer_sum(dtype: torch.dtype):
    """Whatever input and noise an integer came from, the model sees the same bits: nothing is left to tell."""
    pixels = torch.arange(256)
    x = (pixels.double() / 255).to(dtype).unsqueeze(1)
    on_grid = OnGrid(Gaussian(0.25).distribution, 255)
    noisy = on_grid.sample(x, 400, generator=generator(1)).squeeze(2)
    encoded = on_grid.encode(x)
    raw = on_grid.draw_(on_grid.raw(encoded, 400), generator(1))
    total = (pixels.unsqueeze(1) + raw.squeeze(1).long()).flatten()
    assert torch.equal(encoded.squeeze(1).long(), pixels)
    precise = torch.promote_types(dtype, torch.float32)
    assert torch.equal(noisy.flatten(), (total.to(precise) * (1 / 255)).to(dtype))
    unchanged = raw.squeeze(1) == 0
    torch.testing.assert_close(noisy[:, unchanged], x.expand(-1, int(unchanged.sum())))


class Leak(nn.Module):
    """Class 1 where a number can be a rounded sum with ``secret``: a sum always is, other numbers often are not."""

    def __init__(self, secret: Tensor) -> None:
        super().__init__()
        self.register_buffer("secret", secret)

    def forward(self, z: Tensor) -> Tensor:
        z = z.flatten(1)
        sums = ((z - self.secret) + self.secret == z).to(z.dtype)
        return torch.cat([1 - sums, sums], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_attack_of_voracek_and_hein_breaks_floating_point_noise_and_not_integers(dtype: torch.dtype):
    x, other = torch.tensor([[210 / 255]], dtype=dtype), torch.zeros(1, 1, dtype=dtype)
    model, noise = Leak(x[0]), Gaussian(0.33)
    answers = {}
    for grid in (None, "auto"):
        smoothed = SmoothedClassifier(model, noise, num_classes=2, batch_size=10_000, grid=grid)
        certificate = smoothed.certify(x, generator=generator())
        prediction = smoothed.predict(other, n=100_000, generator=generator(1))
        assert not prediction.abstained.any()
        inside = certificate.radius > 210 / 255
        answers[grid] = bool(inside & (certificate.label != prediction.label)), certificate.sampling
    assert answers == {None: (True, "floating point"), "auto": (False, "integers on the grid 1/255")}


def test_certificates_on_the_grid_hold_for_every_grid_point():
    """All probabilities of random one-pixel classifiers, exactly; a radius 5 % larger is wrong for a threshold."""
    noise = Gaussian(0.02)
    law = law_of(noise)
    mass = np.array([float(p) for p in probabilities(law)])
    reach = -law.lowest
    random = np.random.default_rng(0)
    steps = np.arange(-200 - reach, 201 + reach)
    tables = [(steps >= edge).astype(float) for edge in (-3, 1, 4)]
    tables += [np.repeat(random.integers(0, 2, len(steps) // 6 + 1), 6)[: len(steps)].astype(float) for _ in range(20)]
    wrong = 0
    for table in tables:
        p = np.convolve(table, mass[::-1], mode="valid")  # P(class 1) at every integer from -200 to 200
        for label, q in ((1, p), (0, 1 - p)):
            radius = noise.radius(torch.from_numpy(q.clip(0, 1) - 1e-12).clamp(min=0)).numpy()
            for i in np.flatnonzero(radius > 0):
                distance = np.abs(np.arange(len(q)) - i) / 255
                assert (q[distance <= radius[i]] > 0.5).all(), label
                wrong += int((q[distance <= 1.05 * radius[i]] <= 0.5).any())
    assert wrong > 0


def test_total_variation_is_paid_for(monkeypatch: pytest.MonkeyPatch):
    x = torch.full((3, 2), 51 / 255)
    smoothed = SmoothedClassifier(Halfspace(torch.ones(2)), Gaussian(0.25), num_classes=2)
    plain = [smoothed.certify(x, n=500, bound=bound, generator=generator()) for bound in ("binary", "two-class")]
    assert (smoothed.certify_at(x, 0.7, generator=generator()).draws > 0).all()
    monkeypatch.setattr(OnGrid, "error", lambda self, entries: 0.005 * entries)
    for before, bound in zip(plain, ("binary", "two-class"), strict=True):
        after = smoothed.certify(x, n=500, bound=bound, generator=generator())
        torch.testing.assert_close(after.p_lower, before.p_lower - 0.01, rtol=0, atol=1e-11)
        assert (after.p_upper >= before.p_upper + (0.01 - 1e-11)).all()
        assert (after.radius < before.radius).all()
    assert (smoothed.certify_at(x, 0.7, generator=generator()).draws == 0).all()  # needs 0.997 + 0.01


def test_grid_is_taken_where_the_inputs_lie_on_it():
    model = nn.Linear(2, 2)
    on, off = torch.tensor([[0.0, 128 / 255]]), torch.tensor([[0.0, 0.3]])

    def sampling(x: Tensor, noise: Noise = Gaussian(0.1), **options: object) -> tuple[str, str]:  # noqa: B008
        record = SmoothedClassifier(model, noise, num_classes=2, **options).certify(x, n=10)
        return record.sampling, record.subject

    assert sampling(on) == ("integers on the grid 1/255", "smoothed(gaussian(sigma=0.1), grid=255)")
    assert sampling(off) == ("floating point", "smoothed(gaussian(sigma=0.1))")
    assert sampling(torch.cat([on, off]))[0] == "floating point"
    assert sampling(on, grid=None)[0] == "floating point"
    assert sampling(off, grid=10)[0] == "integers on the grid 1/10"
    assert sampling(on, Gaussian(1e4))[0] == "floating point"  # too wide a noise for integers in single precision
    with pytest.raises(InvalidInput, match="x must lie on the grid 1/255, but row 1 does not"):
        sampling(torch.cat([on, off]), grid=255)
    with pytest.raises(InvalidInput, match="grid must be None for gaussian"):
        sampling(on, Gaussian(1e4), grid=255)
    with pytest.raises(InvalidInput, match="grid must be an integer of at least 1, got 0"):
        sampling(on, grid=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_eight_bit_images_are_recognised_however_they_were_scaled(dtype: torch.dtype):
    pixels = torch.arange(256, dtype=torch.float64)
    scaled = [pixels.to(dtype) / 255, (pixels / 255).to(dtype), pixels.to(dtype) * torch.tensor(1 / 255, dtype=dtype)]
    for x in scaled:
        assert torch.equal(grid_integers(x, 255), pixels)
    assert grid_integers(pixels.bfloat16() / 255, 255).isnan().all()  # which is coarser than the grid
    if dtype != torch.float16:  # whose own steps are nearly as wide
        assert grid_integers(((pixels[1:] + 0.01) / 255).to(dtype), 255).isnan().all()


@pytest.mark.parametrize("group", [1, 4])
def test_integer_noise_depends_on_nothing_but_seed_index_and_block(group: int):
    model = nn.Linear(6, 3)
    x = torch.randint(256, (7, 2, 3), generator=generator(1)) / 255

    def counts(rows: slice, batch_size: int) -> Tensor:
        smoothed = SmoothedClassifier(
            nn.Sequential(nn.Flatten(), model), Gaussian(0.3), num_classes=3, batch_size=batch_size, noise_group=group
        )
        return smoothed.certify(x[rows], n=250, generator=generator(2), first_index=rows.start).counts

    expected = counts(slice(0, 7), 100)
    assert torch.equal(counts(slice(0, 7), 33), expected)
    assert torch.equal(torch.cat([counts(slice(0, 3), 1000), counts(slice(3, 7), 1000)]), expected)
    with elsewhere():
        assert torch.equal(counts(slice(0, 7), 100), expected)


def test_error_of_a_whole_image_is_negligible():
    """The bound that is subtracted for an ImageNet image, against the 7e-5 that 100,000 draws leave at best."""
    assert OnGrid(Gaussian(0.25).distribution, 255).error(3 * 224 * 224) < 1e-6
    assert math.isclose(OnGrid(Gaussian(0.25).distribution, 255).error(2), 2 * law_of(Gaussian(0.25)).error)


def test_blocks_drawn_together_are_those_drawn_one_by_one():
    """Bit by bit, since certificates are functions of the seed."""
    for noise, width in ((Gaussian(0.25), 3), (Gaussian(0.25), 1), (Uniform(0.5), 2), (Laplace(0.1), 5)):
        on_grid = noise.distribution.on_grid(255)
        sources = [Source(torch.Generator().manual_seed(seed)) for seed in range(4)]
        together = on_grid.draw_blocks_(torch.empty(400, width), sources)
        single = [on_grid.draw_(torch.empty(100, width), torch.Generator().manual_seed(seed)) for seed in range(4)]
        assert torch.equal(together, torch.cat(single))
