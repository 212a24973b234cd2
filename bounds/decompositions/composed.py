"""Operations that torch itself composes of others, and sums of products, written out."""

from collections.abc import Callable

import torch
from torch import Tensor

aten = torch.ops.aten


def _taken_apart(operation: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """An operation as torch composes it of simpler ones, so that both round alike."""

    def composed(*args: object, **kwargs: object) -> Tensor:
        # Not operation.decompose(), which would ask for this function again.
        result: Tensor = operation._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        return result

    return composed


def _all_taken_apart(*operations: torch._ops.OpOverload) -> dict[torch._ops.OperatorBase, Callable[..., Tensor]]:
    return {operation: _taken_apart(operation) for operation in operations}


def slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """``x`` with other entries in a slice: assignment to ``x[start:end:step]``."""
    size = x.shape[dim]
    if start in (None, 0) and (end is None or end == torch.iinfo(torch.int64).max) and step == 1:
        return source.to(x.dtype).clone()  # so that nobody asks for the number of inputs
    places = range(size)[slice(start, end, step)]
    if not len(places):
        return x.clone()
    if step == 1:
        parts = [x.narrow(dim, 0, places[0]), source.to(x.dtype), x.narrow(dim, places[-1] + 1, size - places[-1] - 1)]
        return torch.cat([part for part in parts if part.shape[dim]], dim)
    return x.index_copy(dim, torch.arange(size, device=x.device)[start:end:step], source.to(x.dtype))


def unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Windows along one dimension, in a last one."""
    dim = dim % x.ndim
    starts = torch.arange(0, x.shape[dim] - size + 1, step, device=x.device)
    places = starts[:, None] + torch.arange(size, device=x.device)
    picked = x.index_select(dim, places.flatten()).unflatten(dim, (-1, size))
    windows: Tensor = picked.movedim(dim + 1, -1)
    return windows


def index_put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """One number where a condition holds; what is put into other places stays as it is."""
    first = indices[0]
    if first is None or first.dtype != torch.bool or len(indices) > 1 or values.numel() != 1 or accumulate:
        return NotImplemented  # type: ignore[no-any-return]  # export takes it for an operation that stays as it is
    mask = first.reshape(*first.shape, *[1] * (x.ndim - first.ndim))
    return torch.where(mask, values.reshape([]).to(x.dtype), x)


def as_it_is(*args: object, **kwargs: object) -> Tensor:
    """Leaves an operation as it is, and known as one that rounds in a way of its own."""
    return NotImplemented  # type: ignore[no-any-return]


def copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The values of ``x`` after the source was written to it."""
    return source.to(x.dtype).expand(x.shape).clone()


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Sums into given places; other reductions have no bounds."""
    if reduce != "sum" or not include_self:
        return NotImplemented  # type: ignore[no-any-return]
    return x.scatter_add(dim, index, source)


def empty(x: Tensor, size: list[int], *, dtype: torch.dtype | None = None, **layout: object) -> Tensor:
    """Memory that nothing was written to holds NaN, so that nothing is proved of what is read from it."""
    return torch.full(size, torch.nan, dtype=dtype or x.dtype, device=x.device)


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None, **layout: object) -> Tensor:
    """Memory likewise, of the shape of ``x``."""
    return empty(x, list(x.shape), dtype=dtype)


def add_sum_of_products(x: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """The sum of several matrix products and what is added to it."""
    return beta * x + alpha * (left @ right).sum(0)


def add_outer_product(x: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """All products of the entries of two vectors and what is added to them."""
    return beta * x + alpha * (left.unsqueeze(1) * right)


# What rounds as it is written here, or not at all; and the rest.
COMPOSED_EXACTLY: dict[torch._ops.OperatorBase, Callable[..., Tensor]] = {
    **_all_taken_apart(aten.column_stack.default, aten.true_divide.Tensor, aten.true_divide.Scalar),
    **_all_taken_apart(aten.subtract.Tensor, aten.multiply.Tensor, aten.divide.Tensor, aten.negative.default),
    **_all_taken_apart(aten.kron.default, aten.outer.default, aten.diff.default, aten.concat.default),
    aten.slice_scatter.default: slice_scatter,
    aten.unfold.default: unfold,
    aten.index_put.default: index_put,
    aten.copy.default: copy,
    aten.new_empty.default: empty,
    aten.empty_like.default: empty_like,
}
COMPOSED: dict[torch._ops.OperatorBase, Callable[..., Tensor]] = {
    **_all_taken_apart(aten.inner.default, aten.tensordot.default, aten.trapezoid.x, aten.trapezoid.dx),
    **_all_taken_apart(aten.cumulative_trapezoid.x, aten.cumulative_trapezoid.dx, aten.linalg_vecdot.default),
    **_all_taken_apart(aten.fft_fft.default, aten.fft_ifft.default, aten.fft_fft2.default, aten.fft_ifft2.default),
    **_all_taken_apart(aten.fft_rfft.default, aten.fft_irfft.default, aten.fft_rfft2.default, aten.fft_irfft2.default),
    **_all_taken_apart(aten.fft_fftn.default, aten.fft_ifftn.default, aten.fft_rfftn.default, aten.fft_irfftn.default),
    **_all_taken_apart(aten.fft_fftshift.default, aten.fft_ifftshift.default, aten.fft_hfft.default),
    aten._fft_r2c.default: as_it_is,
    aten._fft_c2c.default: as_it_is,
    aten._fft_c2r.default: as_it_is,
    aten.scatter_reduce.two: scatter_reduce,
    aten.addbmm.default: add_sum_of_products,
    aten.addr.default: add_outer_product,
}
