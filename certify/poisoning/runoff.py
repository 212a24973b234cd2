r"""Number of training rows that must change before a run-off between the two leading classes ends otherwise.

Write :math:`n_x` for the first votes of class x, and c for the winner. It loses if and only if (A) two classes are
ahead of it in the first round, or (B) some class b is among the first two and beats it in the second.

(A) An attacker of :math:`\rho` classifiers takes voters of c first, and gives their votes to two classes a and b. Each
of these lacks :math:`(n_c - \rho)^+ + [c < x] - n_x` votes, if that is positive. Both lacks together must be at most
:math:`\rho`.

(B) All changed classifiers vote for b: that is best in both rounds. All classes but b and one more have to be behind b.
So of the voters of each such class x at least :math:`m_x = (n_x - n_b - \rho + [x < b])^+` change, with
:math:`\sum m_x \le \rho`. In the second round, at least t voters who prefer c to b have to change. Of the voters of x,
:math:`p_x` prefer c to b. So at least :math:`(m_x - p_x)^+` changes are of no use there, and all others can be: the
second condition is :math:`\sum (m_x - p_x)^+ \le \rho - t`.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bounds import checks
from bounds.errors import InvalidInput
from certify.poisoning.certificates import PoisoningCertificate, checked_spread, first_closing

AT_ONCE = 2**22  # numbers in one tensor


def certify_runoff(logits: Tensor, *, spread: Tensor | None = None) -> PoisoningCertificate:
    """Largest number of training rows whose insertion or deletion cannot change the outcome of a run-off election.

    Each base classifier votes for its largest logit. Of the two classes with the most votes, the one that more
    classifiers prefer by their logits wins. The smaller class wins all ties. Conditions are those of
    :func:`certify_poisoning`. Without ``spread`` the number is exact: with one row more, some other logits would change
    the prediction. With ``spread`` it is a lower bound, which looks at one pair of classes at a time.

    Args:
        logits: (N, M, K) floating, of each of M base classifiers for each of N test inputs; not NaN.
        spread: (P, M) bool, as for :func:`certify_poisoning`.

    Returns:
        A certificate; ``counts`` are the votes of the first round. The radius is 0 where one row may change the
        prediction, and infinite where no number can.

    Raises:
        InvalidInput: a bad argument.

    References:
        Rezaei, Banihashem, Chegini, Feizi (2023), Run-off election: improved provable defense against data poisoning
        attacks, ICML, arXiv:2302.02300, for the election and for lower bounds.

    >>> certify_runoff(torch.tensor([[[3.0, 2, 0], [3, 2, 0], [0, 2, 3], [0, 2, 3], [1, 2, 0]]])).label
    tensor([0])
    """
    logits = _checked_logits(logits)
    count, classifiers, classes = logits.shape
    reached = None if spread is None else checked_spread(spread, logits[:, :, 0])
    rows = max(1, AT_ONCE // (classifiers + 1) // classes)
    label = torch.zeros(count, dtype=torch.int64, device=logits.device)
    counts, radius = label.new_zeros(count, classes), label.double()
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        first = one_hot(logits[part].argmax(2), classes)
        counts[part] = first.sum(1)
        label[part] = _winner(logits[part], counts[part])
        own = logits[part], first, label[part]
        radius[part] = (_changes(*own) if reached is None else _parts(*own, reached)) - 1
    return PoisoningCertificate(
        label=label,
        radius=radius,
        abstained=torch.zeros_like(label, dtype=torch.bool),
        norm=0.0,
        alpha=0.0,
        subject=f"run-off({classifiers} classifiers)",
        method="run-off election" if reached is None else "run-off election, finite aggregation",
        counts=counts,
        classifiers=classifiers,
        parts=classifiers if reached is None else len(reached),
    )


def _winner(logits: Tensor, counts: Tensor) -> Tensor:
    """Classes (N,) that win the second round."""
    classes = counts.shape[1]
    places = torch.arange(classes, device=counts.device)
    finalists = (counts * classes - places).topk(2, dim=1).indices.sort(1).values
    small, large = (finalists[:, i, None, None].expand(-1, logits.shape[1], 1) for i in (0, 1))
    for_small = (logits.gather(2, small) >= logits.gather(2, large)).sum((1, 2))
    return torch.where(2 * for_small >= logits.shape[1], finalists[:, 0], finalists[:, 1])


def _preferring(logits: Tensor, label: Tensor, other: int) -> Tensor:
    """Whether classifiers prefer the label to another class, (N, M) bool."""
    own = logits.gather(2, label[:, None, None].expand(-1, logits.shape[1], 1))[:, :, 0]
    return torch.where((label < other)[:, None], own >= logits[:, :, other], own > logits[:, :, other])


def _changes(logits: Tensor, first: Tensor, label: Tensor) -> Tensor:
    """Fewest classifiers (N,) float64 whose change lets another class win."""
    counts, (_, classifiers, classes) = first.sum(1), first.shape
    places = torch.arange(classes, device=label.device)
    changed = torch.arange(classifiers + 1, device=label.device)[:, None]  # (M + 1, 1), the number of changes
    own = counts.gather(1, label[:, None])[:, :, None]
    lacking = (own - changed).clamp(min=0) + (label[:, None] < places)[:, None].long() - counts[:, None]
    lacking = lacking.clamp(min=0).masked_fill((places == label[:, None])[:, None], 2 * classifiers + 2)
    needed = _first(lacking.topk(2, dim=2, largest=False).values.sum(2) <= changed[:, 0])
    for other in range(classes):
        prefers = _preferring(logits, label, other)
        behind = counts - counts[:, other, None] + (places < other).long()
        must = (behind[:, None] - changed).clamp(min=0).masked_fill(places == other, 0)  # (N, M + 1, K)
        useless = (must - (first * prefers[:, :, None]).sum(1)[:, None]).clamp(min=0)
        lead = 2 * prefers.sum(1) - classifiers + (label < other).long()
        turned = ((lead + 1) // 2).clamp(min=0)[:, None, None]
        enters = must.sum(2, keepdim=True) - must <= changed  # with each class as the one that may be ahead
        beats = useless.sum(2, keepdim=True) - useless <= changed - turned
        needed = torch.where(label == other, needed, torch.minimum(needed, _first((enters & beats).any(2))))
    return needed


def _first(holds: Tensor) -> Tensor:
    """The first place (N,) float64 in a row that holds; infinite where none does."""
    return torch.where(holds.any(1), holds.long().argmax(1), torch.inf).double()


def _parts(logits: Tensor, first: Tensor, label: Tensor, reached: Tensor) -> Tensor:
    """Parts (N,) float64 without which no other class can win: one pair of classes is looked at a time."""
    classes = first.shape[2]
    first = first.bool()
    passed = torch.stack([_to_pass(first, reached, other) for other in range(classes)], 1)  # (N, K by, K passed)
    itself = one_hot(label, classes).bool()
    over = passed.gather(2, label[:, None, None].expand(-1, classes, 1))[:, :, 0].masked_fill(itself, torch.inf)
    needed = over.sort(1).values[:, 1] if classes > 2 else torch.full_like(over[:, 0], torch.inf)
    for other in range(classes):
        prefers = _preferring(logits, label, other)
        lead = 2 * prefers.sum(1) - prefers.shape[1] + (label < other).long()
        beats = first_closing(2 * prefers.long(), lead, reached)
        enters = passed[:, other].sort(1).values[:, -2]  # all classes but one have to be passed
        needed = torch.where(label == other, needed, torch.minimum(needed, torch.maximum(beats, enters)))
    return needed


def _to_pass(first: Tensor, reached: Tensor, other: int) -> Tensor:
    """Parts (N, K) float64 that a class needs to be ahead of each other one in the first round; 0 of itself."""
    found = []
    for passed in range(first.shape[2]):
        own, its = first[:, :, other].long(), first[:, :, passed].long()
        gap = its.sum(1) - own.sum(1) + int(passed < other)
        found.append(first_closing(1 + its - own, gap, reached) if passed != other else torch.zeros_like(gap).double())
    return torch.stack(found, 1)


def _checked_logits(logits: Tensor) -> Tensor:
    if checks.tensor("logits", logits).ndim != 3 or logits.shape[1] == 0 or logits.shape[2] < 2:
        raise InvalidInput(
            f"logits must have shape (N, M, K) of N inputs, M classifiers and K >= 2 classes, got {tuple(logits.shape)}"
        )
    if not logits.is_floating_point() or bool(logits.isnan().any()):
        kind = "NaN" if logits.is_floating_point() else logits.dtype
        raise InvalidInput(f"logits must be floating numbers without NaN, got {kind}: pass what the classifiers return")
    return logits.detach()
