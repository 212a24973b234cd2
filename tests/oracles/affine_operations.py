"""Affine operations of networks, each as a function of the input and some modules."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLAT, LINE, MAP, VOLUME = (5,), (2, 7), (2, 5, 6), (2, 3, 4, 3)


class Case(NamedTuple):
    """A function of the input and some modules, and the shape of one input."""

    function: Callable[..., Tensor]
    shape: tuple[int, ...]
    parts: tuple[Callable[[], nn.Module], ...] = ()


class Made(nn.Module):
    """The function, flattened, of the input or of what a rectifier makes of it."""

    def __init__(self, case: Case, *, bent: bool) -> None:
        super().__init__()
        self.function, self.parts, self.bent = case.function, nn.ModuleList(part() for part in case.parts), bent

    def forward(self, x: Tensor) -> Tensor:
        return self.function(torch.relu(x + 0.1) - 0.2 * x if self.bent else x, *self.parts).flatten(1)


def layer(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Case:
    return Case(lambda x, part: part(x), shape, (make,))


def numbers(*shape: int) -> Tensor:
    return torch.linspace(-1, 1.3, math.prod(shape), dtype=torch.float64).view(shape)


def _assigned(x: Tensor) -> Tensor:
    h = 2 * x
    h[:, :2] = 0
    h[:, 3:] = x[:, :2] + 1
    h[:, 2] *= -2
    return h


def _built(x: Tensor) -> Tensor:
    out = x.new_zeros(x.shape[0], 4, 7)
    out[:, 1:3] = x
    out[:, 0, ::2] = 3.0
    out[:, 3, 2:5] = x[:, 0, :3]
    return out


def _in_place(x: Tensor) -> Tensor:
    h = x.clone()
    h += x.flip(1)
    h.mul_(2).sub_(x)
    h[:, 0] *= 2
    h[:, 1:].neg_()
    return h.add_(1)


def _put(x: Tensor, accumulate: bool = False) -> Tensor:
    h = x.clone()
    rows = torch.tensor([4, 0, 4])
    values = x[:, :3].T
    return h.T.index_put((rows,), values, accumulate=accumulate).T if accumulate else _set(h)


def _set(h: Tensor) -> Tensor:
    h[:, [0, 3]] = h[:, [1, 2]] * 2
    return h


def _copied(x: Tensor) -> Tensor:
    h = torch.zeros_like(x)
    h.copy_(x)
    h[:, 1].copy_(x[:, 0])
    h[:, 2].fill_(0.5)
    h[:, 3].zero_()
    return h


def _orthogonal() -> nn.Module:
    """As the error of a layer with its parametrisation advises."""
    made = nn.utils.parametrizations.orthogonal(nn.Linear(5, 3))
    return nn.utils.parametrize.remove_parametrizations(made, "weight")


def _masked(x: Tensor) -> Tensor:
    h = x.clone()
    h[:, torch.tensor([True, False, True, False, False])] = 0.5
    return h


def _grid() -> Tensor:
    ys, xs = torch.meshgrid(numbers(4) * 1.1, numbers(5), indexing="ij")
    return torch.stack([xs + 0.1 * ys, ys], -1)


def _sampled(mode: str, padding: str, corners: bool) -> Callable[[Tensor], Tensor]:
    return lambda x: F.grid_sample(x, _grid().to(x).expand(x.shape[0], -1, -1, -1), mode, padding, corners)


def _turned(x: Tensor) -> Tensor:
    theta = torch.tensor([[0.8, -0.3, 0.1], [0.2, 0.9, -0.2]]).to(x).expand(len(x), -1, -1)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


FILTER, WEIGHTS = (torch.polar(numbers(*shape).abs(), numbers(*shape)) for shape in ((4,), (2, 3, 3)))


def _spectral(x: Tensor) -> Tensor:
    """Some frequencies, weighted by complex numbers and added over channels."""
    frequencies = torch.fft.rfft(x)
    out = torch.zeros(x.shape[0], 3, 4, dtype=torch.complex128)
    out[:, :, :3] = torch.einsum("bix,iox->box", frequencies[:, :, :3], WEIGHTS)
    return torch.fft.irfft(out, n=7)


INDEX = torch.tensor([3, 0, 3, 4])
CASES: dict[str, Case] = {
    "new_zeros": Case(_built, LINE),
    "new_ones": Case(lambda x: x.new_ones(len(x), 5) - x, FLAT),
    "new_full": Case(lambda x: x.new_full((len(x), 5), 2.5) + x, FLAT),
    "new_empty": Case(lambda x: x.new_empty(len(x), 5).fill_(1.5) + x, FLAT),
    "zeros": Case(lambda x: torch.cat([torch.zeros(x.shape[0], 2, dtype=x.dtype), x], 1), FLAT),
    "full": Case(lambda x: torch.cat([torch.full((x.shape[0], 2), 0.3, dtype=x.dtype), x], 1), FLAT),
    "ones_like": Case(lambda x: torch.ones_like(x) - x, FLAT),
    "class token": Case(lambda x: torch.cat([numbers(1, 1, 7).to(x).expand(x.shape[0], -1, -1), x], 1), LINE),
    "assignment": Case(_assigned, FLAT),
    "assignment of lists": Case(lambda x: _set(x.clone()), FLAT),
    "assignment of a mask": Case(_masked, FLAT),
    "index by a mask": Case(lambda x: x[:, torch.tensor([True, False, True, True, False])], FLAT),
    "operations in place": Case(_in_place, FLAT),
    "copy": Case(_copied, FLAT),
    "slice_scatter": Case(lambda x: torch.slice_scatter(x, 2 * x[:, :2], 1, 1, 5, 2), FLAT),
    "select_scatter": Case(lambda x: torch.select_scatter(x, x[:, 0] - 1, 1, 1), LINE),
    "diagonal_scatter": Case(lambda x: torch.diagonal_scatter(x, 2 * x[:, 0, :2], 0, 1, 2), LINE),
    "index_put": Case(lambda x: torch.index_put(x, (torch.arange(len(x))[:, None], INDEX[:2]), x[:, :2] + 1), FLAT),
    "index_fill": Case(lambda x: x.index_fill(1, INDEX, 0.5), FLAT),
    "masked_scatter_free": Case(lambda x: torch.where(INDEX[[0, 1, 2, 3, 1]] > 1, x, 0.0), FLAT),
    "nearest 1d": layer(lambda: nn.Upsample(size=11), LINE),
    "nearest 2d": layer(lambda: nn.Upsample(size=(7, 4)), MAP),
    "nearest 3d": layer(lambda: nn.Upsample(scale_factor=2), VOLUME),
    "nearest-exact 1d": layer(lambda: nn.Upsample(size=10, mode="nearest-exact"), LINE),
    "nearest-exact 2d": layer(lambda: nn.Upsample(scale_factor=1.7, mode="nearest-exact"), MAP),
    "nearest-exact 3d": layer(lambda: nn.Upsample(size=(2, 5, 4), mode="nearest-exact"), VOLUME),
    "linear": layer(lambda: nn.Upsample(size=10, mode="linear"), LINE),
    "linear, corners aligned": layer(lambda: nn.Upsample(scale_factor=2, mode="linear", align_corners=True), LINE),
    "bilinear, corners aligned": layer(lambda: nn.Upsample(size=(8, 3), mode="bilinear", align_corners=True), MAP),
    "bilinear by a factor": Case(lambda x: F.interpolate(x, scale_factor=(1.5, 2.0), mode="bilinear"), MAP),
    "trilinear": layer(lambda: nn.Upsample(scale_factor=2, mode="trilinear"), VOLUME),
    "trilinear, corners aligned": layer(
        lambda: nn.Upsample(size=(2, 5, 4), mode="trilinear", align_corners=True), VOLUME
    ),
    "bicubic": layer(lambda: nn.Upsample(size=(8, 9), mode="bicubic"), MAP),
    "bicubic, corners aligned": layer(lambda: nn.Upsample(scale_factor=2, mode="bicubic", align_corners=True), MAP),
    "bicubic by a factor kept": Case(
        lambda x: F.interpolate(x, scale_factor=1.3, mode="bicubic", recompute_scale_factor=False), MAP
    ),
    "bilinear, antialiased": Case(lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True), MAP),
    "bicubic, antialiased": Case(lambda x: F.interpolate(x, size=(3, 9), mode="bicubic", antialias=True), MAP),
    "area": Case(lambda x: F.interpolate(x, size=(3, 4), mode="area"), MAP),
    "tile": Case(lambda x: x.tile(1, 2, 3), LINE),
    "repeat_interleave": Case(lambda x: x.repeat_interleave(3, 1), LINE),
    "repeat_interleave by a tensor": Case(lambda x: x.repeat_interleave(torch.tensor([2, 0, 1, 3, 1]), 1), FLAT),
    "gather": Case(lambda x: x.gather(1, INDEX.expand(x.shape[0], -1)), FLAT),
    "take_along_dim": Case(lambda x: torch.take_along_dim(x, INDEX.view(1, 1, -1), 2), LINE),
    "index_add": Case(lambda x: x.index_add(1, INDEX, 2 * x[:, 1:], alpha=-1.5), FLAT),
    "index_copy": Case(lambda x: x.index_copy(1, INDEX[1:], 2 * x[:, 1:4]), FLAT),
    "scatter": Case(lambda x: x.scatter(1, INDEX[1:].expand(len(x), -1), 1 - x[:, :3]), FLAT),
    "scatter of a number": Case(lambda x: x.scatter(1, INDEX[1:].expand(len(x), -1), 0.7), FLAT),
    "scatter_add": Case(lambda x: x.scatter_add(1, INDEX.expand(len(x), -1), -x[:, 1:]), FLAT),
    "scatter_reduce": Case(lambda x: x.scatter_reduce(1, INDEX.expand(len(x), -1), x[:, 1:], "sum"), FLAT),
    "F.unfold": Case(lambda x: F.unfold(x, (2, 3), dilation=(1, 2), padding=1, stride=(2, 1)), MAP),
    "Tensor.unfold": Case(lambda x: x.unfold(2, 3, 2), LINE),
    "unfold twice": Case(lambda x: x.unfold(2, 2, 2).unfold(3, 3, 1).sum(-1), MAP),
    "fold": Case(lambda x: F.fold(x, (5, 4), (2, 3), stride=(3, 1), padding=0), (6, 4)),
    "pixel_unshuffle": layer(lambda: nn.PixelUnshuffle(2), (2, 4, 6)),
    "pixel_shuffle": layer(lambda: nn.PixelShuffle(2), (8, 2, 3)),
    "channel_shuffle": layer(lambda: nn.ChannelShuffle(2), (4, 3, 2)),
    "affine_grid": Case(_turned, MAP),
    **{
        f"grid_sample {mode} {padding} {corners}": Case(_sampled(mode, padding, corners), MAP)
        for mode in ("bilinear", "nearest", "bicubic")
        for padding, corners in (("zeros", False), ("border", True), ("reflection", False))
    },
    "grid_sample of one input at a time": Case(
        lambda x: F.grid_sample(x, _grid().to(x).expand(len(x), -1, -1, -1), "bicubic", align_corners=False), MAP
    ),
    "grid_sample of a volume": Case(
        lambda x: F.grid_sample(x, numbers(1, 2, 3, 2, 3).to(x).expand(len(x), *[-1] * 4), align_corners=False), VOLUME
    ),
    "einsum with an ellipsis": Case(lambda x: torch.einsum("...i,ji->...j", x, numbers(3, 7).to(x)), LINE),
    "einsum with an ellipsis in front": Case(lambda x: torch.einsum("ij,b...j->bi...", numbers(3, 7).to(x), x), LINE),
    "einsum, trace": Case(lambda x: torch.einsum("bii->b", x[:, :, :2]).unsqueeze(1), LINE),
    "einsum, diagonal": Case(lambda x: torch.einsum("...ii->...i", x[:, :, :2]), LINE),
    "einsum of three": Case(lambda x: torch.einsum("bi,ij,jk->bk", x, numbers(5, 3).to(x), numbers(3, 2).to(x)), FLAT),
    "max unpool with constant places": Case(
        lambda x: F.max_unpool2d(x, torch.arange(0, 120, 2).view(1, 2, 5, 6).expand(len(x), -1, -1, -1) % 120, 2), MAP
    ),
    "diagonal": Case(lambda x: x.diagonal(1, 1, 2), LINE),
    "diag_embed": Case(lambda x: x.diag_embed(1), FLAT),
    "trace of a row": Case(lambda x: torch.stack([x[:, :, :2].diagonal(0, 1, 2).sum(-1)], 1), LINE),
    "rot90": Case(lambda x: x.rot90(1, (2, 3)), MAP),
    "narrow": Case(lambda x: x.narrow(2, 2, 3), LINE),
    "chunk": Case(lambda x: x.chunk(3, 2)[1], LINE),
    "tensor_split": Case(lambda x: torch.tensor_split(x, 3, 2)[2], LINE),
    "unflatten": Case(lambda x: x.unflatten(3, (2, 3)).transpose(1, 3), MAP),
    "swapaxes": Case(lambda x: x.swapaxes(1, 3), MAP),
    "moveaxis": Case(lambda x: x.moveaxis((1, 2), (3, 1)), MAP),
    "mT": Case(lambda x: x.mT, MAP),
    "hstack": Case(lambda x: torch.hstack([x, 2 * x]), FLAT),
    "dstack": Case(lambda x: torch.dstack([x, 2 * x]), LINE),
    "column_stack": Case(lambda x: torch.column_stack([x, 2 * x]), FLAT),
    "fliplr": Case(lambda x: x.fliplr(), LINE),
    "broadcast_to": Case(lambda x: x[:, None].broadcast_to(len(x), 3, 5), FLAT),
    "expand_as": Case(lambda x: x[:, :1].expand_as(x), LINE),
    "atleast": Case(lambda x: torch.atleast_3d(x), FLAT),
    "row by row": Case(lambda x: torch.stack([row.ravel() for row in x]), MAP),
    "adaptive_avg_pool1d": layer(lambda: nn.AdaptiveAvgPool1d(4), LINE),
    "adaptive_avg_pool2d": layer(lambda: nn.AdaptiveAvgPool2d((3, 7)), MAP),
    "adaptive_avg_pool3d": layer(lambda: nn.AdaptiveAvgPool3d((2, 3, 2)), VOLUME),
    "avg_pool2d with padding": layer(lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), MAP),
    "conv1d reflect": layer(lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect"), LINE),
    "conv2d reflect": layer(lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), MAP),
    "conv2d replicate": layer(lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="replicate"), MAP),
    "conv2d circular": layer(lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="circular"), MAP),
    "conv3d replicate": layer(lambda: nn.Conv3d(2, 2, 3, padding=1, padding_mode="replicate"), VOLUME),
    "conv3d circular": layer(lambda: nn.Conv3d(2, 2, 3, padding=1, padding_mode="circular"), VOLUME),
    "reflection pad 1d": layer(lambda: nn.ReflectionPad1d((2, 1)), LINE),
    "reflection pad 3d": layer(lambda: nn.ReflectionPad3d(1), VOLUME),
    "replication pad": layer(lambda: nn.ReplicationPad2d((1, 2, 3, 0)), MAP),
    "circular pad": layer(lambda: nn.CircularPad2d((1, 2, 3, 0)), MAP),
    "zero pad": layer(lambda: nn.ZeroPad2d((1, -2, 3, 0)), MAP),
    "constant pad": layer(lambda: nn.ConstantPad1d((1, 2), 0.7), LINE),
    "conv transposed 1d": layer(
        lambda: nn.ConvTranspose1d(2, 4, 3, stride=3, padding=1, output_padding=2, groups=2, dilation=2), LINE
    ),
    "conv transposed 2d": layer(
        lambda: nn.ConvTranspose2d(2, 4, (3, 2), stride=(2, 3), output_padding=(1, 0), groups=2, dilation=(1, 2)), MAP
    ),
    "conv transposed 3d": layer(
        lambda: nn.ConvTranspose3d(2, 2, 2, stride=2, padding=1, output_padding=1, groups=2), VOLUME
    ),
    "cumsum": Case(lambda x: x.cumsum(2), LINE),
    "diff": Case(lambda x: x.diff(dim=2), LINE),
    "trapezoid": Case(lambda x: torch.trapezoid(x, dx=0.3, dim=2), LINE),
    "bilinear layer with a constant": Case(
        lambda x, part: part(x, numbers(1, 3).to(x).expand(len(x), -1)), FLAT, (lambda: nn.Bilinear(5, 3, 4),)
    ),
    "mv": Case(lambda x: torch.stack([numbers(3, 5).to(x).mv(row) for row in x]), FLAT),
    "dot": Case(lambda x: torch.stack([row.dot(numbers(5).to(x)) for row in x])[:, None], FLAT),
    "addmv": Case(lambda x: torch.stack([torch.addmv(row[:3], numbers(3, 5).to(x), row) for row in x]), FLAT),
    "outer of vectors": Case(lambda x: torch.stack([row.outer(numbers(3).to(x)) for row in x]), FLAT),
    "addr": Case(lambda x: torch.stack([numbers(5, 3).to(x).addr(row, numbers(3).to(x)) for row in x]), FLAT),
    "matmul with a vector": Case(lambda x: x @ numbers(7).to(x), LINE),
    "vector times a matrix": Case(lambda x: numbers(2).to(x) @ x, LINE),
    "inner": Case(lambda x: torch.inner(x, numbers(3, 7).to(x)), LINE),
    "outer": Case(lambda x: x.unsqueeze(2) * numbers(3).to(x), FLAT),
    "tensordot": Case(lambda x: torch.tensordot(x, numbers(2, 7, 3).to(x), 2), LINE),
    "kron": Case(lambda x: torch.kron(x, numbers(1, 3).to(x)), FLAT),
    "addmm": Case(lambda x: torch.addmm(numbers(3).to(x), x, numbers(5, 3).to(x), beta=2, alpha=-1), FLAT),
    "addbmm of a constant": Case(
        lambda x: torch.baddbmm(x, x[:, :, :2], numbers(1, 2, 7).to(x).expand(len(x), -1, -1)), LINE
    ),
    "addcmul of constants": Case(lambda x: torch.addcmul(x, x, numbers(5).to(x), value=-2), FLAT),
    "addcdiv of constants": Case(lambda x: torch.addcdiv(x, x, 2 + numbers(5).to(x), value=-2), FLAT),
    "F.bilinear": Case(lambda x: F.bilinear(x, numbers(1, 3).to(x).expand(len(x), -1), numbers(4, 5, 3).to(x)), FLAT),
    "weight_norm": layer(lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), LINE),
    "spectral_norm": layer(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3)), FLAT),
    "orthogonal": layer(_orthogonal, FLAT),
    "masked sum": Case(lambda x: (x * (INDEX[[0, 1, 2, 3, 1]] > 1)).sum(1, keepdim=True), FLAT),
    "tril": Case(lambda x: x.tril(-1), LINE),
    "division by an integer": Case(lambda x: x / 3 - x.div(2.0), FLAT),
    "other names": Case(lambda x: torch.true_divide(x, 2) + torch.negative(x) + torch.subtract(x, 1), FLAT),
    "real part of rfft": Case(lambda x: torch.fft.rfft(x).real, LINE),
    "imaginary part of fft": Case(lambda x: torch.fft.fft(x, dim=1).imag, LINE),
    "rfft as pairs": Case(lambda x: torch.view_as_real(torch.fft.rfft(x, norm="ortho")), LINE),
    "rfft and back": Case(lambda x: torch.fft.irfft(torch.fft.rfft(x)[..., :3], n=6), LINE),
    "fft2": Case(lambda x: torch.fft.fft2(x).real, MAP),
    "ifft": Case(lambda x: torch.fft.ifft(torch.fft.fft(x), norm="forward").real, LINE),
    "rfft with a filter": Case(lambda x: torch.fft.irfft(torch.fft.rfft(x) * FILTER, n=7), LINE),
    "Fourier neural operator": Case(_spectral, LINE),
    "fftshift": Case(lambda x: torch.fft.fftshift(x, dim=(1,)), LINE),
}
