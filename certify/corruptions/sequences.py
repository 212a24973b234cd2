"""Predictions that flip along sequences of slightly different images, as ImageNet-P counts them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.noise.directions import student_interval
from certify.corruptions.filters import smeared, warped, working, zoomed
from certify.corruptions.simple import gaussian_noise, shot_noise
from certify.corruptions.weather import covered_by_snow, snow_layer
from certify.models import frozen, predictions, probe

if TYPE_CHECKING:
    import pandas as pd

Source = torch.Generator | None
FRAMES = 31
BLUR = (10.0, 6.0)  # radius and sigma of motion blur, in pixels of images of 224
SCALE = 224


class Frames(NamedTuple):
    """A sequence of images.

    Attributes:
        make: of images (N, C, H, W) in [0, 1], a number of frames and a generator: the frames, one after the other.
        related: whether each frame resembles the one before; else it is compared with the first.
    """

    make: Callable[[Tensor, int, Source], Iterator[Tensor]]
    related: bool = True


def _noisy(corrupt: Callable[[Tensor, int, Source], Tensor]) -> Callable[[Tensor, int, Source], Iterator[Tensor]]:
    """The clean image, then fresh noise in each frame."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        yield x
        for _ in range(count - 1):
            yield corrupt(x, 1, generator)

    return frames


def _moving(matrix: Callable[[float, float], list[list[float]]]) -> Callable[[Tensor, int, Source], Iterator[Tensor]]:
    """Images under an affine map of the time from -1 to 1 and of the side in pixels."""

    def frames(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
        for time in _times(count):
            at = torch.tensor(matrix(time, float(min(x.shape[-2:]))), dtype=x.dtype, device=x.device)
            yield warped(x, at)

    return frames


def _times(count: int) -> list[float]:
    return [2 * j / (count - 1) - 1 for j in range(count)]


def _turning_blur(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
    """Motion blur whose direction makes half a turn."""
    scale = max(min(x.shape[-2:]) / SCALE, 0.25)
    for time in _times(count):
        angle = torch.full((len(x),), math.pi / 2 * time, dtype=x.dtype, device=x.device)
        yield smeared(x, angle, BLUR[0] * scale, BLUR[1] * scale).clamp(0, 1)


def _growing_zoom(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
    """The mean of an image and of itself magnified by one percent more in each frame."""
    total = x.clone()
    yield x
    for frame in range(1, count):
        total += zoomed(x, 1 + 0.01 * frame)
        yield (total / (frame + 1)).clamp(0, 1)


def _falling_snow(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
    """Flakes that fall by a tenth of the side in all."""
    layer = snow_layer(x, 1, generator)
    for time in _times(count):
        fall = -0.05 * min(x.shape[-2:]) * time
        at = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, fall]], dtype=x.dtype, device=x.device)
        yield covered_by_snow(x, warped(layer, at), 1)


def _brightening(x: Tensor, count: int, generator: Source) -> Iterator[Tensor]:
    """A constant from -0.15 to 0.15 added."""
    for time in _times(count):
        yield (x + 0.15 * time).clamp(0, 1)


def _turned(time: float, side: float) -> list[list[float]]:
    c, s = math.cos(math.radians(15 * time)), math.sin(math.radians(15 * time))
    return [[c, -s, 0.0], [s, c, 0.0]]


SEQUENCES: Mapping[str, Frames] = {
    "gaussian_noise": Frames(_noisy(gaussian_noise), related=False),
    "shot_noise": Frames(_noisy(shot_noise), related=False),
    "motion_blur": Frames(_turning_blur),
    "zoom_blur": Frames(_growing_zoom),
    "snow": Frames(_falling_snow),
    "brightness": Frames(_brightening),
    "translate": Frames(_moving(lambda t, side: [[1.0, 0.0, 0.1 * side * t], [0.0, 1.0, 0.0]])),
    "rotate": Frames(_moving(_turned)),
    "tilt": Frames(_moving(lambda t, side: [[1.0, 0.2 * t, 0.0], [0.0, 1.0, 0.0]])),
    "scale": Frames(_moving(lambda t, side: [[1 - 0.2 * t, 0.0, 0.0], [0.0, 1 - 0.2 * t, 0.0]])),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class FlipRates:
    """Shares of frames at which a prediction changes.

    Attributes:
        flips: by name, (N,) float64, the share of each input, of ``frames - 1`` comparisons.
        frames: of each sequence.
    """

    flips: Mapping[str, Tensor]
    frames: int

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


@isolated
def flip_rates(
    model: nn.Module,
    x: Tensor,
    *,
    sequences: Mapping[str, Frames] = SEQUENCES,
    frames: int = FRAMES,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> FlipRates:
    """Share of frames at which the prediction changes along sequences of slightly different images.

    Each frame is compared with the one before, under noise with the first, which is clean. Labels do not matter.

    Args:
        model: maps (N, C, H, W) to logits (N, K).
        x: (N, C, H, W) images in [0, 1].
        sequences: by name; all ten of ImageNet-P, with magnitudes of our own, or yours.
        frames: of each sequence, at least 2.
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
    checks.at_least("frames", frames, 2)
    if x.ndim != 4 or len(x) == 0:
        raise InvalidInput(f"x must hold images of shape (N, C, H, W), at least one, got {tuple(x.shape)}")
    if not isinstance(sequences, Mapping) or not sequences:
        raise InvalidInput("sequences must be a mapping from names to at least one: see SEQUENCES")
    found: dict[str, list[Tensor]] = {name: [] for name in sequences}
    with frozen(model), torch.no_grad():
        probe(model, x, batch_size=min(batch_size, len(x)))
        for part in x.split(batch_size):
            for name, sequence in sequences.items():
                made = sequence.make(working(part), frames, generator)
                label = torch.stack([predictions(model, image.to(x.dtype), batch_size) for image in made])
                before = label[:-1] if sequence.related else label[:1]
                found[name].append((label[1:] != before).double().mean(0))
    return FlipRates(flips={name: torch.cat(parts) for name, parts in found.items()}, frames=frames)
