"""Losses that attacks make large: functions of logits (N, K) and labels (N,), one number (N,) per row."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each row, (N,)."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def target_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Logit of the target class minus that of the label, (N,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of another class minus that of the label, (N,): above 0 where the row is misclassified."""
    others = logits.detach().scatter(1, labels[:, None], -math.inf)
    return target_margin(logits, labels, others.argmax(1))


def logit_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, (N,): the margin in units of the gap from the first to the third largest logit.

    References:
        Croce, Hein (2020), Reliable evaluation of adversarial robustness, equation (4), arXiv:2003.01690.
    """
    top = logits.topk(3, dim=1).values
    gap = (top[:, 0] - top[:, 2]).clamp(min=torch.finfo(logits.dtype).tiny)
    return margin(logits, labels) / gap


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": logit_ratio}
