r"""Number of training rows that must change before an ensemble of classifiers changes its prediction.

Each base classifier is trained on a part of the training set and votes. A row that is inserted or deleted changes one
part, and so the votes of the classifiers that the part reaches. To make class c' win over c, a vote for c gains at most
2, a vote for c' nothing, and every other vote 1. If the largest such gains of :math:`\rho` parts do not close the gap
between c and c', no :math:`\rho` rows do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from certify.results import Certificate

ROWS = "training rows inserted or deleted"


@dataclass(frozen=True, eq=False, kw_only=True)
class PoisoningCertificate(Certificate):
    """Numbers of training rows that may change without changing the prediction, one row per test input.

    ``radius`` counts rows that are inserted into the training set or deleted from it, together. A row whose features
    change counts twice: it is deleted, and another one inserted. So does a row whose label changes, unless the
    partition leaves labels out, where it counts once. The statement is about one test input at a time, is certain, and
    needs no norm, which is 0 here.

    :meth:`CertifiedAccuracyCurve.from_certificate` takes it as it stands.

    Attributes:
        counts: (N, K) int64, votes; the rows sum to M, less the votes for no class.
        classifiers: the number M of base classifiers.
        parts: the number P of parts of the training set.
        unit: of the radius.
    """

    counts: Tensor
    classifiers: int
    parts: int
    unit: str = ROWS

    @property
    def changed_rows(self) -> Tensor:
        """(N,) int64, rows that may be replaced by others, each one deleted and one inserted; the largest for any."""
        rows = (self.radius / 2).floor()
        return torch.where(rows.isinf(), torch.iinfo(torch.int64).max, rows.nan_to_num(posinf=0.0).long())


def certify_poisoning(votes: Tensor, num_classes: int, *, spread: Tensor | None = None) -> PoisoningCertificate:
    """Largest number of training rows whose insertion or deletion cannot change the prediction of an ensemble.

    The ensemble returns the class with the most votes, the smallest one of equals. Conditions: each row falls into its
    part by what it holds alone, such as by :func:`hash_partition`; and each base classifier is a deterministic function
    of the set of rows that it is trained on, so that seeds are fixed and the order of rows does not depend on other
    parts. Without ``spread`` the number is exact: with one row more, some other votes would change the
    prediction. With ``spread`` parts may reach the same classifier, and the number is a lower bound.

    Args:
        votes: (N, M) integer, the class that each of M base classifiers gives each of N test inputs; -1 for none.
        num_classes: K.
        spread: (P, M) bool, the base classifiers that each of P parts of the training set reaches, such as from
            :func:`spread_partitions`. None: one part for each classifier.

    Returns:
        A certificate; the radius is 0 where one row may change the prediction, and infinite where no number can,
        because no part reaches enough classifiers.

    Raises:
        InvalidInput: a bad argument.

    References:
        Levine, Feizi (2021), arXiv:2006.14768, Theorem 1, for one part each; Wang, Levine, Feizi (2022),
        arXiv:2202.02628, Theorem 2, for a spread.

    >>> certify_poisoning(torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 0, 0], [2, 1, 0, 0, 0]]), 3).radius
    tensor([1., 0., 1.], dtype=torch.float64)
    """
    num_classes = checks.at_least("num_classes", num_classes, 2)
    votes, method = _checked_votes(votes, num_classes), "partition aggregation"
    if spread is None:
        reached = torch.eye(votes.shape[1], dtype=torch.bool, device=votes.device)
    else:
        reached, method = checked_spread(spread, votes), "finite aggregation"
    counts = torch.stack([(votes == k).sum(1) for k in range(num_classes)], 1)
    label = counts.argmax(1)
    chosen = (slice(start, start + checks.PART) for start in range(0, len(votes), checks.PART))
    radius = [_parts_needed(votes[rows], counts[rows], label[rows], reached) - 1 for rows in chosen]
    return PoisoningCertificate(
        label=label,
        radius=torch.cat(radius) if radius else label.double(),
        abstained=torch.zeros_like(label, dtype=torch.bool),
        norm=0.0,
        alpha=0.0,
        subject=f"ensemble({votes.shape[1]} classifiers)",
        method=method,
        counts=counts,
        classifiers=votes.shape[1],
        parts=len(reached),
    )


def _parts_needed(votes: Tensor, counts: Tensor, label: Tensor, spread: Tensor) -> Tensor:
    """Parts (N,) float64 whose largest gains first let some other class win; infinite where all together do not."""
    for_label = votes == label[:, None]
    needed = torch.full(label.shape, torch.inf, dtype=torch.float64, device=votes.device)
    for other in range(counts.shape[1]):
        gains = 1 + for_label.long() - (votes == other).long()
        # The other class has to be ahead, or level with a smaller number.
        gap = counts.gather(1, label[:, None]).squeeze(1) - counts[:, other] + (other > label).long()
        needed = torch.where(label == other, needed, torch.minimum(needed, first_closing(gains, gap, spread)))
    return needed


def first_closing(gains: Tensor, gap: Tensor, spread: Tensor) -> Tensor:
    """Parts (N,) float64 whose largest gains together first reach a gap (N,); infinite where all together do not.

    Args:
        gains: (N, M) integers, of each classifier.
        gap: what is to be gained; 0 parts are enough for none.
        spread: (P, M) bool, classifiers that each part reaches.
    """
    of_parts = gains.double() @ spread.double().T  # sums of small integers are exact in float64
    closing = of_parts.sort(dim=1, descending=True).values.cumsum(1) >= gap[:, None]
    first = torch.where(closing.any(1), closing.long().argmax(1) + 1.0, torch.inf).double()
    return torch.where(gap <= 0, 0.0, first)


def _checked_votes(votes: Tensor, num_classes: int) -> Tensor:
    if checks.tensor("votes", votes).ndim != 2 or votes.shape[1] == 0:
        raise InvalidInput(f"votes must have shape (N, M) of N inputs and M classifiers, got {tuple(votes.shape)}")
    if votes.is_floating_point() or votes.is_complex() or votes.dtype == torch.bool:
        raise InvalidInput(f"votes must be integers, got {votes.dtype}: pass logits.argmax(-1)")
    votes = votes.detach().long()
    if bool(((votes < -1) | (votes >= num_classes)).any()):
        raise InvalidInput(
            f"votes must be class indices from 0 to {num_classes - 1}, or -1 for no vote, got {int(votes.min())} to "
            f"{int(votes.max())}"
        )
    return votes


def checked_spread(spread: Tensor, votes: Tensor) -> Tensor:
    """A spread (P, M) for votes (N, M), on their device."""
    classifiers = votes.shape[1]
    fits = checks.tensor("spread", spread).dtype == torch.bool and spread.ndim == 2 and len(spread) > 0
    if not fits or spread.shape[1] != classifiers:
        raise InvalidInput(
            f"spread must be a boolean tensor (P, {classifiers}), got {spread.dtype} of {tuple(spread.shape)}: a "
            f"row for each part of the training set, a column for each classifier"
        )
    return spread.to(votes.device)
