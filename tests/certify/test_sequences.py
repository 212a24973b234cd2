"""Sequences of slightly different images: each against its formula, or against a second way to make it."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from certify.corruptions import CIFAR_SEQUENCES, SEQUENCES, Frames, flip_rates

# Frames of ImageNet-P and CIFAR-10-P as published.
COUNTS = {"imagenet": {"translate": 41}, "cifar": {"translate": 16, "motion_blur": 21}}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def image(side: int, channels: int = 1) -> Tensor:
    return torch.rand(1, channels, side, side, generator=generator(), dtype=torch.float64)


def frames_of(sequences: dict[str, Frames], name: str, x: Tensor) -> list[Tensor]:
    return list(sequences[name].make(x, sequences[name].length, generator()))


@pytest.mark.parametrize(("which", "sequences"), [("imagenet", SEQUENCES), ("cifar", CIFAR_SEQUENCES)])
def test_each_has_as_many_frames_as_published(which: str, sequences: dict[str, Frames]):
    assert {name: each.length for name, each in sequences.items()} == dict.fromkeys(sequences, 31) | COUNTS[which]


def test_translation_moves_whole_pixels_and_leaves_black():
    """Frames of CIFAR-10-P go from 7 pixels to the left to 8 to the right."""
    x = image(32)
    for i, frame in enumerate(frames_of(CIFAR_SEQUENCES, "translate", x)):
        moved, by = torch.zeros_like(x), i - 7
        moved[..., max(by, 0) : 32 + min(by, 0)] = x[..., max(-by, 0) : 32 - max(by, 0)]
        torch.testing.assert_close(frame, moved, atol=1e-12, rtol=0)


def test_lengths_follow_the_side_of_the_images():
    """Twice as many pixels along a side move by twice as many pixels."""
    frame = frames_of(CIFAR_SEQUENCES, "translate", image(64))[9]
    torch.testing.assert_close(frame[..., 4:], image(64)[..., :-4], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("sequences", "step"), [(SEQUENCES, 0.02), (CIFAR_SEQUENCES, 0.015)])
def test_the_value_of_pixels_rises(sequences: dict[str, Frames], step: float):
    """The largest channel rises by so much in each frame, around 0; ratios of channels stay."""
    x = 0.4 + 0.2 * image(4, 3)
    for i, frame in enumerate(frames_of(sequences, "brightness", x)):
        value = x.amax(1, keepdim=True)
        torch.testing.assert_close(frame, x * (value + step * (i - 15)) / value, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("sequences", "sigma", "photons"), [(SEQUENCES, 0.03, 300), (CIFAR_SEQUENCES, 0.02, 700)])
def test_noise_is_as_strong_as_stated(sequences: dict[str, Frames], sigma: float, photons: float):
    x = torch.full((1, 1, 64, 64), 0.5)
    for name, wanted in (("gaussian_noise", sigma), ("shot_noise", math.sqrt(0.5 / photons))):
        first, *rest = frames_of(sequences, name, x)
        assert (first == x).all()
        # A standard deviation of so many draws is off by more than five of its standard errors in one case in 10^6.
        draws = 64 * 64 * len(rest)
        assert float(torch.stack(rest).std()) == pytest.approx(wanted, rel=5 / math.sqrt(2 * draws))


@pytest.mark.parametrize(("sequences", "largest"), [(SEQUENCES, 15.0), (CIFAR_SEQUENCES, 11.25)])
def test_tilt_is_a_plane_seen_from_the_length_of_its_diagonal(sequences: dict[str, Frames], largest: float):
    """A bright blob is seen where two rotations and a pinhole camera, as matrices, put it."""
    side, (u, v) = 65, (14.0, -9.0)
    places = torch.arange(side, dtype=torch.float64) - 32
    x = torch.exp(-((places - u) ** 2 + (places[:, None] - v) ** 2) / 8)[None, None]
    frames = frames_of(sequences, "tilt", x)
    torch.testing.assert_close(frames[15], x, atol=1e-12, rtol=0)
    for i in (0, 30):
        angle = math.radians(largest * (i - 15) / 15)
        c, s = math.cos(angle), math.sin(angle)
        about_x, about_y = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        across, down, depth = about_x @ about_y @ np.array([u, v, 0])
        eye = math.hypot(side, side)
        seen = frames[i][0, 0] / frames[i].sum()
        middle = [float((seen.sum(0) * places).sum()), float((seen.sum(1) * places).sum())]
        assert middle == pytest.approx([eye * across / (eye + depth), eye * down / (eye + depth)], abs=0.1)


@pytest.mark.parametrize(("sequences", "ends"), [(SEQUENCES, (0.4, 1.15)), (CIFAR_SEQUENCES, (0.7, 1.3))])
def test_a_disc_is_scaled(sequences: dict[str, Frames], ends: tuple[float, float]):
    """Its area is that of the disc times the square of the factor, but for pixels at its edge."""
    places = torch.arange(128, dtype=torch.float64) - 63.5
    x = ((places**2 + places[:, None] ** 2).sqrt() < 40).double()[None, None]
    frames = frames_of(sequences, "scale", x)
    for frame, factor in zip((frames[0], frames[-1]), ends, strict=True):
        assert float(frame.sum()) == pytest.approx(math.pi * (40 * factor) ** 2, rel=0.01)


def test_blurs_turn():
    """A dot becomes a line, to the right in the last frame and to the left in the first of CIFAR-10-P."""
    x = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    x[..., 16, 16] = 1
    first, *_, last = frames_of(CIFAR_SEQUENCES, "motion_blur", x)
    torch.testing.assert_close(first, last.flip(3), atol=1e-9, rtol=0)
    assert float(first[..., 16, :].sum()) == pytest.approx(float(first.sum()))
    assert float(first[..., 16, :16].sum()) > 0.1 or float(first[..., 16, 17:].sum()) > 0.1


def test_zoom_blur_is_a_mean_of_magnified_images():
    """The slope of a ramp, which a magnification by m divides by m."""
    ramp = (torch.arange(64, dtype=torch.float64) - 31.5).expand(1, 1, 64, 64) / 100 + 0.5
    frames = frames_of(SEQUENCES, "zoom_blur", ramp)
    mean = sum(1 / (1 + 0.004 * j) for j in range(31)) / 31
    torch.testing.assert_close(frames[-1], 0.5 + mean * (ramp - 0.5), atol=1e-9, rtol=0)
    torch.testing.assert_close(frames[0], ramp, atol=1e-9, rtol=0)


def test_flakes_stay_and_their_blur_turns():
    first, second, *_ = frames_of(SEQUENCES, "snow", 0.3 * image(56))
    assert 0 < float((first - second).abs().mean()) < 0.03
    assert float(first.mean()) > 0.15 + 0.05


def test_rates_are_over_the_frames_of_each_sequence():
    class Bright(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean((1, 2, 3))
            return torch.stack([mean - 0.5, 0.5 - mean], 1)

    x = torch.full((2, 1, 8, 8), 0.5 + 0.05)
    some = {name: SEQUENCES[name] for name in ("brightness", "translate")}
    found = flip_rates(Bright(), x, sequences=some)
    assert found.frames == {"brightness": 31, "translate": 41}
    assert found.flips["brightness"].tolist() == [1 / 30] * 2
    assert found.plot(Figure().subplots()).get_xlim()[0] == 0
    assert "on average over 2 sequences and 2 inputs" in found.sentences()[0]
    assert flip_rates(Bright(), x, sequences=some, frames=4).frames == {"brightness": 4, "translate": 4}
