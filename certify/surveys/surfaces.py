"""Surfaces of the loss around inputs, and how far they are from planes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from certify.models import frozen, probe
from certify.results import Record
from certify.surveys.sections import plane_directions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class LossSurface(Record):
    """Cross-entropy on a plane through each input.

    Attributes:
        label: (N,) int64, the class whose loss it is.
        at_input: (N,) float64, loss at the input.
        nonlinearity: (N,) float64, largest distance of the loss on the plane from its expansion of first order.
        steepness: (N,) float64, length of the gradient within the plane.
        coordinates: (G,) float64, along both directions, in units of the input.
        loss: (N, G, G) float64, by the first and the second coordinate.
        linear: (N, G, G) float64, the expansion of first order at the input.
    """

    at_input: Tensor
    nonlinearity: Tensor
    steepness: Tensor
    coordinates: Tensor
    loss: Tensor
    linear: Tensor

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, with what describes its surface."""
        import pandas as pd

        names = ("label", "at_input", "nonlinearity", "steepness")
        columns = {name: getattr(self, name).cpu().numpy() for name in names}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="row"))

    def sentences(self) -> list[str]:
        """Distance of surfaces from planes, in words."""
        low, middle, high = self.nonlinearity.quantile(self.nonlinearity.new_tensor([0.25, 0.5, 0.75])).tolist()
        about = f"from its tangent plane by {middle:.3g} (quartiles {low:.3g} to {high:.3g}) over {len(self)} inputs"
        return [f"within {float(self.coordinates.max()):.3g} around inputs, the loss departs {about}"]

    def plot(self, row: int = 0, ax: "Axes | None" = None) -> "Axes":
        """Draw the surface of one input as contours, the first coordinate across."""
        ax = checks.axes(ax)
        places = self.coordinates.cpu().numpy()
        drawn = ax.contourf(places, places, self.loss[row].T.cpu().numpy(), levels=20)
        ax.figure.colorbar(drawn, ax=ax, label="loss")
        ax.plot([0], [0], "w.", markersize=4)
        ax.set_aspect("equal")
        return ax


@isolated
def loss_surface(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    extent: float,
    grid: int = 21,
    batch_size: int = 1000,
) -> LossSurface:
    """The loss in the plane through each input that two directions span, next to its tangent plane.

    :func:`bounds.geometry.paired_ratio` compares ``nonlinearity`` of two models on the same inputs.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating and finite.
        labels: (N,) classes whose cross-entropy it is.
        first: (N, *D) directions, such as gradients of the loss.
        second: (N, *D) directions that are not parallel to them; they are made orthogonal.
        extent: largest coordinate, in units of the input.
        grid: coordinates on each axis; an odd number has the input in the middle.
        batch_size: points of a forward pass.

    Raises:
        InvalidInput: a bad argument, parallel directions.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Qin et al. (2019), Adversarial robustness through local linearization, arXiv:1907.02610, section 3, for the
        distance from linearity; Moosavi-Dezfooli, Fawzi, Uesato, Frossard (2019), arXiv:1811.09716, for the surfaces.
    """
    checks.not_empty(checks.inputs(x))
    checks.at_least("grid", grid, 2)
    checks.at_least("batch_size", batch_size, 1)
    reach, x = checks.positive("extent", extent), x.detach()
    directions = plane_directions(x, first, second).flatten(2)  # (N, 2, F)
    places = torch.linspace(-reach, reach, grid, dtype=torch.float64, device=x.device)
    pairs = torch.cartesian_prod(places, places)
    with frozen(model):
        classes = probe(model, x, batch_size=min(batch_size, len(x)))
        label = checks.labels(labels, len(x), classes).to(x.device)
        at = x.clone().requires_grad_()
        with torch.enable_grad():
            here = _losses(model, at, label)
            (gradient,) = torch.autograd.grad(here.sum(), at)
        slope = torch.einsum("nkf,nf->nk", directions.double(), gradient.flatten(1).double())
        found = []
        with torch.no_grad():
            for copies in torch.arange(len(x) * len(pairs), device=x.device).split(batch_size):
                rows, place = copies // len(pairs), pairs[copies % len(pairs)].to(x.dtype)
                points = x[rows] + torch.einsum("nk,nkf->nf", place, directions[rows]).view(-1, *x.shape[1:])
                found.append(_losses(model, points, label[rows]))
    here = here.detach()
    loss = torch.cat(found).view(len(x), grid, grid)
    linear = (here[:, None] + slope @ pairs.T).view_as(loss)
    return LossSurface(
        label=label,
        at_input=here,
        nonlinearity=(loss - linear).abs().flatten(1).amax(1),
        steepness=slope.norm(dim=1),
        coordinates=places,
        loss=loss,
        linear=linear,
    )


def _losses(model: nn.Module, points: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of each point, (N,) float64."""
    return F.cross_entropy(model(points).double(), label, reduction="none")
