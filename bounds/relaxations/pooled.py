"""The largest entry of each window of a map, as one function of the map."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bounds.relaxations.base import NodeFunction, Planes
from bounds.relaxations.multivariate import Maximum, planes_around_maximum
from bounds.relaxations.windows import Geometry
from bounds.sets.balls import Interval

_LAST = Maximum((-1,), keepdim=False)


@dataclass(frozen=True, eq=False)
class PooledWindows:
    """Regular windows of a map (C, H, W), each with K places.

    Attributes:
        places: (rows, columns, K) of windows in one channel, flattened; beyond the map, another place of the window.
        inside: (rows, columns, K), False where another place stands.
        geometry: of the windows.
    """

    places: Tensor
    inside: Tensor
    geometry: Geometry

    def gathered(self, x: Tensor) -> Tensor:
        """Entries (.., C, rows, columns, K) of maps (.., C, H, W)."""
        return x.flatten(-2).index_select(-1, self.places.view(-1)).view(*x.shape[:-2], *self.places.shape)

    def summed(self, parts: Tensor, shape: torch.Size) -> Tensor:
        """The transpose of :meth:`gathered`: sums over all windows that have a place, (.., C, H, W)."""
        flat = parts.flatten(-3)
        total = flat.new_zeros(*flat.shape[:-1], shape[-2] * shape[-1])
        found: Tensor = total.index_add(-1, self.places.flatten(), flat).unflatten(-1, shape[-2:])
        return found


@dataclass(frozen=True, eq=False)
class PooledMaximum(NodeFunction):
    """The largest entry of each window of a map; planes are those of :class:`Maximum`, parameters likewise.

    Attributes:
        windows: of the map.
    """

    windows: PooledWindows
    _last: list[tuple[Interval, Interval]] = field(default_factory=list, init=False, repr=False)

    def range_of(self, *parents: Interval) -> Interval:
        """The largest lower end and the largest upper end of each window."""
        return _LAST.range_of(self._entries(*parents))

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Weights of the entries below, and the level above."""
        return _LAST.default_parameters(self._entries(*parents))

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """Limits of the weights, and of the level."""
        return _LAST.limits(self._entries(*parents))

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """A mean of the entries below; what exceeds the level above. Places beyond the map do not count."""
        weights, level = parameters
        planes = planes_around_maximum(self._entries(*parents), weights, level, (-1,), self.windows.inside)
        below, above = (torch.as_tensor(part).squeeze(-1) for part in (planes.lower_intercept, planes.upper_intercept))
        return planes._replace(lower_intercept=below, upper_intercept=above)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Entries that may be the largest of a window, unless it is known which one is."""
        entries = self._entries(*parents)
        (found,) = _LAST.unstable(Interval(*(self._counted(end) for end in (entries.lower, entries.upper))))
        found = found & self.windows.inside
        return (self.windows.summed(found.to(entries.lower.dtype), parents[0].lower.shape) > 0,)

    def aligned(self, coefficients: Tensor) -> Tensor:
        """The coefficient of the node, for every entry of its window."""
        return coefficients.unsqueeze(-1)

    def beside(self, entries: Tensor) -> Tensor:
        """Entries of the windows."""
        return self.windows.gathered(entries)

    def combined(self, products: Tensor) -> Tensor:
        """Sums over the windows."""
        return products.sum(-1)

    def reduced(self, products: Tensor, shape: torch.Size) -> Tensor:
        """Sums over all windows that have an entry."""
        return self.windows.summed(products, shape)

    def _entries(self, x: Interval) -> Interval:
        """The intervals of all windows, those of the last map again: range, planes and doubts ask for the same."""
        for known, entries in self._last[:1]:  # read at once, whatever other threads do
            if known is x and not torch.is_grad_enabled():
                return entries
        found = Interval(self.windows.gathered(x.lower), self.windows.gathered(x.upper))
        if not torch.is_grad_enabled():
            self._last[:] = [(x, found)]
        return found

    def _counted(self, ends: Tensor) -> Tensor:
        return torch.where(self.windows.inside, ends, -torch.inf)
