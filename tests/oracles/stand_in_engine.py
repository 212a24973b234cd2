"""A module with the interface of auto_LiRPA: intervals of chains of linear layers and ReLU, by loops of its own."""

import logging
import math
import random
import sys
import warnings
from types import ModuleType

import torch
from torch import Tensor, nn


class PerturbationLpNorm:
    def __init__(self, eps: float = 0.0, norm: float = math.inf, x_L: Tensor | None = None, x_U: Tensor | None = None):
        self.eps, self.norm, self.x_L, self.x_U = eps, norm, x_L, x_U


class BoundedTensor:
    def __init__(self, x: Tensor, ptb: PerturbationLpNorm):
        self.x, self.ptb = x, ptb


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a chain; ``model.modules()`` would name a layer that is used twice only once."""
    if isinstance(model, nn.Linear | nn.ReLU):
        return [model]
    return [layer for child in model._modules.values() for layer in layers_of(child)]


class BoundedModule:
    """Bounds behind the layers of a chain; ``narrowed`` times as wide as they have to be."""

    narrowed = 1.0

    def __init__(self, model: nn.Module, x: Tensor, bound_opts: dict | None = None, device: object = None):
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())
        assert torch.device(device) == x.device
        with torch.no_grad():
            model(x)
        self.layers = layers_of(model)
        self.options = bound_opts or {}

    def compute_bounds(
        self, x: tuple[BoundedTensor], C: Tensor | None = None, method: str = "backward", bound_upper: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        (around,) = x
        lower, upper = self.ends(around, around.ptb, C)
        middle, half = (lower + upper) / 2, (upper - lower) / 2 * self.narrowed
        return middle - half, middle + half if bound_upper else None

    def ends(self, around: BoundedTensor, ptb: PerturbationLpNorm, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        center, radius = around.x, None
        if ptb.norm == math.inf:
            center, radius = (ptb.x_L + ptb.x_U) / 2, (ptb.x_U - ptb.x_L) / 2
        for place, layer in enumerate(self.layers):
            if isinstance(layer, nn.ReLU):
                low, high = (center - radius).clamp(min=0), (center + radius).clamp(min=0)
                center, radius = (low + high) / 2, (high - low) / 2
                continue
            weight, bias = layer.weight.expand(len(center), -1, -1), layer.bias.expand(len(center), -1)
            if rows is not None and place == len(self.layers) - 1:
                weight, bias = rows @ weight, torch.einsum("nrk,nk->nr", rows, bias)
            center = torch.einsum("nkf,nf->nk", weight, center) + bias
            if radius is None:
                dual = {1: math.inf, 2: 2}[ptb.norm]
                radius = torch.linalg.vector_norm(weight, dual, dim=2) * ptb.eps
            else:
                radius = torch.einsum("nkf,nf->nk", weight.abs(), radius)
        return center - radius, center + radius


class LyingModule(BoundedModule):
    """Half as wide."""

    narrowed = 0.5


class LyingAboveModule(BoundedModule):
    """Right below, too low above."""

    def compute_bounds(self, *args: object, **kwargs: object):
        lower, upper = super().compute_bounds(*args, **kwargs)
        return lower, None if upper is None else (3 * upper + lower) / 4


class RoundedModule(BoundedModule):
    """Wrong by rounding errors that fall on the wrong side."""

    def compute_bounds(self, *args: object, **kwargs: object):
        lower, upper = super().compute_bounds(*args, **kwargs)
        return lower + 1e-11, None if upper is None else upper - 1e-11


class UnknownModule(BoundedModule):
    """Knows no bounds, and says why as auto_LiRPA does."""

    def __init__(self, *args: object, **kwargs: object):
        logging.getLogger("auto_LiRPA.bound_general").error("Name: onnx::Erf, Attr: {}")
        raise NotImplementedError("There are unsupported operations\nand a second line")


class OutOfMemoryModule(BoundedModule):
    def compute_bounds(self, *args: object, **kwargs: object):
        raise torch.OutOfMemoryError("CUDA out of memory")


class UndefinedModule(BoundedModule):
    """Not a number at the first output."""

    def compute_bounds(self, *args: object, **kwargs: object):
        lower, upper = super().compute_bounds(*args, **kwargs)
        for side in (lower, upper):
            if side is not None:
                side[:, 0] = math.nan
        return lower, upper


class SquareModule(BoundedModule):
    """Fails in its local form of convolutions."""

    def compute_bounds(self, *args: object, **kwargs: object):
        if self.options.get("conv_mode", "patches") == "patches":
            raise RuntimeError("setStorage: out of bounds")
        return super().compute_bounds(*args, **kwargs)


class RudeModule(BoundedModule):
    """Leaves everything that belongs to the process or the caller in another state."""

    def __init__(self, model: nn.Module, *args: object, **kwargs: object):
        super().__init__(model, *args, **kwargs)
        spoil()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2)
                weight.requires_grad_()
        model.training = True


def spoil() -> None:
    warnings.simplefilter("once")
    warnings.warn("as of a script", DeprecationWarning, stacklevel=2)
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("auto_LiRPA.utils").error("an error")
    torch.set_default_dtype(torch.float16)
    torch.use_deterministic_algorithms(False)
    torch._C._jit_set_profiling_executor(False)
    torch._C._jit_set_profiling_mode(False)
    print("early stop", torch.rand(1 + random.randrange(3)))


def stand_in(kind: type[BoundedModule] = BoundedModule, version: str | None = "0.7.1") -> ModuleType:
    """A module to be found under the name of auto_LiRPA."""
    module = ModuleType("auto_LiRPA")
    module.BoundedModule, module.BoundedTensor, module.PerturbationLpNorm = kind, BoundedTensor, PerturbationLpNorm
    if version is not None:
        module.__version__ = version
    return module
