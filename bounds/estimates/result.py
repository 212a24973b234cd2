"""Scores of CLEVER, and all that is known about how far to believe them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

# From the one that spoils an estimate most; what each says, and what to try.
STATUSES = {
    "masked": "the derivative vanishes at half of the points or more, so there is no score: use logits instead of "
    "probabilities, or a differentiable stand-in",
    "end point not identified": "the maxima allow too wide a range of end points, or ascent found more than they "
    "allow, so the largest sampled value stands for L and the score is too large: trust certificates and attacks",
    "capped": "the score is the radius R, within which nothing was seen: use a larger radius",
    "atom": "the largest value occurs repeatedly or the maxima take few values, so the largest one stands for L: it "
    "may be exact, or larger ones may lie where no point fell",
    "fitted": "the end point of a reverse Weibull distribution stands for L: regions that no point fell into stay "
    "unseen, so that the score may be several times the distance to a class",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class CleverEstimate:
    """Estimated distances of N inputs to T other classes each: not bounds in any direction.

    Attributes:
        score: (N,) float64, the least score over the targets, in units of the input; NaN where a target is masked.
        lipschitz: (N,) float64, the estimate of L behind it, in units of the logits per unit of the input.
        status: N names, what happened for the target behind the score; :data:`STATUSES` explains them.
        capped: (N,) bool, whether the score is the radius itself.
        target: (N,) int64, the class behind the score.
        label: (N,) int64, the predicted class.
        targets: (N, T) int64, the classes looked at.
        target_score: (N, T) float64.
        target_lipschitz: (N, T) float64.
        target_status: N rows of T names.
        margin: (N, T) float64, logit of the label minus that of the target.
        start: (N, T) float64, the dual norm of the gradient at the input itself.
        largest: (N, T) float64, the largest sampled value: L is at least that, up to rounding, and no more is certain.
        ascended: (N, T) float64, what ascent from there reaches; NaN for curvatures. Above the interval for the end
            point it refutes the fit.
        location: (N, T) float64, the fitted end point, whether it was used or not; NaN where none was fitted.
        lower: (N, T) float64, lower end of a 95% interval for the end point; NaN where none was fitted.
        upper: (N, T) float64, upper end, infinite where the end point is not identified.
        shape: (N, T) float64, of the reverse Weibull distribution; NaN where none was fitted.
        distance: (N, T) float64, Kolmogorov-Smirnov distance of the fit from the maxima.
        p_value: (N, T) float64, of that distance by parametric bootstrap; a high one says nothing about the end point.
        distinct: (N, T) int64, different values among the maxima.
        dead: (N, T) float64, share of the points with a vanishing derivative.
        maxima: (N, T, num_batches) float64.
        norm: order of the norm of the distance.
        radius: R, up to which the score can reach.
        num_batches: batches of each input.
        batch_size: points of each batch.
        order: 1 for gradients, 2 for curvatures.
        seed: of all draws.
    """

    score: Tensor
    lipschitz: Tensor
    status: tuple[str, ...]
    capped: Tensor
    target: Tensor
    label: Tensor
    targets: Tensor
    target_score: Tensor
    target_lipschitz: Tensor
    target_status: tuple[tuple[str, ...], ...]
    margin: Tensor
    start: Tensor
    largest: Tensor
    ascended: Tensor
    location: Tensor
    lower: Tensor
    upper: Tensor
    shape: Tensor
    distance: Tensor
    p_value: Tensor
    distinct: Tensor
    dead: Tensor
    maxima: Tensor
    norm: float
    radius: float
    num_batches: int
    batch_size: int
    order: int
    seed: int

    def __len__(self) -> int:
        return len(self.score)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input and target; ``is_nearest`` marks the target behind the score of the input."""
        import pandas as pd

        rows, count = self.targets.shape
        columns: dict[str, object] = {
            "row": [row for row in range(rows) for _ in range(count)],
            "label": self.label.repeat_interleave(count).tolist(),
            "target": self.targets.flatten().tolist(),
            "is_nearest": (self.targets == self.target[:, None]).flatten().tolist(),
            "status": [name for names in self.target_status for name in names],
        }
        for name in ("target_score", "target_lipschitz", "margin", "start", "largest", "ascended", "location"):
            columns[name.removeprefix("target_")] = getattr(self, name).flatten().tolist()
        for name in ("lower", "upper", "shape", "distance", "p_value", "distinct", "dead"):
            columns[name] = getattr(self, name).flatten().tolist()
        for name in ("norm", "radius", "num_batches", "batch_size", "order", "seed"):
            columns[name] = getattr(self, name)
        return pd.DataFrame(columns)
