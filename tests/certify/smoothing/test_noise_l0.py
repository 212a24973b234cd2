"""Certificates of numbers of changes: every subset or every noisy input is enumerated, in exact arithmetic."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor

from bounds import InvalidInput
from certify.smoothing.noises.l0 import Ablation, CountingNoise, DiscreteNoise

Law = dict[tuple[int, ...], Fraction]


def p_of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ablation_laws(noise: Ablation, changes: int) -> tuple[Law, Law]:
    """The views that the model has of an input and of one whose first pixels changed: all subsets of pixels."""
    subsets = list(itertools.combinations(range(noise.pixels), noise.keep))
    share = Fraction(1, len(subsets))
    changed = {tuple(i - noise.pixels * (i < changes) for i in subset): share for subset in subsets}
    return dict.fromkeys(subsets, share), changed


def discrete_laws(noise: DiscreteNoise, changes: int) -> tuple[Law, Law]:
    """The views of an input of three entries and of one that differs in some: all values of all entries."""
    keep, others = Fraction(noise.keep_probability), noise.levels - 1

    def law(x: tuple[int, ...]) -> Law:
        return {
            z: math.prod(keep if a == b else (1 - keep) / others for a, b in zip(x, z, strict=True))
            for z in itertools.product(range(noise.levels), repeat=3)
        }

    return law((0, 0, 0)), law((1,) * changes + (0,) * (3 - changes))


def least(laws: tuple[Law, Law], p: Fraction) -> Fraction:
    """Smallest probability at the changed input of a set that has p at the input (Neyman and Pearson)."""
    at, after = laws
    outcomes = sorted(at, key=lambda z: after.get(z, Fraction(0)) / at[z])
    left, total = p, Fraction(0)
    for z in outcomes:
        part = min(left, at[z])
        left, total = left - part, total + part * after.get(z, Fraction(0)) / at[z]
    return total


def keeps(laws: tuple[Law, Law], p_lower: float, p_upper: float | None = None) -> bool:
    """Whether the label leads at the changed input, whatever the classifier is."""
    a = Fraction(p_lower)
    b = 1 - a if p_upper is None else min(Fraction(p_upper), 1 - a)
    return least(laws, a) > 1 - least(laws, 1 - b)


CASES = [
    (Ablation(keep=2, pixels=6), ablation_laws, range(5)),
    (Ablation(keep=1, pixels=8), ablation_laws, range(8)),  # thresholds that are float64 numbers
    (Ablation(keep=3, pixels=7), ablation_laws, range(5)),
    (DiscreteNoise(0.75, levels=2), discrete_laws, range(4)),
    (DiscreteNoise(Fraction(2, 5), levels=3), discrete_laws, range(4)),
    (DiscreteNoise(Fraction(3, 10), levels=4), discrete_laws, range(3)),
]
each_case = pytest.mark.parametrize(("noise", "laws", "changes"), CASES, ids=[str(case[0]) for case in CASES])
NOISES = [Ablation(75, 1024), Ablation(2, 50_176), DiscreteNoise(0.2), DiscreteNoise(0.8, levels=2)]
each_noise = pytest.mark.parametrize("noise", NOISES, ids=str)


@each_case
def test_thresholds_are_those_of_the_worst_classifier(noise: CountingNoise, laws, changes: range):
    """At the probability needed the label stays, and one float64 number below it does not: nothing is left over."""
    for r in changes:
        needed = noise.probability_needed(r).item()
        enumerated = laws(noise, r)
        if needed < 1:
            assert keeps(enumerated, needed)
            assert not keeps(enumerated, math.nextafter(needed, 0))
            assert noise.radius(p_of(needed)).item() >= r
            assert noise.radius(p_of(math.nextafter(needed, 0))).item() < max(r, 1)
        else:
            assert not keeps(enumerated, 1 - 2.0**-53)


@each_case
def test_radius_between_two_classes_is_that_of_the_worst_classifier(noise: CountingNoise, laws, changes: range):
    enumerated = [laws(noise, r) for r in changes]
    grid = torch.rand(20, 2, generator=generator(3), dtype=torch.float64)
    p_lower, p_upper = grid.amax(1), (grid.amin(1) * (1 - grid.amax(1) ** 4)).clamp(max=0.49)
    radius = noise.radius(p_lower, p_upper)
    for a, b, r in zip(p_lower.tolist(), p_upper.tolist(), radius.tolist(), strict=True):
        known = [keeps(law, a, b) for law in enumerated]
        assert all(known[: int(r) + 1]) or a <= b
        if r + 1 < len(known):
            assert not known[int(r) + 1]  # one more change breaks it


@each_noise
def test_radii_are_whole_numbers_that_grow_and_agree_between_the_rules(noise: CountingNoise):
    p = torch.cat([torch.linspace(0, 1, 201, dtype=torch.float64), 1 - 10 ** -torch.arange(3.0, 9).double()]).sort()[0]
    radius = noise.radius(p)
    assert radius.dtype == torch.float64
    assert torch.equal(radius, radius.round())
    assert (radius.diff() >= 0).all()
    assert (radius[p <= 0.5] == 0).all()
    assert radius.max() >= 8
    assert (noise.radius(p, 0.5 * (1 - p)) >= radius).all()
    two = noise.radius(p, 1 - p)
    assert ((two == radius) | (two == radius - 1)).all()  # a gap is rounded down
    assert noise.radius(p.view(3, -1)).shape == (3, 69)
    assert noise.radius(p[:0]).shape == (0,)


@each_noise
def test_probability_needed_is_the_inverse(noise: CountingNoise):
    r = torch.arange(8, dtype=torch.float64)
    needed = noise.probability_needed(r)
    assert torch.equal(noise.radius(needed), r)
    assert (noise.radius(torch.nextafter(needed, torch.zeros_like(r))) < r)[1:].all()
    assert torch.equal(noise.probability_needed(r[1:] - 0.5), needed[1:])
    assert noise.probability_needed(math.inf) == 1
    for wrong in (-1.0, math.nan):
        with pytest.raises(InvalidInput, match="radius must be at least 0"):
            noise.probability_needed(wrong)


def test_published_radii_of_ablation():
    assert Ablation(75, 1024).radius(p_of(0.99)) == 8
    assert Ablation(2000, 50_176).radius(p_of(0.99)) == 16
    assert Ablation(7, 7).radius(p_of(1.0)) == 0


def test_thresholds_published_by_lee_et_al(shared_data: Path):
    """Twenty digits, rounded up there."""
    tables = sorted(shared_data.glob("smoothing/lee_l0/*/main/thresholds/*/*.txt"))
    assert len(tables) == 12
    for table in tables:
        noise = DiscreteNoise(Fraction(table.stem), levels=2 if table.parent.name == "mnist" else 256)
        rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
        for published, ours in zip(
            [Fraction(Decimal(row[1])) for row in rows], noise.thresholds.tolist(), strict=False
        ):
            digits = Fraction(2, 10**20)
            assert Fraction(ours) - digits <= published < Fraction(math.nextafter(ours, 2)) + digits


def test_ablated_inputs_hold_pixels_and_their_complements_or_nothing():
    x = torch.rand(2, 3, 5, 7, generator=generator())
    x[0, 0, 0, 0], x[0, 1, 0, 0] = -0.0, 1.0
    noisy = Ablation(4, 35).sample(x, 50, generator=generator(1))
    assert noisy.shape == (2, 50, 6, 5, 7)
    whole = torch.cat([x.abs(), 1 - x], 1).unsqueeze(1).expand_as(noisy)
    kept = (noisy[:, :, :3] + noisy[:, :, 3:]).amax(2) > 0
    assert (kept.flatten(2).sum(2) == 4).all()
    assert torch.equal(noisy, torch.where(kept.unsqueeze(2), whole, 0.0))
    assert not noisy.signbit().any()  # not even a zero betrays what was there
    assert torch.equal(Ablation(4, 35).distribution.clean(x), whole[:, 0])


def test_all_subsets_of_pixels_are_equally_likely():
    noise = Ablation(2, 5)
    masks = noise.sample(torch.ones(1, 1, 5), 20_000, generator=generator(2))[0, :, 0].long()
    counts = (masks * 2 ** torch.arange(5)).sum(1).bincount().numpy()
    assert (counts > 0).sum() == 10
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-6
    assert 0 < Ablation(2000, 50_176).distribution.error(1) < 2e-10
    assert noise.distribution.sampling == "exact"
    assert noise.distribution.on_grid(255) == noise.distribution


@pytest.mark.parametrize("levels", [2, 3, 256])
def test_replaced_values_follow_their_law(levels: int):
    noise = DiscreteNoise(0.6, levels)
    v = torch.arange(levels).view(-1, 1) % 5
    x = v / (levels - 1) if levels > 5 else (v % levels) / (levels - 1)
    noisy = noise.sample(x, 200_000 // levels, generator=generator(4))
    seen = (noisy * (levels - 1)).round()
    assert torch.allclose(seen / (levels - 1), noisy)
    assert ((seen >= 0) & (seen < levels)).all()
    offsets = (seen[0] - (x[0] * (levels - 1)).round()).long().remainder(levels).flatten()
    counts = np.bincount(offsets.numpy(), minlength=levels)
    expected = np.full(levels, 0.4 / (levels - 1))
    expected[0] = 0.6
    if counts.sum() * expected.min() >= 5:
        assert scipy.stats.chisquare(counts, expected * counts.sum()).pvalue > 1e-6
    assert scipy.stats.binomtest(int(counts[0]), len(offsets), 0.6).pvalue > 1e-6
    assert 0 < noise.distribution.error(3072) < 1e-11
    assert noise.distribution.sampling == f"integers on the grid 1/{levels - 1}"
    assert noise.distribution.on_grid(levels - 1) == noise.distribution
    assert noise.distribution.on_grid(levels) is None


@pytest.mark.parametrize("noise", [Ablation(4, 15), DiscreteNoise(0.5, levels=8)], ids=str)
def test_everything_follows_the_device(noise: CountingNoise):
    x = torch.rand(2, 2, 3, 5, generator=generator()).mul(7).round() / 7
    p = p_of(0.7, 0.9)

    def everything() -> list[Tensor]:
        noise.check(x)
        return [
            noise.radius_at(x, p),
            noise.radius_at(x, p, 0.5 * (1 - p)),
            noise.probability_needed_at(x, 1),
            noise.sample(x, 3, generator=generator()),
        ]

    expected = everything()
    with elsewhere():
        actual = everything()
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_bad_arguments_are_refused():
    for keep, pixels, message in [
        (0, 5, "keep must be an integer of at least 1"),
        (6, 5, "keep must be at most 5"),
        (1, 0, "pixels must be an integer of at least 1"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            Ablation(keep, pixels)
    for keep_probability, levels, message in [
        (0.25, 4, "keep_probability must exceed 1 / levels"),
        (1.0, 4, "keep_probability must lie strictly between 0 and 1"),
        (0.5, 1, "levels must be an integer of at least 2"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            DiscreteNoise(keep_probability, levels)
    with pytest.raises(InvalidInput, match=r"with 15 pixels, got \(2, 3, 4\) with 4"):
        Ablation(4, 15).check(torch.zeros(2, 3, 4))
    with pytest.raises(InvalidInput, match="x must lie in the declared range"):
        Ablation(1, 4).check(torch.full((2, 3, 4), 1.5))
    with pytest.raises(InvalidInput, match="x must lie on the grid 1/7, but row 1 does not"):
        DiscreteNoise(0.5, 8).check(torch.tensor([[1 / 7], [0.2]]))
