"""The votes behind an attack on a smoothed classifier: what its search follows, and what judges its points."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput
from certify.attacks.common.threat import Threat
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.drawing.distributions import Additive, Distribution, OnGrid, on_grid
from certify.smoothing.drawing.votes import precision
from certify.smoothing.training import log_mean_softmax


@dataclass
class Votes:
    """A smoothed classifier at inputs and around them; every prediction is made on fresh draws, and counted."""

    classifier: SmoothedClassifier
    distribution: Distribution
    x: Tensor
    labels: Tensor
    n: int
    alpha: float  # of a single prediction
    generator: torch.Generator | None
    passes: Tensor = field(init=False)  # (N,)

    def __post_init__(self) -> None:
        self.passes = torch.zeros_like(self.labels)

    @classmethod
    def of(
        cls,
        smoothed: SmoothedClassifier,
        threat: Threat,
        x: Tensor,
        labels: Tensor,
        *,
        n: int,
        alpha: float,
        looks: int,
        generator: torch.Generator | None,
    ) -> "Votes":
        """After checking the arguments: for at most so many predictions of each row that decide."""
        threat.check(x)
        checks.generator(generator)
        if labels is None:
            raise InvalidInput("labels must hold the correct class of each input, got None: pass those of the data set")
        checks.at_least("n", n, 1)
        checks.probability("alpha", alpha)
        x = x.detach()
        labels = checks.labels(labels, len(x), smoothed.num_classes).to(x.device)
        distribution = on_grid(smoothed.noise.distribution, smoothed.grid, x)
        if not isinstance(distribution.noise if isinstance(distribution, OnGrid) else distribution, Additive):
            raise InvalidInput(
                f"smoothed must have noise that is added to every entry independently, Gaussian, Laplace or Uniform, "
                f"got {smoothed.noise}: there is no gradient through it"
            )
        # Points on the way do not decide anew whether they lie on the grid.
        classifier = SmoothedClassifier(
            smoothed.model,
            smoothed.noise,
            num_classes=smoothed.num_classes,
            batch_size=smoothed.batch_size,
            noise_group=smoothed.noise_group,
            grid=distribution.steps if isinstance(distribution, OnGrid) else None,
        )
        return cls(classifier, distribution, x, labels, n, alpha / looks, generator)

    @property
    def subject(self) -> str:
        """Name of the smoothed classifier, as in its certificates."""
        return self.classifier.subject(self.distribution)

    def predicted(self, points: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Labels of points near the given rows, all if None, and whether the prediction is an abstention."""
        if len(points) == 0:
            return self.labels[:0], torch.zeros_like(self.labels[:0], dtype=torch.bool)
        prediction = self.classifier.predict(points, self.n, self.alpha, generator=self.generator)
        self.passes[slice(None) if rows is None else rows] += self.n
        return prediction.label, prediction.abstained

    def wrong(self, points: Tensor, rows: Tensor) -> Tensor:
        """(M,) bool: the classifier clearly returns another label."""
        label, abstained = self.predicted(points, rows)
        return ~abstained & (label != self.labels[rows])

    def on_grid(self, points: Tensor, rows: Tensor) -> Tensor:
        """The nearest points that the classifier takes; entries that stay on their step stay as they are."""
        if not isinstance(self.distribution, OnGrid):
            return points
        steps, x = self.distribution.steps, self.x[rows]
        wanted = (points.double() * steps).round()
        return torch.where(wanted == (x.double() * steps).round(), x, (wanted / steps).to(x.dtype))


class _SoftVotes(nn.Module):
    """Logarithms of the mean softmax probabilities (N, K) under fixed draws of the noise, one after its negative."""

    def __init__(self, votes: Votes, draws: int) -> None:
        super().__init__()
        self.model, x = votes.classifier.model, votes.x
        noise = votes.classifier.noise.distribution
        raw = x.new_empty(draws // 2, *x.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32))
        noise.draw_(raw, votes.generator or torch.default_generator)
        self.noise = torch.cat([raw, -raw]).to(x.dtype)
        self.dtype = precision(self.model, x)

    def forward(self, x: Tensor) -> Tensor:
        noisy = (x + self.noise.unsqueeze(1)).flatten(0, 1).to(self.dtype)
        logits: Tensor = self.model(noisy)
        computed = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return log_mean_softmax(computed.view(len(self.noise), len(x), -1))


def parts(votes: Votes, attacked: Tensor, draws: int) -> list[tuple[Tensor, nn.Module]]:
    """The rows to attack, as many at once as fit into a batch under all draws, with what their search follows."""
    if checks.at_least("draws", draws, 2) % 2:
        raise InvalidInput(f"draws must be even, got {draws}: they come in pairs of opposite sign")
    rows = attacked.nonzero().squeeze(1)
    if len(rows) == 0:
        return []
    soft = _SoftVotes(votes, draws)
    return [(part, soft) for part in rows.split(max(1, votes.classifier.batch_size // draws))]
