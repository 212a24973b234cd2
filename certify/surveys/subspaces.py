"""Margins within linear subspaces, proved and found: such as blocks of frequencies of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks, nearest_boundary
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.geometry import frequency_basis, margin_quantiles
from bounds.numerics import round_down
from bounds.statistics.paired import mcnemar_p_value
from certify.results import Certificate
from certify.verification.radius import certified_radius

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SOUND = ("rounding", "real")  # the network as it runs is not run behind a linear layer
SKEW = 1e-3  # Frobenius norm of the deviation from orthonormality that is taken into account, at most


@dataclass(frozen=True, eq=False, kw_only=True)
class SubspaceCertificate(Certificate):
    """Radii within which no perturbation of a linear subspace changes the prediction; others may.

    Attributes:
        dimension: of the subspace.
    """

    dimension: int


class _Around(nn.Module):
    """The model as a function of coordinates in a subspace, followed by the entries of the input they start from."""

    def __init__(self, model: nn.Module, basis: Tensor) -> None:
        super().__init__()
        self.model, self.shape = model, basis.shape[1:]
        self.register_buffer("basis", basis.detach().flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        basis = self.get_buffer("basis")
        points = inputs[:, len(basis) :] + inputs[:, : len(basis)] @ basis
        logits: Tensor = self.model(points.reshape(-1, *self.shape))
        return logits


@isolated
def subspace_radius(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    basis: Tensor,
    method: str = "crown",
    tolerance: float = 1e-3,
    sound: str = "rounding",
    batch_size: int = 256,
) -> SubspaceCertificate:
    """Largest l_2 radius found within which no perturbation of a linear subspace changes the prediction.

    The perturbation set is the image of a ball of few dimensions: the network is bounded as a function of the
    coordinates in the subspace, behind a linear layer that the bounds see. In contrast to a certificate in all
    directions this uses that the others are not taken, so the radius is at least as large up to the tightness of
    bounds. There is no box: it holds within any.

    Args:
        model: any network that the bounding method follows.
        x: (N, *D), floating and finite.
        labels: (N,) correct classes; None for those that the model predicts.
        basis: (m, *D), orthonormal up to rounding. What it lacks is subtracted from the radius.
        method: see :func:`certify.certified_radius`, but for ``"complete"``.
        tolerance: relative distance of both sides at which the search stops.
        sound: ``"rounding"`` or ``"real"``, see :func:`bounds.crown`.
        batch_size: inputs bounded at once.

    Returns:
        A certificate; ``subject`` names the subspace. The radius is 0 where the model is wrong or nothing is proved.

    Raises:
        InvalidInput: a bad argument, a basis that is not orthonormal.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the method knows no rule for a layer.
    """
    checks.inputs(x)
    checks.one_of("sound", sound, SOUND)
    shrink, size = _least_stretch(basis, x), len(basis)
    start = torch.cat([x.new_zeros(len(x), size), x.detach().flatten(1)], 1)
    mask = torch.arange(start.shape[1], device=x.device) >= size
    network = _Around(model, basis.to(x)).train(model.training)
    found = certified_radius(
        network,
        start,
        labels,
        norm=2,
        method=method,
        low=None,
        high=None,
        frozen_features=mask,
        tolerance=tolerance,
        sound=sound,
        batch_size=batch_size,
    )
    return SubspaceCertificate(
        label=found.label,
        radius=round_down(found.radius * shrink).clamp(min=0),
        abstained=found.abstained,
        norm=2.0,
        alpha=0.0,
        subject=f"base, within {size} of {x[0].numel()} dimensions" if len(x) else "base",
        method=method,
        sound=sound,
        dimension=size,
    )


def _least_stretch(basis: Tensor, x: Tensor) -> float:
    """A lower bound on the least singular value of a basis: lengths in the subspace over lengths of coordinates."""
    if checks.inputs(basis).shape[1:] != x.shape[1:] or len(basis) == 0:
        raise InvalidInput(
            f"basis must hold at least one perturbation of the shape {tuple(x.shape[1:])} of an input, got "
            f"{tuple(basis.shape)}"
        )
    flat = basis.detach().to(x).flatten(1).double()  # as the model sees it
    gap = flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    error = float(gap.norm()) + 4 * len(flat) * (flat.shape[1] + 8) * torch.finfo(flat.dtype).eps
    if not error <= SKEW:
        raise InvalidInput(
            f"basis must be orthonormal, but its Gram matrix is {error:.3g} away from the identity: use the Q of a QR "
            f"decomposition"
        )
    return math.sqrt(1 - error) * (1 - 1e-15)


@dataclass(frozen=True, eq=False, kw_only=True)
class FrequencyMargins:
    """Distances to the boundary within blocks of frequencies, found and proved.

    Attributes:
        offsets: the O first frequencies of the blocks.
        size: frequencies of a block along each side.
        dimension: of the subspace of a block, m.
        features: D.
        label: (N,) int64, the predicted class.
        least: (N,) float64, distance found in all directions.
        found: (O, N) float64, distance found in the block: an upper bound; infinite where none was found.
        certified: (O, N) float64, radius proved in the block; None if that was not asked for.
        expected: (N,) float64, median distance in a uniformly random subspace of that dimension, if the boundary were
            flat.
    """

    offsets: tuple[int, ...]
    size: int
    dimension: int
    features: int
    label: Tensor
    least: Tensor
    found: Tensor
    certified: Tensor | None
    expected: Tensor

    @property
    def ratio(self) -> Tensor:
        """(O, N) float64, distance found over that expected by chance: above 1, the model is less sensitive."""
        return self.found / self.expected

    def p_values(self) -> Tensor:
        """Two-sided p-value (O,) of each block by the exact sign test, where normals of inputs are independent.

        For flat boundaries whose normals are uniform directions, a distance exceeds the median of the law with
        probability 1/2.
        """
        pairs = zip((self.ratio > 1).sum(1).tolist(), (self.ratio < 1).sum(1).tolist(), strict=True)
        return torch.tensor([mcnemar_p_value(*pair) for pair in pairs], dtype=torch.float64)

    def median_interval(self, confidence: float = 0.95) -> Tensor:
        """Interval (O, 2) of the median ratio over inputs, from order statistics: exact for any law.

        From 0 to infinity where there are too few inputs.
        """
        checks.probability("confidence", confidence)
        ordered, count = self.ratio.sort(1).values, self.ratio.shape[1]
        tails = [float(special.bdtr(i, count, 0.5)) for i in range(count)]
        below = sum(tail <= (1 - confidence) / 2 for tail in tails)  # so many may be left out on each side
        if below == 0:
            return torch.tensor([0.0, math.inf], dtype=torch.float64).expand(len(self.offsets), 2)
        return torch.stack([ordered[:, below - 1], ordered[:, count - below]], 1)

    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row per block: medians over inputs, the interval of the ratio's, and the p-value against chance."""
        import pandas as pd

        interval, columns = self.median_interval(confidence).cpu(), {"offset": self.offsets}
        table = pd.DataFrame(columns)
        table["found"] = np.median(self.found.cpu().numpy(), axis=1)
        if self.certified is not None:
            table["certified"] = np.median(self.certified.cpu().numpy(), axis=1)
        table["expected"] = float(np.median(self.expected.cpu().numpy()))
        table["ratio"] = np.median(self.ratio.cpu().numpy(), axis=1)
        table["lower"], table["upper"] = interval[:, 0].numpy(), interval[:, 1].numpy()
        table["p_value"] = self.p_values().numpy()
        return table

    def sentences(self) -> list[str]:
        """Block whose distances are farthest above chance, in words."""
        table = self.to_dataframe()
        row = table.sort_values("ratio").iloc[-1]
        ratio = f"{row.ratio:.3g} [{row.lower:.3g}, {row.upper:.3g}] times those by chance"
        where = f"at frequencies from {int(row.offset)} on (p = {row.p_value:.2g}, the largest of {len(table)} blocks)"
        return [f"distances within a block of frequencies are up to {ratio}, {where}"]

    def plot(self, ax: "Axes | None" = None, *, label: str = "found") -> "Axes":
        """Draw medians over inputs: found, proved, and expected by chance."""
        ax, table = checks.axes(ax), self.to_dataframe()
        (line,) = ax.plot(table.offset, table.found, "o-", markersize=3, label=label)
        if self.certified is not None:
            ax.plot(table.offset, table.certified, "v--", markersize=3, color=line.get_color(), label="proved")
        ax.plot(table.offset, table.expected, ":", color=line.get_color(), label="by chance")
        ax.set(xlabel=f"lowest of {self.size} x {self.size} frequencies", ylabel="distance (l2)", yscale="log")
        return ax


@isolated
def frequency_margins(
    model: nn.Module,
    x: Tensor,
    *,
    size: int,
    offsets: Sequence[int],
    method: str | None = "crown",
    tolerance: float = 1e-2,
    steps: int = 20,
    batch_size: int = 256,
) -> FrequencyMargins:
    """Distances to the boundary within blocks of frequencies, next to what is proved there and to chance.

    Args:
        model: maps (N, C, H, W) to logits (N, K), differentiable.
        x: (N, C, H, W), floating and finite, at least one image.
        size: frequencies of a block along each side.
        offsets: first frequency of each block, along both sides.
        method: bounding method of :func:`subspace_radius`; None to prove nothing.
        tolerance: relative, of what is proved.
        steps: length of the search, see :func:`bounds.nearest_boundary`.
        batch_size: inputs searched together.

    Raises:
        InvalidInput: a bad argument, a block beyond the frequencies of the images.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Ortiz-Jimenez, Modas, Moosavi-Dezfooli, Frossard (2020), Hold me tight!, arXiv:2002.06349, section 3.
    """
    checks.not_empty(checks.inputs(x))
    if x.ndim != 4:
        raise InvalidInput(f"x must hold images of shape (N, C, H, W), got {tuple(x.shape)}")
    places = checks.several("offsets", offsets)
    near = nearest_boundary(model, x, steps=steps, batch_size=batch_size)
    found, proved = [], []
    for offset in places:
        basis = frequency_basis((x.shape[1], x.shape[2], x.shape[3]), size=size, offset=offset, like=x)
        found.append(nearest_boundary(model, x, basis=basis, steps=steps, batch_size=batch_size).distance)
        if method is not None:
            options = {"method": method, "tolerance": tolerance, "batch_size": batch_size}
            proved.append(subspace_radius(model, x, basis=basis, **options).radius)  # type: ignore[arg-type]  # of many types
    dimension, features = x.shape[1] * size**2, x[0].numel()
    return FrequencyMargins(
        offsets=tuple(places),
        size=size,
        dimension=dimension,
        features=features,
        label=near.label,
        least=near.distance,
        found=torch.stack(found),
        certified=torch.stack(proved) if proved else None,
        expected=margin_quantiles(near.distance, features=features, dimension=dimension, probability=0.5),
    )
