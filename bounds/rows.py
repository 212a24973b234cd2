"""Coefficients of linear functions of one node, R for each of N inputs: the rows that linear bounds carry backward.

Most rows of a convolutional network see a part of the map only. Such rows are kept as windows: small blocks of
coefficients, and where each block stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds import checks


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Coefficients of all entries.

    Attributes:
        values: (N, R, *shape).
    """

    values: Tensor

    @property
    def count(self) -> int:
        """R."""
        return self.values.shape[1]

    @property
    def width(self) -> int:
        """Coefficients in a row."""
        return self.values.shape[2:].numel()

    @property
    def held(self) -> int:
        """Entries that a row has in each tensor of a backward pass."""
        return self.width

    def at(self, x: Tensor) -> Tensor:
        """Entries (N or 1, *shape) of a node where these coefficients stand, to be combined with ``values``."""
        return x.unsqueeze(1)

    def sums(self, values: Tensor, *entries: Tensor) -> Tensor:
        """(N, V, R) sums of the products of any coefficients in these places with V results of :meth:`at`."""
        return _products(_in_a_row(values), _in_a_row(entries[0] if len(entries) == 1 else torch.cat(entries, 1)))

    def dot(self, x: Tensor) -> Tensor:
        """(N, R) sums of coefficients times entries (N or 1, *shape)."""
        return self.sums(self.values, self.at(x)).squeeze(1)

    def size(self, x: Tensor) -> Tensor:
        """(N, R) sums of absolute coefficients times entries."""
        return self.sums(self.values.abs(), self.at(x)).squeeze(1)

    def scaled(self, x: Tensor) -> "DenseRows":
        """Coefficients times entries (N or 1, *shape)."""
        return DenseRows(self.values * x.unsqueeze(1))

    def total(self, values: Tensor, x: Tensor) -> Tensor:
        """(N, R) sums of products over all entries of a row; ``x`` has one row for all, or one for each."""
        if x.shape[1] == 1 and x.shape[2:] == values.shape[2:]:
            values, x = (part.reshape(*part.shape[:2], -1) for part in (values, x))  # a node may be one number
            return _products(values, x).squeeze(1)
        products = values * x
        return products.reshape(*products.shape[:2], -1).sum(2)

    def grouped(self, x: Tensor) -> Tensor:
        """Something of each row, (N, R, ..), in the order of the coefficients."""
        return x

    def by_row(self, x: Tensor) -> Tensor:
        """A result of :meth:`at` or :meth:`grouped`, as (N, R, ..)."""
        return x.expand(-1, self.count, *x.shape[2:])

    def flat(self) -> Tensor:
        """(N, R, width)."""
        return self.values.reshape(*self.values.shape[:2], -1)  # a node may be one number

    def with_values(self, values: Tensor, *, clean: bool = True) -> "DenseRows":
        """Other coefficients, or those of more rows after these."""
        return DenseRows(values)

    def dense(self) -> Tensor:
        """(N, R, *shape)."""
        return self.values

    def of_each(self, count: int) -> "DenseRows":
        """Rows of each of so many inputs, where they may have been the same for all."""
        return self if len(self.values) == count else DenseRows(self.values.expand(count, *self.values.shape[1:]))

    def expanded(self) -> "DenseRows":
        """These: they hold coefficients already."""
        return self

    def cleaned(self) -> "DenseRows":
        """These: there are none beyond the node."""
        return self


@dataclass(frozen=True, eq=False)
class PatchRows:
    """Coefficients of one window of a map (C, H, W) for every row, the rest being 0.

    Rows come in S times P groups of M rows each that share a window. Window (i, j) of a grid begins at
    ``(i, j) * stride - padding`` and may reach beyond the map.

    Attributes:
        values: (N, S, P, M, C, h, w).
        place: (N, P), the window of each group as ``i * columns + j``.
        grid: rows and columns of windows.
        stride: from one window to the next, in both directions.
        padding: how far the first window begins before the map.
        shape: (C, H, W) of the node.
        clean: whether coefficients beyond the map are known to be 0.
    """

    values: Tensor
    place: Tensor
    grid: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    shape: tuple[int, ...]
    clean: bool
    # By channels and inputs, see at().
    _entries: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """S P M."""
        return self.values.shape[1:4].numel()

    @property
    def width(self) -> int:
        """Coefficients in a row."""
        return self.values.shape[4:].numel()

    @property
    def held(self) -> int:
        """Entries that a row has in each tensor of a backward pass, with its share of the lines in its window."""
        return self.width + -(-self.width // max(1, self.values.shape[3]))

    def at(self, x: Tensor) -> Tensor:
        """Entries (N or 1, *shape) of a node in the window of each group, (N, 1, P, 1, C, h, w); 0 beyond the map.

        Maps may have any number of channels.
        """
        key = x.shape[1], x.shape[0]
        if key not in self._entries:
            self._entries[key] = self._places_in(x.shape)
        index, outside = self._entries[key]
        # One flat look-up is ten times faster on a CPU than one of windows, whose entries lie apart.
        found = x.flatten().index_select(0, index.flatten())
        return found.view(index.shape).masked_fill_(outside, 0.0)[:, None, :, None]

    def _places_in(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Places of the entries of windows, (N, P, C, h, w), in flat maps; those beyond the map, (N, P, 1, h, w)."""
        inputs, channels, height, width = shape
        small = torch.int32 if shape.numel() < 2**31 else torch.int64  # the short ones are several times as fast
        place = self.place.to(small)[:, :, None, None, None]
        down, along = (torch.arange(size, dtype=small, device=place.device) for size in self.values.shape[5:])
        i, j = place.div(self.grid[1], rounding_mode="floor"), place % self.grid[1]
        y, x = down[:, None] + (i * self.stride[0] - self.padding[0]), along + (j * self.stride[1] - self.padding[1])
        inside_y, inside_x = y.clamp(0, height - 1), x.clamp(0, width - 1)
        begin = torch.arange(inputs * channels, dtype=small, device=place.device).view(inputs, 1, channels, 1, 1)
        # Few of these have both directions, fewer still channels: what is small comes first.
        index = (inside_y * width + inside_x) + begin * (height * width)
        return index, (y != inside_y) | (x != inside_x)

    def sums(self, values: Tensor, *entries: Tensor) -> Tensor:
        """(N, V, S P M) sums of the products of any coefficients in these places with V results of :meth:`at`.

        Entries are finite.
        """
        places = torch.cat([part.flatten(4) for part in entries], 3)  # (N, 1, P, V, C h w)
        return _products(values.flatten(4), places).movedim(3, 1).flatten(2)

    def dot(self, x: Tensor) -> Tensor:
        """(N, R) sums of coefficients times entries (N or 1, *shape)."""
        return self.sums(self.values, self.at(x)).squeeze(1)

    def size(self, x: Tensor) -> Tensor:
        """(N, R) sums of absolute coefficients times entries."""
        return self.sums(self.values.abs(), self.at(x)).squeeze(1)

    def scaled(self, x: Tensor) -> "PatchRows":
        """Coefficients times entries (N or 1, *shape)."""
        return replace(self, values=self.values * self.at(x), clean=True)

    def total(self, values: Tensor, x: Tensor) -> Tensor:
        """(N, R) sums of products over all entries of a row."""
        return (values * x).flatten(4).sum(4).flatten(1)

    def grouped(self, x: Tensor) -> Tensor:
        """Something of each row, (N, R, ..), in the order of the coefficients, (N, S, P, M, ..)."""
        return x.reshape(len(x), *self.values.shape[1:4], *x.shape[2:])

    def by_row(self, x: Tensor) -> Tensor:
        """A result of :meth:`at` or :meth:`grouped`, as (N, R, ..)."""
        return x.expand(-1, *self.values.shape[1:4], *x.shape[4:]).flatten(1, 3)

    def flat(self) -> Tensor:
        """(N, R, width)."""
        return self.values.flatten(4).flatten(1, 3)

    def with_values(self, values: Tensor, *, clean: bool = False) -> "PatchRows":
        """Other coefficients, or those of more rows after these, which have the same windows again."""
        return replace(self, values=values, clean=clean or self.clean)

    def fits(self, other: "PatchRows") -> bool:
        """Whether the windows of the same rows stand in the same places; a reshape on the way parts groups."""
        same_groups = self.values.shape[:4] == other.values.shape[:4]
        return same_groups and (self.grid, self.stride) == (other.grid, other.stride)

    def of_each(self, count: int) -> "PatchRows":
        """Rows of each of so many inputs, where they may have been the same for all."""
        if len(self.values) == count:
            return self
        return replace(
            self, values=self.values.expand(count, *self.values.shape[1:]), place=self.place.expand(count, -1)
        )

    def expanded(self) -> "PatchRows":
        """These: they hold coefficients already."""
        return self

    def cleaned(self) -> "PatchRows":
        """Rows whose coefficients beyond the map are set to 0."""
        return self if self.clean else self.scaled(self.values.new_ones(1, *self.shape))

    def dense(self) -> Tensor:
        """(N, S P M, *shape)."""
        (rows, columns), (height, width) = self.grid, self.values.shape[5:]
        top = torch.arange(rows, device=self.place.device) * self.stride[0]
        left = torch.arange(columns, device=self.place.device) * self.stride[1]
        padded = _covered(self.grid, self.stride, self.values.shape[5:])
        vertical = top[:, None, None, None] + torch.arange(height, device=top.device)[:, None]
        horizontal = left[None, :, None, None] + torch.arange(width, device=left.device)
        index = (vertical * padded[1] + horizontal).flatten(2).flatten(0, 1)  # (grid, h w)
        spread = index[self.place][:, None, :, None, None].expand(*self.values.shape[:5], -1)
        whole = self.values.new_zeros(*self.values.shape[:5], padded[0] * padded[1])
        whole = whole.scatter(5, spread, self.values.flatten(5)).unflatten(5, padded)
        return framed(whole.flatten(1, 3), _margins(self.shape, padded, self.padding))

    def compact(self) -> "DenseRows | PatchRows":
        """The windows, or all coefficients where these are hardly more."""
        size = self.values.shape[5:].numel()
        return DenseRows(self.dense()) if size >= self.shape[1] * self.shape[2] else self

    def in_windows(self, padding: tuple[int, int], size: tuple[int, int]) -> "PatchRows":
        """The rows in larger windows that begin ``padding`` before the map."""
        top, left = (new - old for new, old in zip(padding, self.padding, strict=True))
        bottom, right = size[0] - top - self.values.shape[5], size[1] - left - self.values.shape[6]
        return replace(self, values=F.pad(self.values, (left, right, top, bottom)), padding=padding)


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Rows that pick one entry each.

    Attributes:
        index: (N, R), places in a row of the node, flattened.
        shape: of one row of the node.
        like: a tensor of the dtype and on the device of the coefficients.
        group: so many rows in turn have the same place in a map, in different channels.
    """

    index: Tensor
    shape: tuple[int, ...]
    like: Tensor
    group: int = 1

    @property
    def count(self) -> int:
        """R."""
        return self.index.shape[1]

    def dot(self, x: Tensor) -> Tensor:
        """(N, R) entries of (N, *shape)."""
        flat = x.reshape(len(x), -1)
        if len(self.index) == 1:  # the same entries of all inputs
            return flat[:, self.index[0]]
        return flat.expand(len(self.index), -1).gather(1, self.index)

    def size(self, x: Tensor) -> Tensor:
        """(N, R) entries of (N, *shape): coefficients are 1."""
        return self.dot(x)

    def split(self) -> tuple[Tensor, Tensor]:
        """Channels (N, P, M) and places (N, P) in a map, as those of :class:`PatchRows`."""
        area = self.shape[1] * self.shape[2]
        grouped = self.index.unflatten(1, (-1, self.group))
        return grouped.div(area, rounding_mode="floor"), grouped[:, :, 0] % area

    def expanded(self) -> "DenseRows | PatchRows":
        """The rows as windows of one entry where the node is a map, else as coefficients of all entries."""
        if len(self.shape) == 3 and self.shape[1] * self.shape[2] > 1:
            channel, place = self.split()
            values = self._one_hot(channel, self.shape[0])[:, None, ..., None, None]
            return PatchRows(values, place, (self.shape[1], self.shape[2]), (1, 1), (0, 0), self.shape, True)
        return DenseRows(self._one_hot(self.index, math.prod(self.shape)).view(*self.index.shape, *self.shape))

    def cleaned(self) -> "DenseRows | PatchRows":
        """The rows with their coefficients: none of them stands beyond the map."""
        return self.expanded()

    def _one_hot(self, index: Tensor, size: int) -> Tensor:
        zeros = torch.zeros(*index.shape, size, dtype=self.like.dtype, device=self.like.device)
        return zeros.scatter(-1, index.unsqueeze(-1), 1.0)


Rows = DenseRows | PatchRows
AnyRows = Rows | UnitRows


def mirrored(rows: Rows) -> Rows:
    """The rows, followed by the same with the opposite sign."""
    return rows.with_values(torch.cat([rows.values, -rows.values], 1))


def room(values: Tensor, inputs: int, count: int, shape: torch.Size) -> Tensor:
    """An empty tensor (N, R, *shape), with rows last in memory where coefficients (N, R, ..) have them last."""
    if values.ndim == 5 and values.stride(1) == 1 and values.shape[2:].numel() > 1:
        return values.new_empty(*shape, inputs, count).movedim((-2, -1), (0, 1))
    return values.new_empty(inputs, count, *shape)


def added(one: Rows, other: Rows) -> Rows:
    """The sum of the same rows, as windows where both are and fit."""
    if isinstance(one, PatchRows) and isinstance(other, PatchRows) and one.fits(other):
        padding = tuple(max(a, b) for a, b in zip(one.padding, other.padding, strict=True))
        ends = (max(part.values.shape[5 + axis] - part.padding[axis] for part in (one, other)) for axis in (0, 1))
        size = tuple(end + before for end, before in zip(ends, padding, strict=True))
        one, other = (part.in_windows((padding[0], padding[1]), (size[0], size[1])) for part in (one, other))
        return replace(one, values=one.values + other.values, clean=one.clean and other.clean)
    return DenseRows(one.dense() + other.dense())


def wanted_first(wanted: Tensor, count: int) -> Tensor:
    """Places of as many entries of the last dimension, those that are wanted before all others."""
    return wanted.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :count]


def _in_a_row(x: Tensor) -> Tensor:
    """(N, R, *shape) as (N, R, K)."""
    return x if x.ndim == 3 else x.reshape(*x.shape[:2], -1)  # a node may be one number


def _products(values: Tensor, vectors: Tensor) -> Tensor:
    """(.., V, R) products of (.., R, K) and (.., V, K); BLAS is several times faster with the few vectors first."""
    if values.ndim == 3 and vectors.shape[0] == values.shape[0]:  # matmul calls the same behind some views
        return torch.bmm(vectors, values.transpose(1, 2))
    if values.ndim == 3 and values.shape[0] == 1:  # rows that are the same for all inputs
        return (vectors.flatten(0, 1) @ values[0].T).view(*vectors.shape[:2], -1)
    return torch.matmul(vectors, values.transpose(-1, -2))


def _covered(grid: tuple[int, int], stride: tuple[int, int], size: Sequence[int]) -> list[int]:
    """Rows and columns that all windows of a grid cover together."""
    return [(count - 1) * step + length for count, step, length in zip(grid, stride, size, strict=True)]


def framed(x: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    """Zeros added first and the rest cut off then, of which there may be more than there was before."""
    if max(margins) > 0:
        x = F.pad(x, [max(margin, 0) for margin in margins])
    return F.pad(x, [min(margin, 0) for margin in margins]) if min(margins) < 0 else x


def _margins(shape: tuple[int, ...], padded: list[int], padding: tuple[int, int]) -> tuple[int, int, int, int]:
    """Zeros to add on each side to what all windows cover together, for the whole map."""
    right, bottom = shape[2] + padding[1] - padded[1], shape[1] + padding[0] - padded[0]
    return -padding[1], right, -padding[0], bottom


def label_margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """The functions ``logit_label - logit_k`` (N, K, K) of outputs (N, *K), as rows of coefficients.

    Raises:
        InvalidInput: a label that is no class.
    """
    flat = outputs.reshape(len(outputs), -1)
    label = checks.labels(labels, len(flat), flat.shape[1]).to(flat.device)
    identity = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    return identity[label].unsqueeze(1) - identity


def other_rows(margins: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The functions (N, K - 1, K) of :func:`label_margins` that are not 0, and the classes (N, K - 1) they are about.

    The row of the label would cost as much as any other.
    """
    count = margins.shape[1]
    others = (torch.arange(1, count, device=margins.device) + labels.to(margins.device, torch.int64)[:, None]) % count
    return margins.gather(1, others[..., None].expand(-1, -1, margins.shape[2])), others
