"""Accuracy as a function of the radius, with exact binomial confidence bands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_interval
from bounds.errors import InvalidInput
from bounds.sets.orders import Order, is_counted
from certify.results import Certificate, Witness

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class AccuracyCurve:
    """Share of inputs that count as right at each radius.

    The band around it is the exact (Clopper-Pearson) interval for the same share over the distribution that
    the inputs were drawn from, at one radius at a time.

    Attributes:
        limit: (N,) float64, the radius up to which each input counts; -inf where it never does.
        norm: order of the norm, or the name of a set of perturbations.
        subject: the classifier, ``"base"`` or ``"smoothed(...)"``.
        method: what gave the limits.
        alpha: probability, per input, that its limit is wrong; 0 for a proof.
        unit: of the radius where it is no norm, such as ``"degrees"``; empty where it is.
    """

    limit: Tensor
    norm: Order
    subject: str
    method: str
    alpha: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if self.limit.ndim != 1 or len(self.limit) == 0 or self.limit.isnan().any():
            raise InvalidInput(f"a curve needs one limit per input and at least one, got {self.limit}")

    def counts(self, radius: float | Sequence[float] | Tensor) -> Tensor:
        """Number of inputs that count at each radius; int64, shaped like ``radius``."""
        r = torch.as_tensor(radius, dtype=torch.float64, device=self.limit.device)
        if not (r >= 0).all():
            raise InvalidInput(f"radius must be at least 0, got {r.tolist()}")
        return self._reached(self.limit, r.unsqueeze(-1)).sum(-1)

    def at(self, radius: float | Sequence[float] | Tensor) -> Tensor:
        """Accuracy at each radius; float64, shaped like ``radius``."""
        return self.counts(radius).double() / len(self.limit)

    def interval(self, radius: float | Sequence[float] | Tensor, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the exact confidence interval at each radius."""
        return clopper_pearson_interval(self.counts(radius), len(self.limit), confidence=confidence)

    def radii(self, points: int = 200) -> Tensor:
        """Evenly spaced radii from 0 to a little beyond the largest finite limit."""
        finite = self.limit[self.limit.isfinite()]
        largest = float(finite.max()) if len(finite) else 0.0
        return torch.linspace(0, 1.05 * max(largest, 1e-6), points, dtype=torch.float64, device=self.limit.device)

    def to_dataframe(self, radii: Sequence[float] | Tensor | None = None, confidence: float = 0.95) -> "pd.DataFrame":
        """Columns radius, accuracy, lower, upper."""
        import pandas as pd

        r = self.radii() if radii is None else torch.as_tensor(radii, dtype=torch.float64, device=self.limit.device)
        lower, upper = self.interval(r, confidence)
        columns = {"radius": r, "accuracy": self.at(r), "lower": lower, "upper": upper}
        return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        label: str | None = None,
        color: str | None = None,
        radii: Sequence[float] | Tensor | None = None,
        confidence: float = 0.95,
        style: Mapping[str, Any] | None = None,
        band: bool = True,
    ) -> "Axes":
        """Draw the curve and its band on ``ax`` (the current axes if None) and return the axes.

        Between two radii the curve takes the value of the one that errs on the safe side: a lower bound is
        drawn as the lower of the two, an upper bound as the higher. ``style`` holds more properties of the line, as
        matplotlib names them, such as its marker. Without ``band``, the curve stands alone, for panels of many.
        """
        ax = checks.axes(ax)
        table = self.to_dataframe(radii, confidence)
        name = label or f"{self.word} ({self.method}, {self.subject})"
        x, step = table.radius, self._step
        look = {"color": color, "linestyle": self._line, **(style or {})}
        (line,) = ax.step(x, table.accuracy, where=step, label=name, **look)
        if band:
            ax.fill_between(x, table.lower, table.upper, step=step, alpha=0.15, linewidth=0, color=line.get_color())
        return labelled(ax, self.norm, self.unit)

    word = "accuracy"
    _step: ClassVar[Literal["pre", "post"]] = "post"
    _line: ClassVar[str] = "-"

    @staticmethod
    def _reached(limit: Tensor, radius: Tensor) -> Tensor:
        raise NotImplementedError


def round_radii(curves: Sequence[AccuracyCurve], most: int = 5) -> list[float]:
    """Radii at which to state accuracies: 0 and up to about ``most`` round numbers where curves of one norm fall.

    They are multiples of one number, or 1, 2, 5, 10, ... where curves fall at very different radii, and whole numbers
    where changes are counted. They depend on all inputs and curves at once, so that no group of inputs and no model
    chooses its own.
    """
    falls = [curve.limit[curve.limit.isfinite() & (curve.limit > 0)] for curve in curves]
    falls = [limit for limit in falls if len(limit)]
    if not falls:
        return [0.0]
    low = min(float(limit.median()) for limit in falls)
    high = max(float(limit.quantile(0.9)) for limit in falls)
    powers = range(math.floor(math.log10(low)) - 2, math.ceil(math.log10(high)) + 1)
    least = 1 if is_counted(curves[0].norm) else 0
    series = [each for power in powers for digit in (1, 2, 5) if (each := float(f"{digit}e{power}")) >= least]
    if high < 10 * low:
        step = next(step for step in series if step * most >= high * (1 - 1e-9))
        return [float(f"{i * step:.6g}") for i in range(int(high / step * (1 + 1e-9)) + 1)]
    within = [radius for radius in series if low / 2 <= radius <= high]
    return [0.0, *within[:: math.ceil(len(within) / most)]]


def labelled(ax: "Axes", norm: Order, unit: str = "") -> "Axes":
    """The axes of accuracy against radius, with their names."""
    if isinstance(norm, str):
        unit = unit or norm.unit
    elif not unit:
        known = f"l{'∞' if norm == math.inf else format(norm, 'g')}, input units"
        unit = "of sets without a norm" if math.isnan(norm) else known
    ax.set_xlabel(f"radius ({unit})")
    ax.set_ylabel("accuracy")
    ax.set_ylim(0, 1)
    return ax


class CertifiedAccuracyCurve(AccuracyCurve):
    """Share of inputs proved to be classified correctly within each radius: a lower bound."""

    word = "certified"
    _step = "pre"

    @classmethod
    def from_certificate(cls, certificate: Certificate, labels: Tensor) -> "CertifiedAccuracyCurve":
        """The curve of certificates whose rows have the correct classes ``labels`` (N,).

        Wrong and abstaining rows never count. Certified accuracy at r is the share of correct rows with a
        radius of at least r.

        >>> certificate = Certificate(
        ...     label=torch.tensor([1, 0, 2]), radius=torch.tensor([0.5, 0.2, 0.0], dtype=torch.float64),
        ...     abstained=torch.tensor([False, False, True]), norm=2.0, alpha=0.0, subject="base", method="ibp")
        >>> CertifiedAccuracyCurve.from_certificate(certificate, torch.tensor([1, 0, 2])).at([0.0, 0.2, 0.3])
        tensor([0.6667, 0.6667, 0.3333], dtype=torch.float64)
        """
        checks.rows("labels", labels, len(certificate))
        right = certificate.certified(labels, 0.0)
        limit = torch.where(right, certificate.radius.double(), -math.inf)
        return cls(
            limit=limit,
            norm=certificate.norm,
            subject=certificate.subject,
            method=certificate.method,
            alpha=certificate.alpha,
            unit=getattr(certificate, "unit", ""),
        )

    @staticmethod
    def _reached(limit: Tensor, radius: Tensor) -> Tensor:
        return limit >= radius


class AttackedAccuracyCurve(AccuracyCurve):
    """Share of inputs for which no adversarial example was found within each radius: an upper bound."""

    word = "attacked"
    _line = "--"

    @classmethod
    def from_witness(cls, witness: Witness) -> "AttackedAccuracyCurve":
        """The curve of the distances found; misclassified inputs (distance 0) never count."""
        unit = getattr(witness, "unit", "")
        return cls(limit=witness.distance, norm=witness.norm, subject=witness.subject, method=witness.method, unit=unit)

    @staticmethod
    def _reached(limit: Tensor, radius: Tensor) -> Tensor:
        return limit > radius
