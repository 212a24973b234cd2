"""Operations written as simpler ones that bounds have rules for, in a form that loses little.

``torch.export`` asks these functions for the composition of an operation. Each computes the same in real arithmetic:

- softmax as ``1 / sum_j exp(x_j - x_i)``, whose interval is the exact one and whose parts are convex;
- normalisations as centre, square, mean and product, with the range that the result is known to have;
- pooling and pairwise maxima as the maximum over one dimension of a gathered tensor.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.graph.composed import COMPOSED, COMPOSED_EXACTLY
from bounds.graph.einsum import add_product, einsum
from bounds.graph.pooling import (
    adaptive_max_pool,
    amin,
    largest_along,
    max_pool,
    maximum,
    minimum,
    smallest_along,
)
from bounds.graph.upsampling import nearest, resized

aten = torch.ops.aten


@torch.library.custom_op("certify_bounds::within", mutates_args=())
def within(x: Tensor, low: float, high: float) -> Tensor:
    """``x``, of which it is known that it lies between ``low`` and ``high``."""
    return x.clone()


@within.register_fake
def _(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(x)


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


def _standardized(x: Tensor, dims: list[int], epsilon: float, *, centered: bool = True) -> Tensor:
    """``x`` less its mean, over the root of its mean square plus epsilon."""
    count = math.prod(x.shape[dim] for dim in dims)
    deviation = x - x.mean(dims, keepdim=True) if centered else x
    rate = ((deviation**2).mean(dims, keepdim=True) + epsilon) ** -0.5
    # Of n numbers with mean square 1, none exceeds the root of n; of n - 1 if they sum to 0.
    limit = math.sqrt(max(count - 1, 0) if centered else count) * (1 + 1e-6)  # float32 rounds it
    result: Tensor = within(deviation * rate, -limit, limit)
    return result


def layer_norm(
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Layer normalisation."""
    result = _standardized(x, _last(normalized_shape), eps)
    return _scaled(result, weight, bias)


def rms_norm(x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Normalisation by the root mean square."""
    epsilon = torch.finfo(x.dtype).eps if eps is None else eps
    return _scaled(_standardized(x, _last(normalized_shape), epsilon, centered=False), weight, None)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Group normalisation; the channel is the second dimension."""
    groups = x.unflatten(1, (num_groups, -1))
    result = _standardized(groups, list(range(2, groups.ndim)), eps).flatten(1, 2)
    shape = (-1, *[1] * (x.ndim - 2))
    return _scaled(result, *(None if part is None else part.view(shape) for part in (weight, bias)))


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Batch normalisation by stored statistics; by those of the batch, where rows are coupled, if there are none."""
    dims = [0, *range(2, x.ndim)]
    if training or running_mean is None or running_var is None:
        running_mean, running_var = x.mean(dims), x.var(dims, correction=0)
    scale = (running_var + eps) ** -0.5
    scale = scale if weight is None else scale * weight
    shape = (-1, *[1] * (x.ndim - 2))
    return _scaled(x - running_mean.view(shape), scale.view(shape), None if bias is None else bias.view(shape))


def instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Normalisation of every channel by itself; in evaluation mode perhaps by stored statistics."""
    if use_input_stats or running_mean is None or running_var is None:
        return group_norm(x, x.shape[1], weight, bias, eps)
    return batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps, cudnn_enabled)


def _last(shape: list[int]) -> list[int]:
    return list(range(-len(shape), 0))


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def variance(x: Tensor, dim: list[int], unbiased: bool = True, keepdim: bool = False) -> Tensor:
    """Variance over some dimensions."""
    return variance_corrected(x, dim, correction=int(unbiased), keepdim=keepdim)


def variance_corrected(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Variance over some dimensions, with ``n - correction`` for n."""
    dims = list(range(x.ndim)) if not dim else list(dim)
    count = math.prod(x.shape[d] for d in dims)
    squares = (x - x.mean(dims, keepdim=True)) ** 2
    return squares.sum(dims, keepdim) / (count - (1 if correction is None else correction))


def standard_deviation(x: Tensor, dim: list[int], unbiased: bool = True, keepdim: bool = False) -> Tensor:
    """Root of the variance."""
    return _root(variance(x, dim, unbiased, keepdim))


def standard_deviation_corrected(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Root of the variance, with ``n - correction`` for n."""
    return _root(variance_corrected(x, dim, correction=correction, keepdim=keepdim))


def _root(squares: Tensor) -> Tensor:
    """The root of a sum of squares, whose bounds rounding may take below 0."""
    found: Tensor = within(squares, 0.0, math.inf).sqrt()
    return found


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


def vector_norm(
    x: Tensor, ord: float = 2, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Norms of order 1, 2 and infinity; others have no bounds."""
    dims = list(range(x.ndim)) if dim is None else list(dim)
    if ord == 1:
        return x.abs().sum(dims, keepdim)
    if ord == math.inf:
        return x.abs().amax(dims, keepdim)
    return _root((x**2).sum(dims, keepdim)) if ord == 2 else NotImplemented


def norm(x: Tensor, p: float | None = 2, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """The same, as it was called before."""
    return vector_norm(x, 2 if p is None else p, list(dim) or None, keepdim)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half, times the sigmoid of the second."""
    first, second = x.chunk(2, dim)
    return first * second.sigmoid()


def soft_shrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """Towards 0 by a threshold, as two rectifiers."""
    return F.relu(x - lambd) - F.relu(-x - lambd)


def hard_shrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """0 within a threshold."""
    return torch.where(x > lambd, x, torch.where(x < -lambd, x, torch.zeros_like(x)))


def log_add_exp(x: Tensor, y: Tensor) -> Tensor:
    """Logarithm of the sum of two exponentials."""
    return logsumexp(torch.stack(torch.broadcast_tensors(x, y), -1), [-1])


# What torch.export replaces, by the operation as it stands in the captured network. First, what rounds as it is written
# here, or not at all.
EXACT: dict[torch._ops.OperatorBase, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    **COMPOSED_EXACTLY,
    aten._upsample_nearest_exact1d.vec: nearest,
    aten._upsample_nearest_exact2d.vec: nearest,
    aten._upsample_nearest_exact3d.vec: nearest,
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: lambda x, weight, bias, mean, variance, momentum, eps: (
        batch_norm(x, weight, bias, mean, variance, False, momentum, eps, False),
        mean,
        variance,
    ),
    aten.maximum.default: maximum,
    aten.max.other: maximum,
    aten.minimum.default: minimum,
    aten.min.other: minimum,
    aten.amin.default: amin,
    aten.max.dim: largest_along,
    aten.min.dim: smallest_along,
    aten.max_pool1d.default: max_pool(1),
    aten.max_pool2d.default: max_pool(2),
    aten.max_pool3d.default: max_pool(3),
    aten.max_pool2d_with_indices.default: max_pool(2, indices=True),
    aten.max_pool3d_with_indices.default: max_pool(3, indices=True),
    aten.adaptive_max_pool1d.default: adaptive_max_pool(1),
    aten.adaptive_max_pool2d.default: adaptive_max_pool(2),
    aten.adaptive_max_pool3d.default: adaptive_max_pool(3),
}
REWRITES: dict[torch._ops.OperatorBase, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    **EXACT,
    **COMPOSED,
    aten.softmax.int: softmax,
    aten._softmax.default: lambda x, dim, half_to_float: softmax(x, dim),
    aten.log_softmax.int: log_softmax,
    aten._log_softmax.default: lambda x, dim, half_to_float: log_softmax(x, dim),
    aten.logsumexp.default: logsumexp,
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.instance_norm.default: instance_norm,
    aten.var.dim: variance,
    aten.var.correction: variance_corrected,
    aten.std.dim: standard_deviation,
    aten.std.correction: standard_deviation_corrected,
    aten.scaled_dot_product_attention.default: attention,
    aten.rsqrt.default: lambda x: x**-0.5,
    aten.einsum.default: einsum,
    aten.linalg_vector_norm.default: vector_norm,
    aten.norm.ScalarOpt_dim: norm,
    aten.addmm.default: add_product,
    aten.baddbmm.default: add_product,
    aten.addmv.default: add_product,
    aten.upsample_bicubic2d.vec: resized("bicubic"),
    aten._upsample_bicubic2d_aa.vec: resized("bicubic", antialias=True),
    aten._upsample_bilinear2d_aa.vec: resized("bilinear", antialias=True),
    aten.lerp.Scalar: lambda x, y, weight: x + weight * (y - x),
    aten.lerp.Tensor: lambda x, y, weight: x + weight * (y - x),
    aten.glu.default: glu,
    aten.threshold.default: lambda x, threshold, value: torch.where(x > threshold, x, value),
    aten.softshrink.default: soft_shrink,
    aten.hardshrink.default: hard_shrink,
    aten.rrelu.default: lambda x, lower=1 / 8, upper=1 / 3, *rest: F.leaky_relu(x, (lower + upper) / 2),
    aten.ceil.default: lambda x: -(-x).floor(),
    aten.log1p.default: lambda x: (1 + x).log(),
    aten.expm1.default: lambda x: x.exp() - 1,
    aten.logaddexp.default: log_add_exp,
    aten.log_sigmoid.default: lambda x: -F.softplus(-x, threshold=math.inf),
}
