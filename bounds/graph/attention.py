"""Softmax and attention, by differences of exponents."""

import math

import torch
from torch import Tensor

from bounds.graph.known import within


def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax over one dimension."""
    result: Tensor = within(_exponential_sums(x, dim).reciprocal(), 0.0, 1.0)
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
    rows, columns = scores.shape[-2:]
    allowed = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril() if is_causal else None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        allowed = attn_mask
    elif attn_mask is not None:
        allowed = attn_mask > -math.inf
        scores = scores + attn_mask.masked_fill(~allowed, 0.0)
    ratios = _differences(scores).exp()
    if allowed is not None:
        ratios = ratios * allowed.unsqueeze(-2)
    weights = ratios.sum(-1).reciprocal()
    weights = within(weights if allowed is None else weights * allowed, 0.0, 1.0)
    result: Tensor = weights @ value
    return result
