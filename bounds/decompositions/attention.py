"""Softmax and attention, by differences of exponents."""

import math

import torch
from torch import Tensor

from bounds.decompositions.known import shares


def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax over one dimension."""
    result: Tensor = shares(x.movedim(dim, -1), False)
    return result.movedim(-1, dim)


def log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Logarithm of softmax over one dimension."""
    return -_exponential_sums(x, dim).log().movedim(-1, dim)


def _exponential_sums(x: Tensor, dim: int) -> Tensor:
    """``sum_j exp(x_j - x_i)`` for every i, in the last dimension."""
    return _differences(x.movedim(dim, -1)).exp().sum(-1)


def _differences(x: Tensor) -> Tensor:
    """``x_j - x_i`` for every i, j in the last two dimensions; exactly 0 where i is j, for intervals as well."""
    apart = 1 - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return (x.unsqueeze(-2) - x.unsqueeze(-1)) * apart


def logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials, from the mean of what is summed."""
    mean = x.mean(dim, keepdim=True)
    total = (x - mean).exp().sum(dim, keepdim).log()
    return total + (mean if keepdim else x.mean(dim))


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """Logarithm of the sum of all exponentials so far, along a dimension."""
    return torch.stack([logsumexp(x.narrow(dim, 0, i + 1), [dim]) for i in range(x.shape[dim])], dim)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention; masked places take no part in the softmax."""
    if enable_gqa:  # heads that share keys
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(*scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    result: Tensor = shares(scores, True) @ value
    return result
