"""Normalisations, as centre, square, mean and product, with the range that results are known to have."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.decompositions.known import within

PROBE = 2.0**-10  # its square is far below the units of half precision, and far above that of single precision
# Dtypes in which torch takes the unit of single precision for a mean square if nothing is said: not in all versions.
WIDENED = tuple(
    dtype
    for dtype in (torch.float16, torch.bfloat16)
    if float(F.rms_norm(torch.full((1,), PROBE, dtype=dtype, device="cpu"), (1,))) > 0.5
)


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
    epsilon = _default_epsilon(x.dtype) if eps is None else eps
    return _scaled(_standardized(x, _last(normalized_shape), epsilon, centered=False), weight, None)


def _default_epsilon(dtype: torch.dtype) -> float:
    """The number that torch adds to a mean square where none is given: the unit of the dtype that it computes in."""
    return torch.finfo(torch.float32 if dtype in WIDENED else dtype).eps


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
