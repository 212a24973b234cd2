"""Boxes of weights: each weight of a network between two ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput
from bounds.graph.capturing import without_compiler
from bounds.numerics import round_up

LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True, eq=False)
class WeightBox:
    """Weights that lie between two ends, entry by entry; all that are not named are exactly those of the model.

    Attributes:
        lower: ends from below by the names of ``model.state_dict()``, float64.
        upper: ends from above, likewise.
        dynamic: names of weights whose layer quantises its input to 8 bits as it runs, as ``torch.ao`` does in
            ``quantize_dynamic``. The range of an input is that of one row, so the network runs one input at a time.

    Raises:
        InvalidInput: ends of other names or shapes, not finite, or exchanged.
    """

    lower: Mapping[str, Tensor]
    upper: Mapping[str, Tensor]
    dynamic: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.lower.keys() != self.upper.keys():
            raise InvalidInput(
                f"lower and upper must have the same names, got {sorted(self.lower.keys() ^ self.upper.keys())} in one"
            )
        for name, lower in self.lower.items():
            upper = self.upper[name]
            if lower.shape != upper.shape or not bool(((lower <= upper) & lower.isfinite() & upper.isfinite()).all()):
                raise InvalidInput(
                    f"lower[{name!r}] must be finite, of the shape of upper[{name!r}] and not above it, got shapes "
                    f"{tuple(lower.shape)} and {tuple(upper.shape)}"
                )

    @classmethod
    def around(cls, model: nn.Module, errors: float | Mapping[str, float | Tensor]) -> "WeightBox":
        """The box of all weights within given errors of those of a model.

        Args:
            model: its floating parameters are the centres.
            errors: the largest error of each weight by its name, a number or a tensor that broadcasts to it; one
                number is for the parameters of all ``nn.Linear`` and convolutions. All others are exact.

        Raises:
            InvalidInput: an error below 0 or not finite; a name that the model does not have; a number for a model
                without such layers, or with weights that are computed from others.
        """
        model = without_compiler(model)
        weights = {name: weight.detach().double() for name, weight in model.state_dict().items()}
        if not isinstance(errors, Mapping):
            size = checks.nonnegative("errors", errors)
            _require_plain_layers(model)
            errors = dict.fromkeys(layer_parameters(model), size)
            if not errors:
                raise InvalidInput(
                    "errors must be by names for a model without nn.Linear or convolutions, got a number"
                )
        lower, upper = {}, {}
        for name, error in errors.items():
            if name not in weights:
                raise InvalidInput(f"errors must be by names of the state dict, got {name!r}: see model.state_dict()")
            reach = torch.as_tensor(error, dtype=torch.float64, device=weights[name].device)
            if not bool(((reach >= 0) & reach.isfinite()).all()):
                raise InvalidInput(f"errors[{name!r}] must be finite and at least 0, got {error!r}")
            ends = -round_up(reach - weights[name], 2.0**-52), round_up(weights[name] + reach, 2.0**-52)
            lower[name], upper[name] = (torch.where(reach == 0, weights[name], end) for end in ends)
        return cls(lower, upper)

    def centers(self) -> dict[str, Tensor]:
        """Middles, float64."""
        return {name: lower + (self.upper[name] - lower) / 2 for name, lower in self.lower.items()}

    def radii(self) -> dict[str, Tensor]:
        """Distances of the ends from the middles, rounded up; 0 where both ends are equal."""
        found = {}
        for name, center in self.centers().items():
            lower, upper = self.lower[name], self.upper[name]
            reach = round_up(torch.maximum(upper - center, center - lower), 2.0**-52)
            found[name] = torch.where(lower == upper, 0.0, reach)
        return found


def layer_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of linear layers and convolutions."""
    return [
        f"{path}.{name}" if path else name
        for path, layer in model.named_modules()
        if isinstance(layer, LAYERS)
        for name, _ in layer.named_parameters(recurse=False)
    ]


def _require_plain_layers(model: nn.Module) -> None:
    """Refuse layers whose weight is no parameter of theirs, which a number of errors would leave exact."""
    for path, layer in model.named_modules():
        if isinstance(layer, LAYERS) and "weight" not in layer._parameters:
            raise InvalidInput(
                f"errors must be by names where weights are computed from others, but that of {path or 'the model'!r} "
                f"is: make it permanent first (torch.nn.utils.parametrize.remove_parametrizations, prune.remove)"
            )
