"""Certified, attacked and random accuracy against the size of a transformation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve, labelled
from certify.results import Witness
from certify.semantic.certificate import SemanticCertificate
from certify.semantic.random_draws import TransformationAccuracy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SIZES = 21  # in a table where none are asked for


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformationCurves:
    """Accuracy under transformations up to a size: proved, left by an attack, and random.

    Attributes:
        certified: the proved curve, a lower bound.
        attacked: what an attack left, an upper bound; or None.
        random: copies under random transformations; or None.
        reach: the size of the whole range.
        unit: of sizes.
    """

    certified: CertifiedAccuracyCurve
    attacked: AttackedAccuracyCurve | None
    random: TransformationAccuracy | None
    reach: float
    unit: str

    @classmethod
    def of(
        cls,
        certificate: SemanticCertificate,
        labels: Tensor,
        *,
        witness: Witness | None = None,
        random: TransformationAccuracy | None = None,
    ) -> "TransformationCurves":
        """The curves of results for the same inputs and transformation.

        Args:
            certificate: of :func:`certify_transformation`.
            labels: (N,) correct classes.
            witness: of :func:`certify.attacks.transformation`.
            random: of :func:`random_transformations`.

        Raises:
            InvalidInput: results of other inputs or of another transformation.
        """
        checks.rows("labels", labels, len(certificate))
        for name, other in (("witness", witness), ("random", random)):
            said = getattr(other, "transformation", certificate.transformation)
            if other is not None and (said != certificate.transformation or len(other) != len(certificate)):
                raise InvalidInput(
                    f"{name} must be of the {len(certificate)} inputs and {certificate.transformation} of the "
                    f"certificate, got {len(other)} inputs and {said}: run it with the same ones"
                )
        return cls(
            certified=CertifiedAccuracyCurve.from_certificate(certificate, labels),
            attacked=None if witness is None else AttackedAccuracyCurve.from_witness(witness),
            random=random,
            reach=certificate.reach,
            unit=certificate.unit,
        )

    def sentences(self) -> list[str]:
        """Accuracy over the whole range, a sentence."""
        last = self.to_dataframe([self.reach]).iloc[0]
        words: dict[str, tuple[str, Callable[[float], float]]] = {  # shares are rounded to their safe side
            "certified": ("at least {:.1f} % proved", math.floor),
            "attacked": ("at most {:.1f} % left by an attack", math.ceil),
            "random": ("{:.1f} % of random draws right", round),
        }
        there = [name for name in words if last.get(name, math.nan) >= 0]  # no draw may lie within
        said = [words[name][0].format(words[name][1](1000 * round(last[name], 9)) / 10) for name in there]
        return [f"accuracy up to {self.reach:g} ({self.unit}): {', '.join(said)}"]

    def to_dataframe(self, radii: Sequence[float] | Tensor | None = None) -> "pd.DataFrame":
        """Columns radius, certified, attacked and random; the last of copies with parameters within the radius."""
        import pandas as pd

        limit = self.certified.limit
        r = torch.linspace(0, self.reach, SIZES) if radii is None else torch.as_tensor(radii)
        r = r.to(limit.device, torch.float64)
        columns = {"radius": r, "certified": self.certified.at(r)}
        if self.attacked is not None:
            columns["attacked"] = self.attacked.at(r)
        if self.random is not None:
            distance, order = self.random.distance.flatten().sort()  # NaN, where a copy was left out, comes last
            right = torch.cat([order.new_zeros(1), self.random.right.flatten()[order].cumsum(0)])
            within = torch.searchsorted(distance, r.to(distance.device), right=True)
            columns["random"] = right[within] / within.double()  # NaN where no copy is as near
        return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})

    def plot(self, ax: "Axes | None" = None, *, radii: Sequence[float] | Tensor | None = None) -> "Axes":
        """Draw the curves on ``ax`` (the current axes if None) and return the axes."""
        ax = checks.axes(ax)
        table = self.to_dataframe(torch.linspace(0, self.reach, 10 * SIZES) if radii is None else radii)
        ax.step(table.radius, table.certified, where="pre", label="certified")
        if "attacked" in table:
            ax.step(table.radius, table.attacked, where="post", linestyle="--", label="attacked")
        if "random" in table:
            ax.plot(table.radius, table.random, linestyle=":", label="random")
        return labelled(ax, self.certified.norm, self.unit)
