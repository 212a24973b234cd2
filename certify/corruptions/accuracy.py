"""Accuracy under common corruptions of images at five severities, with intervals, next to other accuracies.

Corruptions are not adversarial, and nothing here is a certificate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import InvalidInput, checks
from bounds.circumstances import isolated
from certify.corruptions.benchmark import CORRUPTIONS, Corruption
from certify.models import frozen, predictions, probe
from certify.results import share_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SEVERITIES = (1, 2, 3, 4, 5)


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

    def sentences(self) -> list[str]:
        """Accuracies without corruption and under it, in words."""
        clean, mean = float(self.clean.double().mean()), self.mean_accuracy()
        about = f"under {len(self.correct)} corruptions at severities {', '.join(map(str, self.severities))}"
        return [f"accuracy {clean:.1%} on clean inputs, {mean:.1%} on average {about}"]

    def plot(self, ax: "Axes | None" = None, others: Mapping[str, Tensor] | None = None) -> "Axes":
        """Draw the mean accuracy over severities of each corruption, with the clean one and others as lines.

        Args:
            ax: axes to draw on; the current ones if None.
            others: further outcomes of the same inputs, (N,) bool by name, such as what is certified.
        """
        ax = checks.axes(ax)
        means = [float(rows.double().mean()) for rows in self.correct.values()]
        ax.barh(list(self.correct), means, color="0.7")
        for name, right in {"clean": self.clean, **(others or {})}.items():
            ax.axvline(float(right.double().mean()), linestyle="--", label=name, color=f"C{len(ax.lines)}")
        ax.set(xlim=(0, 1), xlabel="accuracy")
        ax.legend(frameon=False)
        return ax


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
        corruptions: by name: ``CORRUPTIONS``, eight quick ones; ``IMAGENET_C``, all 15 of that benchmark;
            ``EXTRA``, its four for validation; or your own.
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
