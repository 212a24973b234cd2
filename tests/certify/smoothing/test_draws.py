"""Draws from tables: laws against exact ones, streams that do not depend on how they are cut, and what a seed means."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.halfspace import Halfspace, generator
from torch import Tensor

import certify
from bounds import InvalidInput, ManifestMismatch
from certify import SmoothedClassifier
from certify.evaluation.storage.run_directory import RunDirectory
from certify.smoothing import Gaussian, GeneralizedGaussian, Laplace, Noise, SplittingNoise, Uniform
from certify.smoothing.drawing.bits import DRAWS_VERSION, Source
from certify.smoothing.drawing.distributions import Distribution, LaplaceEntries, UniformEntries, _staircase
from certify.smoothing.drawing.lookup import BITS
from certify.smoothing.drawing.staircase import Staircase

LAPLACE = LaplaceEntries(0.3)
NORMAL = scipy.stats.norm(scale=0.7)
STAIRCASES = {
    "laplace": (_staircase(LAPLACE), LAPLACE.upper_tail, LAPLACE.density),
    "normal": (Staircase.of(NORMAL.sf, NORMAL.pdf, 6.5), NORMAL.sf, NORMAL.pdf),
}
each_staircase = pytest.mark.parametrize("name", STAIRCASES)


def sources(count: int, first: int = 0) -> list[Source]:
    found = [Source(torch.Generator()) for _ in range(count)]
    for i, source in enumerate(found):
        source.begin(5, 1, 7, first + i)
    return found


@each_staircase
def test_cells_have_the_masses_of_the_law_to_the_last_bit(name: str):
    """Steps and rests of each cell together, against the tail; steps lie nowhere above the density."""
    stairs, tail, density = STAIRCASES[name]
    count = len(stairs.near) // 2
    ends = np.arange(count + 1) * stairs.width
    table = stairs.lookup
    cell = np.floor(table.values[: table.settled].astype(float) / stairs.width).astype(int) + count
    whole = np.bincount(cell, minlength=2 * count)
    rests = np.diff(np.array([0, *table.ends.tolist()], dtype=object))
    masses = [int(w) * 2 ** (BITS - 16) + int(rest) for w, rest in zip(whole, rests, strict=True)]
    assert sum(masses) == 2**BITS
    assert masses == masses[::-1]
    exact = (tail(ends[:-1]) - tail(ends[1:])) * 2.0**BITS
    apart = np.abs(np.array(masses[count:], dtype=float) - exact)
    assert (apart <= 1 + 2.0**-52 * 2.0**BITS).all()  # of one unit, and of rounding in the tail itself
    assert apart.sum() <= 1e-14 * 2.0**BITS  # the total variation distance between cells
    assert (whole[count:] / 2**16 <= density(ends[1:]) * stairs.width).all()
    assert min(table.settled, 1000 * (2**16 - table.settled)) > 0.98 * 2**16 / 100


@each_staircase
def test_places_above_the_steps_invert_the_distribution_function(name: str):
    """Within 1e-10 of the probability of the law, and within its cell, on both sides."""
    stairs, tail, density = STAIRCASES[name]
    count, random = len(stairs.near) // 2, np.random.default_rng(0)
    cell = np.concatenate([np.arange(2 * count), random.integers(count - 300, count + 300, 20_000)])
    share = np.concatenate([np.zeros(count), np.ones(count), random.random(20_000)])
    place = stairs.above(cell, share)
    one_side = np.where(cell < count, count - 1 - cell, cell - count)
    near = one_side * stairs.width
    t = np.abs(place) - near
    step = density(near) - stairs.near[cell]
    assert ((t >= -1e-12) & (t <= stairs.width * (1 + 1e-12))).all()
    assert ((place < 0) == (cell < count))[share > 0].all()
    above = [tail(near) - tail(near + s) - step * s for s in (t, stairs.width)]
    assert np.abs(above[0] - share * above[1]).max() < 1e-10


@each_staircase
def test_draws_follow_the_density(name: str):
    stairs, tail, _ = STAIRCASES[name]
    draws = stairs.draw_blocks_(torch.empty(10, 100, 100), sources(10)).flatten().double().numpy()
    sorted_ = np.where(draws < 0, tail(np.abs(draws)), 1 - tail(np.abs(draws)))
    assert scipy.stats.kstest(sorted_, "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(sorted_ * (1 - 8e-3), "uniform").pvalue < 1e-4  # a law that is off by so much is seen
    inside = np.abs(draws) / stairs.width % 1
    assert scipy.stats.kstest(np.where(draws < 0, 1 - inside, inside), "uniform").statistic < 0.01
    far = np.abs(draws)[np.abs(draws) > 8 * stairs.width * 50]
    assert len(far) == 0 or far.max() < stairs.width * len(stairs.near)


def test_the_tail_is_not_cut():
    """The last share of the rests lies where the tail is 2**-60: no other way of drawing reaches as far."""
    stairs = STAIRCASES["laplace"][0]
    last = np.array([2 ** (BITS - 16) * (2**16 - stairs.lookup.settled) - 8], dtype=np.uint64)
    cell = stairs.lookup.ends.searchsorted(last, side="right")
    assert LAPLACE.upper_tail(stairs.above(cell, np.array([0.5]))) < 2.0**-57


def test_uniform_numbers_fill_their_interval():
    draws = UniformEntries(0.3).draw_blocks_(torch.empty(1000, 300), sources(10)).flatten().double().numpy()
    assert scipy.stats.kstest(draws, "uniform", args=(-0.3, 0.6)).pvalue > 1e-4
    assert 0.2999 < np.abs(draws).max() <= np.float32(0.3)
    assert len(np.unique(draws)) > 0.97 * len(draws)  # 24 bits would repeat more


LAWS: dict[str, Distribution] = {
    "normal": Gaussian(0.25).distribution,
    "normal on the grid": Gaussian(0.25).distribution.on_grid(255),
    "laplace": Laplace(0.2).distribution,
    "uniform": Uniform(0.5).distribution,
    "cuts": SplittingNoise(0.4).distribution,
    "cuts on the grid": SplittingNoise(0.2).distribution.on_grid(255),
}


DIGESTS = {"normal on the grid": "6a25b53d6a24", "uniform": "984f7ec8219b", "cuts on the grid": "5c6d8e9f852a"}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("width", [1, 3, 700])
def test_draws_depend_neither_on_threads_nor_on_the_blocks_beside_them(name: str, width: int):
    law, found = LAWS[name], {}
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found[count] = law.draw_blocks_(torch.empty(400, width), sources(4))
    finally:
        torch.set_num_threads(threads)
    alone = [law.draw_blocks_(torch.empty(100, width), sources(1, first=i)) for i in range(4)]
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[1], torch.cat(alone))
    assert len({block.numpy().tobytes() for block in alone}) == 4


@pytest.mark.parametrize(
    "noise", [Gaussian(0.3), Laplace(0.2), Uniform(0.5), SplittingNoise(0.4), GeneralizedGaussian(0.3, 32, 4)], ids=str
)
@pytest.mark.parametrize("grid", [None, "auto"])
@pytest.mark.slow
def test_counts_depend_neither_on_batches_nor_on_where_noise_is_written(noise: Noise, grid: str | None):
    """Batches of 300 are written in place, those of 77 are not."""
    x = torch.randint(256, (3, 32), generator=generator(1)) / 255

    def counts(batch_size: int) -> Tensor:
        smoothed = SmoothedClassifier(Halfspace(torch.ones(32)), noise, num_classes=2, batch_size=batch_size, grid=grid)
        return smoothed.certify(x, n=450, generator=generator(2)).counts

    assert torch.equal(counts(300), counts(77))
    assert torch.equal(counts(300), counts(1000))


def test_a_seed_means_these_draws():
    """Other draws are another version: raise DRAWS_VERSION together with these digests."""
    digests = {
        name: hashlib.sha256(LAWS[name].draw_blocks_(torch.empty(200, 5), sources(2)).numpy().tobytes()).hexdigest()[
            :12
        ]
        for name in ("normal on the grid", "uniform", "cuts on the grid")
    }
    assert (DRAWS_VERSION, digests) == (2, DIGESTS)


def test_blocks_have_streams_of_their_own():
    source, seen = Source(torch.Generator()), set()
    for key in [(5, 1, 7, 0), (5, 1, 7, 1), (5, 1, 8, 0), (5, 0, 7, 0), (6, 1, 7, 0)]:
        source.begin(*key)
        first = source.words(4).tolist()
        source.begin(*key)
        assert source.words(4).tolist() == first
        seen.update(first)
    assert len(seen) == 20
    with pytest.raises(InvalidInput, match="draws per input must stay below"):
        source.begin(0, 0, 0, 2**30)


def test_a_certificate_of_other_draws_is_not_extended():
    x = torch.zeros(2, 3)
    smoothed = SmoothedClassifier(Halfspace(torch.ones(3)), Gaussian(0.5), num_classes=2)
    certificate = smoothed.certify(x, n=100, tolerance=0.01, generator=generator(1))
    smoothed.extend(certificate, x, n=200)
    with pytest.raises(InvalidInput, match=r"certificate is of version 1 of draws, this release makes version 2"):
        smoothed.extend(dataclasses.replace(certificate, draws_version=1), x, n=200)


def test_a_run_of_other_draws_is_not_continued(tmp_path: Path):
    x, y = torch.rand(2, 4, generator=generator(1)), torch.zeros(2, dtype=torch.long)

    def run() -> None:
        methods = [certify.methods.Smoothing(n=100)]
        certify.evaluate(Halfspace(torch.ones(4)), x, y, norms=(2,), methods=methods, output=tmp_path / "run")

    run()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["draws_version"] == DRAWS_VERSION
    records = RunDirectory.read(tmp_path / "run").records()
    assert [record["drawing"]["draws_version"] for record in records.values()] == [DRAWS_VERSION]
    run()
    del manifest["draws_version"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestMismatch, match=r"draws_version was 1, now 2 \(seeds give other noise since"):
        run()
