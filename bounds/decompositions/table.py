"""Operations written as simpler ones that bounds have rules for, in a form that loses little.

``torch.export`` asks these functions for the composition of an operation. Each computes the same in real arithmetic:

- softmax as one operation, which :mod:`bounds.operations.masks` takes apart once constants are known;
- recurrent networks unrolled, entries by their rank, rounding by floors;
- normalisations as centre, square, mean and product, with the range that the result is known to have;
- pooling and pairwise maxima as the maximum over one dimension of a gathered tensor.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.decompositions import moments, order, recurrent, rounding
from bounds.decompositions.attention import attention, log_softmax, logcumsumexp, logsumexp, softmax
from bounds.decompositions.composed import COMPOSED, COMPOSED_EXACTLY
from bounds.decompositions.einsum import add_product, einsum
from bounds.decompositions.normalisation import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from bounds.decompositions.pooling import (
    adaptive_max_pool,
    amin,
    clamp_to_tensors,
    largest_along,
    least_and_largest,
    max_pool,
    maximum,
    minimum,
    smallest_along,
)
from bounds.decompositions.upsampling import nearest, resized

aten = torch.ops.aten


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half, times the sigmoid of the second."""
    first, second = x.chunk(2, dim)
    return first * second.sigmoid()


def soft_shrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """Towards 0 by a threshold, as two ReLUs."""
    return F.relu(x - lambd) - F.relu(-x - lambd)


def hard_shrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """0 within a threshold."""
    return torch.where(x > lambd, x, torch.where(x < -lambd, x, torch.zeros_like(x)))


def clamped_logit(x: Tensor, eps: float | None = None) -> Tensor:
    """The inverse of the sigmoid, of numbers that are first clamped; without a limit it stays as it is."""
    return NotImplemented if eps is None else torch.logit(x.clamp(eps, 1 - eps))


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
    aten.fmax.default: maximum,
    aten.fmin.default: minimum,
    aten.aminmax.default: least_and_largest,
    aten.clamp.Tensor: clamp_to_tensors,
    aten.clip.Tensor: clamp_to_tensors,
    aten.clip.default: torch.clamp,
    aten.clamp_min.Tensor: clamp_to_tensors,
    aten.clamp_max.Tensor: minimum,
    aten.cummax.default: order.running_maximum,
    aten.cummin.default: order.running_minimum,
    aten.topk.default: order.top_k,
    aten.sort.default: order.in_order,
    aten.sort.stable: order.in_stable_order,
    aten.msort.default: lambda x: order.in_order(x, 0)[0],
    aten.kthvalue.default: order.kth_value,
    aten.median.dim: order.median,
    aten.nanmedian.dim: order.median,
    aten.absolute.default: torch.abs,
    aten.negative.default: torch.neg,
    aten.positive.default: torch.clone,
    aten.sgn.default: torch.sign,
    aten.subtract.Tensor: torch.sub,
    aten.multiply.Tensor: torch.mul,
    aten.multiply.Scalar: torch.mul,
    aten.divide.Tensor: torch.div,
    aten.divide.Scalar: torch.div,
    aten.true_divide.Tensor: torch.div,
    aten.special_expit.default: torch.sigmoid,
    aten.special_erf.default: torch.erf,
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
    aten.var.dim: moments.variance,
    aten.var.correction: moments.variance_corrected,
    aten.std.dim: moments.standard_deviation,
    aten.std.correction: moments.standard_deviation_corrected,
    aten.scaled_dot_product_attention.default: attention,
    aten.rsqrt.default: lambda x: x**-0.5,
    aten.einsum.default: einsum,
    aten.linalg_vector_norm.default: moments.vector_norm,
    aten.norm.ScalarOpt_dim: moments.legacy_norm,
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
    aten.logcumsumexp.default: logcumsumexp,
    aten.logaddexp2.default: lambda x, y: log_add_exp(x * math.log(2), y * math.log(2)) / math.log(2),
    aten.special_softmax.default: softmax,
    aten.special_log_softmax.default: log_softmax,
    aten.special_logsumexp.default: logsumexp,
    aten.var_mean.dim: moments.with_mean(moments.variance),
    aten.var_mean.correction: moments.with_mean(moments.variance_corrected),
    aten.std_mean.dim: moments.with_mean(moments.standard_deviation),
    aten.std_mean.correction: moments.with_mean(moments.standard_deviation_corrected),
    aten.norm.Scalar: moments.legacy_norm,
    aten.dist.default: moments.norm_of_difference,
    aten.cdist.default: moments.distances,
    aten.pairwise_distance.default: moments.pairwise_distance,
    aten.cosine_similarity.default: moments.cosine_similarity,
    aten.hypot.default: moments.hypotenuse,
    aten.atan2.default: moments.angle,
    aten.arctan2.default: moments.angle,
    aten.prod.dim_int: moments.product,
    aten.cumprod.default: moments.running_product,
    aten.bilinear.default: moments.bilinear_form,
    aten.quantile.scalar: order.quantile,
    aten.addcmul.default: lambda x, left, right, *, value=1: x + value * (left * right),
    aten.addcdiv.default: lambda x, above, below, *, value=1: x + value * (above / below),
    aten.xlogy.Tensor: lambda x, y: x * y.log(),
    aten.xlogy.Scalar_Other: lambda x, y: x * math.log(y),
    aten.special_entr.default: lambda x: -(x * x.log()),
    aten.logit.default: clamped_logit,
    aten.special_logit.default: lambda x, eps=None: torch.logit(x, eps),
    aten.float_power.Tensor_Scalar: lambda x, exponent: x**exponent,
    aten.special_log1p.default: lambda x: (1 + x).log(),
    aten.special_expm1.default: lambda x: x.exp() - 1,
    aten.special_exp2.default: torch.exp2,
    aten.special_erfc.default: torch.erfc,
    aten.special_xlogy.default: lambda x, y: x * y.log(),
    aten.arcsin.default: torch.asin,
    aten.arccos.default: torch.acos,
    aten.arctan.default: torch.atan,
    aten.arcsinh.default: torch.asinh,
    aten.arccosh.default: torch.acosh,
    aten.arctanh.default: torch.atanh,
    aten.trunc.default: rounding.trunc,
    aten.fix.default: rounding.trunc,
    aten.frac.default: rounding.frac,
    aten.round.decimals: rounding.round_to_decimals,
    aten.special_round.default: lambda x, *, decimals=0: rounding.round_to_decimals(x, decimals=decimals),
    aten.div.Tensor_mode: rounding.divide,
    aten.div.Scalar_mode: rounding.divide,
    aten.divide.Tensor_mode: rounding.divide,
    aten.divide.Scalar_mode: rounding.divide,
    aten.floor_divide.default: rounding.floor_divide,
    aten.floor_divide.Scalar: rounding.floor_divide,
    aten.remainder.Scalar: rounding.remainder,
    aten.remainder.Tensor: rounding.remainder,
    aten.fmod.Scalar: rounding.fmod,
    aten.fmod.Tensor: rounding.fmod,
    aten.fake_quantize_per_tensor_affine.default: rounding.fake_quantize,
    aten.fake_quantize_per_tensor_affine.tensor_qparams: rounding.fake_quantize,
    aten.fake_quantize_per_channel_affine.default: rounding.fake_quantize_channels,
    aten.lstm.input: recurrent.lstm,
    aten.gru.input: recurrent.gru,
    aten.rnn_tanh.input: recurrent.rnn_tanh,
    aten.rnn_relu.input: recurrent.rnn_relu,
    aten.lstm_cell.default: recurrent.lstm_cell,
    aten.gru_cell.default: recurrent.gru_cell,
    aten.rnn_tanh_cell.default: recurrent.rnn_tanh_cell,
    aten.rnn_relu_cell.default: recurrent.rnn_relu_cell,
}
