"""Proved bounds on softmax confidences over perturbation sets."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import Box, LpBall, PerturbationSet, checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph
from bounds.graph.capturing import capture
from bounds.linear.intervals import ibp
from bounds.linear.methods import METHODS, linear_bounds
from bounds.linear.pairs import pairwise_margins
from bounds.memory import MEMORY
from bounds.models import answer
from bounds.numerics import round_down, round_up
from bounds.sets.balls import Interval
from certify.confidence.narrowing import Narrowing
from certify.models import frozen, predictions, probe
from certify.results import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PAIRED = 64  # classes up to which every pair has a row of its own; beyond, differences of bounds on logits serve
ROUNDOFF = 2.0**-52


@dataclass(frozen=True, eq=False, kw_only=True)
class ConfidenceCertificate(Record):
    """Proved bounds on the softmax confidence of every class over perturbation sets, one row per input.

    Attributes:
        label: (N,) int64, the class predicted at the centre of the set; -1 where its logits are not finite.
        lower: (N, K) float64, the confidence in each class is at least this everywhere in the set.
        upper: (N, K) float64, and at most this.
        method: of the bounds on differences of logits.
        subject: the classifier it speaks of.
        sound: the arithmetic that the statement is about, see :class:`certify.Certificate`; the softmax is that of real
            numbers.
    """

    lower: Tensor
    upper: Tensor
    method: str
    subject: str = "base"
    sound: str = "rounding"

    @property
    def largest(self) -> Tensor:
        """(N,) float64: no input of the set gets more confidence, in any class."""
        return self.upper.amax(1)

    @property
    def least(self) -> Tensor:
        """(N,) float64: every input of the set gets at least this confidence in the class that is predicted for it."""
        # The largest of K numbers that sum to 1 is at least 1 / K, which rounds to the wrong side for some K.
        uniform = math.nextafter(1 / self.lower.shape[1], 0.0)
        return self.lower.amax(1).clamp(min=uniform)

    def sentences(self) -> list[str]:
        """Numbers of inputs that are proved to get little confidence, and much, in words."""
        few, many = int((self.largest < 0.5).sum()), int((self.least > 0.5).sum())
        return [
            f"of {len(self)} inputs, {few} are proved to get less than half of the confidence in every class, and "
            f"{many} more than half of it in the class that is predicted"
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the shares of inputs that are proved to lie below and above each confidence, and return the axes."""
        ax = checks.axes(ax)
        counts = torch.arange(len(self) + 1).double() / len(self)
        for name, ends in (("at most, proved", self.largest), ("at least, proved", self.least)):
            steps = torch.cat([ends.sort().values.cpu(), torch.ones(1).double()])
            ax.step(steps.numpy(), counts.numpy(), where="post", label=f"largest confidence {name}")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.01)
        ax.set_xlabel("Confidence")
        ax.set_ylabel("Share of inputs below")
        ax.legend(loc="upper left")
        return ax


@isolated
def confidence_bound(
    model: nn.Module,
    ball: PerturbationSet,
    method: str = "crown",
    *,
    steps: int = 20,
    most_parts: int = 0,
    timeout: float | None = None,
    sound: str = "rounding",
    memory: int = MEMORY,
    batch_size: int = 500,
) -> ConfidenceCertificate:
    r"""Bounds on the softmax confidence of each class over perturbation sets: how sure the model can be made to look.

    With lower bounds :math:`D_{jk} \le f_j - f_k` over the set, the confidence in class k is at most
    :math:`1 / (1 + \sum_{j \ne k} e^{D_{jk}})` and at least :math:`1 / (1 + \sum_{j \ne k} e^{-D_{kj}})`. Up to 64
    classes, each difference is bounded as a whole; with more, bounds on two logits are subtracted, which is looser.
    With ``most_parts``, upper bounds that may decide the largest confidence are lowered further, and none gets looser.

    Args:
        model: maps (N, *D) to logits (N, K); any network that ``torch.export`` follows.
        ball: N perturbation sets, such as ``bounds.LpBall(x, epsilon, low=0.0, high=1.0)``.
        method: ``"ibp"``, ``"crown_ibp"``, ``"fast_lin"``, ``"crown"`` or ``"alpha_crown"``, each at least as tight as
            those before it.
        steps: of ascent, for ``"alpha_crown"``.
        most_parts: parts of each set that are bounded to lower :attr:`ConfidenceCertificate.largest`: the sum of all
            exponentials as a whole, with neurons split by branch and bound. 0 for neither; above it, for balls and
            boxes, input by input.
        timeout: seconds for that, of all inputs together; None for no limit, with which results repeat.
        sound: which rounding errors of the network are included, see :func:`bounds.crown`.
        memory: bytes for the inputs and rows that are bounded at once.
        batch_size: inputs per forward pass.

    Returns:
        Bounds that hold for every input of each set; 0 and 1 where nothing is known.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: an operation without a rule.

    References:
        Bitterwolf, Meinke, Hein (2020), Certifiably adversarially robust detection of out-of-distribution data, section
        3, arXiv:2007.08473, for intervals.
    """
    checks.one_of("method", method, METHODS)
    if not isinstance(ball, PerturbationSet):
        raise InvalidInput(
            f"ball must be a perturbation set, got {type(ball).__name__}: pass bounds.LpBall(x, epsilon, low=0, high=1)"
        )
    batch_size = checks.at_least("batch_size", batch_size, 1)
    checks.at_least("memory", memory, 1)
    seconds = None if timeout is None else checks.positive("timeout", timeout)
    if checks.at_least("most_parts", most_parts, 0) and not isinstance(ball, LpBall | Box):
        raise InvalidInput(
            f"most_parts must be 0 for a {type(ball).__name__}, got {most_parts}: leave it out, or pass an "
            f"LpBall or a Box"
        )
    center = checks.not_empty(ball.center)
    with frozen(model), torch.no_grad():
        x = center.to(next(model.parameters(), center).dtype)  # a set may be finer than what the model is given
        classes = probe(model, x, batch_size=min(batch_size, len(x)))
        label = predictions(model, x, batch_size)
        graph = capture(model, center)
        if classes <= MOST_PAIRED:
            least = pairwise_margins(graph, ball, method, steps=steps, sound=sound, memory=memory).double()
        else:
            least = _of_logits(_logit_bounds(graph, ball, method, steps=steps, sound=sound, memory=memory))
        upper = _at_most(least)
        if isinstance(ball, LpBall | Box) and most_parts:
            deadline = math.inf if seconds is None else time.monotonic() + seconds
            logits = torch.cat([answer(model, part) for part in x.split(batch_size)]).double()
            narrowing = Narrowing(
                model=model, ball=ball.double(), most_parts=most_parts, deadline=deadline, sound=sound, memory=memory
            )
            upper = narrowing.below(graph, logits, least, upper)
    return ConfidenceCertificate(label=label, lower=_at_least(least), upper=upper, method=method, sound=sound)


def _logit_bounds(graph: Graph, ball: PerturbationSet, method: str, *, steps: int, sound: str, memory: int) -> Interval:
    """Bounds on the logits (N, K) by a method."""
    if method == "ibp":
        return ibp(graph, ball, sound=sound, memory=memory)
    return linear_bounds(graph, ball, method, steps=steps, sound=sound, memory=memory)


def _of_logits(logits: Interval) -> Tensor:
    """Lower bounds on ``logit_j - logit_k`` (N, K, K) from bounds on each."""
    least = round_down(logits.lower.double()[:, :, None] - logits.upper.double()[:, None, :], ROUNDOFF)
    return least.diagonal_scatter(torch.zeros_like(logits.lower.double()), dim1=1, dim2=2)


def _at_most(least: Tensor) -> Tensor:
    """Upper bounds on confidences (N, K), from lower bounds (N, K, K) on ``logit_j - logit_k``."""
    others = round_down(_others(least).sum(1), _error(least)).clamp(min=0)
    return round_up(1 / (1 + others), 4 * ROUNDOFF).clamp(max=1.0).nan_to_num(1.0)


def _at_least(least: Tensor) -> Tensor:
    """Lower bounds on confidences (N, K), likewise."""
    others = _others(-least).sum(2)
    found = round_down(1 / (1 + round_up(others, _error(least))), 4 * ROUNDOFF).clamp(min=0.0)
    return torch.where(others.isfinite(), found, 0.0)  # False for NaN too


def _others(differences: Tensor) -> Tensor:
    """Exponentials (N, K, K) of differences, 0 on the diagonal."""
    return differences.exp() * ~torch.eye(differences.shape[1], dtype=torch.bool, device=differences.device)


def _error(least: Tensor) -> float:
    """Largest relative error of a sum of exponentials, each of a few units in the last place."""
    return (least.shape[1] + 8) * ROUNDOFF
