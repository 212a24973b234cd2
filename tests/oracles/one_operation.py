"""Networks of one operation each, with the options that it has."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLAT, LINE, MAP, VOLUME = (5,), (2, 7), (2, 5, 7), (2, 3, 5, 4)


class Case(NamedTuple):
    """A network of one operation, made of functions and modules, and the shape of one input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    smooth: bool = True  # so that small balls are bounded to first order


class Made(nn.Module):
    """A function of the input and some modules, flattened."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts).flatten(1)


def of(function: Callable[..., Tensor], *parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Made(function, *(part() for part in parts))


def layer(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return of(lambda x, part: part(x), make)


def of_two(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...] = FLAT, smooth: bool = True) -> Case:
    """A function of two tensors that both depend on all of the input."""
    size = math.prod(shape)

    def both(x: Tensor, one: nn.Module, other: nn.Module) -> Tensor:
        flat = x.flatten(1)
        return function(one(flat).unflatten(1, shape), other(flat).unflatten(1, shape))

    return Case(of(both, lambda: nn.Linear(size, size), lambda: nn.Linear(size, size)), shape, smooth)


class Attends(nn.Module):
    """Multi-head attention of a sequence on itself, with a mask or without."""

    def __init__(self, mask: Tensor | None, *, weights: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.mask, self.weights, self.batch_first = mask, weights, batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.attention(x, x, x, need_weights=self.weights, attn_mask=self.mask)[0]
        return (y if self.batch_first else y.transpose(0, 1)).flatten(1)


def _heads(x: Tensor, **options: object) -> Tensor:
    x = x.unsqueeze(1)
    return F.scaled_dot_product_attention(x, 0.5 * x.flip(-1), x + 0.1, **options)


CONDITION = torch.tensor([True, False, True, True, False])
MASK = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
FACTORS = torch.tensor([0.5, -2.0, 0.0, 1.5, 3.0])

CASES = {  # in the part that runs by default
    "linear": Case(layer(lambda: nn.Linear(5, 3)), FLAT),
    "conv2d": Case(layer(lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))), MAP),
    "conv transposed 2d": Case(
        layer(lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2)), MAP
    ),
    "prelu": Case(layer(lambda: nn.PReLU(2)), LINE),
    "maximum": of_two(torch.maximum),
    "max pool 2d": Case(layer(lambda: nn.MaxPool2d((3, 2), stride=2, padding=1, dilation=(1, 2), ceil_mode=True)), MAP),
    "product": of_two(torch.mul),
    "matrix product": of_two(lambda x, y: x @ y.transpose(1, 2), (2, 3)),
    "layer norm": Case(layer(lambda: nn.LayerNorm((2, 7), eps=1e-2)), LINE),
    "std": Case(of(lambda x: x.std(1, keepdim=True)), FLAT),
    "cat, slice, flip": Case(of(lambda x: torch.cat([x[:, 1:4], -x.flip(1), 2 - x], 1)), FLAT),
    "where of a condition on data": of_two(lambda x, y: torch.where(x > y + 0.1, x, 0.5 - y), smooth=False),
    "einsum": of_two(lambda x, y: torch.einsum("bqd,bkd->bqk", x, y), (2, 3)),
}


def _activation(module: nn.Module) -> Case:
    return Case(layer(lambda: module), FLAT)


SLOW_CASES = {
    "softmax": Case(layer(lambda: nn.Softmax(1)), FLAT),
    "gelu": Case(layer(lambda: nn.GELU()), FLAT),
    "linear of a map": Case(layer(lambda: nn.Linear(7, 3, bias=False)), LINE),
    "conv1d": Case(layer(lambda: nn.Conv1d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2)), LINE),
    "conv2d same": Case(layer(lambda: nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2)), MAP),
    "conv2d circular": Case(layer(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")), MAP),
    "batch norm 2d": Case(layer(lambda: nn.BatchNorm2d(2)), MAP),
    "relu": Case(layer(lambda: nn.ReLU()), FLAT),
    "softplus": Case(layer(lambda: nn.Softplus(2.0, threshold=1.0)), FLAT),
    "abs": Case(of(lambda x: x.abs()), FLAT),
    "floor": Case(of(lambda x: (3 * x).floor()), FLAT),
    "sign": Case(of(lambda x: (x + 0.3).sign()), FLAT),
    "minimum of a constant": Case(of(lambda x: torch.minimum(x, FACTORS.to(x))), FLAT),
    "clamp": Case(of(lambda x: x.clamp(-0.3, 0.4)), FLAT),
    "clamp above": Case(of(lambda x: x.clamp(max=0.2)), FLAT),
    "adaptive max pool 2d": Case(layer(lambda: nn.AdaptiveMaxPool2d((3, 4))), MAP),
    "avg pool 2d": Case(layer(lambda: nn.AvgPool2d((2, 3), stride=2, padding=1, count_include_pad=False)), MAP),
    "adaptive avg pool 2d": Case(layer(lambda: nn.AdaptiveAvgPool2d((3, 4))), MAP),
    "quotient": of_two(lambda x, y: x / (y.square() + 1)),
    "group norm": Case(layer(lambda: nn.GroupNorm(2, 4)), (4, 3)),
    "attention": Case(of(_heads), (3, 4)),
    "where": Case(of(lambda x: torch.where(CONDITION.to(x.device), x, 2.0)), FLAT),
    "matrix made on the way": Case(of(lambda x: x @ (2 * torch.eye(5, dtype=x.dtype))), FLAT),
    "conv3d": Case(layer(lambda: nn.Conv3d(2, 2, (2, 3, 2), stride=(1, 2, 1), padding=(1, 0, 1), groups=2)), VOLUME),
    "conv1d valid": Case(layer(lambda: nn.Conv1d(2, 3, 3, padding="valid")), LINE),
    "conv1d reflect": Case(layer(lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect")), LINE),
    "conv3d same": Case(layer(lambda: nn.Conv3d(2, 2, 3, padding="same")), VOLUME),
    "conv2d replicate": Case(layer(lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="replicate")), MAP),
    "conv2d deeper than its map": Case(layer(lambda: nn.Conv2d(2, 3, (7, 3), padding=(3, 1))), (2, 3, 2)),
    "conv transposed 1d": Case(layer(lambda: nn.ConvTranspose1d(2, 3, 4, stride=3, dilation=2)), LINE),
    "conv transposed 3d": Case(layer(lambda: nn.ConvTranspose3d(2, 2, 2, stride=2, padding=1)), VOLUME),
    "batch norm 1d": Case(layer(lambda: nn.BatchNorm1d(5, affine=False)), FLAT),
    "batch norm 3d": Case(layer(lambda: nn.BatchNorm3d(2)), VOLUME),
    **{
        type(part).__name__ + part.extra_repr(): _activation(part)
        for part in (
            *(nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.ReLU6(), nn.Hardtanh(-0.5, 0.7)),
            *(nn.Hardsigmoid(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.Mish(), nn.GELU("tanh")),
            *(nn.Softplus(), nn.LogSigmoid(), nn.PReLU(), nn.Identity(), nn.Dropout(0.5), nn.Softsign(), nn.Softmin(1)),
            *(nn.Tanhshrink(), nn.LogSoftmax(1)),
        )
    },
    **{
        name: Case(of(function), FLAT)
        for name, function in {
            "atan": torch.atan,
            "erf": torch.erf,
            "exp": torch.exp,
            "log": lambda x: (x + 3).log(),
            "sqrt": lambda x: (x + 3).sqrt(),
            "rsqrt": lambda x: (x + 3).rsqrt(),
            "reciprocal": lambda x: (x + 3).reciprocal(),
            "quotient of a constant": lambda x: 2 / (x - 3),
            "square": torch.square,
            "cube": lambda x: x**3,
            "power": lambda x: (x + 3) ** 1.5,
            "sin": lambda x: (3 * x).sin(),
            "cos": lambda x: (3 * x).cos(),
            "product with itself": lambda x: x * x,
            "clamp below": lambda x: x.clamp(min=-0.1),
            "clamp_min": lambda x: x.clamp_min(-0.1),
            "clamp_max": lambda x: x.clamp_max(0.1),
            "amax": lambda x: x.amax(1, keepdim=True),
            "amin": lambda x: x.amin(1, keepdim=True),
            "max": lambda x: x.max(1, keepdim=True).values,
            "min": lambda x: x.min(1, keepdim=True)[0],
            "constants": lambda x: 2 * (3 - x) / 4 - FACTORS.to(x) * x + FACTORS.to(x),
            "add with alpha": lambda x: torch.add(x, x.flip(1), alpha=-2.5),
            "sub with alpha": lambda x: torch.sub(x, FACTORS.to(x), alpha=2),
            "constant less data with alpha": lambda x: torch.rsub(x, 2.0, alpha=3),
            "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
            "sum": lambda x: x.sum(1, keepdim=True),
            "var": lambda x: x.var(1, keepdim=True),
            "var of the population": lambda x: x.var(1, unbiased=False, keepdim=True),
            "std of the population": lambda x: x.std(1, correction=0, keepdim=True),
            "cumsum": lambda x: x.cumsum(1),
            "pad": lambda x: F.pad(x, (2, -1), value=0.7),
            "repeat": lambda x: x.repeat(1, 3),
            "roll": lambda x: x.roll(2, 1),
            "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1),
            "stack": lambda x: torch.stack([x, 2 * x, x.flip(1)], 1),
            "index": lambda x: x[:, [3, 0, 3]],
            "index_select": lambda x: x.index_select(1, torch.tensor([4, 4, 1])),
            "unbind": lambda x: x.unbind(1)[2].unsqueeze(1),
            "one number": lambda x: (x.mean(1).exp() * x.select(1, 2).relu()).unsqueeze(1) + x,
            "split": lambda x: x.split([2, 3], 1)[1],
            "masked_fill": lambda x: x.masked_fill(CONDITION, 0.5),
            "where of two": lambda x: torch.where(CONDITION, x, 1 - x.flip(1)),
            "where of numbers": lambda x: torch.where(x < 0.2, 2.0, -1.0),
            "where of a constant": lambda x: torch.where(x <= 0.2, x, 0.7),
            "where with broadcasting": lambda x: torch.where(x[:, :1] >= 0.2, x, x.flip(1)),
            "conditions": lambda x: torch.where((x > 0.5) & ~(x.flip(1) > 0) | (x < -0.5), x, torch.zeros_like(x)),
            "conditions with a constant one": lambda x: ((x > 0) & CONDITION | (x < -0.5) | ~CONDITION).to(x) - x,
            "masked_fill of data": lambda x: x.masked_fill(x > 0.4, 0.4),
            "share of a condition": lambda x: (x > FACTORS.to(x)).to(x.dtype).mean(1, keepdim=True) * x,
            "threshold": lambda x: F.threshold(x, 0.1, -0.2),
            "hardshrink": lambda x: F.hardshrink(x, 0.3),
            "softshrink": lambda x: F.softshrink(x, 0.3),
            "rrelu": lambda x: F.rrelu(x, 0.1, 0.4),
            "ceil": lambda x: (3 * x).ceil(),
            "log1p": lambda x: x.square().log1p(),
            "expm1": torch.expm1,
            "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
            "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
            "glu": lambda x: F.glu(torch.cat([x, x.flip(1)], 1), 1),
            "addmm": lambda x: torch.addmm(FACTORS.to(x), x, torch.eye(5).to(x), alpha=2, beta=0.5),
            "normalize": lambda x: F.normalize(x + 2, dim=1),
            "sum of absolute values": lambda x: x.norm(1, dim=1, keepdim=True),
            "largest absolute value": lambda x: torch.linalg.vector_norm(x, math.inf, dim=1, keepdim=True),
            "einsum with a constant": lambda x: torch.einsum("ji,bi->bj", torch.arange(10.0).view(2, 5).to(x), x),
            "einsum of all": lambda x: torch.einsum("bi,bj->b", x, x.flip(1)).unsqueeze(1),
            "tril": lambda x: (x.unsqueeze(1) * torch.ones(5, 1).to(x)).tril(),
        }.items()
    },
    "minimum": of_two(torch.minimum),
    "sum and difference": of_two(lambda x, y: (x + y) - 2 * y),
    "product with broadcasting": of_two(lambda x, y: x.unsqueeze(2) * y.unsqueeze(1)),
    "product with one row": of_two(lambda x, y: x[:, :1] * y, (2, 3)),
    "einsum of several": of_two(
        lambda x, y: torch.einsum("bij,kij->bk", x, torch.arange(12.0).view(2, 2, 3).to(x)) * y.sum((1, 2))[:, None],
        (2, 3),
    ),
    "einsum, entry by entry": of_two(lambda x, y: torch.einsum("bij,bj->bji", x, y[:, 0]), (2, 3)),
    "quotient of data": of_two(lambda x, y: x / (y + 4)),
    "matrix product of heads": of_two(lambda x, y: x @ y.mT, (2, 3, 2)),
    "bmm": of_two(lambda x, y: torch.bmm(x, y.mT), (2, 3)),
    "matrix times a constant": Case(of(lambda x: torch.linspace(-1, 1, 6).view(3, 2).to(x) @ x), LINE),
    "max pool 1d": Case(layer(lambda: nn.MaxPool1d(3, stride=2, padding=1, dilation=2)), LINE),
    "max pool 1d ceil": Case(layer(lambda: nn.MaxPool1d(2, stride=3, ceil_mode=True)), LINE),
    "max pool 2d plain": Case(layer(lambda: nn.MaxPool2d(2)), MAP),
    "max pool 2d overlapping": Case(layer(lambda: nn.MaxPool2d((4, 3), stride=(1, 2), padding=(2, 1))), MAP),
    "max pool 3d": Case(
        layer(lambda: nn.MaxPool3d((2, 3, 2), stride=(1, 2, 3), padding=(1, 1, 0), ceil_mode=True)), VOLUME
    ),
    "adaptive max pool 1d": Case(layer(lambda: nn.AdaptiveMaxPool1d(3)), LINE),
    "adaptive max pool 3d": Case(layer(lambda: nn.AdaptiveMaxPool3d((2, 2, 3))), VOLUME),
    "avg pool 1d": Case(layer(lambda: nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True)), LINE),
    "avg pool 3d": Case(layer(lambda: nn.AvgPool3d((2, 3, 2), stride=(1, 2, 2), divisor_override=5)), VOLUME),
    "adaptive avg pool 1d": Case(layer(lambda: nn.AdaptiveAvgPool1d(4)), LINE),
    "adaptive avg pool 3d": Case(layer(lambda: nn.AdaptiveAvgPool3d((2, 2, 3))), VOLUME),
    "global avg pool": Case(layer(lambda: nn.AdaptiveAvgPool2d(1)), MAP),
    "upsampling": Case(layer(lambda: nn.Upsample(scale_factor=2)), MAP),
    "bilinear upsampling": Case(layer(lambda: nn.Upsample(size=(4, 9), mode="bilinear")), MAP),
    "pixel shuffle": Case(layer(lambda: nn.PixelShuffle(2)), (4, 3, 2)),
    "softmax of a map": Case(layer(lambda: nn.Softmax(2)), LINE),
    "log softmax of channels": Case(of(lambda x: x.log_softmax(1)), LINE),
    "logsumexp of a map": Case(of(lambda x: x.logsumexp((1, 2), keepdim=True)), LINE),
    "layer norm plain": Case(layer(lambda: nn.LayerNorm(7, elementwise_affine=False)), LINE),
    "instance norm": Case(layer(lambda: nn.InstanceNorm2d(2)), MAP),
    "instance norm 1d affine": Case(layer(lambda: nn.InstanceNorm1d(2, affine=True)), LINE),
    "instance norm of stored statistics": Case(layer(lambda: nn.InstanceNorm1d(2, track_running_stats=True)), LINE),
    "rms norm": Case(layer(lambda: nn.RMSNorm(7)), LINE),
    "group norm of a map": Case(layer(lambda: nn.GroupNorm(1, 2, affine=False)), MAP),
    "mean": Case(of(lambda x: x.mean((2, 3), keepdim=True)), MAP),
    "var of a map": Case(of(lambda x: x.var((1, 2), keepdim=True)), LINE),
    "reshape and permute": Case(of(lambda x: x.permute(0, 3, 1, 2).reshape(len(x), 7, -1).transpose(1, 2)), MAP),
    "squeeze": Case(of(lambda x: x[:, :1].squeeze(1).unsqueeze(2)), LINE),
    "strided slice": Case(of(lambda x: x[:, :, 1::2, ::3]), MAP),
    "flip and roll": Case(of(lambda x: x.flip((2, 3)).roll((1, 2), (2, 3))), MAP),
    "padding of a map": Case(layer(lambda: nn.ReflectionPad2d((1, 2, 0, 1))), MAP),
    "attention causal": Case(of(lambda x: _heads(x, is_causal=True)), (3, 4)),
    "attention masked": Case(of(lambda x: _heads(x, attn_mask=MASK)), (3, 4)),
    "attention with a summand": Case(of(lambda x: _heads(x, attn_mask=0.3 * MASK.to(x), scale=0.3)), (3, 4)),
    "attention with minus infinity": Case(
        of(lambda x: _heads(x, attn_mask=torch.zeros(3, 3).to(x).masked_fill(~MASK, -math.inf))), (3, 4)
    ),
    "multi-head attention": Case(lambda: Attends(None), (3, 4)),
    "multi-head attention with weights": Case(lambda: Attends(None, weights=True), (3, 4)),
    "multi-head attention masked": Case(lambda: Attends(~MASK), (3, 4)),
    "multi-head attention, sequence first": Case(lambda: Attends(None, batch_first=False), (3, 4)),
    "transformer layer": Case(
        layer(lambda: nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True, activation="gelu")), (3, 4)
    ),
    "transformer layer, norm first": Case(
        layer(lambda: nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=True)), (3, 4)
    ),
}
