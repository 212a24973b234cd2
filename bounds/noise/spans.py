"""Directions against the span of normals: the share of their energy in it, and that by chance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.noise.directions import fisher_p_value, flat_directions, student_interval, unit_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RELATIVE_NOTHING = 1e-9  # singular value, relative to the largest, below which normals span no further direction


@dataclass(frozen=True, eq=False, kw_only=True)
class EnergyShare:
    """Shares of the squared length of directions in a subspace, against those of independent random directions.

    Attributes:
        share: (M,) float64, between 0 and 1.
        p_values: (M,) float64, probability of as large a share by chance.
        mean: mean share.
        interval: Student's interval of the mean over directions; NaN for one direction.
        chance: mean share of uniform directions, ``dimension / features``.
        p_value: of all directions together (Fisher), where they are uniform and independent.
        dimension: of the subspace.
        features: D.
        confidence: of the interval.
    """

    share: Tensor
    p_values: Tensor
    mean: float
    interval: tuple[float, float]
    chance: float
    p_value: float
    dimension: int
    features: int
    confidence: float

    def chance_interval(self) -> tuple[float, float]:
        """Interval that holds the share of one uniform direction with probability ``confidence``."""
        a, b, tail = self.dimension / 2, (self.features - self.dimension) / 2, (1 - self.confidence) / 2
        return float(special.betaincinv(a, b, tail)), float(special.betaincinv(a, b, 1 - tail))

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per direction."""
        import pandas as pd

        columns = {"share": self.share.cpu().numpy(), "p_value": self.p_values.cpu().numpy()}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self.share), name="direction"))

    def sentences(self) -> list[str]:
        """The mean share and that by chance, in words."""
        low, high = self.interval
        about = f"of the energy lies in {self.dimension} of {self.features} dimensions, by chance {self.chance:.3g}"
        return [f"{self.mean:.3g} [{low:.3g}, {high:.3g}] {about} (p = {self.p_value:.2g})"]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the shares as points, with the interval of chance."""
        ax = checks.axes(ax)
        ax.axhspan(*self.chance_interval(), color="#e69f00", alpha=0.3, label="chance")
        ax.plot(range(len(self.share)), self.share.cpu().numpy(), "o", color="#0072b2", label="found")
        ax.set(xlabel="direction", ylabel=f"share in {self.dimension} of {self.features} dimensions", ylim=(0, 1))
        return ax


@isolated
def energy_share(
    directions: Tensor, normals: Tensor, *, dimension: int | None = None, confidence: float = 0.95
) -> EnergyShare:
    r"""Measure which share of directions lies in the span of normals, beyond chance.

    Such as universal perturbations in the span of the normals of a decision boundary. The subspace is that of the
    leading right singular vectors of the unit normals. The share of a uniform direction in any k dimensions that do not
    depend on it follows :math:`\mathrm{Beta}(k/2, (D - k)/2)`. Directions that were made from the same inputs as the
    normals depend on them: use others.

    Args:
        directions: (M, *D), of any length above 0.
        normals: (N, *D), of any length above 0, such as minimal perturbations.
        dimension: of the subspace, below D; as many as the normals span if None.
        confidence: of the intervals.

    Raises:
        InvalidInput: a bad argument, a direction of length 0, a dimension that the normals do not span.

    References:
        Moosavi-Dezfooli, Fawzi, Fawzi, Frossard (2017), Universal adversarial perturbations, arXiv:1610.08401, section
        5, for the question; Muirhead (1982), Aspects of multivariate statistical theory, theorem 1.5.7, for the law.

    >>> energy_share(torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])).mean
    0.36
    """
    checks.probability("confidence", confidence)
    units, length = unit_vectors(flat_directions("directions", directions))
    if len(units) == 0 or not (length > 0).all():
        raise InvalidInput("directions must hold at least one, all of a length above 0: leave out those of length 0")
    basis = leading_directions(normals, dimension).flatten(1).to(units.device)
    size, features = basis.shape
    if features != units.shape[1]:
        raise InvalidInput(f"directions must have the {features} entries of normals, got {units.shape[1]}")
    if size == features:
        raise InvalidInput(f"dimension must be below the number of entries, {features}: any direction lies in the rest")
    share = (units @ basis.T).square().sum(1).clamp(max=1)
    tails = special.betaincc(size / 2, (features - size) / 2, share.cpu().numpy())
    p_values = torch.from_numpy(tails).to(units.device)
    return EnergyShare(
        share=share,
        p_values=p_values,
        mean=float(share.mean()),
        interval=student_interval(share, confidence),
        chance=size / features,
        p_value=fisher_p_value(p_values),
        dimension=size,
        features=features,
        confidence=confidence,
    )


@isolated
def leading_directions(normals: Tensor, dimension: int | None = None) -> Tensor:
    """Orthonormal directions (k, *D), float64, in which unit normals (N, *D) hold the most energy.

    Args:
        normals: (N, *D), of any length above 0.
        dimension: k; as many as the normals span if None.

    Raises:
        InvalidInput: a normal of length 0, a dimension that the normals do not span.
    """
    units, length = unit_vectors(flat_directions("normals", normals))
    if len(units) == 0 or not (length > 0).all():
        raise InvalidInput("normals must hold at least one, all of a length above 0: leave out inputs without a normal")
    _, values, basis = torch.linalg.svd(units, full_matrices=False)
    spanned = int((values > RELATIVE_NOTHING * values[0]).sum())
    if dimension is None:
        dimension = spanned
    checks.at_most("dimension", checks.at_least("dimension", dimension, 1), spanned)
    leading: Tensor = basis[:dimension].reshape(dimension, *normals.shape[1:])
    return leading
