"""Corruptions of ImageNet-C, mCE and flip rates: closed forms, colorsys, SciPy's filters, counts by hand."""

import colorsys
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles.halfspace import generator
from scipy import ndimage
from torch import Tensor, nn

from bounds import InvalidInput
from certify import corruptions
from certify.corruptions import (
    EXTRA,
    IMAGENET_C,
    SEQUENCES,
    CorruptionAccuracy,
    Frames,
    corruption_accuracy,
    corruption_error,
    flip_rates,
)
from certify.corruptions.filters import plasma, smeared, warped, zoomed

ALL = {**IMAGENET_C, **EXTRA}
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"}
RANDOM |= {"elastic_transform", "speckle_noise", "spatter"}


def images(count: int = 3, shape: tuple[int, int, int] = (1, 28, 28)) -> Tensor:
    """Smooth images with some contrast."""
    x = torch.nn.functional.avg_pool2d(torch.rand(count, *shape, generator=generator()), 5, 1, 2)
    return (3 * (x - 0.5) + 0.5).clamp(0, 1)


def test_all_are_there_by_name():
    assert (len(IMAGENET_C), len(EXTRA), len(ALL)) == (15, 4, 19)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40)])
def test_images_stay_images_and_higher_severity_is_farther(name: str, shape: tuple[int, int, int]):
    x = images(4, shape)
    moved = [ALL[name](x, severity, generator()) for severity in corruptions.SEVERITIES]
    for image in moved:
        assert image.shape == x.shape
        assert image.dtype == x.dtype
        assert image.isfinite().all()
        assert image.min() >= 0
        assert image.max() <= 1
    again = ALL[name](x, 5, generator())
    assert torch.equal(moved[4], again)
    assert torch.equal(moved[4], ALL[name](x, 5, generator(1))) == (name not in RANDOM)
    distances = [float((image - x).norm()) for image in moved]
    if name == "saturate" and shape[0] == 1:
        assert distances == [0] * 5
    else:
        assert min(distances) > 0
        assert max(distances) > 1.1 * min(distances)
    if name not in ("elastic_transform", "saturate", "frost", "fog", "pixelate"):  # whose kind changes on the way
        assert distances == sorted(distances)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_large_images_of_half_precision(name: str):
    x = images(1, (3, 224, 224)).to(torch.bfloat16) if name in ("fog", "pixelate") else images(1, (3, 224, 224))
    for severity in (1, 5):
        moved = ALL[name](x, severity, generator())
        assert moved.shape == x.shape
        assert moved.dtype == x.dtype
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
        assert not torch.equal(moved, x)


def test_warps_are_those_of_scipy():
    """Inside, away from the border; the middle stays where it is, and a shift takes what is to the right."""
    x = images(2, (1, 21, 30)).double()
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(warped(x, identity), x)
    matrix = torch.tensor([[0.9, 0.2, 1.5], [-0.1, 1.1, -0.5]], dtype=torch.float64)
    found = warped(x, matrix)[0, 0]
    own = matrix.flip(0)[:, [1, 0, 2]].numpy()  # (down, across)
    middle = np.array([10, 14.5])
    theirs = ndimage.affine_transform(
        x[0, 0].numpy(), own[:, :2], middle + own[:, 2] - own[:, :2] @ middle, order=1, mode="nearest"
    )
    torch.testing.assert_close(found, torch.from_numpy(theirs))
    torch.testing.assert_close(warped(x, torch.tensor([[1.0, 0, 3], [0, 1, 0]]))[..., 5], x[..., 8])
    torch.testing.assert_close(zoomed(x, 1.0), x)


def test_blurs_are_means_over_their_kernels():
    x = images(2, (1, 40, 40)).double()
    smear = smeared(x, torch.zeros(2, dtype=torch.float64), 4, 3.0)
    weights = np.exp(-(np.arange(5) ** 2) / 18)
    expected = sum(w * x[..., j : j + 36] for j, w in enumerate(weights / weights.sum()))
    torch.testing.assert_close(smear[..., :36], expected)
    point = torch.zeros(1, 1, 225, 225)
    point[..., 112, 112] = 1
    disc = corruptions.defocus_blur(point, 5)[0, 0]
    down, across = torch.meshgrid(torch.arange(225) - 112, torch.arange(225) - 112, indexing="ij")
    radius = (down**2 + across**2).float().sqrt()
    assert float(disc.sum()) == pytest.approx(1, rel=1e-4)
    assert disc[radius < 7.5].std() < 1e-6
    assert float(disc[112, 112]) == pytest.approx(1 / (math.pi * 10.04**2), rel=0.02)  # 225 pixels: a little larger
    assert float(disc[radius > 13].abs().max()) < 1e-8


def test_clouds_have_the_amplitude_of_their_octaves():
    """Amplitudes fall by 2 * decay from one octave of frequencies to the next: as the exponent says."""
    fields = plasma(torch.zeros(40, 1, 128, 128), 1.7, generator())
    assert (float(fields.min()), float(fields.max())) == (0, 1)
    size = torch.fft.rfft2(fields - fields.mean((2, 3), keepdim=True)).abs().square().mean((0, 1)).sqrt()
    slope = math.log2(float(size[0, 4:8].mean() / size[0, 8:16].mean()))
    assert slope == pytest.approx(1 + math.log2(1.7), abs=0.25)


def test_fog_falls_by_the_square_of_its_parameter():
    """As the midpoint displacement of the benchmark does: its amplitude enters twice."""
    fields = corruptions.fog(torch.zeros(40, 1, 128, 128) + 0.5, 2, generator()).double()
    size = torch.fft.rfft2(fields - fields.mean((2, 3), keepdim=True)).abs().square().mean((0, 1)).sqrt()
    slope = math.log2(float(size[0, 4:8].mean() / size[0, 8:16].mean()))
    assert slope == pytest.approx(1 + 2 * math.log2(2), abs=0.25)


def test_contrast_and_light_are_those_of_the_benchmark():
    """Shares of the distance to the mean of a channel; the value in the sense of colorsys, for black pixels too."""
    x = torch.rand(1, 3, 4, 4, generator=generator(), dtype=torch.float64)
    x[..., 0, 0] = 0
    steps = zip((0.4, 0.3, 0.2, 0.1, 0.05), (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)
    for severity, (share, added) in enumerate(steps, 1):
        low = IMAGENET_C["contrast"](x, severity, None)
        torch.testing.assert_close(low.mean((2, 3)), x.mean((2, 3)))
        torch.testing.assert_close(low.std((2, 3)), share * x.std((2, 3)))
        bright = IMAGENET_C["brightness"](x, severity, None)
        for pixel, image in zip(x[0].flatten(1).T, bright[0].flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + added))
            torch.testing.assert_close(image, torch.tensor(expected, dtype=torch.float64))


def test_wide_blurs_are_those_of_the_benchmark():
    x = images(1, (1, 112, 112)).double()  # half of the size that lengths are stated for
    for severity, sigma in enumerate((1, 2, 3, 4, 6), 1):
        reach = math.ceil(1.5 * sigma)
        theirs = ndimage.gaussian_filter(x.numpy(), sigma / 2, axes=(2, 3), mode="nearest", radius=reach)
        torch.testing.assert_close(EXTRA["gaussian_blur"](x, severity, None), torch.from_numpy(theirs))
    ranges = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    for severity, (end, step) in enumerate(ranges, 1):
        copies = [zoomed(x, float(factor)) for factor in np.arange(1, end, step)]
        expected = torch.stack([x, *copies]).mean(0)
        torch.testing.assert_close(corruptions.zoom_blur(x, severity), expected)


def test_saturation_is_that_of_colorsys():
    x = torch.rand(1, 3, 4, 4, generator=generator(), dtype=torch.float64)
    for severity, (factor, added) in enumerate(((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)), 1):
        found = corruptions.saturate(x, severity)
        for pixel, image in zip(x[0].flatten(1).T, found[0].flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
            expected = colorsys.hsv_to_rgb(hue, min(1.0, factor * saturation + added), value)
            torch.testing.assert_close(image, torch.tensor(expected, dtype=torch.float64))


def test_pixels_and_speckles():
    x = images(2, (3, 28, 28))
    blocks = corruptions.pixelate(x, 2)
    means = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(blocks[..., ::2, ::2], means)
    torch.testing.assert_close(blocks[..., 1::2, 1::2], means)
    gray = torch.full((4, 1, 100, 100), 0.4)
    noisy = corruptions.speckle_noise(gray, 1, generator())
    assert abs(float((noisy - gray).std()) - 0.06) < 5 * 0.06 / (2 * 40_000) ** 0.5
    drops = corruptions.spatter(torch.zeros(8, 3, 224, 224), 1, generator())
    assert float((drops > 0.3).float().mean()) == pytest.approx(0.03, abs=0.02)
    assert (drops[:, 0] <= drops[:, 1]).all()  # water


class Bright(nn.Module):
    """Class 1 where the mean is above 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def accuracies(clean: list[int], **correct: list[list[int]]) -> CorruptionAccuracy:
    rows = {name: torch.tensor(each, dtype=torch.bool) for name, each in correct.items()}
    return CorruptionAccuracy(clean=torch.tensor(clean, dtype=torch.bool), correct=rows, severities=(1, 2))


def test_corruption_errors_are_those_of_their_formulas():
    found = accuracies([1, 1, 1, 0], fog=[[1, 1, 0, 0], [1, 0, 0, 0]], snow=[[1, 1, 1, 0], [1, 1, 0, 0]])
    base = accuracies([1, 1, 1, 0], fog=[[1, 1, 1, 0], [0, 0, 0, 0]], snow=[[0, 0, 0, 0], [1, 0, 0, 0]])
    got = corruption_error(found, base)
    assert got.error.tolist() == pytest.approx([5 / 5, 3 / 7])
    assert got.relative.tolist() == pytest.approx([(5 - 2) / (5 - 2), (3 - 2) / (7 - 2)])
    assert got.mean == pytest.approx((1 + 3 / 7) / 2)
    assert got.relative_mean == pytest.approx((1 + 1 / 5) / 2)
    assert got.to_dataframe().iloc[-1, 1] == pytest.approx(got.mean)
    same = corruption_error(base, base)
    assert same.mean_interval == (1, 1)
    with pytest.raises(InvalidInput, match="baseline must err"):
        corruption_error(found, accuracies([1] * 4, fog=[[1] * 4] * 2, snow=[[0] * 4] * 2))
    with pytest.raises(InvalidInput, match="same corruptions"):
        corruption_error(found, accuracies([1] * 4, fog=[[1] * 4] * 2))


@pytest.mark.slow
def test_intervals_of_the_mean_error_cover():
    """60 pairs of models on 100 inputs: the truth lies outside of intervals in 5 %, within five standard errors."""
    source, missed = generator(), 0
    for _ in range(60):
        drawn = torch.rand(2, 2, 2, 100, generator=source)
        one = {name: drawn[0, i] > 0.3 for i, name in enumerate(("fog", "snow"))}
        two = {name: drawn[1, i] > 0.4 for i, name in enumerate(("fog", "snow"))}
        clean, options = torch.ones(100, dtype=torch.bool), {"severities": (1, 2)}
        pair = [CorruptionAccuracy(clean=clean, correct=each, **options) for each in (one, two)]
        low, high = corruption_error(*pair).mean_interval
        missed += not low <= 0.75 <= high
    assert missed / 60 < 0.05 + 5 * (0.05 * 0.95 / 60) ** 0.5


def test_flips_are_counted_as_by_hand():
    def rising(x: Tensor, count: int, source: torch.Generator | None):
        for frame in range(count):
            yield (x + 0.1 * frame).clamp(0, 1)

    means = torch.tensor([0.05, 0.35, 0.9])
    x = means.view(-1, 1, 1, 1).expand(3, 1, 8, 8).contiguous()
    sequences = {"related": Frames(rising), "to the first": Frames(rising, related=False)}
    found = flip_rates(Bright(), x, sequences=sequences, frames=5, batch_size=2)
    assert found.flips["related"].tolist() == [0, 0.25, 0]  # 0.35, 0.45 | 0.55, 0.65, 0.75
    assert found.flips["to the first"].tolist() == [0, 0.75, 0]
    assert found.mean() == pytest.approx((0.25 / 3 + 0.75 / 3) / 2)
    assert found.relative(found) == 1
    low, high = found.mean_interval()
    assert low < found.mean() < high
    assert found.to_dataframe().flips.tolist() == pytest.approx([0.25 / 3, 0.25])


def test_all_sequences_are_smooth_and_flips_rise_near_the_boundary():
    x = images(2, (3, 16, 16))
    for name, sequence in SEQUENCES.items():
        frames = list(sequence.make(x, 9, generator()))
        assert len(frames) == 9
        assert all(frame.shape == x.shape and frame.min() >= 0 and frame.max() <= 1 for frame in frames)
        steps = [float((b - a).abs().mean()) for a, b in pairwise(frames)]
        assert 0 < max(steps) < 0.2, name
    near = images(20, (1, 16, 16))
    near = (near - near.mean((1, 2, 3), keepdim=True) + 0.5).clamp(0, 1)
    bright, steady = (
        flip_rates(Bright(), 0.3 * (near - 0.5) + mean, frames=7, generator=generator()) for mean in (0.5, 0.85)
    )
    assert bright.mean() > 0.05 > steady.mean()
    assert {name for name, flips in steady.flips.items() if flips.any()} == {"scale"}  # black around a small image
    with pytest.raises(InvalidInput, match="baseline must flip"):
        bright.relative(steady)


def test_bad_arguments_and_the_figure():
    x = images(2)
    for change, message in (
        ({"frames": 1}, "frames must be"),
        ({"x": x[0]}, "x must hold images"),
        ({"sequences": {}}, "sequences must be a mapping"),
    ):
        with pytest.raises(InvalidInput, match=message):
            flip_rates(Bright(), **{"x": x, **change})
    found = corruption_accuracy(Bright(), x, torch.tensor([0, 1]), corruptions=EXTRA, severities=[1])
    assert found.plot(Figure().subplots(), {"proved": torch.tensor([True, False])}).has_data()
