"""Entries by their rank: sorting, the largest few, medians and quantiles. Where an entry stands has no bounds."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.library.custom_op("certify_bounds::ranked", mutates_args=())
def ranked(x: Tensor, rank: int) -> Tensor:
    """The entry of the last dimension that ``rank`` others precede, from the largest one down."""
    return x.sort(-1, descending=True).values.select(-1, rank).clone()


@ranked.register_fake
def _(x: Tensor, rank: int) -> Tensor:
    return x.new_empty(x.shape[:-1])


def _of_ranks(x: Tensor, dim: int, ranks: Iterable[int]) -> Tensor:
    """Entries of several ranks, where the dimension was."""
    last = x.movedim(dim, -1)
    return torch.stack([ranked(last, rank) for rank in ranks], dim)


def top_k(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """The largest or smallest few and their places; only the first have bounds."""
    size = x.shape[dim]
    ranks = range(k) if largest else range(size - 1, size - 1 - k, -1)
    return _of_ranks(x, dim, ranks), x.argsort(dim, descending=largest).narrow(dim, 0, k)


def in_order(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Sorted entries and their places; only the first have bounds."""
    return top_k(x, x.shape[dim], dim, largest=descending)


def in_stable_order(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """Sorted entries and their places; only the first have bounds."""
    places = torch.argsort(x, stable=True, dim=dim, descending=descending)
    return in_order(x, dim, descending)[0], places


def kth_value(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest entry and its place; only the first has bounds."""
    found, place = _of_ranks(x, dim, [x.shape[dim] - k]), x.argsort(dim).narrow(dim, k - 1, 1)
    return (found, place) if keepdim else (found.squeeze(dim), place.squeeze(dim))


def median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower median and its place; only the first has bounds."""
    return kth_value(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def quantile(
    x: Tensor, q: float, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """A quantile over one dimension."""
    if dim is None:
        return NotImplemented  # type: ignore[no-any-return]  # export takes it for an operation that stays as it is
    size = x.shape[dim]
    place = q * (size - 1)
    share = {
        "linear": place - math.floor(place),
        "lower": 0.0,
        "higher": float(place > math.floor(place)),
        "midpoint": 0.5 * (place > math.floor(place)),
        "nearest": round(place) - math.floor(place),
    }[interpolation]
    ranks = [size - 1 - math.floor(place), size - 1 - math.ceil(place)]
    lower, upper = (_of_ranks(x, dim, [rank]) for rank in ranks)
    found = lower if share == 0 else upper if share == 1 else (1 - share) * lower + share * upper
    return found if keepdim else found.squeeze(dim)


def running_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest entry so far, along a dimension, and its last place; only the first has bounds."""
    parts = [x.narrow(dim, 0, i + 1) for i in range(x.shape[dim])]
    places = [i - part.flip(dim).argmax(dim) for i, part in enumerate(parts)]
    return torch.stack([part.amax(dim) for part in parts], dim), torch.stack(places, dim)


def running_minimum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The smallest entry so far, along a dimension, and its last place; only the first has bounds."""
    found, places = running_maximum(-x, dim)
    return -found, places
