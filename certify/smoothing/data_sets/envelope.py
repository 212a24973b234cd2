"""The best of several smoothed classifiers at each radius."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from certify.curves import CertifiedAccuracyCurve, labelled
from certify.results import Certificate
from certify.smoothing.data_sets.accuracy import Radii, checked, wrong_with_risk

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class CertifiedAccuracyEnvelope:
    """Best certified accuracy of several classifiers at each radius, as papers report it over sigma.

    It belongs to the family, not to any single classifier: each sigma gives another smoothed classifier, and the best
    one is taken at each radius. No single classifier has to reach the envelope at two radii. :meth:`best` tells which
    one attains it.

    Args:
        certificates: at least one, of the same N inputs and norm; their subjects name them.
        labels: (N,) correct classes.

    Raises:
        InvalidInput: no certificate, other norms, no rows, labels of another shape.
    """

    def __init__(self, certificates: Sequence[Certificate], labels: Tensor) -> None:
        certificates = [checked(each) for each in checks.several("certificates", certificates)]
        norms = {certificate.norm for certificate in certificates}
        if len(norms) != 1:
            raise InvalidInput(f"certificates must be at least one and of one norm, got norms {sorted(norms)}")
        self.certificates, self.labels = tuple(certificates), labels
        self.curves = tuple(CertifiedAccuracyCurve.from_certificate(each, labels) for each in certificates)

    def at(self, radius: Radii) -> Tensor:
        """Best certified accuracy at each radius, as counted; float64, shaped like ``radius``."""
        return torch.stack([curve.at(radius) for curve in self.curves]).amax(0)

    def best(self, radius: Radii) -> Tensor:
        """Position of the first certificate that attains :meth:`at`; int64, shaped like ``radius``."""
        return torch.stack([curve.at(radius) for curve in self.curves]).argmax(0)

    def at_least(self, radius: Radii, confidence: float = 0.999) -> Tensor:
        """Share of these inputs that the best classifier at each radius surely gets right and robustly.

        With probability at least ``confidence``, at all radii at once, some classifier of the family has at least
        this share (not always the one that :meth:`best` names): each of the k statements, those of
        :func:`certified_accuracy_at_least`, gets ``(1 - confidence) / k``, so all of them hold together and the
        choice among them is free. float64, shaped like ``radius``.

        Raises:
            InvalidInput: a radius below 0, confidence outside (0, 1).
        """
        risk = (1 - checks.probability("confidence", confidence)) / len(self.curves)
        surely = [
            curve.counts(radius) - wrong_with_risk(certificate, risk)
            for curve, certificate in zip(self.curves, self.certificates, strict=True)
        ]
        return torch.stack(surely).amax(0).clamp(min=0).double() / len(self.labels)

    def radii(self, points: int = 200) -> Tensor:
        """Evenly spaced radii from 0 to a little beyond the largest finite radius of any classifier."""
        return max((curve.radii(points) for curve in self.curves), key=lambda radii: float(radii[-1]))

    def to_dataframe(self, radii: Sequence[float] | Tensor | None = None, confidence: float = 0.999) -> "pd.DataFrame":
        """Columns radius, accuracy, at_least, and subject, the classifier that attains the accuracy."""
        import pandas as pd

        radii = self.radii() if radii is None else radii
        r = radii.double() if isinstance(radii, Tensor) else torch.tensor(radii, dtype=torch.float64, device="cpu")
        columns = {"radius": r, "accuracy": self.at(r), "at_least": self.at_least(r, confidence)}
        table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
        return table.assign(subject=[self.certificates[i].subject for i in self.best(r).tolist()])

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        label: str | None = None,
        color: str | None = None,
        radii: Sequence[float] | Tensor | None = None,
    ) -> "Axes":
        """Draw the envelope on ``ax`` (the current axes if None), next to curves, and return the axes.

        Between two radii it takes the lower value, like a certified curve.
        """
        ax = checks.axes(ax)
        table = self.to_dataframe(radii)
        name = label or f"best of {len(self.curves)} classifiers at each radius"
        ax.step(table.radius, table.accuracy, where="pre", label=name, color=color, linestyle=":")
        return labelled(ax, self.certificates[0].norm)
