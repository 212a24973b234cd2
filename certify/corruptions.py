"""Accuracy under common corruptions of images at five severities, with intervals, next to other accuracies.

Corruptions are not adversarial, and nothing here is a certificate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import InvalidInput, checks
from bounds.circumstances import isolated
from bounds.geometry import cosine_transform
from certify.models import frozen, predictions, probe
from certify.results import share_interval

if TYPE_CHECKING:
    import pandas as pd

SEVERITIES = (1, 2, 3, 4, 5)

# Quantisation of luminance, ITU T.81, Table K.1.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)

Corruption = Callable[[Tensor, int, torch.Generator | None], Tensor]  # images (N, C, H, W) in [0, 1], severity, source


def gaussian_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent normal noise, clipped."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return (x + sigma * torch.empty_like(x).normal_(generator=checks.generator(generator, x.device))).clamp(0, 1)


def shot_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Poisson noise of few photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return (torch.poisson(x * photons, generator=checks.generator(generator, x.device)) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A share of the entries set to black or white, one as likely as the other."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    lot = torch.empty_like(x).uniform_(generator=checks.generator(generator, x.device))
    return torch.where(lot < share / 2, 0.0, torch.where(lot < share, 1.0, x))


def gaussian_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A normal kernel, with the border repeated."""
    sigma = (0.4, 0.6, 0.8, 1.1, 1.5)[severity - 1]
    reach = min(math.ceil(3 * sigma), *(side - 1 for side in x.shape[-2:]))
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    return _filtered(_filtered(x, kernel, 2), kernel, 3)


def motion_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """The mean of 3, 5, 7, 9 or 11 neighbours in a row."""
    return _filtered(x, x.new_ones(2 * severity + 1), 3)


def contrast(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Entries drawn towards the mean of their image."""
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + share * (x - mean)).clamp(0, 1)


def brightness(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A constant added."""
    return (x + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clamp(0, 1)


def jpeg(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Compression with quality 25, 18, 15, 10 or 7; each channel like luminance, without a change of colours."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    table = torch.tensor(LUMINANCE, dtype=torch.float64, device=x.device)
    step = ((table * (5000 // quality) + 50) / 100).floor().clamp(1, 255)
    height, width = x.shape[-2:]
    padded = F.pad((255 * x.double()).round() - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)  # (N, C, rows, columns, 8, 8)
    transform = cosine_transform(8, padded)
    kept = (transform @ blocks @ transform.T / step).round() * step
    image = (transform.T @ kept @ transform).transpose(3, 4).reshape(padded.shape)[..., :height, :width]
    return ((image + 128).round().clamp(0, 255) / 255).to(x.dtype)


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur,
    "contrast": contrast,
    "brightness": brightness,
    "jpeg": jpeg,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class CorruptionAccuracy:
    """Correctness of each input under each corruption.

    Attributes:
        clean: (N,) bool, without corruption.
        correct: by name, (S, N) bool, one row for each severity.
        severities: the S severities, from 1 to 5.
    """

    clean: Tensor
    correct: Mapping[str, Tensor]
    severities: tuple[int, ...]

    def mean_accuracy(self) -> float:
        """Mean of the accuracies under all corruptions and severities."""
        return float(torch.stack([rows.double().mean() for rows in self.correct.values()]).mean())

    def to_dataframe(self, others: Mapping[str, Tensor] | None = None, *, alpha: float = 0.05) -> "pd.DataFrame":
        """One row for each accuracy, with its exact interval for new inputs, each at 1 - alpha.

        Args:
            others: further outcomes of the same inputs, (N,) bool by name, such as ``certificate.certified(y, 0.1)``
                and ``attacked.robust``, for further rows of the table.
            alpha: of each interval.
        """
        import pandas as pd

        rows = [("clean", 0, self.clean)]
        rows += [(name, s, row) for name, c in self.correct.items() for s, row in zip(self.severities, c, strict=True)]
        for name, right in (others or {}).items():
            rows.append((name, 0, checks.rows(name, right, len(self.clean))))
        table = []
        for name, severity, right in rows:
            table.append((name, severity, float(right.double().mean()), *share_interval(right, alpha)))
        return pd.DataFrame(table, columns=["name", "severity", "accuracy", "lower", "upper"])


@isolated
def corruption_accuracy(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    corruptions: Mapping[str, Corruption] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> CorruptionAccuracy:
    """Accuracy under common corruptions.

    Args:
        model: maps (N, C, H, W) to logits (N, K).
        x: (N, C, H, W) images in [0, 1].
        labels: (N,) correct classes.
        corruptions: by name; add your own to a copy of ``CORRUPTIONS``.
        severities: from 1 to 5.
        batch_size: images of a forward pass.
        generator: source of noise.

    Raises:
        InvalidInput: a bad argument, no images.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Hendrycks, Dietterich (2019), Benchmarking neural network robustness to common corruptions and perturbations,
        arXiv:1903.12261, for most parameters; Mu, Gilmer (2019), MNIST-C, arXiv:1906.02337.
    """
    checks.inputs(x, 0.0, 1.0)
    checks.at_least("batch_size", batch_size, 1)
    if x.ndim != 4 or len(x) == 0:
        raise InvalidInput(f"x must hold images of shape (N, C, H, W), at least one, got {tuple(x.shape)}")
    severities = checks.several("severities", severities)
    if not isinstance(corruptions, Mapping) or not corruptions:
        raise InvalidInput(
            f"corruptions must be a mapping from names to at least one, got {corruptions!r}: see CORRUPTIONS"
        )
    if not set(severities) <= set(SEVERITIES):
        raise InvalidInput(f"severities must lie between 1 and 5, got {list(severities)}")
    with frozen(model), torch.no_grad():
        labels = checks.labels(labels, len(x), probe(model, x, batch_size=min(batch_size, len(x)))).to(x.device)

        def right(corrupt: Callable[[Tensor], Tensor]) -> Tensor:
            return torch.cat([predictions(model, corrupt(part), batch_size) for part in x.split(batch_size)]) == labels

        clean = right(lambda part: part)
        correct = {
            name: torch.stack([right(lambda part: corrupt(part, s, generator)) for s in severities])  # noqa: B023  # called at once
            for name, corrupt in corruptions.items()
        }
    return CorruptionAccuracy(clean=clean, correct=correct, severities=tuple(severities))


def _filtered(x: Tensor, kernel: Tensor, dim: int) -> Tensor:
    """The mean of neighbours along one dimension, weighted by a kernel of odd length, with the border repeated."""
    reach = len(kernel) // 2
    sides = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
    padded = F.pad(x, sides, mode="replicate")
    windows = padded.unfold(dim, len(kernel), 1)
    return (windows * (kernel / kernel.sum())).sum(-1).clamp(0, 1)
