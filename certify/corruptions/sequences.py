"""Predictions that flip along sequences of slightly different images, as ImageNet-P counts them.

Parameters are those of make_imagenet_p.py and make_cifar_p.py in github.com/hendrycks/robustness, at commit 8190fe3,
of the first of three strengths of noise. What is different: lengths in pixels follow the side of the images; frames are
neither rounded to 8 bits nor compressed as videos; beyond the border of an image there is black, where the benchmark
has up to 16 pixels that it crops off; motion blur is ours.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.noise.directions import student_interval
from certify.corruptions.digital import with_value
from certify.corruptions.filters import drawn_like, projected, smeared, working, zoomed
from certify.corruptions.weather import covered_by_snow, flakes
from certify.models import frozen, predictions, probe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Source = torch.Generator | None
Maker = Callable[[Tensor, int, Source], Iterator[Tensor]]
FRAMES = 31


class Frames(NamedTuple):
    """A sequence of images.

    Attributes:
        make: of images (N, C, H, W) in [0, 1], a number of frames and a generator: the frames, one after the other.
        related: whether each frame resembles the one before; else it is compared with the first.
        length: frames of the sequence, where no other number is asked for.
    """

    make: Maker
    related: bool = True
    length: int = FRAMES


class _Scheme(NamedTuple):
    """Parameters of sequences for images of one side; a pair is of the first frame and the last, with even steps."""

    side: int  # pixels that lengths are stated for
    noise: float  # standard deviation
    photons: float  # of white
    blur: tuple[float, float]  # radius and sigma, in pixels
    blur_turn: tuple[float, float]  # degrees
    blur_frames: int
    zoom: float  # of the last frame, beyond 1
    flakes: tuple[float, float, float, float]  # mean and deviation of the noise, magnification, threshold
    snow_blur: tuple[float, float]  # radius and sigma, in pixels
    light: float  # largest change of the value
    shift: tuple[float, float]  # pixels
    shift_frames: int
    tilt: float  # largest angle, in degrees
    scale: tuple[float, float]


IMAGENET = _Scheme(
    side=224,
    noise=0.03,
    photons=300,
    blur=(10, 3),
    blur_turn=(-120, 0),
    blur_frames=31,
    zoom=0.12,
    flakes=(0.05, 0.3, 3.0, 0.5),
    snow_blur=(14, 4),
    light=0.3,
    shift=(-20, 20),
    shift_frames=41,
    tilt=15,
    scale=(0.4, 1.15),
)
CIFAR = _Scheme(
    side=32,
    noise=0.02,
    photons=700,
    blur=(6, 1.8),
    blur_turn=(-180, 0),
    blur_frames=21,
    zoom=0.12,
    flakes=(0.05, 0.3, 2.0, 0.5),
    snow_blur=(10, 2),
    light=0.225,
    shift=(-7, 8),
    shift_frames=16,
    tilt=11.25,
    scale=(0.7, 1.3),
)
SNOW_TURN, SNOW_SHARE = (-150, -30), 0.85
TURN = 15  # largest angle of a rotation, in degrees


def _between(ends: tuple[float, float], count: int) -> list[float]:
    """Numbers with even steps from one to the other."""
    return [ends[0] + (ends[1] - ends[0]) * j / (count - 1) for j in range(count)]


def _noisy(corrupt: Callable[[Tensor, Source], Tensor]) -> Maker:
    """The clean image, then fresh noise in each frame."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        yield x
        for _ in range(count - 1):
            yield corrupt(x, generator).clamp(0, 1)

    return frames


def _moving(ends: tuple[float, float], matrix: Callable[[float, Tensor], list[list[float]]]) -> Maker:
    """Images under a projective map that depends on a number between two ends, and on the images."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        for at in _between(ends, count):
            yield projected(x, torch.tensor(matrix(at, x), dtype=x.dtype, device=x.device))

    return frames


def _turning_blur(scheme: _Scheme) -> Maker:
    """Motion blur whose direction turns."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        for turn in _between(scheme.blur_turn, count):
            yield _smeared(x, turn, scheme.blur, scheme.side).clamp(0, 1)

    return frames


def _smeared(x: Tensor, degrees: float, blur: tuple[float, float], side: int) -> Tensor:
    angle = torch.full((len(x),), math.radians(degrees), dtype=x.dtype, device=x.device)
    scale = min(x.shape[-2:]) / side
    return smeared(x, angle, blur[0] * scale, blur[1] * scale)


def _growing_zoom(scheme: _Scheme) -> Maker:
    """The mean of an image and of itself magnified a little more in each frame."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        total = torch.zeros_like(x)
        for frame, factor in enumerate(_between((1, 1 + scheme.zoom), count)):
            total = total + zoomed(x, factor)
            yield (total / (frame + 1)).clamp(0, 1)

    return frames


def _turning_snow(scheme: _Scheme) -> Maker:
    """Flakes that stay, blurred by a motion whose direction turns."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        layer = flakes(x, scheme.flakes, generator)
        for turn in _between(SNOW_TURN, count):
            yield covered_by_snow(x, _smeared(layer, turn, scheme.snow_blur, scheme.side), SNOW_SHARE)

    return frames


def _brightening(scheme: _Scheme) -> Maker:
    """The value of each pixel, its largest channel, lowered at first and raised in the end."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        for added in _between((-scheme.light, scheme.light), count):
            yield with_value(x, added)

    return frames


def _shifted(side: int) -> Callable[[float, Tensor], list[list[float]]]:
    return lambda pixels, x: [[1, 0, -pixels * min(x.shape[-2:]) / side], [0, 1, 0], [0, 0, 1]]


def _turned(degrees: float, x: Tensor) -> list[list[float]]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s, 0], [s, c, 0], [0, 0, 1]]


def _tilted(degrees: float, x: Tensor) -> list[list[float]]:
    """The image turned by an angle about both of its axes, and seen from a distance f of its diagonal.

    A point (u, v) of it comes to ``(u c, v c - u s s, v s + u s c)``, and is seen at the first two of these numbers
    over 1 plus the third over f. This is the inverse of that map.
    """
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    f = math.hypot(*x.shape[-2:])
    rows: list[list[float]] = np.linalg.inv([[c, 0, 0], [-s * s, c, 0], [s * c / f, s / f, 1]]).tolist()
    return rows


def _scaled(factor: float, x: Tensor) -> list[list[float]]:
    return [[1 / factor, 0, 0], [0, 1 / factor, 0], [0, 0, 1]]


def _sequences(scheme: _Scheme) -> dict[str, Frames]:
    def normal(x: Tensor, generator: Source) -> Tensor:
        return x + scheme.noise * drawn_like(x, generator)

    def shot(x: Tensor, generator: Source) -> Tensor:
        return torch.poisson(x * scheme.photons, generator=checks.generator(generator, x.device)) / scheme.photons

    return {
        "gaussian_noise": Frames(_noisy(normal), related=False),
        "shot_noise": Frames(_noisy(shot), related=False),
        "motion_blur": Frames(_turning_blur(scheme), length=scheme.blur_frames),
        "zoom_blur": Frames(_growing_zoom(scheme)),
        "snow": Frames(_turning_snow(scheme)),
        "brightness": Frames(_brightening(scheme)),
        "translate": Frames(_moving(scheme.shift, _shifted(scheme.side)), length=scheme.shift_frames),
        "rotate": Frames(_moving((-TURN, TURN), _turned)),
        "tilt": Frames(_moving((-scheme.tilt, scheme.tilt), _tilted)),
        "scale": Frames(_moving(scheme.scale, _scaled)),
    }


SEQUENCES: Mapping[str, Frames] = _sequences(IMAGENET)
CIFAR_SEQUENCES: Mapping[str, Frames] = _sequences(CIFAR)


@dataclass(frozen=True, eq=False, kw_only=True)
class FlipRates:
    """Shares of frames at which a prediction changes.

    Attributes:
        flips: by name, (N,) float64, the share of each input, of one comparison less than frames.
        frames: number of them, by name.
    """

    flips: Mapping[str, Tensor]
    frames: Mapping[str, int]

    def mean(self) -> float:
        """Mean flip probability over all sequences (mFP)."""
        return float(torch.stack([each.mean() for each in self.flips.values()]).mean())

    def mean_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval over inputs of that mean."""
        return student_interval(torch.stack(list(self.flips.values())).mean(0), confidence)

    def relative(self, baseline: "FlipRates") -> float:
        """Mean over sequences of the flip probability over that of a baseline (mFR).

        Raises:
            InvalidInput: a baseline of other sequences, or one that never flips in one of them.
        """
        if set(baseline.flips) != set(self.flips):
            raise InvalidInput(f"baseline must be of the sequences {sorted(self.flips)}, got {sorted(baseline.flips)}")
        own, base = (torch.stack([of.flips[name].mean() for name in self.flips]).cpu() for of in (self, baseline))
        if not (base > 0).all():
            raise InvalidInput("baseline must flip in every sequence: take a weaker one, or more inputs")
        return float((own / base).mean())

    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row per sequence: the flip probability, with Student's interval over inputs."""
        import pandas as pd

        rows = [(name, float(f.mean()), *student_interval(f, confidence)) for name, f in self.flips.items()]
        return pd.DataFrame(rows, columns=["name", "flips", "lower", "upper"])

    def sentences(self) -> list[str]:
        """The mean flip probability, in words."""
        low, high = self.mean_interval()
        said = f"the prediction changes at {self.mean():.1%} of the frames [{low:.1%}, {high:.1%}]"
        return [
            f"{said}, on average over {len(self.flips)} sequences and {len(next(iter(self.flips.values())))} inputs"
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the flip probability of each sequence with its interval."""
        ax, table = checks.axes(ax), self.to_dataframe()
        ends = [table.flips - table.lower, table.upper - table.flips]
        ax.barh(table.name, table.flips, xerr=ends, color="#8b949e", ecolor="#d55e00")
        ax.set(xlabel="share of frames at which the prediction changes", xlim=(0, None))
        return ax


@isolated
def flip_rates(
    model: nn.Module,
    x: Tensor,
    *,
    sequences: Mapping[str, Frames] = SEQUENCES,
    frames: int | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> FlipRates:
    """Share of frames at which the prediction changes along sequences of slightly different images.

    Each frame is compared with the one before, under noise with the first, which is clean. Labels do not matter.

    Args:
        model: maps (N, C, H, W) to logits (N, K).
        x: (N, C, H, W) images in [0, 1].
        sequences: by name: ``SEQUENCES``, the ten of ImageNet-P; ``CIFAR_SEQUENCES``, those of CIFAR-10-P, for images
            of some 32 pixels; or your own.
        frames: of each sequence, at least 2, over the same range; None for as many as the benchmark has.
        batch_size: images of a forward pass.
        generator: source of noise.

    Raises:
        InvalidInput: a bad argument, no images.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Hendrycks, Dietterich (2019), arXiv:1903.12261, section 4.2.
    """
    checks.inputs(x, 0.0, 1.0)
    checks.at_least("batch_size", batch_size, 1)
    if frames is not None:
        checks.at_least("frames", frames, 2)
    if x.ndim != 4 or len(x) == 0:
        raise InvalidInput(f"x must hold images of shape (N, C, H, W), at least one, got {tuple(x.shape)}")
    if not isinstance(sequences, Mapping) or not sequences:
        raise InvalidInput("sequences must be a mapping from names to at least one: see SEQUENCES")
    counts = {name: frames or sequence.length for name, sequence in sequences.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in sequences}
    with frozen(model), torch.no_grad():
        probe(model, x, batch_size=min(batch_size, len(x)))
        for part in x.split(batch_size):
            for name, sequence in sequences.items():
                made = sequence.make(working(part), counts[name], generator)
                label = torch.stack([predictions(model, image.to(x.dtype), batch_size) for image in made])
                before = label[:-1] if sequence.related else label[:1]
                found[name].append((label[1:] != before).double().mean(0))
    return FlipRates(flips={name: torch.cat(parts) for name, parts in found.items()}, frames=counts)
