r"""Certificates of a modified model - quantised, pruned, fine-tuned a little - from those of the original one.

Under noise, the modified model gives a class at least as often as the original does, less the draws where the
original gives this class and the modified one does not. These lost votes are rare, and to bound a rare event from
above takes far fewer draws than to estimate the probability of the class anew.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bounds import checks, clopper_pearson_upper
from bounds.circumstances import in_deployed_precision
from bounds.numerics import raised, round_down
from certify.models import frozen, probe
from certify.results import Certificate, Drawn, SmoothingCertificate
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.drawing.votes import Sampling, Stage, draw_run_seed, precision


@dataclass(frozen=True, eq=False, kw_only=True)
class IncrementalCertificate(Drawn, Certificate):
    """Certificates of a smoothed modified classifier, made from those of the original.

    ``alpha`` is that of the original certificate plus that of the bound of lost votes; ``seed`` is that of the draws
    through both models, and ``precision`` the dtype in which the modified one answers.

    Attributes:
        p_lower: (N,) float64, lower bound of the probability of ``label`` for the modified model.
        lost: (N,) int64, draws where the original model gave ``label`` and the modified one did not.
        loss_upper: (N,) float64, upper confidence bound of their probability; 1 where nothing was drawn, because the
            original certificate abstains.
        draws: (N,) int64, draws through both models.
    """

    p_lower: Tensor
    lost: Tensor
    loss_upper: Tensor
    draws: Tensor


@in_deployed_precision
def certify_incrementally(
    original: SmoothedClassifier,
    modified: nn.Module,
    certificate: SmoothingCertificate,
    x: Tensor,
    n: int = 10_000,
    alpha: float = 1e-3,
    *,
    generator: torch.Generator | None = None,
) -> IncrementalCertificate:
    """Radius within which the smoothed modified classifier keeps the label that is certified for the original one.

    For each row, the statement "the modified model, smoothed like the original, returns ``label`` for every input
    within ``radius``" is false with probability at most ``certificate.alpha + alpha``: the lower bound behind
    the certificate fails with the one probability and the bound of lost votes with the other, however the draws of
    the two depend on each other. Only the label and its lower bound are used, so an upper bound of other
    classes in the certificate does not help.

    It takes ``n0 + 2 n`` forward passes per input, half of them of the original model. The draws are not those of the
    certificate, so that n may be chosen after a look at it. Compared with the same passes spent on certifying the
    modified model from scratch, the gain is moderate. It is a loss where votes are nearly unanimous, since even
    without a lost vote the probability falls by ``-log(alpha) / n``: with a certificate of 100,000 draws, n = 2,000 and
    one lost vote in a thousand, the radius is larger by 0.035 sigma for a ``p_lower`` up to 0.95, equal at 0.99 and
    smaller by 0.11 sigma at 0.999.

    Args:
        original: the smoothed classifier that made the certificate.
        modified: maps (N, *D) to logits (N, K) of the same classes; may have another precision.
        certificate: of ``original`` for ``x``.
        x: (N, *D), the inputs it was made for.
        n: noise draws per input through both models.
        alpha: failure probability of the bound of lost votes, per row.
        generator: supplies the run seed (one draw from it).

    Raises:
        InvalidInput: a bad argument; a certificate of another classifier or of other inputs.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Ugare, Suresh, Banerjee, Singh, Misailovic (2024), Incremental randomized smoothing certification,
        arXiv:2305.19521, section 3. They count every disagreement; a vote that is gained, or that goes from one other
        class to another, does no harm.
    """
    checks.probability("alpha", alpha)
    n = checks.at_least("n", n, 1)
    given = certificate.to(x.device)
    sampling = replace(original.sampling_of(given, x, n), seed=draw_run_seed(generator))
    with frozen(modified) as model:
        if len(x):
            seen = sampling.distribution.clean(x[:100]).to(precision(model, x))
            probe(model, seen, original.num_classes, batch_size=min(original.batch_size, len(x) * n))
    rows = (given.p_lower > 0.5).nonzero().squeeze(1)  # nothing can come of the others
    lost, loss_upper = torch.zeros_like(given.label), torch.ones_like(given.p_lower)
    lost[rows] = lost_votes(sampling.rows(rows), modified, given.label[rows], n)
    loss_upper[rows] = raised(clopper_pearson_upper(lost[rows], n, alpha=alpha), sampling.error)
    p_lower = round_down(given.p_lower - loss_upper, 2.0**-52).clamp(min=0.0)
    return IncrementalCertificate(
        label=given.label,
        radius=original.noise.radius_at(x, p_lower),
        abstained=~(p_lower > 0.5),
        norm=given.norm,
        alpha=given.alpha + alpha,
        method="incremental smoothing",
        p_lower=p_lower,
        lost=lost,
        loss_upper=loss_upper,
        draws=torch.where(given.p_lower > 0.5, n, 0),
        **original.provenance(replace(sampling, model=modified)),
    )


def lost_votes(sampling: Sampling, modified: nn.Module, label: Tensor, n: int) -> Tensor:
    """Draws, (N,) int64, where the model of the sampling gives the label of its row and the modified one does not."""
    lost = torch.zeros_like(label)

    def count(choices: Tensor, row: Tensor, draw: Tensor) -> None:
        kept = choices == label[row].unsqueeze(1)
        lost.scatter_add_(0, row, (kept[:, 0] & ~kept[:, 1]).long())

    both = _Both(sampling.model, modified, sampling.x)
    # A stage of its own: even a generator that repeats the seed of the certificate gives other draws here.
    replace(sampling, model=both).run(n, Stage.COMPARISON, count)
    return lost


class _Both(nn.Module):
    """The classes (B, 2) that two models give to the same noisy inputs; -1 for logits with a NaN."""

    def __init__(self, first: nn.Module, second: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.models = nn.ModuleList([first, second])
        # Noisy inputs come in the dtype of x, and each model gets them in its own.
        self.register_parameter("full_precision", nn.Parameter(x.new_empty(0), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        choices = []
        for model in self.models:
            largest, choice = model(x.to(precision(model, x))).max(dim=1)
            choices.append(choice.masked_fill(largest.isnan(), -1))
        return torch.stack(choices, 1)
