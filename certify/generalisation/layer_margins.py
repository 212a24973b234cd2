"""Distances to the boundary in the input and in hidden layers, and features of their distributions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput, InvalidModel
from bounds.models import class_logits
from certify.models import frozen

HIDDEN = 3  # hidden layers that are looked at where none are named
STATISTICS = ("lower_fence", "q25", "q50", "q75", "upper_fence")


def hidden_layers(model: nn.Module, layers: Sequence[str] | None) -> list[nn.Module]:
    """The named modules; else up to three with weights, evenly spaced, without the last, which gives logits.

    Raises:
        InvalidInput: a name that the model does not have.
    """
    modules = dict(model.named_modules())
    if layers is not None:
        names = checks.several("layers", layers)
        if missing := [name for name in names if name not in modules]:
            known = ", ".join(name for name in modules if name)
            raise InvalidInput(f"layers must name modules of every model, got {missing[0]!r}: one has {known}")
        return [modules[name] for name in names]
    weighted = [module for module in modules.values() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)][:-1]
    count = min(HIDDEN, len(weighted))
    return [weighted[round((i + 1) * len(weighted) / count) - 1] for i in range(count)]


def layer_margins(model: nn.Module, x: Tensor, y: Tensor, layers: Sequence[nn.Module], batch_size: int) -> Tensor:
    r"""Normalised distances (1 + L, N) to the boundary in the input and in each hidden layer.

    :math:`d = (f_y - f_j) / (\|\nabla_z (f_y - f_j)\|_2 \sqrt{\nu})` for the activations z of a layer, the other class
    j of the largest logit, and the total variance :math:`\nu` of z over the inputs. Negative where the model is wrong.

    References:
        Jiang et al. (2019), Predicting the generalization gap in deep networks with margin distributions,
        arXiv:1810.00113, section 3.
    """
    parts, spreads = [], []
    with frozen(model), _watched(layers) as seen:
        for points, label in zip(x.detach().split(batch_size), y.split(batch_size), strict=True):
            distances, activations = _distances(model, points, label, seen)
            values = [each.detach().double().flatten(1) for each in activations]
            parts.append(distances)
            spreads.append([torch.stack([each.sum(0), each.square().sum(0)]) / len(x) for each in values])
    moments = [torch.stack(each).sum(0) for each in zip(*spreads, strict=True)]
    variance = torch.stack([(square - mean**2).sum() for mean, square in moments])
    return torch.cat(parts, 1) / variance.clamp(min=torch.finfo(torch.float64).tiny).sqrt()[:, None]


def margin_statistics(distances: Tensor) -> Tensor:
    """Logarithms of the quartiles and of Tukey's fences of the positive distances (L, N), (L, 5); NaN without any.

    A fence is the quartile moved outward by one and a half interquartile ranges, or the extreme distance where that is
    nearer. Rows that are wrong have no margin and are left out.
    """
    found = []
    for row in distances:
        kept = row[(row > 0) & row.isfinite()]
        if not len(kept):
            found.append(row.new_full((len(STATISTICS),), torch.nan))
            continue
        shares = torch.tensor([0.25, 0.5, 0.75], dtype=row.dtype, device=row.device)
        low, middle, high = kept.quantile(shares)
        reach = 1.5 * (high - low)
        fences = torch.maximum(kept.min(), low - reach), torch.minimum(kept.max(), high + reach)
        found.append(torch.stack([fences[0], low, middle, high, fences[1]]).log())
    return torch.stack(found)


def _distances(model: nn.Module, points: Tensor, label: Tensor, seen: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Distances (1 + L, B) and the activations that they are measured in."""
    seen.clear()
    with torch.enable_grad():
        points = points.clone().requires_grad_()
        logits = class_logits(model(points), len(points)).double()
        label = checks.labels(label, len(points), logits.shape[1]).to(logits.device)[:, None]
        margin = logits.gather(1, label).squeeze(1) - logits.scatter(1, label, -torch.inf).amax(1)
        places = [points, *seen]
        slopes = torch.autograd.grad(margin.sum(), places, allow_unused=True, materialize_grads=True)
    sizes = torch.stack([torch.linalg.vector_norm(slope.double().flatten(1), dim=1) for slope in slopes])
    return margin.detach() / sizes, places


@contextmanager
def _watched(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The outputs of layers in the order of ``layers``, in a list that is filled by each forward pass."""
    seen: list[Tensor] = []

    def remember(module: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor):
            raise InvalidModel(
                f"the layer {type(module).__name__} must return one tensor, got {type(output).__name__}: name others "
                f"in layers="
            )
        if len(seen) == len(layers) or module is not layers[len(seen)]:
            raise InvalidModel(
                f"the layer {type(module).__name__} must be called once, after the layers named before it: name "
                f"others in layers="
            )
        seen.append(output)

    handles = []
    try:
        for layer in layers:
            if isinstance(layer, torch.jit.ScriptModule):
                raise InvalidModel("layers of TorchScript cannot be watched: pass the module that was scripted")
            handles.append(layer.register_forward_hook(remember))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
