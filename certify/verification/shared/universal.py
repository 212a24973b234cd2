"""Accuracy under every single perturbation that is added to all inputs: proved, and between two simpler figures."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.capturing import capture
from bounds.linear.forms import margin_forms
from bounds.memory import MEMORY
from certify.attacks.common.threat import Threat, checked_norm
from certify.models import frozen, predictions_and_labels, probe
from certify.results import Record, share_interval
from certify.verification.shared.branch_and_bound import Forms, Leaf, most_below
from certify.verification.shared.moves import in_moves

NORMS = (1, 2, math.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class UniversalCertificate(Record):
    """A lower bound on the accuracy under every perturbation that all inputs share.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        right: (N,) bool, True where the clean input is classified correctly.
        alone: (N,) bool, True where it is proved to be under every perturbation of its own.
        changed: how many of the inputs that are right but not proved alone one perturbation may change, at most.
        epsilon: largest norm of the perturbation, in units of the input.
        norm: order of the norm.
        method: of the bounds.
        leaves: what proves ``changed``: parts of all perturbations, each with the multipliers that bound it.
        complete: whether ``changed`` is what the linear bounds allow, and not what a time limit left.
        subject: the classifier it speaks of.
        sound: the arithmetic that the statement is about, see :class:`certify.Certificate`.
    """

    right: Tensor
    alone: Tensor
    changed: int
    epsilon: float
    norm: float
    method: str
    leaves: tuple[Leaf, ...]
    complete: bool
    subject: str = "base"
    sound: str = "rounding"

    @property
    def count(self) -> int:
        """Inputs that stay right under any one perturbation, at least."""
        return int(self.right.sum()) - self.changed

    @property
    def accuracy(self) -> float:
        """Share of the inputs at hand that stay right under any one perturbation, at least."""
        return self.count / len(self)

    @property
    def accuracy_alone(self) -> float:
        """Share of the inputs that are proved one by one."""
        return float(self.alone.double().mean())

    def lower(self, alpha: float = 0.05) -> float:
        r"""Lower bound on the accuracy in the population under every one perturbation, if inputs were drawn from it.

        It holds with probability at least ``1 - alpha``. The least accuracy on a sample is below that in the population
        in the mean, and one input moves it by 1 / N; so by McDiarmid's inequality it exceeds the latter by more than
        :math:`\sqrt{\log(1 / \alpha) / (2 N)}` with probability alpha at most. Where inputs proved one by one give a
        larger exact (Clopper-Pearson) bound, it is that one; each has half of alpha.

        References:
            McDiarmid (1989), On the method of bounded differences, Surveys in Combinatorics, lemma 1.2.
        """
        half = checks.probability("alpha", alpha) / 2
        shared = self.accuracy - math.sqrt(math.log(1 / half) / (2 * len(self)))
        single, _ = share_interval(self.alone, 2 * half)  # its lower end alone is wrong with half of that
        return max(0.0, shared, single)


@isolated
def certified_universal_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: float,
    epsilon: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    method: str = "crown",
    timeout: float | None = 60.0,
    sound: str = "rounding",
    memory: int = MEMORY,
    batch_size: int = 500,
) -> UniversalCertificate:
    """Prove how many inputs stay right under any one perturbation that is added to all of them and clipped to the box.

    It lies between the share that is proved one by one, and what :func:`certify.attacks.universal_perturbation` leaves.
    Inputs that are not proved alone get linear bounds on their margins, in the shared perturbation. How many of these
    one perturbation may push below 0 is found by branch and bound; each part is closed by multipliers, whose bound is
    computed anew with all rounding errors, whatever the solver says.

    It gains most over single proofs for many inputs with tight margins, and where few entries may change, as in a
    patch: there, what changes one input spares another. Where few inputs fail it gains nothing.

    Args:
        model: maps (N, *D) to logits (N, K); any network that ``torch.export`` follows.
        x: (N, *D), floating, finite, inside the box.
        y: (N,) correct classes.
        norm: 1, 2 or ``math.inf``.
        epsilon: largest norm of the perturbation, in units of the input, above 0.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True for the entries that may not move, as outside of a patch.
        method: ``"crown_ibp"``, ``"fast_lin"`` or ``"crown"``.
        timeout: seconds for branch and bound; what is reached by then is the result. None for no limit.
        sound: which rounding errors of the network are included, see :func:`bounds.crown`.
        memory: bytes for the inputs and rows that are bounded at once.
        batch_size: inputs that are bounded at once, and per forward pass.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: an operation without a rule.

    References:
        Moosavi-Dezfooli et al. (2017), Universal adversarial perturbations, arXiv:1610.08401, for the perturbations;
        Zeng et al. (2023), Towards robustness certification against universal perturbations, ICLR, for linear bounds in
        one perturbation and a mixed-integer programme.
    """
    order = checked_norm(norm, NORMS)
    checks.positive("epsilon", epsilon)
    Threat(order, low, high, frozen_features).check(checks.not_empty(checks.tensor("x", x)))
    if timeout is not None:
        checks.positive("timeout", timeout)
    batch_size = checks.at_least("batch_size", batch_size, 1)
    checks.at_least("memory", memory, 1)
    with frozen(model), torch.no_grad():
        classes = probe(model, x, batch_size=min(batch_size, len(x)))
        if y is None:
            raise InvalidInput("y must hold the correct class of each input, got None: pass model(x).argmax(1)")
        predicted, label = predictions_and_labels(model, x, y, classes, batch_size)
        right, point = predicted == label, x.detach().double()
        graph = capture(model, x)
        alone, parts = torch.zeros_like(right), []
        for rows in right.nonzero()[:, 0].split(batch_size) if right.any() else ():
            ball = LpBall(point[rows], epsilon, order, low, high, frozen_features)
            found = margin_forms(graph, ball, label[rows], method, sound=sound, memory=memory)
            alone[rows] = ~found.open
            if found.open.any():
                open_ = rows[found.open]
                proved = found.margins[found.open] > 0
                proved |= torch.nn.functional.one_hot(label[open_], classes).bool()
                parts.append(in_moves(found.forms, ball.rows(found.open.nonzero()[:, 0]), epsilon, proved))
        forms = Forms.joined(parts, order, epsilon)
        leaves, complete = most_below(forms, math.inf if timeout is None else timeout)
    return UniversalCertificate(
        label=predicted,
        right=right,
        alone=alone,
        changed=max((leaf.most for leaf in leaves), default=0),
        epsilon=float(epsilon),
        norm=order,
        method=method,
        leaves=tuple(leaves),
        complete=complete,
        sound=sound,
    )
