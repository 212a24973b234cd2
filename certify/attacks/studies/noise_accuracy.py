"""Accuracy under random noise of a given norm."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks, clopper_pearson_interval
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from bounds.sets.norms import clip, inner_side, length
from certify.attacks.common.formats import Format
from certify.attacks.common.passes import examine
from certify.attacks.common.threat import BoundedThreat
from certify.models import frozen, predictions
from certify.results import Record, share_interval

DISTRIBUTIONS = ("sphere", "ball", "gaussian")


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseAccuracy(Record):
    """Counts of correct predictions under random noise.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        correct: (N,) int64, noisy copies that are classified correctly.
        first_correct: (N,) bool, whether the first of them is.
        epsilon: (N,) float64, size of the noise of each row, in units of the input.
        draws: noisy copies of each input.
        norm: order of the norm.
        distribution: ``"sphere"``, ``"ball"`` or ``"gaussian"``.
        subject: the classifier it speaks of.
    """

    correct: Tensor
    first_correct: Tensor
    epsilon: Tensor
    draws: int
    norm: float
    distribution: str
    subject: str = "base"

    @property
    def error(self) -> Tensor:
        """Share of the noisy copies of each row that are misclassified, (N,) float64."""
        return 1 - self.correct.double() / self.draws

    def error_interval(self, alpha: float = 0.05) -> tuple[Tensor, Tensor]:
        """Exact interval for the probability that noise leads to a misclassification, (N,) float64 each.

        It holds for one row at a time, with probability at least ``1 - alpha`` over the noise.
        """
        confidence = 1 - checks.probability("alpha", alpha)
        return clopper_pearson_interval(self.draws - self.correct, self.draws, confidence=confidence)

    @property
    def accuracy(self) -> float:
        """Share of all noisy copies that are classified correctly."""
        return float(self.correct.double().mean()) / self.draws

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Exact interval for the accuracy under noise on new inputs, from the first noisy copy of each row.

        Copies of one input are no independent draws of inputs, so more of them do not narrow it; it holds for
        inputs drawn as these were, with probability at least ``1 - alpha``.
        """
        return share_interval(self.first_correct, alpha)


@isolated
def noise_accuracy(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    draws: int = 100,
    distribution: str = "sphere",
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> NoiseAccuracy:
    """Number of correct predictions of each input under random noise of a given size.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 1, 2 or ``math.inf``; 2 for Gaussian noise.
        epsilon: size of the noise, in units of the input: a number, or (N,) with one per row.
        low: lower side of the box, to which noisy inputs are clipped: a number, a tensor that broadcasts to one
            input, or None, with which nothing is clipped.
        high: upper side of the box, likewise.
        frozen_features: bool tensor that broadcasts to one input, True for the entries that get no noise; the others
            then have all of it.
        draws: noisy copies of each input.
        distribution: ``"sphere"``: uniform among the perturbations of norm epsilon; ``"ball"``: of norm at most
            epsilon; ``"gaussian"``: of independent normal entries, with a root mean square l_2 norm of epsilon.
        batch_size: noisy inputs per forward pass.
        generator: source of the noise.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    threat.check(x)
    checks.at_least("draws", draws, 1)
    checks.at_least("batch_size", batch_size, 1)
    if checks.one_of("distribution", distribution, DISTRIBUTIONS) == "gaussian" and norm != 2:
        raise InvalidInput(f"the size of Gaussian noise is its l_2 norm, got norm {norm}: pass norm=2")
    generator = checks.generator(generator, x.device)
    x, epsilon, working = x.detach(), threat.budgets(x), Format(x.dtype).working
    box = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    free = x.new_ones(x.shape[1:], dtype=torch.bool)
    if frozen_features is not None:
        free = ~frozen_features.to(x.device).expand_as(free)
    correct = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    first = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with frozen(model), torch.no_grad():
        model, _, labels, clean = examine(model, x, labels, batch_size)
        for copies in torch.arange(len(x) * draws, device=x.device).split(batch_size) if len(x) else ():
            rows = copies // draws
            precise = x[rows].to(working)
            noise = torch.zeros_like(precise)
            if free.any():
                noise[:, free] = unit_noise(precise[:, free], norm, distribution, generator)
            noisy = clip((precise + noise * per_row(epsilon[rows].to(working), noise)).to(x.dtype), *box)
            right = predictions(model, noisy, batch_size) == labels[rows]
            correct.index_add_(0, rows, right.long())
            first[rows[copies % draws == 0]] = right[copies % draws == 0]
    return NoiseAccuracy(
        label=clean,
        correct=correct,
        first_correct=first,
        epsilon=epsilon,
        draws=draws,
        norm=float(norm),
        distribution=distribution,
    )


def unit_noise(like: Tensor, norm: float, distribution: str, generator: torch.Generator | None) -> Tensor:
    """Noise of size 1, (N, *D).

    Independent entries of a density in proportion to exp(-|t|^p), or uniform ones for l_infinity, divided by their
    norm, are uniform on its sphere.
    """
    noise = torch.empty_like(like)
    if distribution == "gaussian":
        return noise.normal_(generator=generator) / math.sqrt(like[0].numel())
    if norm == math.inf:
        noise.uniform_(-1, 1, generator=generator)
    elif norm == 2:
        noise.normal_(generator=generator)
    else:
        signs = torch.empty_like(like).uniform_(-1, 1, generator=generator)
        noise.exponential_(generator=generator).copysign_(signs)
    noise = noise / per_row(length(noise, norm), noise)
    if distribution == "sphere":
        return noise
    share = like.new_empty(len(like)).uniform_(generator=generator) ** (1 / like[0].numel())
    return noise * per_row(share, noise)
