"""Detection of inputs of no known class by the confidence of a classifier, against perturbations of these inputs."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Captured
from bounds.graph.capturing import capture
from bounds.memory import MEMORY
from bounds.models import answer
from certify.attacks import highest_confidence
from certify.confidence.certificates import confidence_bound
from certify.confidence.narrowing import Narrowing
from certify.confidence.roc import RocCurve
from certify.models import probed_once
from certify.report.words import norm_name, rounded_down, rounded_up

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RocCurves = tuple[RocCurve, RocCurve, RocCurve]


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionCurve:
    """ROC curves of the confidence of a classifier as a detector of inputs of no known class, which are perturbed.

    Attributes:
        clean: nothing is perturbed.
        attacked: other inputs are perturbed as an attack does it: an upper bound on the area under attack.
        proved: the least that is left, whatever the perturbations are: a lower bound, proved for the inputs at hand.
        norm: order of the norm.
        epsilon: largest norm of a perturbation, in units of the input.
        method: of the proof.
        subject: the classifier it speaks of.
    """

    clean: RocCurve
    attacked: RocCurve
    proved: RocCurve
    norm: float
    epsilon: float
    method: str
    subject: str = "base"

    @property
    def curves(self) -> RocCurves:
        """Clean, attacked and proved."""
        return self.clean, self.attacked, self.proved

    def to_dataframe(self, tpr: float = 0.95, confidence: float = 0.95) -> "pd.DataFrame":
        """A row for each curve: the area, the false positive rate at ``tpr``, and their intervals on new inputs."""
        import pandas as pd

        rows = []
        for curve in self.curves:
            ends = *curve.interval(confidence), *curve.fpr_interval(tpr, confidence)
            named = dict(zip(("auc_lower", "auc_upper", "fpr_lower", "fpr_upper"), ends, strict=True))
            rows.append({"curve": curve.name, "auc": curve.auc, "fpr": curve.fpr(tpr), "tpr": tpr, **named})
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """Area that is proved, and area that an attack leaves, in words."""
        lower, upper = self.proved.interval()
        return [
            f"within {self.epsilon:g} in {norm_name(self.norm)}, the area below the ROC curve is at least "
            f"{rounded_down(self.proved.auc)} by proof (on new inputs {rounded_down(lower)} to {rounded_up(upper)}) "
            f"and at most {rounded_up(self.attacked.auc)} by attack; clean it is {self.clean.auc:.3g}"
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the three curves on ``ax`` (the current axes if None) and return the axes."""
        ax = checks.axes(ax)
        for curve in self.curves:
            curve.plot(ax)
        ax.legend(loc="lower right")
        return ax


@isolated
def ood_detection(
    model: nn.Module,
    inside: Tensor,
    outside: Tensor,
    epsilon: float,
    *,
    norm: float = math.inf,
    low: Limit = 0.0,
    high: Limit = 1.0,
    method: str = "crown",
    most_parts: int = 16,
    timeout: float | None = None,
    steps: int = 100,
    restarts: int = 3,
    sound: str = "rounding",
    memory: int = MEMORY,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> DetectionCurve:
    """Detect inputs of no known class by the largest softmax confidence: clean, attacked, and with proof.

    Known inputs stay as they are; each of the others may be any input of its ball. For the proof, known inputs count
    with a lower bound on their confidence, and others with the upper bound over their balls. No choice of perturbations
    leaves a smaller area, nor more others above the threshold of the proved curve.

    Args:
        model: maps (N, *D) to logits (N, K).
        inside: (N, *D), inputs of the classes that the model knows.
        outside: (M, *D), inputs of none of them, of the same dtype and device.
        epsilon: largest norm of a perturbation, in units of the input.
        norm: 1, 2 or ``math.inf``.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        method: of the proof, see :func:`certify.confidence_bound`.
        most_parts: parts of each ball that are bounded where confidences of known inputs lie between the proof and the
            attack: the sum of all exponentials as a whole, with neurons split by branch and bound; 0 for neither.
        timeout: seconds for that, of all inputs together; None for no limit, with which results repeat.
        steps: of each ascent, see :func:`certify.attacks.highest_confidence`.
        restarts: of the ascent, likewise.
        sound: which rounding errors of the network are included in the proof, see :func:`bounds.crown`.
        memory: bytes for the inputs and rows that are bounded at once.
        batch_size: inputs per pass.
        generator: source of random starts.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: an operation without a rule.

    References:
        Hendrycks, Gimpel (2017), A baseline for detecting misclassified and out-of-distribution examples in neural
        networks, arXiv:1610.02136, for the score; Bitterwolf, Meinke, Hein (2020), Certifiably adversarially robust
        detection of out-of-distribution data, section 4, arXiv:2007.08473, for the proved area.
    """
    checks.nonnegative("epsilon", epsilon)
    most_parts = checks.at_least("most_parts", most_parts, 0)
    seconds = None if timeout is None else checks.positive("timeout", timeout)
    for name, x in (("inside", inside), ("outside", outside)):
        checks.not_empty(checks.tensor(name, x))
    if inside.shape[1:] != outside.shape[1:] or inside.dtype != outside.dtype or inside.device != outside.device:
        raise InvalidInput(
            f"outside must be like inside, {tuple(inside.shape[1:])} of {inside.dtype} on {inside.device}, got "
            f"{tuple(outside.shape[1:])} of {outside.dtype} on {outside.device}: convert one of them"
        )
    with probed_once():
        found = highest_confidence(
            model,
            outside,
            norm=norm,
            epsilon=epsilon,
            low=low,
            high=high,
            steps=steps,
            restarts=restarts,
            batch_size=batch_size,
            generator=generator,
        )
        given = _Given(model, outside)
        known, largest = (
            confidence_bound(
                given,
                LpBall(x.detach().double(), radius, norm, low, high),
                method,
                sound=sound,
                memory=memory,
                batch_size=batch_size,
            )
            for x, radius in ((inside, 0.0), (outside, epsilon))
        )
    proved = largest.largest
    if most_parts:
        narrowing = Narrowing(
            model=given,
            ball=LpBall(outside.detach().double(), epsilon, norm, low, high),
            most_parts=most_parts,
            deadline=math.inf if seconds is None else time.monotonic() + seconds,
            sound=sound,
            memory=memory,
        )
        proved = narrowing.between(known.least, found, largest.upper)
    return DetectionCurve(
        clean=RocCurve(known.least, found.clean, "clean"),
        attacked=RocCurve(known.least, found.confidence, "attacked"),
        proved=RocCurve(known.least, proved, "proved"),
        norm=float(norm),
        epsilon=float(epsilon),
        method=method,
    )


class _Given(Captured):
    """A model in the dtype of its inputs, captured once: sets are in float64, and a model without weights may tell."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model, self.dtype, self.graph = model, x.dtype, capture(model, x)

    def forward(self, x: Tensor) -> Tensor:
        """The answers for inputs (N, *D) of any dtype."""
        return answer(self.model, x.to(self.dtype))
