"""Certified cross sections: cells of a plane through an input in which one class is proved."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import Box, capture, checks, margin_bounds
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.linear.methods import METHODS
from certify.models import frozen, predictions, probe
from certify.surveys.subspaces import SOUND
from certify.verification.radius import least_margin

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LEAST_SIDE = 4  # cells along a side of the plane, at first, where their number can be halved
COLORS = ("#d7301f", "#f0f0f0", "#2171b5")  # broken, open, robust


@dataclass(frozen=True, eq=False, kw_only=True)
class CertifiedSection:
    """Cells of a plane, by the first and the second coordinate.

    Attributes:
        edges: (G + 1,) float64, ends of the cells along both axes, in units of the input; the input is at 0, 0.
        own: class predicted at the input.
        label: (G, G) int64, class predicted in the middle of each cell; -1 where the logits are not finite.
        proved: (G, G) bool, whether that class is proved in all of the cell.
        broken: (G, G) bool, whether a point of the cell that the model was run at has another class than the input.
    """

    edges: Tensor
    own: int
    label: Tensor
    proved: Tensor
    broken: Tensor

    @property
    def robust(self) -> Tensor:
        """(G, G) bool, cells in all of which the class of the input is proved."""
        return self.proved & (self.label == self.own)

    @property
    def open(self) -> Tensor:
        """(G, G) bool, cells that are neither proved for the class of the input nor known to hold another one."""
        return ~self.robust & ~self.broken

    def shares(self) -> dict[str, float]:
        """Shares of the area: robust, open and broken, which sum to 1."""
        parts = {"robust": self.robust, "open": self.open, "broken": self.broken & ~self.robust}
        return {name: float(cells.double().mean()) for name, cells in parts.items()}

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per cell, with its sides."""
        import pandas as pd

        low, high = self.edges[:-1].cpu(), self.edges[1:].cpu()
        first, second = (part.flatten() for part in torch.meshgrid(*[torch.arange(len(low))] * 2, indexing="ij"))
        columns = {
            "first_low": low[first],
            "first_high": high[first],
            "second_low": low[second],
            "second_high": high[second],
            **{name: getattr(self, name).flatten().cpu() for name in ("label", "proved", "robust", "open", "broken")},
        }
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()})

    def sentences(self) -> list[str]:
        """Shares of the area, in words."""
        share, side = self.shares(), float(self.edges[-1] - self.edges[0])
        about = f"of a plane of side {side:.3g} through the input, {share['robust']:.1%} is proved for class {self.own}"
        return [f"{about}, {share['broken']:.1%} holds another class, {share['open']:.1%} is open"]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw robust cells blue, broken ones red and open ones grey, the first coordinate across."""
        from matplotlib.colors import ListedColormap

        ax = checks.axes(ax)
        state = 1 + self.robust.long() - (self.broken & ~self.robust).long()
        edges = self.edges.cpu().numpy()
        ax.pcolormesh(edges, edges, state.T.cpu().numpy(), cmap=ListedColormap(COLORS), vmin=0, vmax=2)
        ax.plot([0], [0], "k.", markersize=4)
        ax.set_aspect("equal")
        return ax


class _OnPlane(nn.Module):
    """The model as a function of two coordinates of a plane through an input."""

    def __init__(self, model: nn.Module, x: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.model, self.shape = model, x.shape
        self.register_buffer("start", x.detach().flatten())
        self.register_buffer("directions", directions.detach().flatten(1))

    def forward(self, places: Tensor) -> Tensor:
        points = places @ self.get_buffer("directions") + self.get_buffer("start")
        logits: Tensor = self.model(points.view(-1, *self.shape))
        return logits


@isolated
def certified_cross_section(
    model: nn.Module,
    x: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    extent: float,
    grid: int = 32,
    method: str = "crown",
    sound: str = "rounding",
    batch_size: int = 256,
) -> CertifiedSection:
    """Regions of one class, proved cell by cell, in the plane through an input that two directions span.

    Each cell is a box of two dimensions behind a linear layer that the bounds see, so cells that are proved leave no
    gap between them. Large cells come first; those that are not proved are halved along both sides as long as their
    number allows. The model is run at the middle and the corners of cells as well, up to rounding of these points.

    Args:
        model: any network that the bounding method follows.
        x: (*D), the input.
        first: (*D) direction, such as that to the nearest boundary point.
        second: (*D) direction that is not parallel to it; it is made orthogonal.
        extent: largest coordinate, in units of the input.
        grid: smallest cells along each side; a power of two saves most.
        method: see :func:`bounds.margin_bounds`.
        sound: ``"rounding"`` or ``"real"``, see :func:`bounds.crown`.
        batch_size: cells bounded at once.

    Raises:
        InvalidInput: a bad argument, parallel directions.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the method knows no rule for a layer.
    """
    checks.one_of("method", method, METHODS)
    checks.one_of("sound", sound, SOUND)
    checks.at_least("batch_size", batch_size, 1)
    checks.at_least("grid", grid, 1)
    reach = checks.positive("extent", extent)
    directions = plane_directions(x[None], first[None], second[None])[0]
    edges = torch.linspace(-reach, reach, grid + 1, dtype=torch.float64, device=x.device)
    with frozen(model), torch.no_grad():
        network = _OnPlane(model, x, directions).train(model.training)
        origin = x.new_zeros(2, 2)
        probe(network, origin)
        own = int(predictions(network, origin, batch_size)[0])
        label, proved = _cells(network, edges, x.dtype, method, sound, batch_size)
        corners = predictions(network, torch.cartesian_prod(edges, edges).to(x.dtype), batch_size)
    other = corners.view(grid + 1, grid + 1) != own
    broken = (label != own) | other[:-1, :-1] | other[1:, :-1] | other[:-1, 1:] | other[1:, 1:]
    return CertifiedSection(edges=edges, own=own, label=label, proved=proved, broken=broken)


def plane_directions(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Orthonormal directions (N, 2, *D) of the planes that two of each input span.

    Raises:
        InvalidInput: parallel directions, or such of another shape.
    """
    checks.inputs(x)
    for name, value in (("first", first), ("second", second)):
        if checks.tensor(name, value).shape != x.shape:
            raise InvalidInput(f"{name} must have the shape of the input, {tuple(x.shape)}, got {tuple(value.shape)}")
    one, two = (value.detach().to(x.device, torch.float64).flatten(1) for value in (first, second))
    one = one / one.norm(dim=1, keepdim=True)
    rest = two - (two * one).sum(1, keepdim=True) * one
    if not (rest.norm(dim=1) > 1e-6 * two.norm(dim=1)).all():  # NaN fails here too
        raise InvalidInput("first and second must be of a length above 0 and not parallel")
    both = torch.stack([one, rest / rest.norm(dim=1, keepdim=True)], 1)
    return both.to(x.dtype).reshape(len(x), 2, *x.shape[1:])


def _cells(
    network: nn.Module, edges: Tensor, dtype: torch.dtype, method: str, sound: str, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Class in the middle of each cell and whether it is proved, (G, G) each, from large cells to small ones."""
    grid = len(edges) - 1
    width = 1
    while grid // width % 2 == 0 and grid // width > LEAST_SIDE:
        width *= 2
    label = torch.full((grid, grid), -1, device=edges.device)
    proved = torch.zeros_like(label, dtype=torch.bool)
    graph = capture(network, edges.new_zeros(1, 2))
    while width >= 1:
        starts = torch.arange(0, grid, width, device=edges.device)
        todo = torch.cartesian_prod(starts, starts)
        todo = todo[~proved[todo[:, 0], todo[:, 1]]]
        for cells in todo.split(batch_size) if len(todo) else ():
            box = Box(edges[cells], edges[cells + width])
            seen = predictions(network, box.center.to(dtype), batch_size)
            finite = seen >= 0
            margins = margin_bounds(graph, box, seen.clamp(min=0), method, sound=sound)
            sure = (least_margin(margins, seen.clamp(min=0)) > 0) & finite
            inside = torch.arange(width, device=edges.device)
            rows = (cells[:, 0, None, None] + inside[:, None]).expand(-1, width, width)
            columns = (cells[:, 1, None, None] + inside).expand(-1, width, width)
            label[rows, columns] = seen[:, None, None].expand_as(rows)
            proved[rows, columns] = sure[:, None, None].expand_as(rows)
        width //= 2
    return label, proved
